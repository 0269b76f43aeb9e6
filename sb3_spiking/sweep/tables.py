"""
What a list has found, as tables. The performance ratio is (score - random) / (score of the reference - random), Xu et al. 2026
(arXiv 2610.07808), a mean over games. Beside it stand the interquartile mean of the same over games and seeds and the
probability of a better run, with intervals from five seeds on.
"""

import shlex
from collections.abc import Mapping

import numpy as np
import pandas as pd

from sb3_spiking.evaluation import statistics
from sb3_spiking.evaluation.table import markdown, over_runs
from sb3_spiking.sweep.lists import TrainingList
from sb3_spiking.sweep.zoo_command import read_options


def ratios(scores: pd.DataFrame, random: Mapping[str, float], method: str, reference: str) -> dict[str, float]:
    """
    :param scores: a row for each job
    :param random: score of random actions by environment
    :param method: that is asked about
    :param reference: method whose ratio is 1
    :return: performance ratio in each environment where both methods have scores
    """
    ours, theirs = (runs_of(scores[scores["env"].isin(random)], name) for name in (method, reference))
    return {env: float(each.mean()) for env, each in statistics.normalised(ours, theirs, random).items()}


def runs_of(scores: pd.DataFrame, method: str) -> dict[str, np.ndarray]:
    """Scores of a method's jobs, by environment."""
    rows = scores[scores["method"] == method]
    return {str(env): each["mean"].to_numpy() for env, each in rows.groupby("env", sort=False)}


def all_runs(jobs: TrainingList, scores: pd.DataFrame, random: Mapping[str, float]) -> pd.DataFrame:
    """
    A row for each finished job: environment, method, seed, steps, scores, ``ratio`` (0: random play, 1: mean of the
    reference), simulation steps of a decision, machine and command.
    """
    kept = jobs.records.jobs()
    reference = {env: each.mean() for env, each in runs_of(scores, jobs.reference).items()}
    rows = []
    for job, score in zip(jobs.finished(), scores.to_dict("records"), strict=True):
        record = kept[job.name]
        options = read_options(shlex.split(record["command"])[1:])
        steps = options.n_timesteps if options.n_timesteps > 0 else record["config"].get("n_timesteps")
        row = {**score, "algo": jobs.algo(job), "steps": 0 if jobs.source(job) else steps}
        zero, one = random.get(job.env), reference.get(job.env)
        if zero is not None and one is not None:
            normalised = statistics.normalised({job.env: [score["mean"]]}, {job.env: [one]}, {job.env: zero})
            if normalised:
                row["ratio"] = round(normalised[job.env].item(), 4)
        row["num_steps"] = record.get("settings", {}).get("num_steps")
        rows.append({**row, "machine": record.get("machine"), "command": record["command"]})
    return pd.DataFrame(rows)


def _of(scores: pd.DataFrame, column: str) -> pd.DataFrame:
    """Scores whose ``mean`` is another column, of the jobs that have it."""
    return scores.dropna(subset=column).assign(mean=scores[column])


def over_seeds(jobs: TrainingList, scores: pd.DataFrame, random: Mapping[str, float], column: str = "mean") -> str:
    """Markdown: what :mod:`sb3_spiking.evaluation.statistics` says of each method that has every environment."""
    scores = _of(scores, column)
    methods = {method: runs for method in jobs.methods if (runs := runs_of(scores, method))}
    compared = over_runs(methods, jobs.reference, random) if jobs.reference in methods else ""
    return compared or f"Nothing to compare with the runs of {jobs.reference} yet"


def table(jobs: TrainingList, scores: pd.DataFrame, random: Mapping[str, float], column: str = "mean") -> str:
    """Markdown: a line for each method, a column for each environment; of the best agents, or ``last_mean``."""
    scores = _of(scores, column)
    environments = [env for env in jobs.environments if env in set(scores["env"])]
    titles = [env.split("/")[-1] for env in environments]
    lines = [f"| | {' | '.join(titles)} | performance ratio |", "|---|" + "--:|" * (len(titles) + 1)]
    lines.append(f"| random | {' | '.join(f'{random[env]:.2f}' if env in random else '' for env in environments)} | 0% |")
    for method in jobs.methods:
        cells = []
        for env in environments:
            each = scores[(scores["env"] == env) & (scores["method"] == method)]["mean"]
            cells.append(f"{each.mean():.2f} ({', '.join(f'{score:.2f}' for score in each)})" if len(each) else "")
        found, shown = ratios(scores, random, method, jobs.reference), ""
        if found:
            shown = f"{np.mean(list(found.values())):.1%}"
            shown += f" ({len(found)} of {len(environments)})" if len(found) < len(environments) else ""
        if any(cells):
            lines.append(f"| {method} | {' | '.join(cells)} | {shown} |")
    return "\n".join(lines)


def by_game(jobs: TrainingList, scores: pd.DataFrame, random: Mapping[str, float], column: str = "mean") -> str:
    """
    Markdown, a line for each method that has several environments: its performance ratio in each, and the mean without
    the best of them, which shows whether one environment makes the result; "" without such methods.
    """
    scores = _of(scores, column)
    found = {method: ratios(scores, random, method, jobs.reference) for method in jobs.methods if method != jobs.reference}
    environments = [env for env in jobs.environments if any(env in each for each in found.values())]
    rows = []
    for method, each in found.items():
        if len(each) > 1:
            others = (sum(each.values()) - max(each.values())) / (len(each) - 1)
            rows.append((method, *(f"{each[env]:.0%}" if env in each else "" for env in environments), f"{others:.0%}"))
    columns = ("", *(env.split("/")[-1] for env in environments), "mean without the best of them")
    return markdown(columns, rows) if rows else ""


def silence(jobs: TrainingList) -> str:
    """
    Markdown, a line for each method, a column for each environment: the share of the last spiking layer's neurons that are
    silent in the batch SpikeMonitor looks at, early in the training (its second tenth) and late (its last tenth), mean over
    seeds.
    """
    logged = {name: rows for name, rows in jobs.records.table("spikes").groupby("job")}
    finished = [job for job in jobs.finished() if job.name in logged]
    environments = [env for env in jobs.environments if any(job.env == env for job in finished)]
    lines = [f"| | {' | '.join(env.split('/')[-1] for env in environments)} |", "|---|" + "--:|" * len(environments)]
    for method in jobs.methods:
        cells = []
        for env in environments:
            names = [job.name for job in finished if (job.env, job.method) == (env, method)]
            shares = []
            for name in names:
                silent = logged[name].set_index("timesteps").filter(like="silent_neurons/").dropna(axis=1, how="all")
                last = silent[max(silent, key=lambda tag: int(tag.rpartition("_")[2]))]
                share = silent.index / silent.index[-1]
                shares.append((last[(share >= 0.1) & (share < 0.2)].mean(), last[share >= 0.9].mean()))
            ends = np.mean(shares, axis=0) if shares else []
            cells.append(" to ".join(f"{end:.0%}" for end in ends if end == end))  # a short training has no early end
        if any(cells):
            lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)
