"""What RL Zoo will make of the arguments of its ``train``: which hyperparameters, how many steps."""

import argparse
import contextlib
import io
import os
import shlex
from collections.abc import Sequence
from typing import Any

from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import StoreDict

from sb3_spiking.errors import AgentError, one_line


class _Added(StoreDict):
    """RL Zoo's action, which takes the last of several options alone: here the later ones are added to the earlier ones."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        before = getattr(namespace, self.dest)
        super().__call__(parser, namespace, values, option_string)
        setattr(namespace, self.dest, {**before, **getattr(namespace, self.dest)})


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """
    :param arguments: of RL Zoo's ``train``
    :return: those that say what is trained; the others pass by
    :raises AgentError: if they are not what RL Zoo takes
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--algo", default="ppo")
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("-n", "--n-timesteps", type=int, default=-1)
    parser.add_argument("-f", "--log-folder")
    parser.add_argument("-conf", "--conf-file")
    parser.add_argument("-params", "--hyperparams", nargs="+", action=_Added, default={})
    parser.add_argument("--env-kwargs", nargs="+", action=_Added, default={})
    parser.add_argument("--gym-packages", nargs="+", default=[])
    parser.add_argument("--vec-env", default="dummy")
    parser.add_argument("--seed", type=int, default=-1)
    for names in (("-uuid", "--uuid"), ("-optimize", "--optimize-hyperparameters"), ("-h", "--help")):
        parser.add_argument(*names, action="store_true")
    parser.add_argument("-i", "--trained-agent", default="")
    try:
        return parser.parse_known_args(arguments)[0]
    except Exception as error:  # RL Zoo evaluates values as Python
        raise AgentError(one_line(error)) from error


def what_it_trains(command: str) -> list[str]:
    """
    :param command: of a job, as it is kept with its results
    :return: its words but for the number of threads and the folders of a training, hyperparameters in one order: those of
        commands that train the same, or convert the same agent, are equal
    """
    words = shlex.split(command)
    passed = {"--num-threads"} | ({"-f", "--tensorboard-log"} if "rl_zoo3.train" in words else set())
    kept = [word for before, word in zip(["", *words], words, strict=False) if before not in passed]
    last = max((place for place, word in enumerate(kept) if word == "-params"), default=len(kept))
    return kept[:last] + sorted(kept[last:])


def read_hyperparams(options: argparse.Namespace) -> dict[str, Any]:
    """
    :param options: of :func:`read_options`
    :return: the hyperparameters that RL Zoo trains with, as its files and ``-params`` say them
    :raises AgentError: if there are none
    """
    conf, algo, env = options.conf_file, options.algo, options.env
    with contextlib.redirect_stdout(io.StringIO()):  # RL Zoo prints what it reads
        try:
            manager = ExperimentManager(options, algo, env, os.devnull, config=conf, env_kwargs=options.env_kwargs)
            found, _ = manager.read_hyperparameters()
        except Exception as error:  # no such file, no such module, nothing for the environment in it
            source = f"-conf {conf}" if conf else f"RL Zoo's {algo}.yml"
            raise AgentError(
                f"no hyperparameters of {algo} for {env} in {source}: {type(error).__name__}: {one_line(error)}"
            ) from error
    return {**found, **options.hyperparams}
