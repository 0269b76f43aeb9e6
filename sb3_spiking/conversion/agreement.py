"""How often a converted agent decides as the ReLU agent that it comes from, and what it scores."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from matplotlib import pyplot as plt
from stable_baselines3 import DQN
from stable_baselines3.common.preprocessing import preprocess_obs
from tqdm import tqdm

from sb3_spiking.evaluation.agents import Agent
from sb3_spiking.evaluation.results import interval
from sb3_spiking.evaluation.scores import score_limits
from sb3_spiking.policies import SpikingPolicy
from sb3_spiking.snn.layers import delayed
from sb3_spiking.snn.readout import READOUTS


def observations(agent: Agent, count: int, *, epsilon: float, seed: int, n_envs: int, title: str) -> Iterator[np.ndarray]:
    """
    What the agent sees while it plays.

    :param agent: who plays
    :param count: number of observations in all, at least
    :param epsilon: probability of a random action
    :param seed: of the environments and the random actions
    :param n_envs: environments in parallel, observations of a batch
    :param title: of the progress bar
    :return: batches, shape (n_envs, \\*)
    """
    generator, space = np.random.default_rng(seed), agent.model.action_space
    assert isinstance(space, spaces.Discrete)
    env = agent.make_env(n_envs, seed, whole_games=True)
    try:
        current: Any = env.reset()
        for _ in tqdm(range(-(-count // n_envs)), desc=title, unit_scale=n_envs, unit="frame"):
            yield current
            actions, _ = agent.model.predict(current, deterministic=True)
            random = generator.random(n_envs) < epsilon
            actions = np.where(random, generator.integers(space.n, size=n_envs), actions)
            current, *_ = env.step(actions)
    finally:
        env.close()


class Agreement(NamedTuple):
    """
    How often a converted agent decides as the ReLU agent.

    :param shares: of decisions that are the same, Tan et al.'s conversion rate, for each number of simulation steps
    :param decisions: number of them
    :param gap: median difference of the ReLU agent's two highest Q-values
    :param gap_where_different: the same over decisions that differ with all simulation steps, None if none does
    """

    shares: list[float]
    decisions: int
    gap: float
    gap_where_different: float | None


def agreement(model: DQN, converted: DQN, batches: Iterator[np.ndarray], steps: list[int]) -> Agreement:
    """
    Compare decisions for several numbers of simulation steps at once: what a window has fired by a step, a shorter one fires.

    :param model: the ReLU agent
    :param converted: the spiking one
    :param batches: of observations
    :param steps: numbers of simulation steps, up to the converted agent's, in increasing order
    :return: the comparison
    """
    policy = converted.policy
    assert isinstance(policy, SpikingPolicy)
    network: Any = policy.q_net
    readout = READOUTS[policy.settings.readout].values
    same, gaps = [], []
    with th.no_grad():
        for batch in batches:
            inputs, _ = policy.obs_to_tensor(batch)
            ordered = model.q_net(inputs).sort(dim=1, descending=True, stable=True)
            gaps.append(ordered.values[:, 0] - ordered.values[:, :2][:, -1])  # 0 where there is one action
            window = network.features_extractor.window(
                preprocess_obs(inputs, network.observation_space, network.normalize_images)
            )
            if policy.settings.layer_delay:
                window = delayed(window)
            values = [readout(window[:count], network.q_net, network.output_neuron) for count in steps]
            same.append(th.stack([each.argmax(dim=1) == ordered.indices[:, 0] for each in values]))
    equal, gap = th.cat(same, dim=1), th.cat(gaps)
    differing = gap[~equal[-1]]
    median = differing.median().item() if len(differing) else None
    return Agreement(equal.double().mean(dim=1).tolist(), len(gap), gap.median().item(), median)


def plot(record: dict[str, Any], path: Path, env_kwargs: dict[str, Any]) -> None:
    """
    Equal decisions and scores against the number of simulation steps.

    :param record: of conversion.json, complete
    :param path: of the picture
    :param env_kwargs: arguments of the environment
    """
    figure, (rates, scores) = plt.subplots(1, 2, figsize=(11, 4))
    rates.plot(record["agreement_steps"], 100 * np.array(record["agreement"]), "o-")
    rates.set_ylabel("equal decisions: %")
    rates.set_title(f"{record['decisions']} decisions, {record['rule']}")
    for label, color in (("before", "gray"), ("after", "C0")):
        points = record["scores"] if label == "after" else record["scores"][-1:]
        values = [np.array(point[label]) for point in points]
        ends = [interval(value, limits=score_limits(record["env"], env_kwargs)) for value in values]
        means = np.array([value.mean() for value in values])
        if label == "before":
            scores.axhline(means[0], color=color, label="ReLU")
            scores.axhspan(*ends[0], color=color, alpha=0.2)
        else:
            errors = np.abs(np.array(ends).T - means)
            scores.errorbar(
                [point["num_steps"] for point in points], means, errors, fmt="o-", color=color, capsize=4, label="spiking"
            )
    scores.set_ylabel("score")
    scores.set_title(f"{record['env']}: mean and 95% interval of {len(record['scores'][-1]['after'])} episodes")
    scores.legend()
    for axis in (rates, scores):
        axis.set_xscale("log")
        axis.set_xlabel("simulation steps")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
