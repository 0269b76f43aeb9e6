"""What an observation space says about the values that come from it."""

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import PyTorchObs


def image_keys(observation_space: spaces.Dict, normalized_image: bool) -> list[str]:
    """The entries of a Dict space that are images to SB3."""
    items = observation_space.spaces.items()
    return [key for key, space in items if is_image_space(space, normalized_image=normalized_image)]


def is_intensity(space: gym.Space, normalized_image: bool) -> bool:
    """Whether values of a space lie in [0, 1] after SB3's preprocessing."""
    if isinstance(space, spaces.Box):
        scaled = not normalized_image and is_image_space(space)
        return scaled or bool(np.all(space.low >= 0) and np.all(space.high <= 1))
    return True  # one-hot or binary


def is_boolean(space: gym.Space) -> bool:
    """Whether values of a space are 0 or 1, each by itself, after SB3's preprocessing."""
    if isinstance(space, spaces.Box):
        return space.dtype == np.bool_
    return isinstance(space, (spaces.MultiBinary, spaces.Discrete, spaces.MultiDiscrete))


def channels_height_width(space: gym.Space, layout: str | None) -> tuple[int, int, int]:
    """Shape of an image or grid whose dimensions are in the order of ``layout``, "chw" or "hwc"."""
    assert space.shape is not None
    first, second, third = space.shape
    return (first, second, third) if layout == "chw" else (third, first, second)


def nan_where_not_finite(observations: PyTorchObs, space: gym.Space) -> th.Tensor | float:
    """
    A neuron compares its membrane with the threshold, and no comparison with NaN is true: what is not finite would end as
    silence. Added to an output, this shows it there, as the ReLU network does.

    :param observations: preprocessed observations, shape (B, \\*)
    :param space: the space they come from
    :return: NaN for observations that are not finite, else 0, shape (B, 1); 0.0 for a space of integers or booleans
    """
    if isinstance(observations, dict):
        assert isinstance(space, spaces.Dict)
        return sum((nan_where_not_finite(observations[key], each) for key, each in space.spaces.items()), start=0.0)
    if space.dtype is None or not np.issubdtype(space.dtype, np.floating):
        return 0.0
    return (observations.flatten(1) * 0).sum(dim=1, keepdim=True)
