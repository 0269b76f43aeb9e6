"""
Trained agents side by side, spiking or not: scores, Q-values, firing rates, operations and energy of a decision.

    sb3-spiking evaluate --algo dqn --env CartPole-v1 -f relu-agents rl-trained-agents --out results

Writes episodes.csv as the episodes end; interrupted and called again it goes on where it stopped. Then summary.csv, layers.csv
and scores.png.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
from gymnasium import spaces

from sb3_spiking.commands import arguments
from sb3_spiking.errors import AgentError
from sb3_spiking.evaluation.agents import Agent
from sb3_spiking.evaluation.comparison import LAYERS, SUMMARY, evaluate, learning_curves, plot, summarise
from sb3_spiking.evaluation.episodes import PROTOCOLS, Protocol
from sb3_spiking.evaluation.operations import ENERGIES
from sb3_spiking.evaluation.scores import reference_scores
from sb3_spiking.evaluation.table import markdown, over_runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    arguments.add_agent_arguments(parser, several=True)
    parser.add_argument("--protocol", choices=list(PROTOCOLS), default="paper", help="of Liu et al. 2022, or RL Zoo's")
    parser.add_argument("--episodes", type=arguments.at_least(1), help="for each seed, in place of the protocol's")
    parser.add_argument("--epsilon", type=arguments.probability, help="of a random action, in place of the protocol's")
    parser.add_argument("--max-steps", type=arguments.at_least(1), help="decisions of an episode, in place of the protocol's")
    parser.add_argument("--seed", type=arguments.seed, nargs="+", default=[0])
    parser.add_argument("--relative-to", metavar="FOLDER", help="one of the folders: scores are given relative to its agents'")
    parser.add_argument("--energy", choices=list(ENERGIES), default="45nm-float32", help="picojoules of the operations")
    parser.add_argument("-o", "--out", type=Path, default=Path("evaluation"), help="folder of the results")


def _scores(folder: str, agents: list[Agent], episodes: pd.DataFrame) -> dict[str, list[float]]:
    """Mean scores of a folder's agents, by environment."""
    means = episodes.groupby(["env", "agent"])["score"].mean()
    scores: dict[str, list[float]] = {}
    for agent in agents:
        if agent.folder == folder:
            scores.setdefault(agent.env_id, []).append(means[agent.env_id, agent.name])
    return scores


def _random_scores(args: argparse.Namespace, agents: list[Agent], protocol: Protocol, **common: Any) -> dict[str, float]:
    """Of random play, by environment: published, or played now as the agents that scores are relative to do."""
    scores = {}
    of_reference = [agent for agent in agents if agent.folder == args.relative_to]
    for agent in {agent.env_id: agent for agent in [*agents, *of_reference]}.values():
        published = reference_scores(agent.env_id)
        if published is None:
            random, always = dataclasses.replace(agent, name="random"), dataclasses.replace(protocol, epsilon=1.0)
            scores[agent.env_id] = evaluate([random], always, args.out, seeds=args.seed, **common)["score"].mean()
        else:
            scores[agent.env_id] = published.random
    return scores


def _check_reference(args: argparse.Namespace, agents: list[Agent]) -> None:
    if args.relative_to is None:
        return
    if args.relative_to not in args.folder:
        raise AgentError(f"--relative-to {args.relative_to}: expected one of the folders, {', '.join(args.folder)}")
    for agent in agents:
        if not isinstance(agent.model.action_space, spaces.Discrete):
            raise AgentError(
                f"--relative-to: random play stands for 0%, and takes discrete actions, not {agent.model.action_space}"
            )


def run(args: argparse.Namespace) -> None:
    """Evaluate, save and print."""
    arguments.prepare(args)
    given = {name: getattr(args, name) for name in ("episodes", "max_steps", "epsilon")}
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    protocol = dataclasses.replace(PROTOCOLS[args.protocol], **changed)
    if len(set(args.seed)) < len(args.seed):
        raise AgentError(f"--seed {' '.join(map(str, args.seed))}: each seed once")
    agents = arguments.load_agents(args)
    trainings = learning_curves(agents)
    _check_reference(args, agents)
    common: dict[str, Any] = {"n_envs": args.n_envs, "subprocesses": args.vec_env == "subproc"}
    episodes = evaluate(agents, protocol, args.out, seeds=args.seed, energy=args.energy, **common)
    random_scores, references = {}, {}
    if args.relative_to is not None:
        random_scores = _random_scores(args, agents, protocol, **common)
        references = _scores(args.relative_to, agents, episodes)
    summary, layers = summarise(agents, episodes, references, random_scores)
    summary.to_csv(args.out / "summary.csv", index=False)
    layers.to_csv(args.out / "layers.csv", index=False)
    plot(agents, trainings, episodes, args.out / "scores.png")

    print(f"\n{len(args.seed)} x {protocol.episodes} episodes, protocol {protocol.name}, epsilon {protocol.epsilon}\n")
    shown = summary.dropna(axis=1, how="all")
    columns = ["", *(f"{row.env}, {row.agent}" for row in shown.itertuples())]
    print(markdown(columns, [(SUMMARY[name], *shown[name]) for name in shown if name not in ("env", "agent")]))
    if args.relative_to is not None:
        print(f"\n0% is random play, 100% the mean of {args.relative_to}")
        methods = {folder: _scores(folder, agents, episodes) for folder in args.folder}
        if len(agents) > len(args.folder) and (table := over_runs(methods, args.relative_to, random_scores)):
            print(f"\n{table}")
    print(f"\na decision, layer by layer; picojoules: {args.energy}, {ENERGIES[args.energy]}\n")
    print(markdown([LAYERS[name] for name in layers], layers.itertuples(index=False)))
    print(f"\n{args.out}/: episodes.csv, summary.csv, layers.csv, scores.png")
