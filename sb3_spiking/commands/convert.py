"""
Turn a trained ReLU agent of SB3's DQN into a spiking one, and measure what that costs: how often both choose the same action,
and the score before and after.

    sb3-spiking convert --algo dqn --env CartPole-v1 -f relu-agents --num-steps 500 --percentile 99.9

The new agent lies in RL Zoo's layout in --out, where enjoy, evaluate and everything else find it; conversion.json and
conversion.png beside it say how good it is. Interrupted and called again it goes on where it stopped.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import DQN

from sb3_spiking.commands import arguments
from sb3_spiking.conversion.agreement import agreement, observations, plot
from sb3_spiking.conversion.rules import RULES, ConversionError, activation_scales, check_convertible, convert, with_num_steps
from sb3_spiking.conversion.saving import RECORD, run_folder, save, write_record
from sb3_spiking.errors import AgentError
from sb3_spiking.evaluation.agents import load_agent
from sb3_spiking.evaluation.comparison import evaluate
from sb3_spiking.evaluation.episodes import PROTOCOLS
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
    if curve and curve[-1] >= args.num_steps:
        raise AgentError(f"--curve {' '.join(map(str, curve))}: expected from 1 to less than --num-steps, {args.num_steps}")
    agent = arguments.load_one(args)
    try:
        check_convertible(agent.model)
    except ConversionError as error:
        raise AgentError(f"{agent.path}: {error}") from error
    assert isinstance(agent.model, DQN)
    rule = RULES[args.rule]
    layer_delay = rule.layer_delay if args.layer_delay is None else args.layer_delay
    out = args.out or Path(f"{Path(args.folder)}-converted")
    target = run_folder(agent, out)
    if target.resolve() == agent.path.parent.resolve():
        raise AgentError(f"--out {out}: the new agent would take the old one's place; expected another folder")
    if target.exists() and not (target / RECORD).is_file():
        raise AgentError(f"--out {out}: {target} holds an agent that is not a converted one; expected another folder")

    settings = {
        **{"source": str(agent.path), "digest": agent.digest, "rule": args.rule, "percentile": args.percentile},
        **{"per_channel": args.per_channel},
        **{"num_steps": args.num_steps, "layer_delay": layer_delay, "readout": rule.readout, "frames": args.frames},
        **{"epsilon": args.epsilon, "seed": args.seed, "env_kwargs": repr(agent.env_kwargs)},
    }
    record: dict[str, Any] = {}
    if (target / RECORD).is_file():
        record = json.loads((target / RECORD).read_text())
    env = agent.make_env(1, args.seed)
    if any(record.get(name) != value for name, value in settings.items()):
        common: dict[str, Any] = {"epsilon": args.epsilon, "n_envs": args.n_envs}
        count = -(-args.frames // args.n_envs) * args.n_envs
        batches = observations(agent, args.frames, seed=args.seed, title="calibration", **common)
        scales = activation_scales(
            agent.model, batches, count, args.percentile, nonzero=rule.nonzero, per_channel=args.per_channel
        )
        converted = convert(agent.model, scales, env, num_steps=args.num_steps, readout=rule.readout, layer_delay=layer_delay)
        record = {**settings, "env": agent.env_id, "scales": [scale.tolist() for scale in scales]}
        save(agent, converted, out, record)
    exp_id = int(target.name.rsplit("_", 1)[1]) if target.name.rsplit("_", 1)[-1].isdigit() else -1
    spiking = load_agent(out, agent.algo, agent.env_id, exp_id=exp_id, device=args.device, env_kwargs=args.env_kwargs)
    assert isinstance(spiking.model, DQN)
    print(f"{target}: largest scales of the layers {', '.join(f'{max(scale):.4g}' for scale in record['scales'])}")

    if record.get("decisions", 0) < args.decisions:
        # Other games than those that the scales come from
        batches = observations(
            agent, args.decisions, epsilon=args.epsilon, seed=args.seed + 1000, n_envs=args.n_envs, title="decisions"
        )
        steps = sorted({min(args.num_steps, round(args.num_steps * 2.0**-power)) for power in range(10)} - {0})
        found = agreement(agent.model, spiking.model, batches, steps)
        record |= {"agreement_steps": steps, "agreement": found.shares, "decisions": found.decisions}
        record |= {"gap": found.gap, "gap_where_different": found.gap_where_different}
        write_record(target, record)
    where = record["gap_where_different"]
    print(
        f"equal decisions: {100 * record['agreement'][-1]:.2f}% of {record['decisions']}; the two highest Q-values differ by "
        f"{record['gap']:.3g} in the median{'' if where is None else f', {where:.3g} where decisions differ'}"
    )

    protocol = dataclasses.replace(PROTOCOLS["paper"], episodes=args.episodes, epsilon=args.epsilon, max_steps=args.max_steps)
    players = [dataclasses.replace(agent, name="ReLU")]
    for num_steps in [*curve, args.num_steps]:
        model = spiking.model if num_steps == args.num_steps else with_num_steps(spiking.model, num_steps, env)
        players.append(dataclasses.replace(spiking, name=f"spiking, T = {num_steps}", model=model))
    env.close()
    rows = evaluate(players, protocol, target, seeds=[args.seed], n_envs=args.n_envs, subprocesses=args.vec_env == "subproc")
    scores = {name: part.sort_values("episode")["score"].to_numpy() for name, part in rows.groupby("agent")}
    record["scores"] = [
        {"num_steps": steps, "before": scores["ReLU"].tolist(), "after": scores[f"spiking, T = {steps}"].tolist()}
        for steps in [*curve, args.num_steps]
    ]
    write_record(target, record)
    plot(record, target / "conversion.png")
    for point in record["scores"]:
        before, after = np.array(point["before"]), np.array(point["after"])
        low, high = interval(after - before)
        print(
            f"T = {point['num_steps']}: score {before.mean():.4g} before, {after.mean():.4g} after; difference with the same "
            f"seeds {(after - before).mean():.4g}, 95% from {low:.4g} to {high:.4g}"
        )
    print(f"{target}/: the agent, conversion.json, conversion.png, episodes.csv")
