"""Results on disk, row by row as they come, so that an evaluation that is cut off goes on where it stopped."""

import csv
import json
import math
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sb3_spiking.errors import AgentError, one_line
from sb3_spiking.evaluation.episodes import Episode, Operations


class Rows:
    """
    A CSV file that rows are added to.

    :param path: of the file; what it holds already is kept, but for a last line that was cut off
    :param columns: of every row
    :raises AgentError: if the file has other columns
    """

    def __init__(self, path: Path, columns: Iterable[str]) -> None:
        self.path, self.columns = path, list(columns)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        header = ",".join(self.columns).encode()
        first = content.splitlines()[0] if content else b""
        # Whose the file is comes first: nothing of somebody else's is touched
        if first != header and not (b"\n" not in content and header.startswith(first.rstrip(b"\r"))):
            shown = first[:200].decode(errors="replace")
            raise AgentError(f"{path} holds something else: its first line is {shown!r}; move it away")
        if content:
            os.truncate(path, content.rfind(b"\n") + 1)
        if b"\n" not in content:
            self._append(self.columns)

    def read(self) -> pd.DataFrame:
        """All rows so far."""
        names = {"env": str, "agent": str}  # which may look like numbers, or like none
        missing = {column: ["nan", ""] for column in self.columns if column not in names}
        return pd.read_csv(self.path, dtype=names, na_values=missing, keep_default_na=False)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row, so that it is there if the machine stops."""
        self._append([row[column] for column in self.columns])

    def _append(self, values: list[Any]) -> None:
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(values)
            file.flush()
            os.fsync(file.fileno())


EPISODE_COLUMNS = (
    *("env", "env_kwargs", "agent", "algo", "protocol", "epsilon", "max_steps", "energy", "seed", "digest"),
    *("episode", "score", "steps", "max_q", "q_spread", "counted", "operations"),
)
_KEY = EPISODE_COLUMNS[:10]


def episode_row(key: Mapping[str, Any], episode: Episode) -> dict[str, Any]:
    """
    :param key: the first columns of the row
    :param episode: the episode
    :return: a row of :data:`EPISODE_COLUMNS`
    """
    operations = json.dumps({name: asdict(each) for name, each in episode.operations.items()})
    numbers = {name: getattr(episode, name) for name in ("score", "steps", "max_q", "q_spread", "counted")}
    return {**key, "episode": episode.number, **numbers, "operations": operations}


def matching(rows: pd.DataFrame, key: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of one evaluation of one agent, one for each episode."""
    same = np.ones(len(rows), bool)
    for column in _KEY:
        same &= rows[column].astype(str).to_numpy() == str(key[column])
    return rows[same].drop_duplicates("episode").sort_values("episode")


def operations_of(rows: pd.DataFrame) -> dict[str, Operations]:
    """Sums over episodes."""
    totals: dict[str, Operations] = {}
    for text in rows["operations"]:
        for name, numbers in json.loads(text).items():
            each = Operations(**numbers)
            total = totals.setdefault(name, Operations(each.neurons, each.steps, each.parameters))
            for count in ("multiply_accumulates", "accumulates", "updates", "spikes", "picojoules"):
                setattr(total, count, getattr(total, count) + getattr(each, count))
    return totals


def interval(
    values: Iterable[float], confidence: float = 0.95, limits: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[float, float]:
    """
    :param values: independent values
    :param confidence: of the interval
    :param limits: of what a value can be, which the interval does not pass, unless one of the values does
    :return: lower and upper end of the interval of their mean by Student's t, NaN for fewer than two values
    """
    numbers = np.asarray(list(values), float)
    if len(numbers) < 2:
        return math.nan, math.nan
    if np.ptp(numbers) == 0:
        return float(numbers[0]), float(numbers[0])
    from scipy import stats  # slow to import

    half = stats.t.ppf((1 + confidence) / 2, len(numbers) - 1) * stats.sem(numbers)
    low, high = min(limits[0], numbers.min()), max(limits[1], numbers.max())
    return float(max(low, numbers.mean() - half)), float(min(high, numbers.mean() + half))


# Of an evaluations.npz, unpacked: 80,000 evaluations of a hundred episodes fill it
_MAX_EVALUATION_BYTES = 64 * 2**20


def read_evaluations(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    :param path: ``evaluations.npz``, as SB3's EvalCallback leaves it while an agent trains
    :return: environment steps, mean and standard deviation of the scores after them, each of shape (evaluations,)
    :raises AgentError: if it is damaged, or unpacks to more than evaluations are
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _MAX_EVALUATION_BYTES:
            raise ValueError(f"it unpacks to {size} bytes, expected at most {_MAX_EVALUATION_BYTES}")
        with np.load(path, allow_pickle=False) as data:
            timesteps, results = data["timesteps"], data["results"].astype(float)
        if timesteps.ndim != 1 or results.ndim != 2 or len(timesteps) != len(results):
            raise ValueError(f"steps of shape {timesteps.shape} and scores of shape {results.shape}")
    except Exception as error:  # readers of zips and of arrays fail in many ways
        raise AgentError(f"{path}: damaged: {one_line(error)}") from error
    return timesteps, results.mean(axis=1), results.std(axis=1)
