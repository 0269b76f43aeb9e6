"""
A command in a process of its own, on whatever machine. It knows the standard library alone: Slurm and Ray take it along, and
what waits for a job on their nodes needs no PyTorch.
"""

import dataclasses
import os
import subprocess
import sys
from typing import Any

#: Variable with the process id of who started a process
PARENT = "SB3_SPIKING_SWEEP_PARENT"


@dataclasses.dataclass(frozen=True)
class Process:
    """
    :param arguments: of Python
    :param log: file that its output is appended to
    :param folder: that it works in
    :param environment: variables that are set
    """

    arguments: tuple[str, ...]
    log: str
    folder: str
    environment: dict[str, str]

    def start(self) -> "subprocess.Popen[bytes]":
        """In a session of its own: what interrupts this process is not for that one."""
        os.makedirs(os.path.dirname(self.log), exist_ok=True)
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [sys.executable, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.folder,
                env={**os.environ, **self.environment, PARENT: str(os.getpid())},
            )

    def __call__(self) -> int:
        """Wait for it; its exit status."""
        return self.start().wait()

    def checkpoint(self) -> Any:
        """What submitit runs in place of a job that Slurm takes off its node: the same, which goes on from its checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)
