"""
Going on with a run of RL Zoo that was killed, in its own folder, from its checkpoint.

The run must have been trained with the callback :class:`sb3_spiking.Checkpoint`. Its settings come from what RL Zoo saved in
the folder, which RL Zoo evaluates as code: this is for your own runs.
"""

import argparse
import importlib
import itertools
import json
import os
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch as th
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed

from sb3_spiking.errors import AgentError
from sb3_spiking.files import replace_file
from sb3_spiking.sharing.zoo_files import read_yaml
from sb3_spiking.training.checkpoint import Checkpoint, is_among, restore
from sb3_spiking.training.manifest import FOLDER, MANIFEST, check_files, read_manifest

# What RL Zoo's args.yml says that an experiment takes by the same name, and what is used of the rest
_ARGUMENTS = (
    *("n_timesteps", "eval_freq", "save_freq", "env_kwargs", "eval_env_kwargs", "seed", "log_interval"),
    *("save_replay_buffer", "verbose", "n_eval_envs", "device", "tensorboard_log", "log_folder"),
)
_OURS = ("algo", "env", "eval_episodes", "vec_env", "progress", "gym_packages", "num_threads")


class ResumedExperiment(ExperimentManager):
    """
    An experiment of RL Zoo whose folder is there already.

    :param folder: of the run
    :param arguments: of RL Zoo's ``train``, as it saved them
    :param hyperparams: that the run was trained with
    """

    def __init__(self, folder: Path, arguments: dict[str, Any], hyperparams: dict[str, Any]) -> None:
        super().__init__(
            argparse.Namespace(**arguments),
            arguments["algo"],
            arguments["env"],
            n_eval_episodes=arguments["eval_episodes"],
            vec_env_type=arguments["vec_env"],
            show_progress=arguments["progress"],
            config=str(folder),
            **{name: arguments[name] for name in _ARGUMENTS},
        )
        self._saved = hyperparams
        self.save_path = str(folder)
        self.params_path = str(folder / self.env_name)

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        if "env_kwargs" in self._saved and self.env_kwargs and self._eval_env_kwargs_args is None:
            self.eval_env_kwargs = self._saved["env_kwargs"]
        return dict(self._saved), OrderedDict(sorted(self._saved.items()))

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        pass  # they are there

    def learn(self, model: BaseAlgorithm) -> None:
        """The rest of the training."""
        checkpoint = next(callback for callback in self.callbacks if isinstance(callback, Checkpoint))
        done = restore(model, Path(self.save_path) / FOLDER, checkpoint)
        rest = int(self.n_timesteps) - done
        print(f"{done} of {int(self.n_timesteps)} steps are done, {rest} to go")
        interval = {} if self.log_interval == -1 else {"log_interval": self.log_interval if self.log_interval > -1 else None}
        try:
            model.learn(max(rest, 0), callback=self.callbacks, reset_num_timesteps=False, **interval)  # type: ignore[arg-type]
        finally:
            self.callbacks[0].on_training_end()
            assert model.env is not None
            model.env.close()


def keep_monitor_files(folder: Path) -> None:
    """
    RL Zoo begins its monitor files anew. Those of the checkpoint stay, up to where they were, under names that SB3's
    ``load_results`` reads too; episodes that were lost with a kill go.

    :param folder: of the run
    """
    file = folder / FOLDER / MANIFEST
    manifest = read_manifest(file.parent)
    written, kept = manifest["monitors"], {}
    for monitor in folder.glob("*.monitor.csv"):
        if monitor.name not in written:
            monitor.unlink()
            continue
        os.truncate(monitor, min(written[monitor.name], monitor.stat().st_size))
        kept[monitor.name] = monitor
    for name in [name for name in kept if name[0].isdigit()]:
        part = next(number for number in itertools.count(1) if not (folder / f"part{number}-{name}").exists())
        kept[f"part{part}-{name}"] = Path(shutil.copy(kept.pop(name), folder / f"part{part}-{name}"))
    manifest["monitors"] = {name: monitor.stat().st_size for name, monitor in kept.items()}
    replace_file(file, json.dumps(manifest).encode())


def resume(folder: Path, num_threads: int | None = None) -> None:
    """
    :param folder: of RL Zoo's run
    :param num_threads: for PyTorch (None: as many as the run began with)
    :raises AgentError: if there is no run or no checkpoint in it
    """
    arguments_files = list(folder.glob("*/args.yml"))
    if len(arguments_files) != 1:
        raise AgentError(f"{folder}: no run of RL Zoo, expected a folder such as logs/dqn/CartPole-v1_1")
    if not (folder / FOLDER / MANIFEST).is_file():
        raise AgentError(
            f"{folder / FOLDER}: there is no checkpoint; runs have one when they are trained with the callback "
            "sb3_spiking.Checkpoint and have come to its save_freq"
        )
    check_files(folder / FOLDER, read_manifest(folder / FOLDER))
    (file,) = arguments_files
    arguments, hyperparams = read_yaml(file), read_yaml(file.with_name("config.yml"))
    missing = [name for name in (*_ARGUMENTS, *_OURS) if name not in arguments]
    if missing:
        raise AgentError(f"{file}: not what RL Zoo writes: there is no {', '.join(missing)}")
    if not is_among(hyperparams.get("callback")):
        raise AgentError(f"{file.with_name('config.yml')}: there is no sb3_spiking.Checkpoint among the callbacks")
    try:
        for package in arguments["gym_packages"]:
            importlib.import_module(package)
        set_random_seed(arguments["seed"])
        threads = num_threads or arguments["num_threads"]
        if threads > 0:
            th.set_num_threads(threads)
    except Exception as error:  # numbers that are text, packages that are not there
        raise AgentError(f"{file}: {type(error).__name__}: {error}") from error
    keep_monitor_files(folder)
    experiment = ResumedExperiment(folder, arguments, hyperparams)
    results = experiment.setup_experiment()
    assert results is not None
    model, _ = results
    experiment.learn(model)
    experiment.save_trained_model(model)
