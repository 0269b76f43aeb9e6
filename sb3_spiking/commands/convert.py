"""
Turn a trained ReLU agent of SB3's DQN into a spiking one, and measure what that costs: how often both choose the same action,
and the score before and after.

    python -m sb3_spiking.commands.convert --algo dqn --env PongNoFrameskip-v4 -f FOLDER --num-steps 500 --percentile 99.9

The new agent lies in RL Zoo's layout in --out, where enjoy, evaluate and everything else find it; conversion.json and
conversion.png beside it say how good it is. Interrupted and called again it goes on where it stopped.
"""

import argparse
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
import yaml
from gymnasium import spaces
from huggingface_sb3.naming_schemes import EnvironmentName
from matplotlib import pyplot as plt
from stable_baselines3 import DQN
from stable_baselines3.common.preprocessing import preprocess_obs
from tqdm import tqdm

from sb3_spiking.commands import arguments as cli
from sb3_spiking.commands.evaluate import evaluate
from sb3_spiking.conversion.rules import RULES, ConversionError, activation_scales, check_convertible, convert, with_num_steps
from sb3_spiking.errors import AgentError
from sb3_spiking.evaluation.agents import Agent, load_agent
from sb3_spiking.evaluation.episodes import PROTOCOLS
from sb3_spiking.evaluation.results import interval
from sb3_spiking.evaluation.scores import score_limits
from sb3_spiking.files import replaced
from sb3_spiking.policies import SpikingPolicy
from sb3_spiking.sharing.zoo_files import ZOO_FILES, read_yaml
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
            highest, actions = model.q_net(inputs).topk(2, dim=1)
            gaps.append(highest[:, 0] - highest[:, 1])
            window = network.features_extractor.window(
                preprocess_obs(inputs, network.observation_space, network.normalize_images)
            )
            if policy.settings.layer_delay:
                window = delayed(window)
            values = [readout(window[:count], network.q_net, network.output_neuron) for count in steps]
            same.append(th.stack([each.argmax(dim=1) == actions[:, 0] for each in values]))
    equal, gap = th.cat(same, dim=1), th.cat(gaps)
    differing = gap[~equal[-1]]
    median = differing.median().item() if len(differing) else None
    return Agreement(equal.double().mean(dim=1).tolist(), len(gap), gap.median().item(), median)


def save(agent: Agent, converted: DQN, out: Path, record: dict[str, Any]) -> Path:
    """
    Write the converted agent as RL Zoo writes one, complete or not at all.

    :param agent: the ReLU agent
    :param converted: the spiking one
    :param out: log folder
    :param record: what conversion.json says
    :return: the folder of the run
    """
    name = EnvironmentName(agent.env_id)
    run = run_folder(agent, out)
    with replaced(run) as draft:
        converted.save(draft / f"{name}.zip")
        (draft / name).mkdir()
        for file in ZOO_FILES:
            source = Path(agent.stats_path) / file
            if source.is_file() and not source.is_symlink():
                shutil.copy(source, draft / name / file)
        config = draft / name / "config.yml"
        hyperparams = read_yaml(config) if config.is_file() else {}
        changed = {"policy": "sb3_spiking.SpikingPolicy", "policy_kwargs": repr(converted.policy_kwargs)}
        config.write_text(yaml.dump({**hyperparams, **changed}, sort_keys=False))
        (draft / "conversion.json").write_text(json.dumps(record, indent=1))
    return run


def run_folder(agent: Agent, out: Path) -> Path:
    """The folder of the converted agent: the same run of the same environment in another log folder."""
    name = EnvironmentName(agent.env_id)
    run = agent.path.parent.name
    return out / agent.algo / (run if run.startswith(name) else f"{name}_1")


def plot(record: dict[str, Any], path: Path) -> None:
    """
    Equal decisions and scores against the number of simulation steps.

    :param record: of conversion.json, complete
    :param path: of the picture
    """
    figure, (rates, scores) = plt.subplots(1, 2, figsize=(11, 4))
    rates.plot(record["agreement_steps"], 100 * np.array(record["agreement"]), "o-")
    rates.set_ylabel("equal decisions: %")
    rates.set_title(f"{record['decisions']} decisions, {record['rule']}")
    for label, color in (("before", "gray"), ("after", "C0")):
        points = record["scores"] if label == "after" else record["scores"][-1:]
        values = [np.array(point[label]) for point in points]
        ends = [interval(value, limits=score_limits(record["env"])) for value in values]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_agent_arguments(parser, several=False)
    parser.add_argument("--num-steps", type=int, default=500, help="simulation steps of a decision")
    parser.add_argument("--percentile", type=float, default=99.9, help="of a layer's values, its scale")
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
    parser.add_argument("--frames", type=int, default=15_000, help="observations that the scales come from")
    parser.add_argument("--decisions", type=int, default=2000, help="on which both agents are compared, at least")
    parser.add_argument("--episodes", type=int, default=30, help="for a score")
    parser.add_argument("--curve", type=int, nargs="*", help="also scores for these numbers of simulation steps")
    parser.add_argument("--epsilon", type=float, default=0.05, help="probability of a random action, throughout")
    parser.add_argument("--max-steps", type=int, default=18_000, help="decisions of an episode")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, help="log folder of the new agent (default: FOLDER-converted)")
    args = parser.parse_args()

    cli.prepare(args)
    for name, least in (("num_steps", 1), ("frames", 1), ("decisions", 1), ("episodes", 2), ("max_steps", 1)):
        if getattr(args, name) < least:
            raise AgentError(f"--{name.replace('_', '-')} {getattr(args, name)}: expected at least {least}")
    if not 0 < args.percentile <= 100:
        raise AgentError(f"--percentile {args.percentile}: expected above 0, up to 100")
    if not 0 <= args.epsilon <= 1:
        raise AgentError(f"--epsilon {args.epsilon}: expected 0 to 1")
    curve = sorted(set(args.curve or []))
    if curve and not 1 <= curve[0] <= curve[-1] < args.num_steps:
        raise AgentError(f"--curve {' '.join(map(str, curve))}: expected from 1 to less than --num-steps, {args.num_steps}")
    agent = cli.load_one(args)
    try:
        check_convertible(agent.model)
    except ConversionError as error:
        raise AgentError(f"{agent.path}: {error}") from error
    assert isinstance(agent.model, DQN)
    rule = RULES[args.rule]
    layer_delay = rule.layer_delay if args.layer_delay is None else args.layer_delay
    out = args.out or Path(f"{Path(args.folder)}-converted")
    run = run_folder(agent, out)
    if run.resolve() == agent.path.parent.resolve():
        raise AgentError(f"--out {out}: the new agent would take the old one's place; expected another folder")
    if run.exists() and not (run / "conversion.json").is_file():
        raise AgentError(f"--out {out}: {run} holds an agent that is not a converted one; expected another folder")

    settings = {
        **{"source": str(agent.path), "digest": agent.digest, "rule": args.rule, "percentile": args.percentile},
        **{"per_channel": args.per_channel},
        **{"num_steps": args.num_steps, "layer_delay": layer_delay, "readout": rule.readout, "frames": args.frames},
        **{"epsilon": args.epsilon, "seed": args.seed, "env_kwargs": repr(agent.env_kwargs)},
    }
    record: dict[str, Any] = {}
    if (run / "conversion.json").is_file():
        record = json.loads((run / "conversion.json").read_text())
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
    exp_id = int(run.name.rsplit("_", 1)[1]) if run.name.rsplit("_", 1)[-1].isdigit() else -1
    spiking = load_agent(out, agent.algo, agent.env_id, exp_id=exp_id, device=args.device, env_kwargs=args.env_kwargs)
    assert isinstance(spiking.model, DQN)
    print(f"{run}: largest scales of the layers {', '.join(f'{max(scale):.4g}' for scale in record['scales'])}")

    if record.get("decisions", 0) < args.decisions:
        # Other games than those that the scales come from
        batches = observations(
            agent, args.decisions, epsilon=args.epsilon, seed=args.seed + 1000, n_envs=args.n_envs, title="decisions"
        )
        steps = sorted({min(args.num_steps, round(args.num_steps * 2.0**-power)) for power in range(10)} - {0})
        found = agreement(agent.model, spiking.model, batches, steps)
        record |= {"agreement_steps": steps, "agreement": found.shares, "decisions": found.decisions}
        record |= {"gap": found.gap, "gap_where_different": found.gap_where_different}
        _write(run, record)
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
    rows = evaluate(players, protocol, run, seeds=[args.seed], n_envs=args.n_envs, subprocesses=args.vec_env == "subproc")
    scores = {name: part.sort_values("episode")["score"].to_numpy() for name, part in rows.groupby("agent")}
    record["scores"] = [
        {"num_steps": steps, "before": scores["ReLU"].tolist(), "after": scores[f"spiking, T = {steps}"].tolist()}
        for steps in [*curve, args.num_steps]
    ]
    _write(run, record)
    plot(record, run / "conversion.png")
    for point in record["scores"]:
        before, after = np.array(point["before"]), np.array(point["after"])
        low, high = interval(after - before)
        print(
            f"T = {point['num_steps']}: score {before.mean():.4g} before, {after.mean():.4g} after; difference with the same "
            f"seeds {(after - before).mean():.4g}, 95% from {low:.4g} to {high:.4g}"
        )
    print(f"{run}/: the agent, conversion.json, conversion.png, episodes.csv")


def _write(run: Path, record: dict[str, Any]) -> None:
    draft = run / ".conversion.json"
    draft.write_text(json.dumps(record, indent=1))
    draft.replace(run / "conversion.json")


if __name__ == "__main__":
    cli.run(main)
