"""
How well trained agents still play when a bar hides a part of the image, pixels are masked, or weights are rounded.

    sb3-spiking robustness --algo dqn --env CartPole-v1 -f relu-agents rl-trained-agents --perturbations quantisation

Writes episodes.csv as the episodes end; interrupted and called again it goes on where it stopped. Then robustness.csv and
robustness.png, with the agents side by side.
"""

import argparse
import dataclasses
from pathlib import Path

from sb3_spiking.commands import arguments
from sb3_spiking.errors import AgentError
from sb3_spiking.evaluation.agents import Agent
from sb3_spiking.evaluation.comparison import evaluate
from sb3_spiking.evaluation.episodes import PROTOCOLS
from sb3_spiking.evaluation.perturbations import PERTURBATIONS
from sb3_spiking.evaluation.robustness import COLUMNS, plot, points, table_of
from sb3_spiking.evaluation.table import markdown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    arguments.add_agent_arguments(parser, several=True)
    parser.add_argument("--perturbations", nargs="+", choices=list(PERTURBATIONS), metavar="NAME", help="default: all")
    parser.add_argument("--levels", type=float, nargs="+", help="in place of a perturbation's own; name one perturbation")
    parser.add_argument("--episodes", type=arguments.at_least(1), default=100, help="of a point; 100 in Patel et al. 2019")
    parser.add_argument("--epsilon", type=arguments.probability, default=0.05, help="of a random action")
    parser.add_argument("--max-steps", type=arguments.at_least(1), default=18_000, help="decisions of an episode")
    parser.add_argument("--seed", type=arguments.seed, default=0)
    parser.add_argument("-o", "--out", type=Path, default=Path("robustness"), help="folder of the results")


def _perturbations(args: argparse.Namespace, agents: list[Agent]) -> list[str]:
    """Those that all agents take, or that the command line names."""
    names = args.perturbations or list(PERTURBATIONS)
    for name in list(names):
        perturbation = PERTURBATIONS[name]
        for agent in agents:
            space = agent.model.observation_space
            if not perturbation.takes(space):
                reason = f"made for {perturbation.made_for}; {agent.env_id} has {space}"
                if args.perturbations:
                    raise AgentError(f"--perturbations {name}: {reason}")
                print(f"{name} is left out: {reason}")
                names.remove(name)
                break
            for level in args.levels or []:
                if not perturbation.accepts(agent, level):
                    raise AgentError(f"--levels {level:g}: {name} takes {perturbation.expected}")
    return names


def run(args: argparse.Namespace) -> None:
    """Evaluate, save and print."""
    arguments.prepare(args)
    if args.levels and len(args.perturbations or []) != 1:
        raise AgentError("--levels: the levels of which perturbation? Name one with --perturbations")
    if len({f"{level:g}" for level in args.levels or []}) < len(args.levels or []):
        raise AgentError(
            f"--levels {' '.join(f'{level:g}' for level in args.levels)}: each level once, told apart by six figures"
        )
    if len(set(args.perturbations or [])) < len(args.perturbations or []):
        raise AgentError(f"--perturbations {' '.join(args.perturbations)}: each once")
    agents = arguments.load_agents(args)
    those = points(agents, _perturbations(args, agents), args.levels)
    protocol = dataclasses.replace(PROTOCOLS["paper"], episodes=args.episodes, epsilon=args.epsilon, max_steps=args.max_steps)
    common = {"n_envs": args.n_envs, "subprocesses": args.vec_env == "subproc"}
    perturbed = [other for *_, other in those]
    episodes = evaluate(perturbed, protocol, args.out, seeds=[args.seed], energy=None, **common)
    table = table_of(those, episodes)
    table.to_csv(args.out / "robustness.csv", index=False)
    plot(table, args.out / "robustness.png")
    print(markdown(COLUMNS, table.itertuples(index=False)))
    print(f"\n{args.out}/: episodes.csv, robustness.csv, robustness.png")
