"""
Turn a trained ReLU agent of SB3's DQN into a spiking one, and measure what that costs: how often both choose the same action,
and the score before and after.

    sb3-spiking convert --algo dqn --env CartPole-v1 -f relu-agents --num-steps 500 --percentile 99.9

The new agent lies in RL Zoo's layout in --out, where enjoy, evaluate and everything else find it; conversion.json and
conversion.png beside it say how good it is. Interrupted and called again it goes on where it stopped.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from sb3_spiking.commands import arguments
from sb3_spiking.conversion.rules import RULES
from sb3_spiking.conversion.run import Conversion, Plan
from sb3_spiking.errors import AgentError
from sb3_spiking.evaluation.results import interval


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    arguments.add_agent_arguments(parser, several=False)
    parser.add_argument("--num-steps", type=arguments.at_least(1), default=500, help="simulation steps of a decision")
    parser.add_argument("--percentile", type=arguments.percentile, default=99.9, help="of a layer's values, its scale")
    parser.add_argument(
        "--per-channel",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="a scale for each channel or unit; otherwise for each layer, as the rules were published",
    )
    parser.add_argument("--rule", choices=list(RULES), default="tan", help="how scales and decisions are made")
    parser.add_argument(
        "--layer-delay",
        action=argparse.BooleanOptionalAction,
        help="each layer sees the spikes of the last step (default: as the rule has it)",
    )
    parser.add_argument("--frames", type=arguments.at_least(1), default=15_000, help="observations that the scales come from")
    parser.add_argument("--decisions", type=arguments.at_least(1), default=2000, help="that are compared, at least")
    parser.add_argument("--episodes", type=arguments.at_least(2), default=30, help="for a score")
    parser.add_argument("--curve", type=arguments.at_least(1), nargs="*", help="scores for these numbers of steps too")
    parser.add_argument("--epsilon", type=arguments.probability, default=0.05, help="of a random action, throughout")
    parser.add_argument("--max-steps", type=arguments.at_least(1), default=18_000, help="decisions of an episode")
    parser.add_argument("--seed", type=arguments.seed, default=0)
    parser.add_argument("-o", "--out", type=Path, help="log folder of the new agent (default: FOLDER-converted)")


def run(args: argparse.Namespace) -> None:
    """Convert, compare, save and print."""
    arguments.prepare(args)
    curve = sorted(set(args.curve or []))
    plan = Plan(**{each.name: getattr(args, each.name) for each in dataclasses.fields(Plan)})
    source = Path(args.folder)
    source = source if source.name not in ("", "..") else source.resolve()
    out = args.out or source.with_name(f"{source.name}-converted")
    conversion = Conversion(arguments.load_one(args), out, plan, args.n_envs, trusted=args.trust)
    if curve and not conversion.fewest_steps <= curve[0] <= curve[-1] < args.num_steps:
        expected = f"from {conversion.fewest_steps} to less than --num-steps, {args.num_steps}"
        raise AgentError(f"--curve {' '.join(map(str, curve))}: expected {expected}")
    spiking = conversion.convert()
    record = conversion.record
    print(f"{conversion.folder}: largest scales of the layers {', '.join(f'{max(scale):.4g}' for scale in record['scales'])}")
    conversion.compare(spiking, args.decisions)
    where = record["gap_where_different"]
    print(
        f"equal decisions: {100 * record['agreement'][-1]:.2f}% of {record['decisions']}; the two highest Q-values differ by "
        f"{record['gap']:.3g} in the median{'' if where is None else f', {where:.3g} where decisions differ'}"
    )
    conversion.score(spiking, curve, args.episodes, args.max_steps, args.vec_env == "subproc")
    for point in record["scores"]:
        _print_scores(**point)
    print(f"{conversion.folder}/: the agent, conversion.json, conversion.png, episodes.csv")


def _print_scores(num_steps: int, before: list[float], after: list[float]) -> None:
    differences = np.subtract(after, before)
    low, high = interval(differences)
    print(
        f"T = {num_steps}: score {np.mean(before):.4g} before, {np.mean(after):.4g} after; difference with the same "
        f"seeds {differences.mean():.4g}, 95% from {low:.4g} to {high:.4g}"
    )
