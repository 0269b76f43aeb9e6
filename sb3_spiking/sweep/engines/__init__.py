"""
Where jobs run. An engine starts the process of a job somewhere and says how it ended; a job that was killed, with its node or
by a scheduler, is started again by :mod:`~sb3_spiking.sweep.runner` and goes on from its checkpoint.
"""

import dataclasses
import enum
from typing import Protocol

from sb3_spiking.sweep.job import TAKEN
from sb3_spiking.sweep.process import Process


class Outcome(enum.Enum):
    """How the process of a job ended."""

    DONE = "done"
    FAILED = "failed"
    TAKEN = "taken"  # another process trains the job
    KILLED = "killed"


@dataclasses.dataclass(frozen=True)
class Resources:
    """
    What a job is given.

    :param threads: processor cores
    :param memory: GB, None for what the engine gives
    :param gpus: that it sees; where engines allow, a part of one is a share
    """

    threads: int = 1
    memory: float | None = None
    gpus: float = 0


class Run(Protocol):
    """A job that was started."""

    def poll(self) -> Outcome | None:
        """How it ended, None while it waits or runs."""


class Engine(Protocol):
    """
    :param slots: jobs at a time, None for as many as there are
    """

    slots: int | None

    def start(self, name: str, process: Process) -> Run:
        """
        :param name: of the job
        :param process: that trains it
        """

    def close(self) -> None:
        """End what ends with this process."""


def outcome(status: int) -> Outcome:
    """
    :param status: exit status of a job's process, below 0 or from 128 on for signals
    """
    if status < 0 or status >= 128:
        return Outcome.KILLED
    return {0: Outcome.DONE, TAKEN: Outcome.TAKEN}.get(status, Outcome.FAILED)
