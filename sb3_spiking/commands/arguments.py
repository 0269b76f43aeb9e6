"""What the commands have in common: RL Zoo's options, the kinds of arguments, and the agents that they name."""

import argparse
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch as th
from rl_zoo3.utils import StoreDict

from sb3_spiking.errors import AgentError, one_line
from sb3_spiking.evaluation.agents import Agent, import_packages, load_agent

# Environments take 32 bits, of which a seed's episodes take a million
_LARGEST_SEED = 4000


class _StoreDict(StoreDict):
    """RL Zoo's, which evaluates values as Python: text needs quotes."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        try:
            super().__call__(parser, namespace, values, option_string)
        except Exception as error:  # whatever Python says of it
            expected = "expected name:value, values as in Python, text in quotes that the shell leaves: name:'\"text\"'"
            raise argparse.ArgumentError(None, f"{option_string} {' '.join(values)}: {one_line(error)}; {expected}") from error


def _number(text: str, kind: type[Any], low: float, high: float, expected: str) -> Any:
    try:
        number = kind(text)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise argparse.ArgumentTypeError(f"{text}: expected {expected}")
    return number


def at_least(least: int) -> Callable[[str], int]:
    """
    :param least: the smallest number that is taken
    :return: a type of arguments: whole numbers
    """
    return lambda text: _number(text, int, least, math.inf, f"a whole number of at least {least}")


def probability(text: str) -> float:
    """A number from 0 to 1."""
    return _number(text, float, 0, 1, "0 to 1")


def positive(text: str) -> float:
    """A number above 0."""
    return _number(text, float, math.ulp(0), math.inf, "a number above 0")


def percentile(text: str) -> float:
    """A number above 0, up to 100."""
    return _number(text, float, math.ulp(0), 100, "above 0, up to 100")


def seed(text: str) -> int:
    """A whole number whose episodes all have seeds that environments take."""
    return _number(text, int, 0, _LARGEST_SEED, f"0 to {_LARGEST_SEED}")


def add_agent_arguments(parser: argparse.ArgumentParser, several: bool, parallel: bool = True) -> None:
    """
    RL Zoo's options that name a trained agent.

    :param parser: to add them to
    :param several: whether to take several environments, folders and runs
    :param parallel: whether environments run side by side
    """
    nargs: dict[str, Any] = {"nargs": "+"} if several else {}

    def default(value: Any) -> Any:
        return [value] if several else value

    parser.add_argument("--algo", default="dqn", help="algorithm, RL Zoo's name")
    parser.add_argument("--env", default=default("CartPole-v1"), help="environment id", **nargs)
    parser.add_argument("-f", "--folder", default=default("logs"), help="log folder of RL Zoo", **nargs)
    parser.add_argument("--exp-id", type=int, default=default(0), help="run; 0: the latest, -1: no folder of runs", **nargs)
    parser.add_argument("--load-best", action="store_true", help="load the best model in place of the last one")
    parser.add_argument("--load-checkpoint", type=int, help="load the checkpoint after this number of steps")
    parser.add_argument("--load-last-checkpoint", action="store_true", help="load the last checkpoint")
    parser.add_argument("--trust", action="store_true", help="unpickle the agent's files, which can run anything")
    parser.add_argument("--env-kwargs", nargs="+", action=_StoreDict, help="arguments of the environment")
    parser.add_argument("--gym-packages", nargs="+", default=[], help="packages that register environments")
    parser.add_argument("--device", default="auto", help="PyTorch device")
    parser.add_argument("--num-threads", type=int, default=-1, help="threads for PyTorch (-1: its default)")
    if not parallel:
        return
    parser.add_argument("--n-envs", type=at_least(1), default=8, help="environments in parallel")
    parser.add_argument("--vec-env", choices=["dummy", "subproc"], default="dummy", help="VecEnv type")


def prepare(args: argparse.Namespace) -> None:
    """Import the packages and set the threads that the command line names."""
    import_packages(args.gym_packages)
    if args.num_threads > 0:
        th.set_num_threads(args.num_threads)


def load_agents(args: argparse.Namespace) -> list[Agent]:
    """Each environment, folder and run of the command line, with names that tell them apart."""
    agents, paths = [], set()
    for env, folder, run in itertools.product(args.env, args.folder, args.exp_id):
        agent = _load(args, env, folder, run)
        if agent.path.resolve() in paths:
            raise AgentError(f"{agent.path} is named twice: --env, -f and --exp-id (0 is the latest run) each once")
        paths.add(agent.path.resolve())
        agents.append(agent)
    names = [(agent.env_id, agent.name) for agent in agents]
    for agent in agents:
        if names.count((agent.env_id, agent.name)) > 1:
            agent.name = str(agent.path.parent)
    return agents


def load_one(args: argparse.Namespace) -> Agent:
    """The one agent of a command line that takes one."""
    return _load(args, args.env, args.folder, args.exp_id)


def _load(args: argparse.Namespace, env: str, folder: str, run: int) -> Agent:
    agent = load_agent(
        folder,
        args.algo,
        env,
        exp_id=run,
        load_best=args.load_best,
        load_checkpoint=args.load_checkpoint,
        load_last_checkpoint=args.load_last_checkpoint,
        device=args.device,
        env_kwargs=args.env_kwargs,
        trusted=args.trust,
    )
    agent.check()
    return agent
