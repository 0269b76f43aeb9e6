"""Score against how much of an agent or of what it sees is spoilt."""

import dataclasses
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt

from sb3_spiking.evaluation.agents import Agent
from sb3_spiking.evaluation.perturbations import PERTURBATIONS
from sb3_spiking.evaluation.results import interval
from sb3_spiking.evaluation.scores import score_limits

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


def table_of(those: list[tuple[Agent, str, float, Agent]], episodes: pd.DataFrame) -> pd.DataFrame:
    """
    :param those: of :func:`points`
    :param episodes: of the perturbed agents, rows of :func:`~sb3_spiking.evaluation.comparison.evaluate`
    :return: rows of COLUMNS
    """
    rows = []
    for agent, name, level, other in those:
        scores = episodes[(episodes["env"] == agent.env_id) & (episodes["agent"] == other.name)]["score"]
        ends = interval(scores, limits=score_limits(agent.env_id, agent.env_kwargs))
        rows.append((agent.env_id, agent.name, name, level, len(scores), scores.mean(), *ends))
    return pd.DataFrame(rows, columns=COLUMNS)


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
        if PERTURBATIONS[name].halves:
            axis.set_xscale("log", base=2)
            axis.invert_xaxis()
            axis.set_xticks(sorted(set(panel["level"])), [f"{level:g}" for level in sorted(set(panel["level"]))])
    axes[0, 0].set_ylabel("score: mean and 95% interval")
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
