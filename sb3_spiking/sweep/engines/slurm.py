"""
Jobs in Slurm's queue, by submitit.

What was submitted is remembered: a sweep that is started again watches the jobs that are still in the queue, and submits none
twice. Slurm itself starts a job again after a preemption, a time limit or the end of its node.
"""

import contextlib
import io
import subprocess
import time
from pathlib import Path
from typing import Any

from sb3_spiking.errors import AgentError, one_line
from sb3_spiking.files import replace_file
from sb3_spiking.sweep import process as process_module
from sb3_spiking.sweep.engines import Outcome, Resources, outcome
from sb3_spiking.sweep.process import Process

# Seconds between two looks at the queue, and that a result may come later than its job leaves it
_LOOK, _LATE = 10.0, 60.0
# Time limits after which a job that asks for more goes back into the queue
_MOST_TIMEOUTS = 1000
# States of jobs that Slurm, or a person, has ended for good, in Slurm's words
_ENDED = {"CANCELLED": Outcome.FAILED, "FAILED": Outcome.KILLED, "NODE_FAIL": Outcome.KILLED, "OUT_OF_MEMORY": Outcome.KILLED}
_ENDED |= {"TIMEOUT": Outcome.KILLED, "BOOT_FAIL": Outcome.KILLED, "DEADLINE": Outcome.FAILED, "COMPLETED": Outcome.KILLED}


class SlurmRun:
    """A job in the queue, or one that has left it."""

    def __init__(self, engine: "Slurm", job: Any) -> None:
        self._engine, self._job = engine, job
        self._gone: float | None = None

    def poll(self) -> Outcome | None:
        ended = _ENDED.get(self._engine.states().get(self._job.job_id, "COMPLETED"))
        if self._job.paths.result_pickle.exists():
            # An exception is submitit's own: after the last time limit
            found = Outcome.KILLED if self._job.exception() is not None else outcome(self._job.result())
            # What takes a job off its node ends the training first: the queue says whether it starts again, or was cancelled
            return ended if found is Outcome.KILLED else found
        if ended is None:
            self._gone = None
            return None
        # The result may be on its way through a shared folder
        self._gone = self._gone or time.monotonic()
        return ended if ended is Outcome.FAILED or time.monotonic() - self._gone > _LATE else None


class Slurm:
    """
    :param folder: of what submitit writes, shared by all nodes
    :param resources: of a job
    :param partition: Slurm's, None for its default
    :param minutes: after which Slurm takes a job off its node, which goes on later
    :param options: more of sbatch's, by name
    :raises AgentError: if there is no Slurm, or it does not take these
    """

    slots: int | None = None

    def __init__(
        self, folder: Path, resources: Resources, partition: str | None, minutes: int, options: dict[str, Any]
    ) -> None:
        try:
            import cloudpickle
            import submitit
        except ImportError as error:
            raise AgentError(f"--on slurm: {error}; pip install '.[slurm]' in the clone") from error
        if resources.gpus != int(resources.gpus):
            raise AgentError(f"--gpus {resources.gpus}: Slurm gives whole ones")
        self._states, self._looked = _queue(), time.monotonic()
        cloudpickle.register_pickle_by_value(process_module)
        self._folder, self._job_class = folder, submitit.SlurmJob
        self._executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=_MOST_TIMEOUTS)
        asked: dict[str, Any] = {"time": minutes, "cpus_per_task": resources.threads}
        asked |= {} if partition is None else {"partition": partition}
        asked |= {} if resources.memory is None else {"mem": f"{round(1000 * resources.memory)}MB"}
        asked |= {"gpus_per_node": int(resources.gpus)} if resources.gpus else {}
        self._executor.update_parameters(**asked, additional_parameters={"requeue": True, "open_mode": "append", **options})

    def states(self) -> dict[str, str]:
        """States of one's own jobs, by id; looked up from time to time, and as they were where Slurm is too busy to answer."""
        if time.monotonic() - self._looked >= _LOOK:
            with contextlib.suppress(AgentError):
                self._states = _queue()
            self._looked = time.monotonic()
        return self._states

    def start(self, name: str, process: Process) -> SlurmRun:
        remembered = self._folder / f"{name}.id"
        if remembered.exists():
            job_id = remembered.read_text()
            if self.states().get(job_id, "COMPLETED") not in _ENDED:
                return SlurmRun(self, self._job_class(self._folder, job_id))
        self._executor.update_parameters(job_name=name)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what the error says
                job = self._executor.submit(process)
        except Exception as error:  # whatever sbatch says of a partition, a limit, an account
            raise AgentError(f"--on slurm: Slurm does not take the job: {one_line(error)}") from error
        replace_file(remembered, job.job_id.encode())
        self._states[job.job_id] = "PENDING"
        return SlurmRun(self, job)

    def close(self) -> None:
        """The jobs stay in the queue."""


def _queue() -> dict[str, str]:
    """States of one's own jobs, those that have ended a while ago among them, by id."""
    command = ["squeue", "--me", "--noheader", "--states=all", "--format=%i %T"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except FileNotFoundError as error:
        raise AgentError("--on slurm: there is no Slurm on this machine (no squeue); expected a node of a cluster") from error
    except subprocess.CalledProcessError as error:
        raise AgentError(f"--on slurm: Slurm does not answer: {' '.join(error.stderr.split())}") from error
    except subprocess.TimeoutExpired as error:
        raise AgentError("--on slurm: Slurm does not answer within a minute") from error
    return dict(line.split(maxsplit=1) for line in found.splitlines())
