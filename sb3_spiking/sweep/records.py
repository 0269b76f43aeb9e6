"""
What the finished jobs of a list leave, in a few files that git and people can read: a row for each job in ``scores.csv``, its
evaluations in ``evaluations.csv``, what SpikeMonitor logged in ``spikes.csv``, and in ``jobs.yml`` its command, machine,
hyperparameters and the settings of its network.

A job that has just ended lies beside them in a folder of its own until :meth:`Records.gather` puts it there: ``score.csv``,
``evaluations.csv``, ``spikes.csv``, ``command.txt`` with the machine in its second line, RL Zoo's ``config.yml``, and
``settings.yml``.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from sb3_spiking.files import replace_file
from sb3_spiking.sharing.zoo_files import read_yaml

#: Tables, and their names in the folder of a job
TABLES = {"scores": "score.csv", "evaluations": "evaluations.csv", "spikes": "spikes.csv"}
# What the folder of a job has that is whole
_WHOLE = ("score.csv", "command.txt", "config.yml")


class Records:
    """
    :param folder: of a list
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> set[str]:
        """The jobs that are there."""
        # In this order, as another process may move a job from its folder to the file
        loose, file = {path.name for path in self._loose()}, self.folder / "scores.csv"
        return loose | (set(pd.read_csv(file, usecols=["job"])["job"]) if file.exists() else set())

    def _loose(self) -> list[Path]:
        """Folders of jobs."""
        return sorted(path for path in self.folder.glob("*/") if all((path / name).exists() for name in _WHOLE))

    def table(self, name: str) -> pd.DataFrame:
        """
        :param name: a key of TABLES
        :return: its rows, with the name of the job in the column ``job``
        """
        loose, file = self._loose(), self.folder / f"{name}.csv"
        parts = [pd.read_csv(file)] if file.exists() else []
        parts = [part[~part["job"].isin([path.name for path in loose])] for part in parts]
        for path in loose:
            if (path / TABLES[name]).exists():
                rows = pd.read_csv(path / TABLES[name])
                rows.insert(0, "job", path.name)
                parts.append(rows)
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"job": []})

    def jobs(self) -> dict[str, dict[str, Any]]:
        """By job: ``command``, ``machine``, ``config`` and, of spiking networks, ``settings``."""
        file = self.folder / "jobs.yml"
        return (yaml.safe_load(file.read_text()) if file.exists() else {}) | {path.name: _job(path) for path in self._loose()}

    @contextlib.contextmanager
    def config_folder(self, job: str) -> Iterator[Path]:
        """A folder with the hyperparameters of a job, as RL Zoo keeps them."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.yml").write_text(yaml.safe_dump(self.jobs()[job]["config"]))
            yield Path(folder)

    def gather(self) -> None:
        """Put the folders of jobs into the files of the list."""
        loose = self._loose()
        if not loose:
            return
        for name in TABLES:
            rows = self.table(name)
            if len(rows):
                replace_file(self.folder / f"{name}.csv", rows.sort_values("job", kind="stable").to_csv(index=False).encode())
        # What is inside of a job on a line each
        text = yaml.safe_dump(self.jobs(), sort_keys=True, default_flow_style=None, width=1_000_000)
        replace_file(self.folder / "jobs.yml", text.encode())
        for path in loose:
            (path / _WHOLE[0]).unlink()  # at once no result of its own any more
            shutil.rmtree(path)


def _job(folder: Path) -> dict[str, Any]:
    """What the folder of a job says, but for its tables."""
    command, *machine = (folder / "command.txt").read_text().splitlines()
    job = {"command": command, "config": read_yaml(folder / "config.yml")}
    if machine:
        job["machine"] = machine[0]
    if (folder / "settings.yml").exists():
        job["settings"] = read_yaml(folder / "settings.yml")
    return job
