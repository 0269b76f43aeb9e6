"""What the log of a job says: how far it is, and what it said last."""

import os
import re
from pathlib import Path

# What SB3's logger, RL Zoo's evaluations and a resumed training print
_STEPS = re.compile(r"total_timesteps +\| (\d+)|num_timesteps=(\d+)|^(\d+) of \d+ steps are done", re.MULTILINE)
_TAIL = 32_768  # bytes; SB3 prints a table of one or two thousand every few episodes


def _tail(file: Path) -> str:
    try:
        with file.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL))
            return log.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def trained_steps(file: Path) -> int:
    """
    :param file: log of a job
    :return: steps that the training has taken, as far as it has said so
    """
    found = _STEPS.findall(_tail(file))
    return int(next(filter(None, found[-1]))) if found else 0


def last_line(file: Path) -> str:
    """
    :param file: log of a job
    :return: its last line that is not empty
    """
    lines = [line.strip() for line in _tail(file).splitlines() if line.strip()]
    return lines[-1] if lines else f"nothing was written to {file}"
