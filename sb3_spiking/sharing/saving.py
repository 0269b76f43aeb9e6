"""An agent as a folder of JSON and safetensors, which anybody can read and nothing in which can run."""

import json
from pathlib import Path
from typing import Any

import torch as th
from safetensors.torch import save_file
from stable_baselines3 import DQN

from sb3_spiking.files import replaced
from sb3_spiking.policies import SpikingPolicy
from sb3_spiking.sharing.archive import CONFIG, OPTIMIZER, WEIGHTS, flattened
from sb3_spiking.sharing.loading import check_classes
from sb3_spiking.sharing.spaces import space_to_json
from sb3_spiking.sharing.training import training_of

FORMAT = 1


def save(model: DQN, folder: str | Path, **about: Any) -> Path:
    """
    Write an agent, whole or not at all: ``config.json`` with its network, settings, spaces and hyperparameters,
    ``model.safetensors`` with its weights and ``optimizer.safetensors`` with the optimizer's state. :func:`sb3_spiking.load`
    reads it.

    :param model: spiking or ReLU
    :param folder: that does not exist yet, or holds an agent that is to be replaced and nothing else
    :param about: more to say in ``config.json``, numbers, strings, lists and dicts
    :return: the folder
    :raises ValueError: for an agent that is no DQN, or has what JSON cannot hold
    :raises FileExistsError: if there is something else of this name
    """
    folder = Path(folder)
    if folder.exists():
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if CONFIG not in names or WEIGHTS not in names:
            raise FileExistsError(f"{folder} is there and holds no agent: expected a new folder")
        if others := sorted(names - {CONFIG, WEIGHTS, OPTIMIZER}):
            shown = ", ".join(others[:5])
            raise FileExistsError(f"{folder} holds more than an agent, {shown}, which would be lost: expected a new folder")
    content = config(model)
    if taken := sorted(set(content) & set(about)):
        raise ValueError(f"{', '.join(taken)}: config.json has the agent's own; expected other names")
    text = json.dumps({**content, **about}, indent=1)
    with replaced(folder) as draft:
        (draft / CONFIG).write_text(text)
        tensors = {name: value for name, value in model.policy.state_dict().items() if isinstance(value, th.Tensor)}
        save_file({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}, draft / WEIGHTS)
        state = flattened(model.policy.optimizer.state_dict())
        if state:
            save_file({name: tensor.cpu() for name, tensor in state.items()}, draft / OPTIMIZER)
    return folder


def config(model: DQN) -> dict[str, Any]:
    """
    :param model: an agent
    :return: what ``config.json`` says of it
    :raises ValueError: for an agent that is no DQN, or has what JSON cannot hold
    """
    if not isinstance(model, DQN):
        raise ValueError(f"an agent of {type(model).__name__}: expected a DQN")
    policy = model.policy
    content = {
        "format": FORMAT,
        "algorithm": "DQN",
        "policy_class": f"{type(policy).__module__}.{type(policy).__qualname__}",
        "policy_kwargs": {name: _written(name, value) for name, value in model.policy_kwargs.items()},
        "settings": policy.settings.as_dict() if isinstance(policy, SpikingPolicy) else None,
        "observation_space": space_to_json(model.observation_space),
        "action_space": space_to_json(model.action_space),
        **training_of(model),
    }
    check_classes(content)
    return content


def _written(name: str, value: Any) -> Any:
    if isinstance(value, type):
        return f"<class '{value.__module__}.{value.__qualname__}'>"
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"policy_kwargs['{name}']={value!r}: expected numbers, strings, lists, dicts or a class") from error
    return value
