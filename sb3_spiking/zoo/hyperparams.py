"""RL Zoo: our hyperparameters, for ``-conf``."""

from pathlib import Path
from typing import Any

import yaml

from sb3_spiking.zoo.search import register_search

# Within the package where a wheel was installed, beside it in a clone: see setup.py
_PACKAGE = Path(__file__).parents[1]
_FOLDER = next(folder for folder in (_PACKAGE / "hyperparams", _PACKAGE.parent / "hyperparams") if folder.is_dir())
HYPERPARAMS_FILE = _FOLDER / "dqn.yml"
LIU2022_FILE = _FOLDER / "dqn_liu2022.yml"
CHIP_FILE = _FOLDER / "dqn_chip.yml"


def load_hyperparams(file: Path = HYPERPARAMS_FILE) -> dict[str, Any]:
    """
    :param file: a YAML file in RL Zoo's format
    :return: hyperparameters by environment; a new dict at every call, since RL Zoo changes the one it gets
    """
    register_search()
    return yaml.safe_load(file.read_text())
