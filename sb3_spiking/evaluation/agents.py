"""Trained agents in RL Zoo's folders, and the environments that they were made for."""

import contextlib
import copy
import hashlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import rl_zoo3.import_envs  # noqa: F401  registers RL Zoo's environments
from gymnasium.envs.registration import find_highest_version, get_env_id, parse_env_id
from huggingface_sb3.naming_schemes import EnvironmentName
from rl_zoo3 import ALGOS
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import create_test_env, get_model_path
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_spiking.errors import AgentError, one_line
from sb3_spiking.evaluation.returns import Returns
from sb3_spiking.sharing.archive import read_agent
from sb3_spiking.sharing.loading import build
from sb3_spiking.sharing.zoo_files import read_environment

_ATARI_WRAPPER = "stable_baselines3.common.atari_wrappers.AtariWrapper"
_ATARI_PREPROCESSING = (
    "gymnasium.wrappers.AtariPreprocessing",
    "gymnasium.wrappers.atari_preprocessing.AtariPreprocessing",
)
_RETURNS = f"{Returns.__module__}.{Returns.__name__}"
# What RL Zoo's hyperparameters put around an environment
AROUND = ("env_wrapper", "vec_env_wrapper", "frame_stack")
# Wrappers that a part of a game is an episode by, or that change rewards
_OF_TRAINING = (
    "stable_baselines3.common.atari_wrappers.EpisodicLifeEnv",
    "stable_baselines3.common.atari_wrappers.ClipRewardEnv",
)


@dataclass
class Agent:
    """
    A trained agent.

    :param name: what tables and plots call it
    :param algo: RL Zoo's name of its algorithm
    :param env_id: id of its Gymnasium environment
    :param model: the loaded algorithm
    :param path: its zip
    :param hyperparams: what RL Zoo saved beside it
    :param stats_path: folder of hyperparameters and normalisation
    :param env_kwargs: arguments of the environment
    :param wrappers: Gymnasium wrappers around its own, each as RL Zoo writes it: {dotted name: arguments}
    :param folder: log folder that it was asked for in
    """

    name: str
    algo: str
    env_id: str
    model: BaseAlgorithm
    path: Path
    hyperparams: dict[str, Any]
    stats_path: str
    env_kwargs: dict[str, Any]
    wrappers: tuple[dict[str, dict[str, Any]], ...] = ()
    folder: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the zip: whether two files hold the same agent."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def statistics(self) -> str:
        """SHA-256 of what VecNormalize knows, "" without it."""
        file = Path(self.stats_path) / "vecnormalize.pkl"
        return hashlib.sha256(file.read_bytes()).hexdigest() if self.hyperparams.get("normalize") and file.is_file() else ""

    @property
    def environment(self) -> str:
        """What its environment is made of beside its id: whether two episodes are of the same one."""
        around = {name: self.hyperparams[name] for name in AROUND if self.hyperparams.get(name)}
        listed = {name: each if name == "frame_stack" or isinstance(each, list) else [each] for name, each in around.items()}
        normalised = {"normalize": self.statistics} if self.statistics else {}
        return repr({**self.env_kwargs, **listed, **normalised})

    @property
    def is_atari(self) -> bool:
        """Whether its environment is an Atari game."""
        return ExperimentManager.is_atari(self.env_id)

    @property
    def is_stochastic(self) -> bool:
        """Whether RL Zoo evaluates it with random actions: in Atari and MiniGrid games."""
        return self.is_atari or ExperimentManager.is_minigrid(self.env_id)

    def make_env(
        self,
        n_envs: int = 1,
        seed: int = 0,
        *,
        whole_games: bool = False,
        subprocesses: bool = False,
    ) -> VecEnv:
        """
        :param n_envs: environments in parallel
        :param seed: of the first one; the others have the next ones
        :param whole_games: in Atari, an episode is a whole game and rewards are not clipped
        :param subprocesses: one process for each environment
        :return: environments that the agent was trained in, observations normalised and stacked; ``info`` has what
            :class:`Returns` adds
        :raises AgentError: if they cannot be made
        """
        hyperparams = copy.deepcopy(self.hyperparams)
        own = hyperparams.get("env_wrapper") or []
        own = own if isinstance(own, list) else [own]
        hyperparams["env_wrapper"] = [_RETURNS, *_wrappers(own, whole_games), *self.wrappers]
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # RL Zoo reports what it stacks and loads each time
                return create_test_env(
                    self.env_id,
                    n_envs=n_envs,
                    stats_path=self.stats_path,
                    seed=seed,
                    should_render=False,
                    hyperparams=hyperparams,
                    env_kwargs=self.env_kwargs,
                    vec_env_cls=SubprocVecEnv if subprocesses else DummyVecEnv,
                )
        except Exception as error:  # whatever an environment or a wrapper says of its arguments
            reason = one_line(error)
            raise AgentError(f"{self.stats_path}: no environment {self.env_id} as it says: {reason}") from error

    def check(self) -> None:
        """
        Take a step in its environment.

        :raises AgentError: if the environment cannot be made, does not work, or is not the one that it was trained in
        """
        env = self.make_env()
        try:
            if _kind(env.action_space) != _kind(self.model.action_space):
                raise ValueError(f"its actions are {env.action_space}, those of the agent {self.model.action_space}")
            observation: Any = env.reset()
            actions, _ = self.model.predict(observation, deterministic=True)
            env.step(np.asarray(actions))
        except Exception as error:  # whatever an environment or a wrapper says
            reason = one_line(error)
            raise AgentError(f"{self.path}: does not play {self.env_id} as {self.stats_path} has it: {reason}") from error
        finally:
            env.close()


def _kind(space: gym.Space) -> tuple[Any, ...]:
    """What two spaces of actions have in common that mean the same: bounds may be rounded."""
    return type(space), space.shape, getattr(space, "n", None)


def _wrappers(wrappers: list[Any], whole_games: bool) -> list[Any]:
    """For whole games without what ends an episode with a life or clips rewards."""
    kept = []
    for wrapper in wrappers:
        name, arguments = next(iter(wrapper.items())) if isinstance(wrapper, dict) else (wrapper, {})
        if name in _ATARI_PREPROCESSING:  # begins a new game after each life: in none would there be a whole one
            kept.append({name: {**(arguments or {}), "terminal_on_life_loss": False}})
        elif whole_games and name == _ATARI_WRAPPER:
            kept.append({name: {**(arguments or {}), "terminal_on_life_loss": False, "clip_reward": False}})
        elif not whole_games or name not in _OF_TRAINING:
            kept.append(wrapper)
    return kept


def import_packages(names: Sequence[str]) -> None:
    """
    :param names: of packages that register environments
    :raises AgentError: if one cannot be imported
    """
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever it does when it is imported
            raise AgentError(f"--gym-packages {name}: {one_line(error)}") from error


def load_agent(
    folder: str | Path,
    algo: str,
    env_id: str,
    *,
    exp_id: int = 0,
    load_best: bool = False,
    load_checkpoint: int | None = None,
    load_last_checkpoint: bool = False,
    device: str = "auto",
    env_kwargs: dict[str, Any] | None = None,
    trusted: bool = False,
) -> Agent:
    """
    :param folder: log folder, RL Zoo's ``-f``
    :param algo: RL Zoo's name of the algorithm
    :param env_id: id of the Gymnasium environment
    :param exp_id: run, 0 for the latest, -1 for a folder without runs
    :param load_best: the best model in place of the last one
    :param load_checkpoint: the checkpoint after this number of steps
    :param load_last_checkpoint: the last checkpoint
    :param device: of the network
    :param env_kwargs: arguments of the environment on top of those that it was trained with
    :param trusted: unpickle what is in the agent's files, as RL Zoo does, which can run anything; without it, agents whose
        policies have classes of others, or whose observations are normalised, are refused
    :return: the agent
    :raises AgentError: if there is no such agent or its file is damaged
    """
    if algo not in ALGOS:
        raise AgentError(f"--algo {algo}: expected one of {', '.join(ALGOS)}")
    name = EnvironmentName(env_id)
    env_id = playable(env_id)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            checkpoint = None if load_checkpoint is None else str(load_checkpoint)
            _, path, log_path = get_model_path(exp_id, str(folder), algo, name, load_best, checkpoint, load_last_checkpoint)
    except (AssertionError, ValueError) as error:
        raise AgentError(f"no {algo} agent for {name} in {folder}: {error}. {_what_there_is(Path(folder))}") from error
    stats_path = str(Path(log_path) / name)
    hyperparams, kwargs = read_environment(Path(stats_path), trusted)
    run = Path(log_path).name
    folder_name = Path(os.path.abspath(folder)).name  # of "." too; links keep their name
    label = f"{folder_name}/{run[len(name) + 1 :]}" if run.startswith(f"{name}_") else folder_name
    if trusted:
        model = _unpickle(Path(path), algo, hyperparams, device)
    else:
        model = build(ALGOS[algo], read_agent(path), device=device)
    if "Recurrent" in type(model.policy).__name__:
        raise AgentError(
            f"{path}: a recurrent policy, {type(model.policy).__name__}; expected one without a state between decisions"
        )
    kwargs |= env_kwargs or {}
    return Agent(label, algo, env_id, model, Path(path), hyperparams, stats_path, kwargs, folder=str(folder))


def playable(env_id: str) -> str:
    """
    :return: the id of the environment, of its next version if Gymnasium has that one alone, which a line says
    :raises AgentError: if there is none
    """
    with contextlib.suppress(gym.error.Error):
        if env_id in gym.registry:
            return env_id
        namespace, name, version = parse_env_id(env_id)
        newest = find_highest_version(namespace, name)
        if version is not None and newest is not None and newest > version:
            current = get_env_id(namespace, name, newest)
            print(f"Gymnasium has no {env_id} any more: its agent plays {current}", file=sys.stderr)
            return current
    raise AgentError(f"--env {env_id}: there is no such environment; a package that registers it is named by --gym-packages")


def _unpickle(path: Path, algo: str, hyperparams: dict[str, Any], device: str) -> BaseAlgorithm:
    # What RL Zoo's enjoy passes: what only training needs is left out
    kwargs: dict[str, Any] = {}
    if algo in ("qrdqn", "dqn", "ddpg", "sac", "her", "td3", "tqc"):
        kwargs["buffer_size"] = 1
        if "optimize_memory_usage" in hyperparams:
            kwargs["optimize_memory_usage"] = False
    schedules = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ALGOS[algo].load(path, custom_objects=schedules, device=device, **kwargs)
    except Exception as error:  # a damaged zip, or that of another algorithm, fails in many ways
        reason = one_line(error)
        raise AgentError(f"{path} does not load as an agent of {algo}: {reason[:300]}") from error


def _what_there_is(folder: Path) -> str:
    if not folder.is_dir():
        return "There is no such folder."
    zips = sorted({zip_path.parent for algo in ALGOS for zip_path in folder.glob(f"{algo}/*/*.zip")})
    runs = ", ".join(str(path.relative_to(folder)) for path in zips[:8])
    return f"The folder holds {runs}{', ...' if len(zips) > 8 else ''}." if zips else "The folder holds no agents."
