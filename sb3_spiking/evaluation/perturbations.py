"""What is done to an agent to see whether it still plays: to what it sees, or to its weights."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first

from sb3_spiking.evaluation.agents import Agent

#: Height of the bar in Patel et al. 2019 (Neural Networks 120:108)
BAR_PIXELS = 3


class OcclusionBar(gym.ObservationWrapper):
    """
    A black bar over the whole width of an image, at the same place all the time: Patel et al. 2019.

    :param env: with image observations
    :param top: first line of the bar, from 0
    :param pixels: height of the bar
    :raises ValueError: for other observations, or a bar outside of the image
    """

    def __init__(self, env: gym.Env, top: int, pixels: int = BAR_PIXELS) -> None:
        super().__init__(env)
        space: Any = env.observation_space
        if not is_image_space(space):
            raise ValueError(f"OcclusionBar takes images; the observation space is {space}")
        self._axis = 1 if is_image_space_channels_first(space) else 0
        if not 0 <= top <= space.shape[self._axis] - pixels:
            raise ValueError(f"top={top}: the bar must lie inside of an image of {space.shape[self._axis]} lines")
        self._lines = slice(top, top + pixels)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        occluded = observation.copy()
        occluded[(slice(None),) * self._axis + (self._lines,)] = 0
        return occluded


class MaskedPixels(gym.Wrapper):
    """
    A share of the pixels of an image, or of the numbers of a vector, is 0; which ones is drawn anew for each episode: Patel
    et al. 2019.

    :param env: with Box observations
    :param share: in [0, 1]
    :raises ValueError: for other observations or shares
    """

    def __init__(self, env: gym.Env, share: float) -> None:
        super().__init__(env)
        if not isinstance(env.observation_space, spaces.Box):
            raise ValueError(f"MaskedPixels takes a Box; the observation space is {env.observation_space}")
        if not 0 <= share <= 1:
            raise ValueError(f"share={share}: expected 0 to 1")
        self._share = share
        self._generator = np.random.default_rng(0)
        self._kept = np.ones(())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._generator = np.random.default_rng([seed, 1])
        space: Any = self.env.observation_space
        shape = list(observation.shape)
        if is_image_space(space):  # a pixel is masked in all channels
            shape[0 if is_image_space_channels_first(space) else -1] = 1
        count = int(np.prod(shape))
        kept = np.ones(count, observation.dtype)
        kept[self._generator.permutation(count)[: round(self._share * count)]] = 0
        self._kept = kept.reshape(shape)
        return observation * self._kept, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, *rest = self.env.step(action)
        return (observation * self._kept, *rest)


def quantised(model: BaseAlgorithm, bits: int) -> BaseAlgorithm:
    """
    :param model: an agent, which stays as it is
    :param bits: of a weight, at least 2
    :return: a copy that acts with the weights of its convolutions and linear layers rounded to ``2^bits - 1`` values, evenly
        spaced and symmetric about 0, up to the largest weight of the layer; biases stay
    """
    other = copy.copy(model)
    other.policy = copy.deepcopy(model.policy)
    if hasattr(other, "q_net"):
        other.q_net, other.q_net_target = other.policy.q_net, other.policy.q_net_target  # type: ignore[attr-defined]
    levels = 2 ** (bits - 1) - 1
    with th.no_grad():
        for module in other.policy.modules():
            if isinstance(module, (th.nn.Conv2d, th.nn.Linear)):
                step = module.weight.abs().max() / levels
                if step > 0:
                    module.weight.copy_((module.weight / step).round() * step)
    return other


@dataclass(frozen=True)
class Perturbation:
    """
    An entry of :data:`PERTURBATIONS`.

    :param title: what an axis of a plot is called
    :param levels: those that are tried by default, for an agent
    :param apply: an agent, perturbed to a level
    :param takes: whether an observation space is one that it is made for
    :param made_for: the same in words
    :param accepts: whether a level is one, for an agent
    :param expected: the same in words
    :param halves: whether levels fall from large to small by halves: an axis of powers of two
    """

    title: str
    levels: Callable[[Agent], list[float]]
    apply: Callable[[Agent, float], Agent]
    takes: Callable[[spaces.Space], bool]
    made_for: str
    accepts: Callable[[Agent, float], bool]
    expected: str
    halves: bool = False


def _wrapped(name: str, argument: str, number: Callable[[float], Any]) -> Callable[[Agent, float], Agent]:
    def apply(agent: Agent, level: float) -> Agent:
        return replace(agent, wrappers=(*agent.wrappers, {f"{__name__}.{name}": {argument: number(level)}}))

    return apply


def _bar_positions(agent: Agent) -> list[float]:
    space: Any = agent.model.observation_space
    lines = space.shape[1] if is_image_space_channels_first(space) else space.shape[0]
    return [float(top) for top in range(lines - BAR_PIXELS + 1)]


#: By name; a new one is an entry here
PERTURBATIONS = {
    "occlusion": Perturbation(
        title="first line of the bar",
        levels=_bar_positions,
        apply=_wrapped("OcclusionBar", "top", int),
        takes=lambda space: is_image_space(space),
        made_for="images",
        accepts=lambda agent, level: level in _bar_positions(agent),
        expected="a line of the image, from 0, with room for the bar",
    ),
    "mask": Perturbation(
        title="masked: %",
        levels=lambda agent: [float(share) for share in range(0, 101, 5)],
        apply=_wrapped("MaskedPixels", "share", lambda level: level / 100),
        takes=lambda space: isinstance(space, spaces.Box),
        made_for="images and vectors, a Box",
        accepts=lambda agent, level: 0 <= level <= 100,
        expected="a percentage, 0 to 100",
    ),
    "quantisation": Perturbation(
        title="bits of a weight",
        levels=lambda agent: [32.0, 8.0, 4.0],
        apply=lambda agent, level: agent if level == 32 else replace(agent, model=quantised(agent.model, int(level))),
        takes=lambda space: True,
        made_for="every observation",
        accepts=lambda agent, level: level == 32 or level in range(2, 25),
        expected="2 to 24 bits, or 32 for the weights as they are",
        halves=True,
    ),
}
