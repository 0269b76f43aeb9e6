"""A converted agent in a log folder of RL Zoo, with a record of how good it is."""

import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from huggingface_sb3.naming_schemes import EnvironmentName
from stable_baselines3 import DQN

from sb3_spiking.evaluation.agents import Agent
from sb3_spiking.files import replace_file, replaced
from sb3_spiking.sharing.zoo_files import ZOO_FILES, read_yaml

RECORD = "conversion.json"


def save(agent: Agent, converted: DQN, out: Path, record: dict[str, Any]) -> Path:
    """
    Write the converted agent as RL Zoo writes one, complete or not at all.

    :param agent: the ReLU agent
    :param converted: the spiking one
    :param out: log folder
    :param record: what conversion.json says
    :return: the folder of the run
    """
    name = EnvironmentName(agent.env_id)
    run = run_folder(agent, out)
    with replaced(run) as draft:
        converted.save(draft / f"{name}.zip")
        (draft / name).mkdir()
        for file in ZOO_FILES:
            source = Path(agent.stats_path) / file
            if source.is_file() and not source.is_symlink():
                shutil.copy(source, draft / name / file)
        config = draft / name / "config.yml"
        hyperparams = read_yaml(config) if config.is_file() else {}
        changed = {"policy": "sb3_spiking.SpikingPolicy", "policy_kwargs": repr(converted.policy_kwargs)}
        config.write_text(yaml.dump({**hyperparams, **changed}, sort_keys=False))
        (draft / RECORD).write_text(json.dumps(record, indent=1))
    return run


def run_folder(agent: Agent, out: Path) -> Path:
    """The folder of the converted agent: the same run of the same environment in another log folder."""
    name = EnvironmentName(agent.env_id)
    number = agent.path.parent.name.rpartition("_")[2]  # the environment may have had another version
    return out / agent.algo / f"{name}_{number if number.isdigit() else 1}"


def write_record(run: Path, record: dict[str, Any]) -> None:
    """
    :param run: folder of a converted agent
    :param record: that takes the place of the one there
    """
    replace_file(run / RECORD, json.dumps(record, indent=1).encode())
