"""The game as a person sees it, and what its actions are called."""

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from sb3_spiking.errors import AgentError, one_line

# Pixels of the longer side of a frame that is kept
_LARGEST = 320

# What Gymnasium's documentation calls the actions of its environments, by the name without the version
_ACTIONS = {
    "CartPole": ("left", "right"),
    "Acrobot": ("torque -1", "no torque", "torque +1"),
    "MountainCar": ("left", "no-op", "right"),
    "LunarLander": ("no-op", "left engine", "main engine", "right engine"),
}
# MinAtar's
_MINATAR_ACTIONS = ("no-op", "left", "up", "right", "down", "fire")


def innermost(env: VecEnv) -> gym.Env | None:
    """The first environment without wrappers, None where it is in another process."""
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    return env.envs[0].unwrapped if isinstance(env, DummyVecEnv) else None


def name_of(env: VecEnv) -> str:
    """The id of the first environment, or the name of its class."""
    inner = innermost(env)
    if inner is None:
        return type(env).__name__
    return inner.spec.id if inner.spec is not None else type(inner).__name__


def action_names(env: VecEnv) -> list[str]:
    """What the actions are called, numbers where nothing says; none for actions that are not discrete."""
    if not isinstance(env.action_space, gym.spaces.Discrete):
        return []
    inner: Any = innermost(env)
    numbers = [str(number) for number in range(int(env.action_space.n))]
    if hasattr(inner, "get_action_meanings"):  # Atari
        names = [name.lower() for name in inner.get_action_meanings()]
    elif type(inner).__module__ == "minatar.gym":
        names = [_MINATAR_ACTIONS[action] for action in inner.action_set]
    else:
        names = list(_ACTIONS.get(name_of(env).partition("-")[0], numbers))
    return names if len(names) == len(numbers) else numbers


def is_drawn(env: VecEnv) -> bool:
    """Whether the first environment gives pictures of itself."""
    try:
        return env.get_attr("render_mode", indices=0)[0] == "rgb_array"
    except AttributeError:
        return False


def check_drawn(make_env: Callable[[], VecEnv], name: str) -> None:
    """
    :param make_env: makes an environment, and asks it for pictures
    :param name: of the environment
    :raises AgentError: if it cannot be drawn
    """
    try:
        env = make_env()
    except AgentError as error:
        raise AgentError(f"{name} cannot be drawn: with render_mode='rgb_array', {error}") from error
    try:
        if not is_drawn(env):
            raise AgentError(f"{name} cannot be drawn: it does not know render_mode='rgb_array'")
        env.reset()
        frame(env)
    finally:
        env.close()


def frame(env: VecEnv) -> np.ndarray:
    """
    :param env: with ``render_mode="rgb_array"``
    :return: what the first environment shows, shape (H, W, 3), uint8, at most 320 pixels high and wide
    :raises AgentError: if it cannot be drawn
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Gymnasium would have whole numbers of MinAtar, and frames a second
            picture = np.asarray(env.env_method("render", indices=0)[0])
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"it gives an array of shape {picture.shape}, expected (H, W, 3)")
    except Exception as error:  # whatever an environment says
        raise AgentError(f"{name_of(env)} cannot be drawn: {one_line(error)}") from error
    if np.issubdtype(picture.dtype, np.floating):  # MinAtar's are from 0 to 1
        picture = picture * 255
    image = Image.fromarray(picture.astype(np.uint8))
    image.thumbnail((_LARGEST, _LARGEST), reducing_gap=3.0)
    return np.asarray(image)
