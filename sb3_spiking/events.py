"""Images as events: what a chip that takes spikes alone can see."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first


class Figures(gym.ObservationWrapper):
    """
    Where an image differs from its background, the most common value of each channel: one for figures, zero for the rest.
    Behind ``AtariWrapper`` it makes events of games with a plain background, such as Pong.

    :param env: with uint8 images
    :param contrast: a figure differs by more than this
    :raises ValueError: for other observations
    """

    def __init__(self, env: gym.Env, contrast: int = 20) -> None:
        super().__init__(env)
        space: Any = env.observation_space
        if not is_image_space(space):
            raise ValueError(f"Figures takes uint8 images; the observation space is {space}")
        self._contrast = contrast
        self._channels = 0 if is_image_space_channels_first(space) else 2
        self.observation_space = spaces.Box(0, 1, space.shape, bool)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """
        :param observation: shape (H, W, C), or (C, H, W)
        :return: events of the same shape, True and False
        """
        channels = np.moveaxis(observation, self._channels, 0)
        backgrounds = np.array([np.bincount(channel.ravel()).argmax() for channel in channels], np.int16)
        events = np.abs(channels.astype(np.int16) - backgrounds[:, None, None]) > self._contrast
        return np.moveaxis(events, 0, self._channels)
