"""Whether what was exported decides as the agent does."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy

from sb3_spiking.conversion.agreement import observations
from sb3_spiking.evaluation.agents import Agent

Values = Callable[[Any], np.ndarray]


class Comparison(NamedTuple):
    """
    :param decisions: that were compared
    :param equal: of them, with the same action
    :param difference: largest one between two Q-values of the same action
    """

    decisions: int
    equal: int
    difference: float

    def __str__(self) -> str:
        return f"{self.equal} of {self.decisions} decisions equal, Q-values differ by at most {self.difference:.2g}"


def values_of(policy: BasePolicy) -> Values:
    """
    :param policy: spiking
    :return: what it orders actions by, (B, A), for observations (B, \\*)
    """
    network: Any = policy.q_net

    def values(batch: Any) -> np.ndarray:
        with th.no_grad():
            return network.spiking_values(policy.obs_to_tensor(batch)[0]).cpu().numpy()

    return values


def compare(agent: Agent, values: Values, decisions: int, *, seed: int = 0, n_envs: int = 8) -> Comparison:
    """
    :param agent: who plays, with 5% random actions
    :param values: of what was exported
    :param decisions: number of them, at least
    :param seed: of the environments
    :param n_envs: environments in parallel
    :return: the comparison
    """
    ours = values_of(agent.model.policy)
    count, equal, difference = 0, 0, 0.0
    for batch in observations(agent, decisions, epsilon=0.05, seed=seed, n_envs=n_envs, title="decisions"):
        here, there = ours(batch), values(batch)
        count += len(here)
        equal += int((here.argmax(1) == there.argmax(1)).sum())
        difference = float(np.maximum(difference, np.abs(here - there).max()))  # NaN stays
    return Comparison(count, equal, difference)


def per_second(agent: Agent, values: Values, seconds: float = 0.5) -> float:
    """
    :param agent: in whose environment
    :param values: of observations
    :param seconds: that are measured, at least
    :return: decisions on one observation at a time, without the environment
    """
    env = agent.make_env()
    observation: Any = env.reset()
    env.close()
    values(observation)
    count, start = 0, time.perf_counter()
    while (taken := time.perf_counter() - start) < seconds:
        values(observation).argmax()
        count += 1
    return count / taken
