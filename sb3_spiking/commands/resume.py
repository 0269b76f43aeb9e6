"""
Go on with a run of RL Zoo that was killed, in its own folder, from its checkpoint.

    sb3-spiking resume logs/dqn/CartPole-v1_1

The run must have been trained with the callback sb3_spiking.Checkpoint. Its settings come from what RL Zoo saved in the
folder, which RL Zoo evaluates as code: this command is for your own runs.
"""

import argparse
from pathlib import Path

from sb3_spiking.commands.arguments import at_least
from sb3_spiking.training.resume import resume


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("folder", type=Path, help="of the run, such as logs/dqn/CartPole-v1_1")
    parser.add_argument("--num-threads", type=at_least(1), help="threads for PyTorch (default: as the run began)")


def run(args: argparse.Namespace) -> None:
    """Go on."""
    resume(args.folder.resolve(), args.num_threads)
