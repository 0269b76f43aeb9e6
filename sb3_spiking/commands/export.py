"""
Take a spiking agent to other simulators and to chips, with proof that it is the same agent.

    sb3-spiking export --to nir --algo dqn --env CartPole-v1 -f rl-trained-agents
    sb3-spiking export --check --algo dqn --env CartPole-v1 -f rl-trained-agents

nir: a graph for snnTorch, norse and others, which sb3_spiking.from_nir plays again. sinabs: a PyTorch module of the neurons
that SynSense's Speck and DYNAP-CNN have. onnx: observations in, Q-values out, for onnxruntime. What was written plays beside
the agent, and how many decisions are equal is printed.
"""

import argparse
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch as th

from sb3_spiking.commands import arguments
from sb3_spiking.errors import AgentError
from sb3_spiking.evaluation.agents import Agent
from sb3_spiking.evaluation.comparison import evaluate
from sb3_spiking.evaluation.episodes import PROTOCOLS
from sb3_spiking.evaluation.results import interval
from sb3_spiking.evaluation.scores import score_limits
from sb3_spiking.evaluation.table import markdown
from sb3_spiking.export.chips import CHIPS, memory_of, place
from sb3_spiking.export.comparison import compare, per_second, values_of
from sb3_spiking.export.fixed_point import can_be_rounded, on_chip
from sb3_spiking.export.network import Network, network_of
from sb3_spiking.export.targets import TARGETS, Target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--to", choices=list(TARGETS), help="what to write")
    what.add_argument("--check", action="store_true", help="which of these can hold the agent, and what a chip lacks")
    arguments.add_agent_arguments(parser, several=False)
    parser.add_argument("--approximate", action="store_true", help="nir: what it cannot say becomes the nearest that it can")
    parser.add_argument("--decisions", type=arguments.at_least(1), default=1000, help="that are compared, at least")
    parser.add_argument("--episodes", type=arguments.at_least(2), default=30, help="for a score with --check")
    parser.add_argument("--seed", type=arguments.seed, default=0)
    parser.add_argument("-o", "--out", type=Path, default=Path("exported"), help="folder of what is written")


def run(args: argparse.Namespace) -> None:
    """Export or check, and print."""
    arguments.prepare(args)
    if args.approximate and args.to != "nir":
        raise AgentError("--approximate: it goes with --to nir")
    agent = arguments.load_one(args)
    if agent.hyperparams.get("normalize"):
        raise AgentError(
            f"{agent.path}: trained with VecNormalize (normalize in RL Zoo's hyperparameters), whose statistics would be "
            "lost; expected an agent that takes observations as they are"
        )
    try:
        _check(agent, args) if args.check else _export(agent, TARGETS[args.to], args)
    except AgentError as error:
        raise AgentError(f"{agent.path}: {error}") from error


def _export(agent: Agent, target: Target, args: argparse.Namespace) -> None:
    target.check(agent.model, args.approximate)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / target.file
    exported = target.write(agent.model, path, args.approximate)
    found = compare(agent, exported.values, args.decisions, seed=args.seed, n_envs=args.n_envs)
    for line in exported.approximated:
        print(f"approximated: {line}")
    print(f"{path}, {path}.json: {found}")
    if args.to == "onnx":
        here, there = (per_second(agent, each) for each in (values_of(agent.model.policy), exported.values))
        print(f"decisions a second on one observation, threads: {th.get_num_threads()}: {here:,.0f} here, {there:,.0f} there")


def _check(agent: Agent, args: argparse.Namespace) -> None:
    for name, target in TARGETS.items():
        print(f"{name}: {_said(partial(target.check, agent.model, False))}")
    chip = _said(partial(network_of, agent.model))
    if chip != "yes":
        print(f"{CHIPS}: {chip}")
        return
    network = network_of(agent.model)
    placed = place(network)
    print(f"{CHIPS}: {'no' if placed.problems else 'yes'}")
    for problem in placed.problems:
        print(f"- {problem}")
    layers = []
    for stage, core in zip(network.stages, placed.cores, strict=True):
        layers.append((str(stage), *(f"{each:,}" for each in memory_of(stage)), "none" if core is None else str(core)))
    print(f"\n{markdown(['layer', 'weights', 'neurons', 'biases', 'core'], layers)}\n")
    if network.linear is not None:
        print("The host computes the output layer from the counts of the last spikes.")
    if can_be_rounded(network):
        _play_rounded(agent, network, args)


def _said(check: Callable[[], Any]) -> str:
    """What a check says of an agent."""
    try:
        check()
    except AgentError as error:
        return f"no, {error}"
    return "yes"


def _play_rounded(agent: Agent, network: Network, args: argparse.Namespace) -> None:
    """How the agent plays with the numbers of a chip."""
    chip = on_chip(network)
    found = compare(agent, values_of(chip.policy), args.decisions, seed=args.seed, n_envs=args.n_envs)
    print(f"weights of 8 bits, membranes of 16: {found}")
    players = [dataclasses.replace(agent, name="32 bits"), dataclasses.replace(agent, name="8 bits", model=chip)]
    protocol = dataclasses.replace(PROTOCOLS["paper"], episodes=args.episodes)
    subprocesses = args.vec_env == "subproc"
    episodes = evaluate(
        players, protocol, args.out, seeds=[args.seed], n_envs=args.n_envs, energy=None, subprocesses=subprocesses
    )
    for name, rows in episodes.groupby("agent", sort=False):
        low, high = interval(rows["score"], limits=score_limits(agent.env_id, agent.env_kwargs))
        print(f"{name}: score {rows['score'].mean():.4g}, 95% from {low:.4g} to {high:.4g}, {len(rows)} episodes")
    print(f"{args.out}/episodes.csv")
