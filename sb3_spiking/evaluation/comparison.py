"""Agents side by side: episodes of all of them, tables, learning curves and a plot."""

import itertools
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch as th
from matplotlib import pyplot as plt
from tqdm import tqdm

from sb3_spiking.errors import AgentError
from sb3_spiking.evaluation.agents import Agent
from sb3_spiking.evaluation.episodes import Protocol, exploration, run_episodes
from sb3_spiking.evaluation.operations import ENERGIES, Energy
from sb3_spiking.evaluation.results import (
    EPISODE_COLUMNS,
    Rows,
    episode_row,
    interval,
    matching,
    operations_of,
    read_evaluations,
)
from sb3_spiking.evaluation.scores import reference_scores, score_limits
from sb3_spiking.evaluation.statistics import normalised

SUMMARY = {
    "env": "environment",
    "agent": "agent",
    "episodes": "episodes",
    "score": "score",
    "low": "95% low",
    "high": "95% high",
    "max": "max",
    "std": "std",
    "normalised": "human-normalised: %",
    "relative": "of the reference: %",
    "max_q": "max Q",
    "q_spread": "std of Q",
    "firing_rate": "firing rate: %",
    "spikes": "spikes a decision",
    "nanojoules": "nJ a decision",
    "per_second": "decisions a second",
}
LAYERS = {
    "env": "environment",
    "agent": "agent",
    "layer": "layer",
    "neurons": "neurons",
    "firing_rate": "firing rate: %",
    "multiply_accumulates": "multiply-accumulates",
    "accumulates": "accumulates",
    "updates": "neuron updates",
    "spikes": "spikes",
    "nanojoules": "nJ",
    "weight_bytes": "weights: bytes",
    "state_bytes": "membranes: bytes",
}


def evaluate(
    agents: list[Agent],
    protocol: Protocol,
    out: Path,
    *,
    seeds: list[int],
    n_envs: int = 8,
    energy: str | None = "45nm-float32",
    subprocesses: bool = False,
) -> pd.DataFrame:
    """
    Play the episodes that ``out/episodes.csv`` does not have yet.

    :param agents: who plays
    :param protocol: how
    :param out: folder
    :param seeds: each gives the protocol's number of episodes
    :param n_envs: environments in parallel
    :param energy: key of :data:`~sb3_spiking.evaluation.operations.ENERGIES`; None counts no operations
    :param subprocesses: one process for each environment
    :return: rows of these agents' episodes, :data:`~sb3_spiking.evaluation.results.EPISODE_COLUMNS`
    """
    rows = Rows(out / "episodes.csv", EPISODE_COLUMNS)
    evaluations = []
    for agent in agents:
        for seed in seeds:
            key = {
                "env": agent.env_id,
                "env_kwargs": agent.environment,
                "agent": agent.name,
                "algo": agent.algo,
                "protocol": protocol.name,
                "epsilon": exploration(agent, protocol),
                "max_steps": 0 if protocol.max_steps is None else protocol.max_steps,
                "energy": energy or "not counted",
                "seed": seed,
                "digest": agent.digest,
            }
            evaluations.append((agent, seed, key))
    before = rows.read()
    missing = [set(range(protocol.episodes)) - set(matching(before, key)["episode"]) for _, _, key in evaluations]
    total, steps = protocol.episodes * len(evaluations), itertools.count(1)

    def show_steps() -> None:
        if (count := next(steps)) % 20 == 0:
            progress.set_postfix_str(f"{count} steps")

    with tqdm(total=total, initial=total - sum(len(numbers) for numbers in missing), unit="episode") as progress:
        for (agent, seed, key), numbers in zip(evaluations, missing, strict=True):
            progress.set_description(f"{agent.env_id}, {agent.name}")
            episodes = run_episodes(
                agent,
                protocol,
                numbers,
                seed=seed,
                n_envs=n_envs,
                energy=None if energy is None else ENERGIES[energy],
                subprocesses=subprocesses,
                on_step=show_steps,
            )
            for episode in episodes:
                rows.add(episode_row(key, episode))
                progress.update()
    after = rows.read()
    parts = [matching(after, key) for _, _, key in evaluations]
    return pd.concat([part[part["episode"] < protocol.episodes] for part in parts], ignore_index=True)


def decisions_per_second(agent: Agent, seconds: float = 0.5) -> float:
    """
    :param agent: whose network
    :param seconds: that are measured, at least
    :return: decisions on one observation at a time, without the environment
    """
    env = agent.make_env(1, 0)
    observation: Any = env.reset()
    for _ in range(5):
        observation, *_ = env.step(np.array([env.action_space.sample()]))
    env.close()
    inputs, _ = agent.model.policy.obs_to_tensor(observation)
    with th.no_grad():
        agent.model.policy._predict(inputs, deterministic=True)
        count, start = 0, time.perf_counter()
        while (taken := time.perf_counter() - start) < seconds:
            agent.model.policy._predict(inputs, deterministic=True)
            count += 1
    return count / taken


def summarise(
    agents: list[Agent], episodes: pd.DataFrame, references: Mapping[str, Sequence[float]], random_scores: Mapping[str, float]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """
    :param agents: in the order of the table
    :param episodes: rows of :func:`evaluate`
    :param references: scores of the runs that scores are relative to, by environment
    :param random_scores: of random actions, by environment
    :return: a row for each agent, :data:`SUMMARY`, and one for each layer of each agent, :data:`LAYERS`
    """
    summary, layers = [], []
    for agent in agents:
        rows = episodes[(episodes["env"] == agent.env_id) & (episodes["agent"] == agent.name)]
        score = rows["score"].mean()
        low, high = interval(rows["score"], limits=score_limits(agent.env_id, agent.env_kwargs))
        row: dict[str, Any] = {
            **{"env": agent.env_id, "agent": agent.name, "episodes": len(rows), "score": score, "low": low, "high": high},
            **{"max": rows["score"].max(), "std": rows["score"].std(), "max_q": rows["max_q"].mean()},
            **{"q_spread": rows["q_spread"].mean(), "per_second": decisions_per_second(agent)},
        }
        published = reference_scores(agent.env_id)
        if published is not None:
            row["normalised"] = 100 * (score - published.random) / (published.human - published.random)
        for relative in normalised({agent.env_id: [score]}, references, random_scores).values():
            row["relative"] = 100 * relative.item()
        decisions = rows["counted"].sum()
        spikes = possible = nanojoules = 0.0
        bits = next((ENERGIES[name].bits for name in rows["energy"] if name in ENERGIES), Energy(0, 0).bits)
        readout = getattr(getattr(agent.model.policy, "settings", None), "readout", None)
        for name, each in operations_of(rows).items():
            state = each.updates > 0
            fires = state and (readout in (None, "rate", "spike") or not name.endswith("q_net"))  # else it is read
            layer = {
                **{"env": agent.env_id, "agent": agent.name, "layer": name, "neurons": each.neurons},
                **{count: getattr(each, count) / decisions for count in ("multiply_accumulates", "accumulates", "updates")},
                **{"spikes": each.spikes / decisions, "nanojoules": each.picojoules / decisions / 1000},
                "firing_rate": 100 * each.spikes / (decisions * each.neurons * each.steps) if fires else math.nan,
                "weight_bytes": bits // 8 * each.parameters,
                "state_bytes": bits // 8 * each.neurons if state else 0,
            }
            layers.append(layer)
            nanojoules += layer["nanojoules"]
            spikes += layer["spikes"]
            possible += each.neurons * each.steps if fires else 0
        row |= {"nanojoules": nanojoules if decisions else math.nan, "spikes": spikes if possible else math.nan}
        row["firing_rate"] = 100 * spikes / possible if possible else math.nan
        summary.append(row)
    return pd.DataFrame(summary, columns=list(SUMMARY)), pd.DataFrame(layers, columns=list(LAYERS))


def learning_curves(agents: list[Agent]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray] | None]:
    """
    :param agents: whose folders may have RL Zoo's evaluations
    :return: for each agent what :func:`~sb3_spiking.evaluation.results.read_evaluations` says, None without; damaged ones are
        left out with a line
    """
    curves: list[tuple[np.ndarray, np.ndarray, np.ndarray] | None] = []
    for agent in agents:
        log = agent.path.parent / "evaluations.npz"
        try:
            curves.append(read_evaluations(log) if log.is_file() else None)
        except AgentError as error:
            print(f"{error}; its learning curve is left out", file=sys.stderr)
            curves.append(None)
    return curves


def plot(
    agents: list[Agent],
    trainings: list[tuple[np.ndarray, np.ndarray, np.ndarray] | None],
    episodes: pd.DataFrame,
    path: Path,
) -> None:
    """
    Learning curves, as RL Zoo evaluated while it trained, and scores of the agents side by side, a row for each environment.

    :param agents: in the order of the legend
    :param trainings: of :func:`learning_curves`
    :param episodes: rows of :func:`evaluate`
    :param path: of the picture
    """
    environments = list(dict.fromkeys(agent.env_id for agent in agents))
    figure, axes = plt.subplots(len(environments), 2, figsize=(11, 3.6 * len(environments)), squeeze=False)
    for (curves, scores), env_id in zip(axes, environments, strict=True):
        names = []
        here = [each for each in zip(agents, trainings, strict=True) if each[0].env_id == env_id]
        for place, (agent, training) in enumerate(here):
            color = f"C{place}"
            if training is not None:
                timesteps, mean, std = training
                curves.plot(timesteps, mean, color=color, label=agent.name)
                curves.fill_between(timesteps, mean - std, mean + std, color=color, alpha=0.2)
            values = episodes[(episodes["env"] == env_id) & (episodes["agent"] == agent.name)]["score"]
            jitter = np.random.default_rng(0).uniform(-0.15, 0.15, len(values))
            scores.plot(place + jitter, values, ".", color=color, alpha=0.5)
            low, high = interval(values, limits=score_limits(env_id, agent.env_kwargs))
            ends = [[max(0.0, values.mean() - low)], [max(0.0, high - values.mean())]]  # not below 0 by rounding
            scores.errorbar(place, values.mean(), ends, fmt="_", color="black", capsize=6)
            names.append(agent.name)
        scores.set_xticks(range(len(names)), names, rotation=15, ha="right")
        scores.set_title(f"{env_id}: episodes, mean and 95% interval")
        scores.set_ylabel("score")
        curves.set_title("evaluations during training")
        curves.set_xlabel("environment steps")
        if curves.lines:
            curves.legend()
        else:
            curves.text(0.5, 0.5, "no evaluations.npz beside the agents", ha="center", transform=curves.transAxes)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
