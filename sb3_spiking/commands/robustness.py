"""
How well trained agents still play when a bar hides a part of the image, pixels are masked, or weights are rounded.

    python -m sb3_spiking.commands.robustness --algo dqn --env PongNoFrameskip-v4 -f FOLDER [FOLDER ...] --out robustness

Writes episodes.csv as the episodes end; interrupted and called again it goes on where it stopped. Then robustness.csv and
robustness.png, with the agents side by side.
"""

import argparse
import dataclasses
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt

from sb3_spiking.commands import arguments as cli
from sb3_spiking.commands.evaluate import evaluate
from sb3_spiking.errors import AgentError
from sb3_spiking.evaluation.agents import Agent
from sb3_spiking.evaluation.episodes import PROTOCOLS
from sb3_spiking.evaluation.perturbations import PERTURBATIONS
from sb3_spiking.evaluation.results import interval
from sb3_spiking.evaluation.scores import score_limits
from sb3_spiking.evaluation.table import markdown

COLUMNS = ("environment", "agent", "perturbation", "level", "episodes", "score", "95% low", "95% high")


def points(agents: list[Agent], names: list[str], levels: list[float] | None) -> list[tuple[Agent, str, float, Agent]]:
    """
    :param agents: that are tried
    :param names: keys of :data:`~sb3_spiking.evaluation.perturbations.PERTURBATIONS`
    :param levels: in place of the perturbations' own
    :return: agent, perturbation, level and perturbed agent, for each point of a curve
    """
    those = []
    for name in names:
        for agent in agents:
            perturbation = PERTURBATIONS[name]
            for level in perturbation.levels(agent) if levels is None else levels:
                other = dataclasses.replace(perturbation.apply(agent, level), name=f"{agent.name}, {name} {level:g}")
                those.append((agent, name, level, other))
    return those


def plot(table: pd.DataFrame, path: Path) -> None:
    """
    Score against level, a curve for each agent, a panel for each environment and perturbation.

    :param table: rows of COLUMNS
    :param path: of the picture
    """
    panels = list(table.groupby(["environment", "perturbation"], sort=False))
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.8), squeeze=False)
    for axis, ((environment, name), panel) in zip(axes[0], panels, strict=True):
        for agent, curve in panel.groupby("agent", sort=False):
            axis.plot(curve["level"], curve["score"], ".-", label=agent)
            axis.fill_between(curve["level"], curve["95% low"], curve["95% high"], alpha=0.2)
        axis.set_title(f"{environment}: {name}")
        axis.set_xlabel(PERTURBATIONS[name].title)
        if name == "quantisation":
            axis.set_xscale("log", base=2)
            axis.invert_xaxis()
            axis.set_xticks(sorted(set(panel["level"])), [f"{level:g}" for level in sorted(set(panel["level"]))])
    axes[0, 0].set_ylabel("score: mean and 95% interval")
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_agent_arguments(parser, several=True)
    parser.add_argument("--perturbations", nargs="+", metavar="NAME", help=f"of {', '.join(PERTURBATIONS)}; default: all")
    parser.add_argument("--levels", type=float, nargs="+", help="in place of a perturbation's own; name one perturbation")
    parser.add_argument("--episodes", type=int, default=100, help="of a point; 100 in Patel et al. 2019")
    parser.add_argument("--epsilon", type=float, default=0.05, help="probability of a random action")
    parser.add_argument("--max-steps", type=int, default=18_000, help="decisions of an episode")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, default=Path("robustness"), help="folder of the results")
    args = parser.parse_args()

    cli.prepare(args)
    for name in args.perturbations or []:
        if name not in PERTURBATIONS:
            raise AgentError(f"--perturbations {name}: expected some of {', '.join(PERTURBATIONS)}")
    if args.levels and len(args.perturbations or []) != 1:
        raise AgentError("--levels: the levels of which perturbation? Name one with --perturbations")
    if args.episodes < 1 or args.max_steps < 1 or not 0 <= args.epsilon <= 1:
        raise AgentError("expected --episodes and --max-steps of at least 1, and --epsilon from 0 to 1")
    agents = cli.load_agents(args)
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

    protocol = dataclasses.replace(PROTOCOLS["paper"], episodes=args.episodes, epsilon=args.epsilon, max_steps=args.max_steps)
    those = points(agents, names, args.levels)
    perturbed = [other for *_, other in those]
    episodes = evaluate(
        perturbed,
        protocol,
        args.out,
        seeds=[args.seed],
        n_envs=args.n_envs,
        energy=None,
        subprocesses=args.vec_env == "subproc",
    )
    rows = []
    for agent, name, level, other in those:
        scores = episodes[(episodes["env"] == agent.env_id) & (episodes["agent"] == other.name)]["score"]
        rows.append(
            (
                agent.env_id,
                agent.name,
                name,
                level,
                len(scores),
                scores.mean(),
                *interval(scores, limits=score_limits(agent.env_id)),
            )
        )
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.to_csv(args.out / "robustness.csv", index=False)
    plot(table, args.out / "robustness.png")
    print(markdown(COLUMNS, table.itertuples(index=False)))
    print(f"\n{args.out}/: episodes.csv, robustness.csv, robustness.png")


if __name__ == "__main__":
    cli.run(main)
