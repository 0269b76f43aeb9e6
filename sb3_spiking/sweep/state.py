"""
What processes that work on one list tell each other, in the folder ``.sweep`` of its results: which list it is, a task for
each job, a lock that the process which trains a job holds, and which jobs failed. On a shared folder, machines do the same.
"""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sb3_spiking.errors import AgentError
from sb3_spiking.files import replace_file

FOLDER = ".sweep"


@dataclasses.dataclass(frozen=True)
class Task:
    """
    All that the process of a job must know.

    :param name: of the job
    :param env: id of the environment
    :param algo: RL Zoo's name of the algorithm
    :param env_kwargs: arguments of the environment
    :param gym_packages: that register it
    :param command: of the training, without the Python in front
    :param shown: the same, as it is kept with the results
    :param logs: folder of the job
    :param results: folder of the list
    :param threads: for PyTorch
    :param episodes: that a score is the mean of
    """

    name: str
    env: str
    algo: str
    env_kwargs: dict[str, Any]
    gym_packages: list[str]
    command: list[str]
    shown: str
    logs: str
    results: str
    threads: int
    episodes: int

    @classmethod
    def read(cls, file: Path) -> "Task":
        return cls(**json.loads(file.read_text()))


class State:
    """
    :param results: folder of a list
    """

    def __init__(self, results: Path) -> None:
        self.folder = results / FOLDER

    def check_owner(self, logs: Path, file: Path) -> None:
        """
        :param logs: folder with a folder for each job
        :param file: of the list
        :raises AgentError: if another list writes its results or logs here, or this one has its results elsewhere
        """
        for folder in (self.folder.parent, logs):
            owner = folder / FOLDER / "list"
            other = Path(owner.read_text()) if owner.is_file() else file
            if other.is_file() and not other.samefile(file):
                raise AgentError(
                    f"{file}: {folder} belongs to another list, {other}; expected one of its own, by --results and --logs"
                )
        results = self.folder.parent
        owner = logs / FOLDER / "results"
        other = Path(owner.read_text()) if owner.is_file() else results
        if other.is_dir() and not (results.is_dir() and other.samefile(results)):
            raise AgentError(
                f"{logs}: what was trained here has its results in {other}, not in {results}: expected --results {other}, or "
                "another --logs"
            )

    def claim(self, logs: Path, file: Path) -> None:
        """Say that a list writes its results here, and its logs there, and no other one; see :meth:`check_owner`."""
        folders = [folder / FOLDER for folder in (self.folder.parent, logs)]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        with self.lock("sweep"):
            self.check_owner(logs, file)
            for folder in folders:
                replace_file(folder / "list", str(file.absolute()).encode())
            replace_file(logs / FOLDER / "results", str(self.folder.parent.absolute()).encode())

    def write(self, task: Task) -> Path:
        """The file of a job's task."""
        file = self.folder / f"{task.name}.json"
        with self.lock("sweep"):  # two of them may start a job at a time: the second process finds it taken
            replace_file(file, json.dumps(dataclasses.asdict(task)).encode())
        return file

    def lock(self, name: str, timeout: float = -1) -> FileLock:
        """
        :param name: of a job, or "sweep" for what sweeps write
        :param timeout: seconds to wait for who holds it, -1 for ever
        :return: a lock that the death of a process frees
        """
        return FileLock(self.folder / f"{name}.lock", timeout=timeout)

    def is_locked(self, name: str) -> bool:
        """Whether a process trains the job."""
        if not (self.folder / f"{name}.lock").exists():
            return False
        try:
            with self.lock(name, timeout=0):
                return False
        except Timeout:
            return True

    def failed(self, name: str) -> bool:
        """Whether a job's last process ended with an error."""
        return (self.folder / f"{name}.failed").exists()

    def set_failed(self, name: str, failed: bool) -> None:
        """
        :param name: of a job
        :param failed: whether its last process ended with an error
        """
        file = self.folder / f"{name}.failed"
        if failed:
            file.touch()
        else:
            file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def draft(self, name: str) -> Iterator[Path]:
        """An empty folder for the result of a job, which goes to its place when everything is written."""
        draft = self.folder / f"{name}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        yield draft
        draft.rename(self.folder.parent / name)
