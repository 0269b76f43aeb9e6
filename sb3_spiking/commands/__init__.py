"""
The command line: ``sb3-spiking COMMAND``, or ``python -m sb3_spiking COMMAND``.

A command is a module in here with ``add_arguments(parser)`` and ``run(args)``, and an entry in :data:`COMMANDS`. Nothing
imports from it.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from sb3_spiking.errors import AgentError

#: Commands of our own, each a module in here, and what they do
COMMANDS = {
    "evaluate": "scores, firing rates and energy of trained agents, side by side",
    "look": "a page and a video of agents at play: what fires, and why they act",
    "robustness": "scores of agents whose weights are rounded, or that see only a part",
    "convert": "a trained ReLU agent becomes a spiking one",
    "sweep": "lists of trainings, on this machine, Slurm or Ray: scores side by side",
    "export": "an agent for other simulators and for chips, and whether it is the same there",
    "resume": "a training goes on from its checkpoint",
}
#: Commands of RL Zoo, repaired; they have its options
ZOO_COMMANDS = {
    "load_from_hub": "RL Zoo's command, repaired: an agent of the Hugging Face Hub to a log folder",
    "push_to_hub": "RL Zoo's command, repaired: an agent of a log folder to the Hugging Face Hub",
}


class _Parser(argparse.ArgumentParser):
    """Wrong input is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message.removeprefix('argument ')}\n")


def _parser() -> _Parser:
    everything = {**COMMANDS, **ZOO_COMMANDS}
    width = max(map(len, everything))
    lines = [f"  {name:{width}}  {what}" for name, what in everything.items()]
    parser = _Parser(
        prog="sb3-spiking",
        description="What one does with spiking agents of SB3's DQN, beside training them with RL Zoo.",
        epilog="commands:\n" + "\n".join(lines) + "\n\nsb3-spiking COMMAND --help says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=list(everything), metavar="COMMAND", help="one of those below")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run a command; wrong input ends it with one line on standard error and status 2.

    :param arguments: of the command line, None for those of the process
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = _parser().parse_args(given[:1]).command, given[1:]
    try:
        if name in ZOO_COMMANDS:
            from sb3_spiking.zoo import hub_commands

            hub_commands.run(name, rest)
            return
        command = importlib.import_module(f"{__name__}.{name}")
        parser = _Parser(
            prog=f"sb3-spiking {name}",
            description=command.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(parser)
        command.run(parser.parse_args(rest))
    except (AgentError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted: what was finished is kept, the same command does the rest", file=sys.stderr)
        sys.exit(130)
