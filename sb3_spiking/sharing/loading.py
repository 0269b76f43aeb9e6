"""From an agent's files to an agent, without unpickling anything: what a class can be is named here, all else is numbers."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import GymEnv
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_spiking.errors import AgentError, one_line
from sb3_spiking.extractors import SpikingCombinedExtractor, SpikingExtractor, SpikingMLP, SpikingNatureCNN
from sb3_spiking.policies import SpikingPolicy, SpikingQNetwork
from sb3_spiking.relu import ReluExtractor
from sb3_spiking.settings import SpikingSettings
from sb3_spiking.sharing.archive import AgentRecord, read_agent
from sb3_spiking.sharing.spaces import space_from_json, space_from_sb3
from sb3_spiking.sharing.training import COUNTERS, class_name, set_numbers, set_training, set_training_to_act
from sb3_spiking.snn import SpikingLayer

# Classes that policy_kwargs may name
_CLASSES: dict[str, type] = {
    f"{each.__module__}.{each.__qualname__}": each
    for each in (
        *(SpikingMLP, SpikingNatureCNN, SpikingCombinedExtractor, ReluExtractor),
        *(FlattenExtractor, NatureCNN, CombinedExtractor),
        *(th.optim.Adam, th.optim.AdamW, th.optim.RMSprop, th.optim.SGD, RMSpropTFLike),
        *(nn.ReLU, nn.Tanh, nn.ELU, nn.LeakyReLU, nn.SiLU, nn.GELU),
    )
}

#: A decision of an agent that is loaded takes at most this many simulation steps; conversions use hundreds
MAX_NUM_STEPS = 10_000
#: The window of its largest layer has at most this many numbers; that of the paper's network has 819,200
MAX_WINDOW = 2**27
#: Entries of a list in policy_kwargs, such as the layers of a network
MAX_LAYERS = 1000
_EXTRA_STATE = "_extra_state"
_SETTINGS = f"q_net.features_extractor.{_EXTRA_STATE}"


def load(path: str | Path, env: GymEnv | None = None, device: th.device | str = "auto", **hyperparameters: Any) -> DQN:
    """
    Load a DQN agent, spiking or ReLU, from the zip that SB3 and RL Zoo write or from our folder of JSON and safetensors.
    Nothing in it is executed: pickles are left alone, classes come from a list.

    Without an environment the agent is there to act: it has no replay and takes no hyperparameters. With one it can go on
    learning, with its replay's class where that is SB3's or :class:`~sb3_spiking.FrameStackReplayBuffer`. A zip says the
    algorithm's numbers in plain text, linear schedules too, but ``train_freq`` and other schedules only as pickles: what is
    missing must be given here, by the names of DQN's arguments.

    :param path: of the zip or folder
    :param env: to go on learning in; its spaces must be the agent's
    :param device: PyTorch device
    :param hyperparameters: of DQN, which come before those of the files
    :return: the agent, with the optimizer's state
    :raises AgentError: if the files are damaged, hostile, or not a DQN agent
    """
    model = build(DQN, read_agent(path), device=device, env=env, hyperparameters=hyperparameters)
    assert isinstance(model, DQN)
    return model


def build(
    algorithm: type[BaseAlgorithm],
    record: AgentRecord,
    *,
    device: th.device | str = "auto",
    env: GymEnv | None = None,
    hyperparameters: dict[str, Any] | None = None,
) -> BaseAlgorithm:
    """
    :param algorithm: class of the agent
    :param record: what is in its files
    :param device: PyTorch device
    :param env: to go on learning in, which DQN can
    :param hyperparameters: of DQN, which come before those of the files
    :return: the agent
    :raises AgentError: if the files are no agent of this algorithm
    """
    try:
        return _build(algorithm, record, device, env, hyperparameters or {})
    except Exception as error:  # whatever a class says of arguments that it does not take
        reason = one_line(error, 1000)
        raise AgentError(f"{record.path}: no agent of {algorithm.__name__} that can be used: {reason}") from error


def _build(
    algorithm: type[BaseAlgorithm],
    record: AgentRecord,
    device: th.device | str,
    env: GymEnv | None,
    given: dict[str, Any],
) -> BaseAlgorithm:
    data = record.data
    ours = "format" in data
    read_space: Callable[[Any], gym.Space] = space_from_json if ours else space_from_sb3
    observation_space, action_space = (read_space(data.get(name)) for name in ("observation_space", "action_space"))
    policy_class = _policy_class(algorithm, data.get("policy_class"))
    policy_kwargs = read_policy_kwargs(data.get("policy_kwargs", {}))
    if issubclass(policy_class, SpikingPolicy):
        policy_kwargs = _with_settings(policy_kwargs, data.get("settings") if ours else record.parameters.get(_SETTINGS))

    model = algorithm(policy=policy_class, env=None, device=device, _init_setup_model=False)  # type: ignore[call-arg]
    model.observation_space, model.action_space, model.n_envs = observation_space, action_space, 1
    model.policy_kwargs = policy_kwargs
    if isinstance(model, OnPolicyAlgorithm):
        model.use_sde = data.get("use_sde") is True
    # NumPy's numbers, of learn(np.int64(1000)), are pickles in SB3's zip
    set_numbers(model, {name: value for name, value in data.items() if not isinstance(value, dict)}, COUNTERS)
    if env is None:
        if given:
            raise TypeError(f"{', '.join(given)}: hyperparameters are for learning, expected env=... too")
        # What only learning needs stays small
        for name, value in (("buffer_size", 1), ("n_steps", 1), ("learning_rate", 0.0), ("target_entropy", 0.0)):
            if hasattr(model, name):
                setattr(model, name, value)
    else:
        set_training(model, data, env, given)

    exploration_rate = getattr(model, "exploration_rate", None)
    with _BoundedAllocations(record.parameters):
        model._setup_model()
    for module in model.policy.modules():
        if _window(module) > MAX_WINDOW:
            raise ValueError(f"a layer whose window has more than {MAX_WINDOW} numbers")
    if exploration_rate is not None:
        model.exploration_rate = exploration_rate  # type: ignore[attr-defined]
    if env is None and isinstance(model, DQN):
        set_training_to_act(model, data)
    model.policy.load_state_dict(_checked(model.policy, record))
    if record.optimizer is not None:
        _load_optimizer(model.policy.optimizer, record)
    return model


def _window(module: nn.Module) -> int:
    """Numbers in the largest window that comes into or out of a module's layers in a decision."""
    if isinstance(module, SpikingLayer):
        return module.num_steps * len(module.connection.weight)
    if isinstance(module, SpikingQNetwork):
        return module.settings.num_steps * int(module.action_space.n)
    if isinstance(module, SpikingExtractor):
        inputs = 0 if module.settings.encoding == "direct" else 2 * spaces.flatdim(module._observation_space)
        return module.settings.num_steps * max(inputs, module.largest_layer if isinstance(module, SpikingNatureCNN) else 0)
    return 0


def _policy_class(algorithm: type[BaseAlgorithm], written: Any) -> type:
    """The algorithm's policy of this name; whoever wrote it can only choose among those that there are."""
    allowed = {f"{each.__module__}.{each.__qualname__}": each for each in algorithm.policy_aliases.values()}
    name = class_name(written)
    if name not in allowed:
        raise ValueError(f"a policy {name[:100]!r}; expected one of {', '.join(sorted(allowed))}")
    return allowed[name]


def read_policy_kwargs(written: Any) -> dict[str, Any]:
    """
    :param written: ``policy_kwargs`` as they are in an agent's files
    :return: with the classes that they name
    :raises ValueError: for anything else
    """
    if not isinstance(written, dict):
        raise ValueError("policy_kwargs are no dict")
    # SB3 pickles a dict that holds a class, and writes its entries beside the pickle
    entries = {name: value for name, value in written.items() if name not in (":type:", ":serialized:")}
    if _longest(entries) > MAX_LAYERS:
        raise ValueError(f"policy_kwargs with a list of more than {MAX_LAYERS} entries, such as layers")
    for name, value in entries.items():
        if isinstance(value, str) and value.startswith("{"):  # a dict that SB3 could not write as JSON
            raise ValueError(
                f"policy_kwargs['{name}'] holds an object, which the zip has as a pickle alone: load a zip that you trust by "
                "SB3's DQN.load"
            )
    return {name: _class(value) for name, value in entries.items()}


def check_classes(config: dict[str, Any]) -> None:
    """
    :param config: what is about to be written of an agent
    :raises ValueError: for a policy, or a class in its arguments, that would not be loaded
    """
    _policy_class(DQN, config["policy_class"])
    read_policy_kwargs(config["policy_kwargs"])


def _longest(written: Any) -> int:
    """Entries of the longest list or dict in it."""
    parts = written.values() if isinstance(written, dict) else written if isinstance(written, (list, tuple)) else ()
    return max(len(parts), *map(_longest, parts), 0)


def _class(value: Any) -> Any:
    written = re.fullmatch(r"<class '([\w.]+)'>", value) if isinstance(value, str) else None
    if written is None:
        return value
    # PyTorch's classes have other names where they are exported
    name = written[1]
    if name not in _CLASSES:
        raise ValueError(f"a class {name[:100]!r} in policy_kwargs; expected one of {', '.join(sorted(_CLASSES))}")
    return _CLASSES[name]


def _with_settings(policy_kwargs: dict[str, Any], written: Any) -> dict[str, Any]:
    """The settings of the network that was trained, in place of those that were given or defaults."""
    if not isinstance(written, dict) or not all(isinstance(name, str) for name in written):
        raise ValueError("the settings of the spiking network are missing")
    settings = SpikingSettings.resolve(**written)
    if settings.num_steps > MAX_NUM_STEPS:
        raise ValueError(f"num_steps={settings.num_steps}: expected at most {MAX_NUM_STEPS}")
    names = settings.as_dict()
    others = {name: value for name, value in policy_kwargs.items() if name not in names and name != "preset"}
    extractor_kwargs = others.get("features_extractor_kwargs")
    if isinstance(extractor_kwargs, dict):  # where they may stand as well
        others["features_extractor_kwargs"] = {
            name: value for name, value in extractor_kwargs.items() if name not in names and name != "preset"
        }
    return {**others, **{name: value for name, value in names.items() if value is not None}}


class _BoundedAllocations(TorchDispatchMode):
    """Refuses tensors that are many more, or much larger, than those in an agent's files, before there is memory for them."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        super().__init__()
        stored = [value for value in parameters.values() if isinstance(value, th.Tensor) and value.layout is th.strided]
        # Many tensors may be views of the same few numbers, which count once
        storages = [value.untyped_storage() for value in stored if value.device.type == "cpu"]
        self._numbers = 10_000_000 + sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
        self._tensors = 1000 + 100 * min(len(parameters), 10 * MAX_LAYERS)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shape = args[0] if args else None
        if isinstance(shape, (list, tuple)) and all(isinstance(size, int) for size in shape):
            self._numbers -= math.prod(shape)
            self._tensors -= 1
            if min(self._numbers, self._tensors) < 0:
                raise ValueError(f"a network larger than its weights, with a tensor of shape {list(shape)}")
        return func(*args, **(kwargs or {}))


def _checked(policy: nn.Module, record: AgentRecord) -> dict[str, Any]:
    """The state of a policy from the files, if it has the names, shapes and types that the policy takes."""
    expected = policy.state_dict()
    own = {name: value for name, value in expected.items() if name.endswith(_EXTRA_STATE)}
    tensors = {name: value for name, value in record.parameters.items() if not str(name).endswith(_EXTRA_STATE)}
    missing, unknown = set(expected) - set(own) - set(tensors), set(tensors) - set(expected)
    if missing or unknown:
        which = f"missing {sorted(missing)[:3]}, unknown {sorted(map(str, unknown))[:3]}"
        raise ValueError(f"weights of another network: {which}")
    for name, tensor in tensors.items():
        like = expected[name]
        if not isinstance(tensor, th.Tensor) or tensor.layout is not th.strided or tensor.is_quantized:
            raise ValueError(f"{name} is no plain tensor")
        if tensor.shape != like.shape or tensor.dtype != like.dtype:
            ours, theirs = (f"{list(each.shape)} of {each.dtype}" for each in (like, tensor))
            raise ValueError(f"{name} has {theirs}, expected {ours}")
        _check_finite(str(name), tensor)
    if not isinstance(policy, SpikingPolicy):  # which was built with the saved settings; the others say what differs
        own |= {name: record.parameters[name] for name in own if isinstance(record.parameters.get(name), dict)}
    return {**tensors, **own}


def _load_optimizer(optimizer: th.optim.Optimizer, record: AgentRecord) -> None:
    assert record.optimizer is not None
    state = record.optimizer.get("state")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not isinstance(state, dict) or not set(state) <= set(range(len(parameters))):
        raise ValueError("an optimizer of another network")
    for number, entries in state.items():
        for name, tensor in entries.items() if isinstance(entries, dict) else [("", None)]:
            if not isinstance(tensor, th.Tensor) or tensor.numel() not in (1, parameters[number].numel()):
                raise ValueError(f"an optimizer's state without a tensor for parameter {number}, {name}")
            if tensor.numel() > 1 and tensor.shape != parameters[number].shape:
                raise ValueError(f"an optimizer's state of another shape, parameter {number}, {name}")
            _check_finite(f"the optimizer's {number}.{name}", tensor)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _check_finite(name: str, tensor: th.Tensor) -> None:
    """
    :raises ValueError: for a tensor with infinite or undefined numbers
    """
    if tensor.is_floating_point() and not math.isfinite(tensor.abs().max().item() if tensor.numel() else 0.0):
        raise ValueError(f"{name} has numbers that are not finite")
