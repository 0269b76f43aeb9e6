"""
RL Zoo's commands for the Hub, with what is broken in them repaired::

    TRUST_REMOTE_CODE=True sb3-spiking load_from_hub --algo dqn --env CartPole-v1 -orga ORGANIZATION -f logs
    sb3-spiking push_to_hub --algo dqn --env CartPole-v1 -orga ORGANIZATION -f logs

``rl_zoo3.push_to_hub`` imports a name that huggingface_sb3 has changed, and ``rl_zoo3.load_from_hub`` waits for an exception
of requests, which huggingface_hub no longer raises, for every agent without ``vec_normalize.pkl``. Where the installed
versions are right, nothing is changed and these are RL Zoo's own commands.
"""

import functools
import importlib
import runpy
import sys
from typing import Any

import huggingface_sb3
import requests
from huggingface_hub.errors import EntryNotFoundError


class _MissingFile(EntryNotFoundError, requests.HTTPError):
    """There is no such file in a repository, for those who wait for either."""

    def __init__(self, error: EntryNotFoundError) -> None:
        Exception.__init__(self, str(error))


def repair() -> list[str]:
    """
    :return: what was missing and is there now
    """
    repaired = []
    push: Any = importlib.import_module("huggingface_sb3.push_to_hub")
    if not hasattr(push, "generate_metadata") and hasattr(push, "_generate_metadata"):
        push.generate_metadata = push._generate_metadata
        repaired.append("huggingface_sb3.push_to_hub.generate_metadata")
    if not issubclass(EntryNotFoundError, requests.HTTPError):
        download = huggingface_sb3.load_from_hub

        @functools.wraps(download)
        def load_from_hub(*args: Any, **kwargs: Any) -> str:
            try:
                return download(*args, **kwargs)
            except EntryNotFoundError as error:
                raise _MissingFile(error) from error

        huggingface_sb3.load_from_hub = load_from_hub
        repaired.append("the exception of huggingface_sb3.load_from_hub")
    return repaired


def run(command: str, arguments: list[str]) -> None:
    """
    :param command: one of :data:`~sb3_spiking.commands.ZOO_COMMANDS`
    :param arguments: RL Zoo's options for it
    """
    for name in repair():
        print(f"sb3_spiking: repaired {name}")
    sys.argv = [command, *arguments]
    runpy.run_module(f"rl_zoo3.{command}", run_name="__main__", alter_sys=True)
