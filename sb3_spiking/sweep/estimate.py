"""What a list costs: steps per second of its methods, from finished jobs or from a short training of each on this machine."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from sb3_spiking.errors import AgentError
from sb3_spiking.sweep.lists import Job, TrainingList
from sb3_spiking.sweep.logs import last_line
from sb3_spiking.sweep.process import Process

# Seconds of learning before the clock starts (kernels are compiled, caches fill), and on the clock
_WARM_UP, _MEASURED = 3.0, 10.0


class Speed(NamedTuple):
    """
    :param steps: of the environment, per second
    :param source: where that is known from
    """

    steps: float
    source: str


class Stopwatch(BaseCallback):
    """
    Ends a training when it has learned for some seconds, and writes how many steps it took.

    :param file: that it writes
    :param seconds: to measure
    :param warm_up: seconds of learning before
    """

    def __init__(self, file: str, seconds: float = _MEASURED, warm_up: float = _WARM_UP) -> None:
        super().__init__()
        self._file, self._seconds, self._warm_up = Path(file), seconds, warm_up
        self._learning: float | None = None
        self._start: tuple[float, int] | None = None
        self._over = False

    def _on_rollout_start(self) -> None:
        now = time.perf_counter()
        if getattr(self.model, "_n_updates", 0) == 0:
            return
        if self._learning is None:
            self._learning = now
        if self._start is None and now - self._learning >= self._warm_up:
            self._start = now, self.num_timesteps
        elif self._start is not None and now - self._start[0] >= self._seconds:
            self._write(now)

    def _on_step(self) -> bool:
        return not self._over

    def _on_training_end(self) -> None:
        if not self._over and self._start is not None:  # a short training
            self._write(time.perf_counter())

    def _write(self, now: float) -> None:
        assert self._start is not None
        since, steps = self._start
        if self.num_timesteps > steps:
            self._file.write_text(json.dumps({"steps": self.num_timesteps - steps, "seconds": now - since}))
            self._over = True


def measure(jobs: TrainingList, job: Job, seconds: float = _MEASURED, warm_up: float = _WARM_UP) -> Speed:
    """
    :param jobs: list
    :param job: a training of it
    :param seconds: to measure
    :param warm_up: seconds of learning before
    :return: how fast it learns on this machine, without evaluations
    :raises AgentError: if it does not train
    """
    hyperparams = jobs.hyperparams_of(job)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "speed.json"
        stopwatch = {"sb3_spiking.sweep.estimate.Stopwatch": {"file": str(file), "seconds": seconds, "warm_up": warm_up}}
        changed: dict[str, Any] = {"callback": [*jobs.callbacks(job), stopwatch]}
        if "learning_starts" in hyperparams:  # learns and acts from the start as it does for most of the training
            changed["learning_starts"] = 2 * max(hyperparams.get("batch_size", 32), hyperparams.get("n_envs", 1))
            changed["exploration_initial_eps"] = hyperparams.get("exploration_final_eps", 0.05)
        command = [*jobs.command(job, folder, changed), "--eval-freq", "-1", "-n", str(10**9)]
        log = folder / "train.log"
        process = Process(tuple(command), str(log), name, {"OMP_NUM_THREADS": str(jobs.threads)}).start()
        try:
            process.wait()
        finally:
            process.kill()
        if not file.is_file():
            raise AgentError(f"{job.name}: does not train: {last_line(log)}")
        measured = json.loads(file.read_text())
    return Speed(measured["steps"] / measured["seconds"], "measured now")


def known(jobs: TrainingList) -> dict[tuple[str, str], Speed]:
    """Speeds of finished jobs that trained in one go, evaluations included, by environment and method."""
    scores = jobs.scores()
    if scores.empty:
        return {}
    speeds = {}
    for (env, method), rows in scores.dropna(subset="train_seconds").groupby(["env", "method"]):
        steps = jobs.training_steps(Job(env, method, 0))
        if steps and len(rows):
            speeds[str(env), str(method)] = Speed(steps / max(rows["train_seconds"].mean(), 1), "finished jobs")
    return speeds


def estimate(jobs: TrainingList, wanted: list[Job]) -> pd.DataFrame:
    """
    :param jobs: list
    :param wanted: jobs that would run
    :return: a row for each of their methods: jobs, steps of all, steps per second, hours of all, one after the other, and
        where the speed is known from; of conversions, jobs alone
    """
    speeds = known(jobs)
    missing = {job.method: job for job in reversed(wanted) if jobs.training_steps(job) and (job.env, job.method) not in speeds}
    measured = {method: measure(jobs, job) for method, job in tqdm(missing.items(), unit="method", leave=False)}
    rows = []
    for method in jobs.methods:
        these = [job for job in wanted if job.method == method]
        if not these:
            continue
        row: dict[str, Any] = {"method": method, "jobs": len(these)}
        if jobs.source(these[0]) is None:
            found = [speeds.get((job.env, method)) or measured[method] for job in these]
            steps = [jobs.training_steps(job) for job in these]
            seconds = sum(count / speed.steps for count, speed in zip(steps, found, strict=True))
            row |= {"steps": sum(steps), "steps/s": sum(steps) / seconds, "hours": seconds / 3600}
            row["speed of"] = ", ".join(sorted({speed.source for speed in found}))
        rows.append(row)
    return pd.DataFrame(rows, columns=["method", "jobs", "steps", "steps/s", "hours", "speed of"])
