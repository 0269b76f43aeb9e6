"""What stands beside an exported file, in JSON: all that its format cannot say of an agent."""

import json
from pathlib import Path
from typing import Any

from stable_baselines3 import DQN

from sb3_spiking.errors import AgentError
from sb3_spiking.files import replace_file
from sb3_spiking.sharing.saving import config


def record_of(path: Path) -> Path:
    """
    :param path: of an exported file, ``agent.nir``
    :return: of its record, ``agent.nir.json``
    """
    return path.with_name(f"{path.name}.json")


def write_record(path: Path, model: DQN, **about: Any) -> None:
    """
    :param path: of the exported file
    :param model: the agent: its settings, spaces and hyperparameters are in the record
    :param about: more to say, numbers, strings, lists and dicts
    :raises AgentError: for an agent that JSON cannot hold
    """
    try:
        record = config(model)
        text = json.dumps({**record, "num_steps": record["settings"]["num_steps"], **about}, indent=1)
    except ValueError as error:
        raise AgentError(str(error)) from error
    replace_file(record_of(path), text.encode())
