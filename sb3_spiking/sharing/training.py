"""What an agent's files say of its training: numbers with ranges, learning rate and replay, as ``config.json`` has them."""

import math
import re
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import GymEnv, TrainFreq
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule, check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

#: Classes that replay_buffer_class may name; FrameStackReplayBuffer joins them
REPLAYS: dict[str, type[ReplayBuffer]] = {each.__name__: each for each in (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer)}


class _Number(NamedTuple):
    """Type and range of a hyperparameter."""

    kind: type
    low: float
    high: float

    def accepts(self, value: Any) -> bool:
        kinds = (int, float) if self.kind is float else (int,)
        return isinstance(value, kinds) and not isinstance(value, bool) and self.low <= value <= self.high


#: What DQN needs to go on learning, and what is there to be read without a pickle
HYPERPARAMETERS = {
    "buffer_size": _Number(int, 1, 2**31),
    "batch_size": _Number(int, 1, 2**20),
    "learning_starts": _Number(int, 0, 2**62),
    "tau": _Number(float, 0, 1),
    "gamma": _Number(float, 0, 1),
    "gradient_steps": _Number(int, -1, 2**31),
    "n_steps": _Number(int, 1, 10_000),
    "exploration_initial_eps": _Number(float, 0, 1),
    "exploration_final_eps": _Number(float, 0, 1),
    "exploration_fraction": _Number(float, 0, 1),
    "target_update_interval": _Number(int, 1, 2**62),
    "max_grad_norm": _Number(float, 0, math.inf),
}
#: What tells how far an agent has come
COUNTERS = {
    "num_timesteps": _Number(int, 0, 2**62),
    "_total_timesteps": _Number(int, 0, 2**62),
    "_episode_num": _Number(int, 0, 2**62),
    "_n_updates": _Number(int, 0, 2**62),
    "_n_calls": _Number(int, 0, 2**62),
    "exploration_rate": _Number(float, 0, 1),
}
_LEARNING_RATE = _Number(float, 0, 1e3)
# The numbers of a linear schedule, by SB3's names
_LINEAR = ("start", "end", "end_fraction")
# What replay_buffer_kwargs may hold beside ``handle_timeout_termination``
_OF_REPLAYS = {"n_stack": _Number(int, 1, 1000), "n_steps": HYPERPARAMETERS["n_steps"], "gamma": HYPERPARAMETERS["gamma"]}


class NoReplay:
    """
    In place of the replay of an agent that is there to act.

    :param in_files: what its files say of a training that the agent does not hold, as ``config.json`` has it
    """

    def __init__(self, in_files: dict[str, Any]) -> None:
        self.in_files = in_files

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ValueError("the agent was loaded to act: to go on learning, load(..., env=env)")


def class_name(written: Any) -> str:
    """
    :param written: what an agent's files say of a class
    :return: its dotted name; of a class that SB3 pickled the name is in that of its functions
    """
    if not isinstance(written, dict):
        return str(written)
    function = re.match(r"<function (\w+)\.__init__ at ", str(written.get("__init__")))
    return f"{written.get('__module__')}.{function[1] if function else ''}"


def training_of(model: DQN) -> dict[str, Any]:
    """
    :param model: an agent
    :return: what ``config.json`` says of its training; a learning rate with another schedule than a linear one is None
    """
    numbers = {name: getattr(model, name) for name in (*HYPERPARAMETERS, *COUNTERS) if hasattr(model, name)}
    numbers = {name: value.item() if isinstance(value, np.generic) else value for name, value in numbers.items()}
    frequency: Any = model.train_freq
    if isinstance(frequency, TrainFreq):
        frequency = [frequency.frequency, frequency.unit.value]
    replay = model.replay_buffer_class
    training = {
        "learning_rate": _rate_of(model.learning_rate),
        "train_freq": frequency,
        "optimize_memory_usage": model.optimize_memory_usage,
        "replay_buffer_class": None if replay is None else f"{replay.__module__}.{replay.__qualname__}",
        "replay_buffer_kwargs": model.replay_buffer_kwargs if replay in REPLAYS.values() else {},
    }
    if isinstance(model.replay_buffer, NoReplay):
        training |= model.replay_buffer.in_files
    return {**training, **{name: "inf" if value == math.inf else value for name, value in numbers.items()}}


def set_training_to_act(model: DQN, data: dict[str, Any]) -> None:
    """
    What an agent that has no replay keeps, to be saved again as it is.

    :param model: that is set up
    :param data: what its files say
    :raises ValueError: for a number out of its range
    """
    set_numbers(model, data, HYPERPARAMETERS)
    known = {name: value for name, value in _training(data).items() if _is_training(name, value)}
    for name, value in known.items():
        setattr(model, name, _taken(value))
    if "learning_rate" in known:
        model._setup_lr_schedule()
    model._convert_train_freq()
    model.replay_buffer_class = None  # not what was taken for want of a replay
    _set_replay(model, data, {})
    unknown = {"learning_rate", "train_freq"} - set(known)
    model.replay_buffer = NoReplay({**dict.fromkeys(unknown), **_replay(data)})  # type: ignore[assignment]


def set_training(model: BaseAlgorithm, data: dict[str, Any], env: GymEnv, given: dict[str, Any]) -> None:
    """
    Environment and hyperparameters of an agent that is to go on learning.

    :param model: that is not set up yet
    :param data: what its files say
    :param env: whose spaces must be the agent's
    :param given: hyperparameters, which come before those of the files
    :raises TypeError: for a hyperparameter that DQN does not have
    :raises ValueError: for an agent of another algorithm or of other spaces, and for what is not in the files or out of range
    """
    if not isinstance(model, DQN):
        raise ValueError("only DQN agents go on learning from here; expected env=None")
    wrapped = DQN._wrap_env(env, monitor_wrapper=not isinstance(env, VecEnv))
    try:
        check_for_correct_spaces(wrapped, model.observation_space, model.action_space)
    except ValueError as error:
        if "..." not in str(data.get("observation_space")):
            raise
        raise ValueError(
            f"{error}. SB3's zip prints the bounds of a large space in part: load a zip that you trust by "
            "DQN.load(path, env=env); the folders of sb3_spiking.save have all bounds"
        ) from error
    model.env, model.n_envs, model._vec_normalize_env = wrapped, wrapped.num_envs, unwrap_vec_normalize(wrapped)
    set_numbers(model, data, HYPERPARAMETERS)
    unknown = set(given) - set(HYPERPARAMETERS) - set(_OTHERS)
    if unknown:
        expected = ", ".join(sorted({*HYPERPARAMETERS, *_OTHERS}))
        raise TypeError(f"load() takes no {', '.join(sorted(unknown))}; expected hyperparameters of DQN: {expected}")
    for name, value in _training(data).items():
        if given.get(name) is not None:
            continue
        if value is None:
            raise ValueError(f"{name} is there as a pickle alone, give it: load(..., env=env, {name}=...)")
        if not _is_training(name, value):
            raise ValueError(f"{name}={str(value)[:50]} is no {name}")
        setattr(model, name, _taken(value))
    _set_replay(model, data, given)
    for name, value in given.items():
        setattr(model, name, value)


def set_numbers(model: BaseAlgorithm, data: dict[str, Any], numbers: dict[str, _Number]) -> None:
    """
    :param model: an agent
    :param data: what its files say
    :param numbers: HYPERPARAMETERS or COUNTERS, of which it takes those that it has
    :raises ValueError: for a number out of its range
    """
    for name, number in numbers.items():
        if name in data and hasattr(model, name):
            value = math.inf if data[name] == "inf" else data[name]
            if number.kind is int and isinstance(value, float) and value.is_integer():
                value = int(value)  # of learn(1e5), which SB3 takes as it is
            if not number.accepts(value):
                expected = f"a number from {number.low} to {number.high}"
                raise ValueError(f"{name}={str(data[name])[:50]}, expected {expected}")
            setattr(model, name, value)


def _set_replay(model: DQN, data: dict[str, Any], given: dict[str, Any]) -> None:
    """The replay's class and its arguments, as far as they are not given; what DQN would choose is left to it."""
    written = _replay(data)
    optimized, name, kwargs = written.values()
    if not isinstance(optimized, bool):
        raise ValueError(f"optimize_memory_usage={str(optimized)[:50]}: expected true or false")
    model.optimize_memory_usage = optimized
    if "replay_buffer_class" in given:
        return
    buffer = None if name is None else REPLAYS.get(name.rsplit(".", 1)[-1])
    pickled = isinstance(kwargs, dict) and ":serialized:" in kwargs
    if model.env is None and (pickled or (name is not None and buffer is None)):
        return  # it has no replay
    if name is not None and buffer is None:
        what = f"a replay class of {name.rstrip('.')[:100]}, which is not in the files"
        raise ValueError(f"{what}, give it: load(..., env=env, replay_buffer_class=...)")
    if pickled and "replay_buffer_kwargs" not in given:
        raise ValueError(
            "replay_buffer_kwargs are there as a pickle alone, give them: load(..., env=env, replay_buffer_kwargs=...)"
        )
    kwargs = {} if "replay_buffer_kwargs" in given else kwargs
    if not isinstance(kwargs, dict):
        raise ValueError("replay_buffer_kwargs are no dict")
    for argument, value in kwargs.items():
        is_bool = argument == "handle_timeout_termination" and isinstance(value, bool)
        if not is_bool and not (argument in _OF_REPLAYS and _OF_REPLAYS[argument].accepts(value)):
            raise ValueError(f"replay_buffer_kwargs: {str(argument)[:50]}={str(value)[:50]}: no replay takes it")
    if "gamma" in given and "gamma" in kwargs and kwargs["gamma"] == data.get("gamma"):
        kwargs = {**kwargs, "gamma": given["gamma"]}  # one and the same
    if buffer is NStepReplayBuffer and kwargs.get("n_steps") == model.n_steps > 1:
        kwargs = {argument: value for argument, value in kwargs.items() if argument not in ("n_steps", "gamma")}
    elif buffer is not None and (model.n_steps > 1 or buffer not in (ReplayBuffer, DictReplayBuffer)):
        model.replay_buffer_class = buffer
    model.replay_buffer_kwargs = dict(kwargs)


def _replay(data: dict[str, Any]) -> dict[str, Any]:
    """Whether the replay is SB3's smaller variant, the name of its class, and its arguments."""
    written = data.get("replay_buffer_class")
    return {
        "optimize_memory_usage": data.get("optimize_memory_usage", False),
        "replay_buffer_class": None if written is None else class_name(written),
        "replay_buffer_kwargs": data.get("replay_buffer_kwargs", {}),
    }


def _training(data: dict[str, Any]) -> dict[str, Any]:
    """Learning rate and training frequency as ``config.json`` has them, None where they are a pickle alone."""
    frequency = data.get("train_freq") if "format" in data else None
    return {"learning_rate": _rate(data.get("learning_rate")), "train_freq": frequency}


def _rate_of(rate: Any) -> Any:
    """The learning rate of an agent, as ``config.json`` has it."""
    if isinstance(rate, FloatSchedule):
        rate = rate.value_schedule
    if not isinstance(rate, (int, float)):
        # As SB3 writes an object: the name of its class, and its numbers
        rate = _rate({":type:": str(type(rate)), **getattr(rate, "__dict__", {})})
    if isinstance(rate, dict):
        return {name: float(value) for name, value in rate.items()}
    return None if rate is None else float(rate)


def _rate(written: Any) -> Any:
    """A number, the numbers of a linear schedule, or None for another object that SB3 wrote, whose numbers say nothing."""
    if not isinstance(written, dict) or ":type:" not in written:
        return written
    to_zero = {"start": written.get("initial_value"), "end": 0.0, "end_fraction": 1.0}
    schedules = {
        str(ConstantSchedule): written.get("val"),
        str(LinearSchedule): {name: written.get(name) for name in _LINEAR},
        # RL Zoo's lin_1e-3, whose module takes seconds to import
        "<class 'rl_zoo3.utils.SimpleLinearSchedule'>": to_zero,
    }
    return schedules.get(str(written[":type:"]))


# Hyperparameters that are not a number in a range
_OTHERS = ("learning_rate", "train_freq", "replay_buffer_class", "replay_buffer_kwargs", "optimize_memory_usage")


def _is_training(name: str, value: Any) -> bool:
    if name == "learning_rate" and isinstance(value, dict):
        accepted = set(value) == set(_LINEAR) and all(_LEARNING_RATE.accepts(value[key]) for key in _LINEAR)
        return accepted and 0 < value["end_fraction"] <= 1
    if name == "learning_rate":
        return _LEARNING_RATE.accepts(value)
    frequency = _Number(int, 1, 2**31)
    return frequency.accepts(value) or (
        isinstance(value, list) and len(value) == 2 and frequency.accepts(value[0]) and value[1] in ("step", "episode")
    )


def _taken(value: Any) -> Any:
    """What DQN takes for it."""
    if isinstance(value, dict):
        return LinearSchedule(**value)
    return tuple(value) if isinstance(value, list) else value
