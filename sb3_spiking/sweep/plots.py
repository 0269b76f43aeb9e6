"""What a list has found, as pictures."""

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from sb3_spiking.evaluation import statistics
from sb3_spiking.sweep.lists import TrainingList
from sb3_spiking.sweep.tables import runs_of


def plot_profile(jobs: TrainingList, scores: pd.DataFrame, random: Mapping[str, float], file: Path) -> None:
    """Share of each method's runs above each level of normalised score, for the methods that have every environment."""
    levels = np.linspace(0, 2, 201)
    reference = runs_of(scores, jobs.reference)
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for method in jobs.curves:
        runs = runs_of(scores, method)
        if runs and set(runs) == set(reference):
            shares = statistics.profile(statistics.normalised(runs, reference, random), levels)
            axes.plot(100 * levels, 100 * shares, label=method)
    axes.set(xlabel=f"score, % of {jobs.reference}", ylabel="% of runs above")
    if len(axes.lines) > 1:
        axes.legend(fontsize="small")
        figure.savefig(file, dpi=120)
    plt.close(figure)


def _curve(evaluations: pd.DataFrame) -> pd.Series:
    return evaluations.set_index(evaluations["timesteps"] / 1000)["mean"]


def plot_curves(jobs: TrainingList, file: Path) -> None:
    """Learning curves: RL Zoo's evaluations, each job thin, their mean thick."""
    evaluations = {name: rows for name, rows in jobs.records.table("evaluations").groupby("job")}
    finished = [job for job in jobs.finished() if job.method in jobs.curves and job.name in evaluations]
    if not finished:  # conversions have no curves
        return
    environments = [env for env in jobs.environments if any(job.env == env for job in finished)]
    columns = min(3, len(environments))
    rows = -(-len(environments) // columns)
    methods = [method for method in jobs.methods if any(job.method == method for job in finished)]
    size = (4 * columns, 3.2 * rows + 0.15 * len(methods) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    colors = plt.colormaps["tab10" if len(methods) <= 10 else "tab20"]
    lines = {}
    for axis, env in itertools.zip_longest(axes.flat, environments):
        if env is None:
            axis.remove()
            continue
        for number, method in enumerate(methods):
            names = [job.name for job in finished if (job.env, job.method) == (env, method)]
            curves = [_curve(evaluations[name]) for name in names]
            for curve in curves:
                axis.plot(curve, color=colors(number), alpha=0.25, linewidth=0.8)
            if curves:
                (lines[method],) = axis.plot(pd.concat(curves, axis=1).mean(axis=1), color=colors(number))
        axis.set(title=env.split("/")[-1], xlabel="thousand steps", ylabel="score")
    figure.legend([lines[name] for name in methods], methods, loc="outside lower center", ncols=2 * columns, fontsize="small")
    figure.savefig(file, dpi=120)
    plt.close(figure)
