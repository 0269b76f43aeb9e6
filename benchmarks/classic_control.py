"""
Spiking and ReLU DQN on classic control, trained by RL Zoo with the same budget: the table and figure of docs/results.md.

    python benchmarks/classic_control.py --folder logs/classic_control

Each run is one RL Zoo command in a process of its own, with one thread. A finished run is kept and not trained again, a
run that was cut off starts over: the command can be stopped and repeated. At the end the best agent of each finished run
in the folder, by RL Zoo's evaluations during the training, plays 100 episodes.
"""

import argparse
import csv
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch as th
from machine import describe
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from tqdm import tqdm

import sb3_spiking  # noqa: F401  (saved spiking agents name its policy)

matplotlib.use("agg")
import matplotlib.pyplot as plt

METHODS = {"spiking": ["-conf", "sb3_spiking"], "relu": []}
# environment: steps between evaluations
ENVIRONMENTS = {"CartPole-v1": 1250, "Acrobot-v1": 5000, "LunarLander-v3": 5000}
EVAL_EPISODES = 100
EVAL_SEED = 1_000_000  # episodes that no training has seen


class Run(NamedTuple):
    """One training run."""

    env: str
    method: str
    seed: int

    def folder(self, root: Path) -> Path:
        return root / f"{self.env}_{self.method}_{self.seed}"


def finished(root: Path) -> list[Run]:
    """All finished runs in a folder."""
    candidates = [path.parent.name.rsplit("_", 2) for path in sorted(root.glob("*/seconds"))]
    return [Run(env, method, int(seed)) for env, method, seed in candidates]


def train(run: Run, root: Path) -> None:
    """Train with RL Zoo unless the run is done; its output goes to train.log in its folder."""
    folder = run.folder(root)
    done = folder / "seconds"
    if done.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "rl_zoo3.train", "--algo", "dqn", "--env", run.env, "-f", str(folder)]
    command += [*METHODS[run.method], "--seed", str(run.seed), "--num-threads", "1"]
    command += ["--eval-freq", str(ENVIRONMENTS[run.env]), "--eval-episodes", "20", "--n-eval-envs", "20"]
    start = time.time()
    with (folder / "train.log").open("w") as log:
        result = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    if result.returncode != 0:
        raise RuntimeError(f"{run} failed, see {folder / 'train.log'}: {' '.join(command)}")
    done.write_text(f"{time.time() - start:.0f}\n")


def evaluate(run: Run, root: Path) -> dict[str, object]:
    """Mean score of the run's best agent, greedy actions."""
    folder = run.folder(root)
    trained = folder / "dqn" / f"{run.env}_1"
    result = folder / "score"
    if not result.exists():
        model = DQN.load(trained / "best_model.zip", device="cpu", buffer_size=1)
        env = make_vec_env(run.env, n_envs=20, seed=EVAL_SEED)
        scores, _ = evaluate_policy(model, env, n_eval_episodes=EVAL_EPISODES, return_episode_rewards=True)
        result.write_text(f"{np.mean(scores):.2f} {np.std(scores):.2f}\n")
    mean, spread = map(float, result.read_text().split())
    return {**run._asdict(), "mean": mean, "std": spread, "train_seconds": int((folder / "seconds").read_text())}


def table(rows: list[dict[str, object]]) -> str:
    """A line for each environment and method: mean and standard deviation over seeds of the runs' mean scores."""
    lines = ["| environment | policy | seeds | mean score | std over seeds | each seed |", "|---|---|--:|--:|--:|---|"]
    for env in ENVIRONMENTS:
        for method in METHODS:
            means = np.array([row["mean"] for row in rows if (row["env"], row["method"]) == (env, method)], dtype=float)
            if len(means):
                each = ", ".join(f"{mean:.1f}" for mean in means)
                spread = f"{means.std(ddof=1):.1f}" if len(means) > 1 else ""
                lines.append(f"| {env} | {method} | {len(means)} | {means.mean():.1f} | {spread} | {each} |")
    return "\n".join(lines)


def plot(runs: list[Run], root: Path, file: Path) -> None:
    """Learning curves: RL Zoo's evaluations, each run thin, their mean thick."""
    environments = [env for env in ENVIRONMENTS if any(run.env == env for run in runs)]
    figure, axes = plt.subplots(1, len(environments), figsize=(4 * len(environments), 3), squeeze=False)
    for axis, env in zip(axes[0], environments, strict=True):
        for color, method in zip(("tab:orange", "tab:blue"), METHODS, strict=True):
            curves = []
            for run in runs:
                if (run.env, run.method) == (env, method):
                    logged = np.load(run.folder(root) / "dqn" / f"{env}_1" / "evaluations.npz")
                    curves.append(logged["results"].mean(axis=1))
                    axis.plot(logged["timesteps"], curves[-1], color=color, alpha=0.25, linewidth=0.8)
            if curves:
                axis.plot(logged["timesteps"], np.mean(curves, axis=0), color=color, label=method)
        axis.set(title=env, xlabel="steps", ylabel="score of 20 episodes")
        axis.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("logs/classic_control"), help="runs and results go here")
    parser.add_argument("--env", nargs="+", default=list(ENVIRONMENTS), choices=list(ENVIRONMENTS))
    parser.add_argument("--method", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5, help="runs of each environment and method")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    args = parser.parse_args()

    runs = [Run(env, method, seed) for env in args.env for seed in range(args.seeds) for method in args.method]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(tqdm(pool.map(lambda run: train(run, args.folder), runs), total=len(runs), desc="training"))
    th.set_num_threads(args.jobs)
    done = finished(args.folder)
    rows = [evaluate(run, args.folder) for run in tqdm(done, desc=f"{EVAL_EPISODES} episodes each")]

    with (args.folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    plot(done, args.folder, args.folder / "learning_curves.png")
    print(f"\n{describe()}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
