"""
What a job has trained plays new episodes, and what it leaves is written as a folder of :mod:`~sb3_spiking.sweep.records`.

The score of a job is the mean over 100 new episodes of its best agent, by RL Zoo's evaluations during the training; what its
last agent scores is kept beside it (``last_mean``). Actions are greedy, but in Atari, where whole games are played at the
epsilon of the training, as in RL Zoo's evaluations: who waits for the ball of Breakout would wait for ever.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import yaml
from huggingface_sb3.naming_schemes import EnvironmentName
from rl_zoo3 import ALGOS
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import set_random_seed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_spiking.errors import AgentError
from sb3_spiking.evaluation.agents import Agent, import_packages
from sb3_spiking.files import replace_file
from sb3_spiking.sharing.zoo_files import read_environment
from sb3_spiking.sweep.lists import TrainingList
from sb3_spiking.sweep.machine import describe

SCORE_SEED = 1_000_000  # episodes that no training has seen


def write_result(
    run: Path, algo: str, env: str, env_kwargs: dict[str, Any], episodes: int, seconds: int | None, folder: Path
) -> None:
    """
    Score the agents of a run, and write all that is kept of it but the command.

    :param run: folder of RL Zoo's run, or of a converted agent
    :param algo: RL Zoo's name of the algorithm
    :param env: id of the environment
    :param env_kwargs: arguments of the environment
    :param episodes: new ones, of a score
    :param seconds: that the training took, None where it did not go in one go
    :param folder: that the result goes to, empty
    """
    (config,) = run.glob("*/config.yml")
    shutil.copy(config, folder / "config.yml")
    models = [
        ALGOS[algo].load(file, device="cpu") for name in ("best_model", EnvironmentName(env)) for file in _zips(run, name)
    ]
    scores = [play(env, model, folder, env_kwargs, episodes) for model in models]
    score = {"mean": np.mean(scores[0]), "std": np.std(scores[0]), "max": np.max(scores[0]), "train_seconds": seconds}
    if len(scores) > 1:
        score |= {"last_mean": np.mean(scores[1]), "last_std": np.std(scores[1])}
    if (run / "evaluations.npz").is_file():
        logged = np.load(run / "evaluations.npz")
        evaluations = {"timesteps": logged["timesteps"], "mean": logged["results"].mean(1), "std": logged["results"].std(1)}
        pd.DataFrame(evaluations).round(3).to_csv(folder / "evaluations.csv", index=False)
    activity = spikes(run.parents[1] / "tensorboard")
    if not activity.empty:
        activity.to_csv(folder / "spikes.csv")
    settings = getattr(models[0].policy, "settings", None)
    if settings is not None:  # the defaults among them
        (folder / "settings.yml").write_text(yaml.safe_dump(json.loads(json.dumps(settings.as_dict())), sort_keys=False))
    pd.DataFrame([score]).round(3).to_csv(folder / "score.csv", index=False)


def write_command(folder: Path, command: str) -> None:
    """
    :param folder: of a result
    :param command: that trained it
    """
    (folder / "command.txt").write_text(f"{command}\n{describe()}\n")


def _zips(run: Path, name: str) -> list[Path]:
    """A list of one file, or of none: a converted agent has no best model."""
    return [file for file in [run / f"{name}.zip"] if file.is_file()]


def play(env: str, model: Any, folder: Path, env_kwargs: dict[str, Any], episodes: int) -> list[float]:
    """
    :param env: id of the environment
    :param model: that plays, None for random actions
    :param folder: where the ``config.yml`` of its training is
    :param env_kwargs: arguments of the environment
    :param episodes: whole games in Atari
    :return: their scores
    :raises AgentError: if an episode ends behind Monitor's back, which is no episode for RL Zoo's evaluations either: they
        would wait for ever
    """
    hyperparams, _ = read_environment(folder, trusted=True)  # of a training of one's own
    player = Agent(env, "", env, model, folder, hyperparams, str(folder), env_kwargs)
    environments = player.make_env(min(20, episodes), SCORE_SEED, whole_games=True)
    set_random_seed(SCORE_SEED)
    if model is None:
        model = _Random(environments.action_space)
    deterministic = not player.is_stochastic

    def check(step: dict[str, Any], _: dict[str, Any]) -> None:
        if step["done"] and "episode" not in step["info"]:
            raise AgentError(
                f"{env}: an episode ended that Monitor saw no end of, by a wrapper outside of it: end episodes by arguments "
                "of the environment, env_kwargs: {max_episode_steps: ...}"
            )

    scores, _ = evaluate_policy(model, environments, episodes, deterministic, callback=check, return_episode_rewards=True)
    assert isinstance(scores, list)
    return scores


def spikes(folder: Path) -> pd.DataFrame:
    """
    :param folder: TensorBoard's log of one training
    :return: what SpikeMonitor logged for each layer, a column each, by ``timesteps``; empty without a SpikeMonitor
    """
    columns: dict[str, dict[int, float]] = {}
    for file in sorted(folder.rglob("events*")):  # one for each time that the training went on
        log = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        for tag in sorted(log.Tags()["scalars"]):
            if tag.startswith(("firing_rate/", "silent_neurons/", "saturated_neurons/", "saturated_windows/")):
                columns.setdefault(tag, {}).update((event.step, event.value) for event in log.Scalars(tag))
    return pd.DataFrame(columns).rename_axis("timesteps").round(5)


def known_random_scores(results: Path) -> dict[str, float]:
    """
    :param results: folder of a list
    :return: mean scores of random actions that were played already, by environment
    """
    file = results / "random.csv"
    return pd.read_csv(file, index_col=0)["mean"].to_dict() if file.exists() else {}


def random_scores(jobs: TrainingList) -> dict[str, float]:
    """Mean scores of random actions in the environments of the finished jobs; those that are not known are played."""
    known = known_random_scores(jobs.results)
    # Wrappers may differ from method to method: in the environment of the reference, where it is there
    for job in sorted(jobs.finished(), key=lambda job: job.method != jobs.reference):
        if job.env not in known:
            import_packages(jobs.gym_packages(job))
            with jobs.records.config_folder(job.name) as folder:
                scores = play(job.env, None, folder, jobs.env_kwargs_of(job), jobs.score_episodes)
                known[job.env] = round(float(np.mean(scores)), 3)
            table = pd.DataFrame({"mean": known}).rename_axis("environment").to_csv()
            replace_file(jobs.results / "random.csv", table.encode())
    return known


class _Random:
    """A policy that acts at random."""

    def __init__(self, action_space: gym.Space) -> None:
        self._action_space = action_space
        action_space.seed(SCORE_SEED)

    def predict(self, observations: np.ndarray | dict[str, np.ndarray], *args: Any, **kwargs: Any) -> tuple[np.ndarray, None]:
        count = len(next(iter(observations.values()))) if isinstance(observations, dict) else len(observations)
        return np.array([self._action_space.sample() for _ in range(count)]), None
