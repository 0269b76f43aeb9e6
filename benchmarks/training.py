"""
Trains every agent of a list and compares them: table, average performance ratio, learning curves.

    python benchmarks/training.py benchmarks/minatar.yml

A list names environments and methods; a job is one environment, method and seed, trained by one RL Zoo command in a process of
its own with one thread. Its YAML:

* ``environments``: names, or a dict with more ``arguments`` for each
* ``seeds``, ``steps`` of a job (by default what the hyperparameters say), ``env_kwargs``
* ``arguments``: of RL Zoo's command, and ``hyperparams`` that are changed, for all jobs
* ``methods``: by name, ``algo`` ("dqn" by default), more ``arguments`` and ``hyperparams`` that it changes, and ``seeds``
  if it has others
* ``reference``: the method that performance ratios refer to
* ``curves``: the methods whose learning curves are drawn, by default all

What finished jobs leave are a few files in ``benchmarks/results/LIST``, see ``records.py``: RL Zoo's evaluations, scores,
commands and hyperparameters, and what SpikeMonitor logged. A job that is there is not run again; one that was cut off
goes on from its checkpoint, if its callbacks have a Checkpoint, and starts over otherwise: the command can be stopped and
repeated, and jobs that are in the repository are done.

The score of a job is the mean over 100 new episodes of its best agent, by RL Zoo's evaluations during the training; what its
last agent scores is kept beside it (``last_mean``). Actions
are greedy, but in Atari, where whole games are played at the epsilon of the training, as in RL Zoo's evaluations: who waits
for the ball of Breakout would wait for ever. The performance ratio is (score - random) / (score of the reference - random), Xu
et al. 2026 (arXiv 2610.07808), a mean over games. Beside it stand the interquartile mean of the same over games and seeds and
the probability of a better run, with intervals from five seeds on, and a plot of the share of runs above each level.
"""

import argparse
import itertools
import json
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import matplotlib
import numpy as np
import pandas as pd
import torch as th
import yaml
from huggingface_sb3.naming_schemes import EnvironmentName
from machine import describe
from records import Records
from rl_zoo3 import ALGOS
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import set_random_seed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

import sb3_spiking  # noqa: F401  (saved spiking agents name its policy)
from sb3_spiking.evaluation import statistics
from sb3_spiking.evaluation.agents import Agent
from sb3_spiking.sharing.zoo_files import read_environment
from sb3_spiking.training.manifest import FOLDER, MANIFEST

matplotlib.use("agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
SCORE_EPISODES = 100
SCORE_SEED = 1_000_000  # episodes that no training has seen


class Job(NamedTuple):
    """One training run."""

    env: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.env.replace('/', '-')}_{self.method}_{self.seed}"


class TrainingList:
    """
    A list of jobs.

    :param file: YAML, see above
    :param results: finished jobs, by default a folder of the list's name
    """

    def __init__(self, file: Path, results: Path | None = None) -> None:
        content = yaml.safe_load(file.read_text())
        self.results = results or RESULTS / file.stem
        self.records = Records(self.results)
        self.steps: int | None = content.get("steps")
        self.arguments: list[str] = content["arguments"].split()
        self.hyperparams: dict[str, Any] = content.get("hyperparams", {})
        self.env_kwargs: dict[str, Any] = content.get("env_kwargs", {})
        self.reference: str = content["reference"]
        self.methods: dict[str, dict[str, Any]] = content["methods"]
        self.curves: list[str] = content.get("curves", list(self.methods))
        named = content["environments"]
        self.environments: dict[str, str] = named if isinstance(named, dict) else dict.fromkeys(named, "")
        # Making an environment redirects standard output for a moment, which two threads must not do at a time
        self._playing = threading.Lock()
        # Seed by seed, so that what is there early compares all methods
        seeds = {name: method.get("seeds", content["seeds"]) for name, method in self.methods.items()}
        self.jobs = [
            Job(env, method, seed)
            for seed, method, env in itertools.product(sorted(set().union(*seeds.values())), self.methods, self.environments)
            if seed in seeds[method]
        ]

    def command(self, job: Job, folder: Path) -> list[str]:
        """RL Zoo's command of a job."""
        method = self.methods[job.method]
        command = ["-m", "rl_zoo3.train", "--algo", method.get("algo", "dqn"), "--env", job.env, "--seed", str(job.seed)]
        command += ["-f", str(folder), "--tensorboard-log", str(folder / "tensorboard"), "--num-threads", "1", *self.arguments]
        if self.steps is not None:
            command += ["-n", str(self.steps)]
        command += [*self.environments[job.env].split(), *method.get("arguments", "").split()]
        if self.env_kwargs:
            command += ["--env-kwargs", *(f"{name}:{value!r}" for name, value in self.env_kwargs.items())]
        hyperparams = self.hyperparams | method.get("hyperparams", {})
        if hyperparams:
            command += ["-params", *(f"{name}:{value!r}" for name, value in hyperparams.items())]
        return command

    def finished(self) -> list[Job]:
        """The jobs that have results."""
        done = self.records.names()
        return [job for job in self.jobs if job.name in done]

    def run(self, job: Job, logs: Path) -> None:
        """Train and score unless the job is done."""
        if job.name in self.records.names():
            return
        folder = logs / job.name
        checkpoints = list(folder.glob(f"*/*_1/{FOLDER}/{MANIFEST}"))
        if checkpoints:
            shutil.rmtree(folder / "result", ignore_errors=True)
            command = ["-m", "sb3_spiking", "resume", str(checkpoints[0].parents[1])]
        else:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            command = self.command(job, folder)
        start = time.time()
        with (folder / "train.log").open("a") as log:
            code = subprocess.run([sys.executable, *command], stdout=log, stderr=subprocess.STDOUT).returncode
        if code != 0:
            raise RuntimeError(f"{job.name} failed, see {folder / 'train.log'}")
        self.record(job, folder, None if checkpoints else round(time.time() - start))

    def record(self, job: Job, folder: Path, seconds: int | None) -> None:
        """Score what a job has trained, and write its results; ``seconds`` are known of a training in one go."""
        algo = self.methods[job.method].get("algo", "dqn")
        trained = folder / algo / f"{job.env.replace('/', '-')}_1"
        logged = np.load(trained / "evaluations.npz")
        model, last = (
            ALGOS[algo].load(trained / f"{name}.zip", device="cpu") for name in ("best_model", EnvironmentName(job.env))
        )
        partial = folder / "result"
        partial.mkdir()
        (config,) = trained.glob("*/config.yml")
        shutil.copy(config, partial / "config.yml")
        with self._playing:
            scores, last_scores = (self.play(job.env, each, partial) for each in (model, last))

        evaluations = {"timesteps": logged["timesteps"], "mean": logged["results"].mean(1), "std": logged["results"].std(1)}
        pd.DataFrame(evaluations).round(3).to_csv(partial / "evaluations.csv", index=False)
        activity = spikes(folder / "tensorboard")
        if not activity.empty:
            activity.to_csv(partial / "spikes.csv")
        score = {"mean": np.mean(scores), "std": np.std(scores), "max": np.max(scores), "train_seconds": seconds}
        score |= {"last_mean": np.mean(last_scores), "last_std": np.std(last_scores)}
        pd.DataFrame([score]).round(3).to_csv(partial / "score.csv", index=False)
        shown = self.command(job, Path("logs"))
        (partial / "command.txt").write_text(shlex.join(["python", *shown]) + f"\n{describe()}\n")
        settings = getattr(model.policy, "settings", None)
        if settings is not None:  # the defaults among them
            (partial / "settings.yml").write_text(yaml.safe_dump(json.loads(json.dumps(settings.as_dict())), sort_keys=False))
        self.results.mkdir(parents=True, exist_ok=True)
        shutil.move(partial, self.results / job.name)

    def play(self, env: str, model: Any, folder: Path) -> list[float]:
        """Scores of new episodes, whole games in Atari, in the environment of a job, whose ``config.yml`` is in ``folder``."""
        hyperparams, _ = read_environment(folder)
        player = Agent(env, "", env, model, folder, hyperparams, str(folder), self.env_kwargs)
        environments = player.make_env(min(20, SCORE_EPISODES), SCORE_SEED, whole_games=True)
        set_random_seed(SCORE_SEED)
        deterministic = not player.is_stochastic
        scores, _ = evaluate_policy(model, environments, SCORE_EPISODES, deterministic, return_episode_rewards=True)
        assert isinstance(scores, list)
        return scores

    def random_score(self, env: str) -> float:
        """Mean score of random actions in the environment of a finished job."""
        file = self.results / "random.csv"
        known = pd.read_csv(file, index_col=0)["mean"].to_dict() if file.exists() else {}
        if env not in known:
            job = next(job for job in self.finished() if job.env == env)
            with self.records.config_folder(job.name) as folder:
                known[env] = round(float(np.mean(self.play(env, _Random(gym.make(env).action_space), folder))), 3)
            pd.DataFrame({"mean": known}).rename_axis("environment").to_csv(file)
        return known[env]

    def scores(self) -> pd.DataFrame:
        """The finished jobs, one a row."""
        table = self.records.table("scores").set_index("job")
        return pd.DataFrame([{**job._asdict(), **table.loc[job.name]} for job in self.finished()])


def spikes(folder: Path) -> pd.DataFrame:
    """
    :param folder: TensorBoard's log of one training
    :return: what SpikeMonitor logged for each layer, a column each, by ``timesteps``; empty without a SpikeMonitor
    """
    columns: dict[str, dict[int, float]] = {}
    for file in sorted(folder.rglob("events*")):  # one for each time that the training went on
        log = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        for tag in sorted(log.Tags()["scalars"]):
            if tag.startswith(("firing_rate/", "silent_neurons/", "saturated_neurons/")):
                columns.setdefault(tag, {}).update((event.step, event.value) for event in log.Scalars(tag))
    return pd.DataFrame(columns).rename_axis("timesteps").round(5)


class _Random:
    """A policy that acts at random."""

    def __init__(self, action_space: gym.Space) -> None:
        self._action_space = action_space
        action_space.seed(SCORE_SEED)

    def predict(self, observations: np.ndarray, *args: Any, **kwargs: Any) -> tuple[np.ndarray, None]:
        return np.array([self._action_space.sample() for _ in observations]), None


def ratio(scores: pd.DataFrame, random: Mapping[str, float], method: str, reference: str) -> tuple[float, int] | None:
    """
    :param scores: a row for each job
    :param random: score of random actions by environment
    :param method: that is asked about
    :param reference: method whose ratio is 1
    :return: average performance ratio over the environments where both methods have scores, and the number of these
        environments; None without any
    """
    ours, theirs = (runs_of(scores, name) for name in (method, reference))
    means = [each.mean() for each in statistics.normalised(ours, theirs, random).values()]
    return (float(np.mean(means)), len(means)) if means else None


def runs_of(scores: pd.DataFrame, method: str) -> dict[str, np.ndarray]:
    """Scores of a method's jobs, by environment."""
    rows = scores[scores["method"] == method]
    return {str(env): each["mean"].to_numpy() for env, each in rows.groupby("env", sort=False)}


def over_seeds(jobs: TrainingList, scores: pd.DataFrame, column: str = "mean") -> str:
    """Markdown: what :mod:`sb3_spiking.evaluation.statistics` says of each method that has every environment."""
    scores = scores.dropna(subset=column).assign(mean=scores[column])
    random = {env: jobs.random_score(env) for env in set(scores["env"])}
    lines = ["| | runs a game | interquartile mean | better than the reference |", "|---|--:|--:|--:|"]
    reference = runs_of(scores, jobs.reference)
    for method in jobs.methods:
        runs = runs_of(scores, method)
        if not runs or set(runs) != set(reference) or method == jobs.reference:
            continue
        cells = []
        for value, interval in (
            statistics.interquartile(runs, reference, random),
            statistics.improvement(runs, reference),
        ):
            cells.append(f"{value:.0%}" + ("" if interval is None else f" ({interval[0]:.0%} to {interval[1]:.0%})"))
        counts = {len(each) for each in runs.values()}
        lines.append(f"| {method} | {' to '.join(map(str, sorted(counts)))} | {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else f"Nothing to compare with the runs of {jobs.reference} yet"


def table(jobs: TrainingList, scores: pd.DataFrame, column: str = "mean") -> str:
    """Markdown: a line for each method, a column for each environment; of the best agents, or ``last_mean``."""
    scores = scores.dropna(subset=column).assign(mean=scores[column])
    environments = [env for env in jobs.environments if env in set(scores["env"])]
    random = {env: jobs.random_score(env) for env in environments}
    titles = [env.split("/")[-1] for env in environments]
    lines = [f"| | {' | '.join(titles)} | performance ratio |", "|---|" + "--:|" * (len(titles) + 1)]
    lines.append(f"| random | {' | '.join(f'{random[env]:.2f}' for env in environments)} | 0% |")
    for method in jobs.methods:
        cells = []
        for env in environments:
            each = scores[(scores["env"] == env) & (scores["method"] == method)]["mean"]
            cells.append(f"{each.mean():.2f} ({', '.join(f'{score:.2f}' for score in each)})" if len(each) else "")
        found, shown = ratio(scores, random, method, jobs.reference), ""
        if found is not None:
            mean, count = found
            shown = f"{mean:.1%}" + (f" ({count} of {len(environments)})" if count < len(environments) else "")
        if any(cells):
            lines.append(f"| {method} | {' | '.join(cells)} | {shown} |")
    return "\n".join(lines)


def plot_profile(jobs: TrainingList, scores: pd.DataFrame, file: Path) -> None:
    """Share of each method's runs above each level of normalised score, for the methods that have every environment."""
    random, levels = {env: jobs.random_score(env) for env in set(scores["env"])}, np.linspace(0, 2, 201)
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
                last, share = silent.iloc[:, -1], silent.index / silent.index[-1]
                shares.append((last[(share >= 0.1) & (share < 0.2)].mean(), last[share >= 0.9].mean()))
            cells.append("{:.0%} to {:.0%}".format(*np.mean(shares, axis=0)) if shares else "")
        if any(cells):
            lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _curve(evaluations: pd.DataFrame) -> pd.Series:
    return evaluations.set_index(evaluations["timesteps"] / 1000)["mean"]


def plot(jobs: TrainingList, file: Path) -> None:
    """Learning curves: RL Zoo's evaluations, each job thin, their mean thick."""
    finished = [job for job in jobs.finished() if job.method in jobs.curves]
    evaluations = {name: rows for name, rows in jobs.records.table("evaluations").groupby("job")}
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path, help="YAML file of jobs")
    parser.add_argument("--results", type=Path, help="folder of finished jobs, benchmarks/results/LIST by default")
    parser.add_argument("--logs", type=Path, default=Path("logs/training"), help="what RL Zoo writes goes here")
    parser.add_argument("--only", nargs="+", default=[""], help="run only the jobs whose names contain one of these")
    parser.add_argument("--jobs", type=int, default=2, help="jobs at a time, 0 to show the results so far")
    args = parser.parse_args()

    jobs = TrainingList(args.list, args.results)
    if "--gym-packages" in jobs.arguments:
        __import__(jobs.arguments[jobs.arguments.index("--gym-packages") + 1])
    th.set_num_threads(1)
    if args.jobs:
        wanted = [job for job in jobs.jobs if any(part in job.name for part in args.only)]
        with ThreadPoolExecutor(args.jobs) as pool:
            list(tqdm(pool.map(lambda job: jobs.run(job, args.logs / args.list.stem), wanted), total=len(wanted), unit="job"))
    jobs.records.gather()
    scores = jobs.scores()
    plot(jobs, jobs.results / "learning_curves.png")
    plot_profile(jobs, scores, jobs.results / "profile.png")
    print(f"\n{describe()}\n\n{table(jobs, scores)}\n\n{over_seeds(jobs, scores)}")
    if "last_mean" in scores:
        print(f"\nThe last agents of these trainings\n\n{table(jobs, scores, 'last_mean')}")
        print(f"\n{over_seeds(jobs, scores, 'last_mean')}")
    print(f"\nSilent neurons of the last layer, early and late in the training\n\n{silence(jobs)}")


if __name__ == "__main__":
    main()
