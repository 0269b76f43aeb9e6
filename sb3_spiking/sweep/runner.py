"""The jobs of a list, on an engine, until all are done or have failed."""

import dataclasses
import json
import os
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sb3_spiking.conversion.saving import RECORD
from sb3_spiking.errors import AgentError
from sb3_spiking.sharing.archive import read_json
from sb3_spiking.sweep.engines import Engine, Outcome, Run
from sb3_spiking.sweep.job import LOG
from sb3_spiking.sweep.lists import Job, TrainingList
from sb3_spiking.sweep.logs import trained_steps
from sb3_spiking.sweep.process import Process
from sb3_spiking.sweep.state import State, Task
from sb3_spiking.sweep.zoo_command import what_it_trains
from sb3_spiking.training.checkpoint import Checkpoint
from sb3_spiking.training.manifest import FOLDER, MANIFEST, digest

BEST = "best_model.zip"  # of RL Zoo's evaluations
# Kills in a row between which a training comes no step further
_MOST_KILLS = 3
_INTERVAL = 0.5  # seconds between two looks at the jobs


class _Kills(NamedTuple):
    """How often a job was killed in a row without a new checkpoint, and the steps in the one that there is."""

    in_a_row: int = 0
    steps: int = -1

    def another(self, steps: int) -> "_Kills":
        return _Kills(1 if steps > self.steps else self.in_a_row + 1, steps)


@dataclasses.dataclass
class Sweep:
    """
    :param jobs: list
    :param logs: folder with a folder for each job
    """

    jobs: TrainingList
    logs: Path

    def __post_init__(self) -> None:
        self.logs = self.logs.absolute()
        self.state = State(self.jobs.results.absolute())

    def log(self, job: Job) -> Path:
        """The log of a job."""
        return self.logs / job.name / LOG

    def condition(self, job: Job) -> str:
        """Of a job that is not done: ``running``, ``failed``, ``stopped`` or ``waiting``."""
        if self.state.is_locked(job.name):
            return "running"
        if self.state.failed(job.name):
            return "failed"
        return "stopped" if self.log(job).exists() else "waiting"

    def check(self, wanted: list[Job]) -> None:
        """
        :param wanted: jobs that will run
        :raises AgentError: if the list is wrong, another one has its folders, or a conversion has no agent to convert
        """
        self.jobs.check(wanted)
        self.state.check_owner(self.logs, self.jobs.file)
        done = self.jobs.records.names()
        for job in wanted:
            source = self.jobs.source(job)
            if source is None or job.name in done:
                continue
            if source.name in done and not list((self.logs / source.name).glob(f"*/*/{BEST}")):
                raise AgentError(
                    f"{job.name}: converts the best agent of {source.name}, and there is no {BEST} in "
                    f"{self.logs / source.name}: it was removed, or the training has no evaluation (--eval-freq)"
                )
            if source.name not in done and source not in wanted:
                raise AgentError(
                    f"{job.name}: converts the agent of {source.name}, which is not trained yet: --only that one too"
                )

    def task(self, job: Job) -> Task:
        """What the process of a job must know."""
        jobs = self.jobs
        return Task(
            name=job.name,
            env=job.env,
            algo=jobs.algo(job),
            env_kwargs=jobs.env_kwargs_of(job),
            gym_packages=jobs.gym_packages(job),
            command=jobs.command(job, self.logs),
            shown=shlex.join(["python", *jobs.command(job, Path("logs"))]),
            logs=str(self.logs / job.name),
            results=str(jobs.results.absolute()),
            threads=jobs.threads,
            episodes=jobs.score_episodes,
        )

    def outdated(self, wanted: list[Job]) -> list[Job]:
        """
        :param wanted: jobs
        :return: those whose results come from another command than the list has now, or, as far as the logs tell, from
            converting another agent than its training has now; results from before there were checkpoints do not tell
        """
        records = self.jobs.records.jobs()
        return [job for job in self.jobs.finished() if job in wanted and self._is_outdated(job, records)]

    def _is_outdated(self, job: Job, records: Mapping[str, Mapping[str, Any]]) -> bool:
        command, source = records.get(job.name, {}).get("command", ""), self.jobs.source(job)
        tells = Checkpoint.__name__ in command if source is None else bool(command)
        if tells and what_it_trains(command) != what_it_trains(self.task(job).shown):
            return True
        return source is not None and (self._is_outdated(source, records) or self._converts_another(job, source))

    def _converts_another(self, job: Job, source: Job) -> bool:
        converted = list((self.logs / job.name).glob(f"*/*/{RECORD}"))
        agents = list((self.logs / source.name).glob(f"*/*/{BEST}"))
        if not converted or not agents:
            return False
        return read_json(converted[0]).get("digest") != digest(agents[0])

    def process(self, job: Job) -> Process:
        """The process of a job, which starts where this one is."""
        environment = {"OMP_NUM_THREADS": str(self.jobs.threads)}
        if "PYTHONPATH" in os.environ:
            environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
        task = self.state.write(self.task(job))
        return Process(("-u", "-m", "sb3_spiking.sweep.job", str(task)), str(self.log(job)), os.getcwd(), environment)

    def checkpointed(self, job: Job) -> int:
        """Steps that a job has in its checkpoint."""
        for file in (self.logs / job.name).glob(f"*/*_1/{FOLDER}/{MANIFEST}"):
            return json.loads(file.read_text())["numbers"]["num_timesteps"]
        return 0

    def run(self, wanted: list[Job], engine: Engine, show: Callable[["Sweep", Mapping[Job, str]], Any]) -> list[Job]:
        """
        :param wanted: jobs, those that are done among them
        :param engine: that they run on
        :param show: is called with what each job that is not done is about, again and again
        :return: the jobs that failed
        """
        self.state.claim(self.logs, self.jobs.file)
        running: dict[Job, Run] = {}
        failed: list[Job] = []
        kills: dict[Job, _Kills] = {}
        done = self.jobs.records.names()
        waiting = [job for job in wanted if job.name not in done]
        try:
            while waiting or running:
                for job, ended in [(job, each.poll()) for job, each in running.items()]:
                    if ended is not None:
                        del running[job]
                    if ended is Outcome.KILLED:
                        kills[job] = kills.get(job, _Kills()).another(self.checkpointed(job))
                        if kills[job].in_a_row >= _MOST_KILLS:
                            self._give_up(
                                job, f"killed {_MOST_KILLS} times without a checkpoint between: too little memory or time?"
                            )
                            ended = Outcome.FAILED
                    if ended is Outcome.FAILED:
                        failed.append(job)
                    elif ended in (Outcome.KILLED, Outcome.TAKEN):
                        waiting.insert(0, job)
                done = self.jobs.records.names()
                waiting = [job for job in waiting if job.name not in done]
                for job in list(waiting):
                    if engine.slots is not None and len(running) >= engine.slots:
                        break
                    source = self.jobs.source(job)
                    if source is not None and source in failed:
                        self._give_up(job, f"{source.name} has failed, whose agent it converts")
                        waiting.remove(job)
                        failed.append(job)
                    elif (source is None or source.name in done) and not self.state.is_locked(job.name):
                        waiting.remove(job)
                        running[job] = engine.start(job.name, self.process(job))
                conditions = dict.fromkeys(waiting, "waiting") | dict.fromkeys(running, "running")
                show(self, conditions | dict.fromkeys(failed, "failed"))
                time.sleep(_INTERVAL)
        finally:
            engine.close()
        return failed

    def steps(self, job: Job) -> int:
        """Steps that a job has trained, as far as its log says so."""
        return trained_steps(self.log(job))

    def _give_up(self, job: Job, reason: str) -> None:
        self.log(job).parent.mkdir(parents=True, exist_ok=True)
        with self.log(job).open("a") as log:
            log.write(f"{reason}\n")
        self.state.set_failed(job.name, True)
