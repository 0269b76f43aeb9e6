"""
RL Zoo's hook for extensions: it imports a module of this name, if there is one, before it reads the command line.

``python -m rl_zoo3.train --algo dqn --env ... -f sb3_spiking`` names a log folder only, which would train RL Zoo's
ReLU network. For exactly that, and no other command, ``-conf sb3_spiking`` is added. RL Zoo takes an ImportError in
here for a missing module and goes on, so one is turned into an error that stops.
"""

import argparse
import os
import sys


def asks_for_spiking(arguments: list[str]) -> bool:
    """
    :param arguments: the whole command, as in ``sys.orig_argv``
    :return: whether it is RL Zoo's ``train`` for a DQN with a log folder ``sb3_spiking`` and no ``-conf``; for another
        algorithm there, it prints that this is not spiking
    """
    for position, argument in enumerate(arguments):
        is_module = argument == "rl_zoo3.train" and arguments[position - 1] == "-m"
        is_script = argument.endswith(os.path.join("rl_zoo3", "train.py"))
        is_cli = argument == "train" and os.path.basename(arguments[position - 1]) == "rl_zoo3"
        if is_module or is_script or is_cli:
            break
    else:
        return False
    # The options as RL Zoo's own parser reads them; the others pass by
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--algo", default="ppo")
    parser.add_argument("-f", "--log-folder", default="logs")
    parser.add_argument("-conf", "--conf-file")
    try:
        options, _ = parser.parse_known_args(arguments[position + 1 :])
    except SystemExit:  # a malformed command: RL Zoo's own message comes next
        return False
    folder = os.path.basename(os.path.normpath(options.log_folder))
    asked = folder == "sb3_spiking" and options.conf_file is None
    if asked and options.algo != "dqn":
        print(f"sb3_spiking: --algo {options.algo} trains RL Zoo's ReLU network; spiking agents are trained with --algo dqn")
    return asked and options.algo == "dqn"


if asks_for_spiking(sys.orig_argv):
    try:
        from sb3_spiking.zoo import HYPERPARAMS_FILE
    except ImportError as error:
        raise RuntimeError(
            "-f sb3_spiking trains a spiking agent, but the package sb3_spiking cannot be imported: "
            f"{error}. Install it, or choose another log folder for RL Zoo's ReLU agents."
        ) from error
    print(f"sb3_spiking: training a spiking agent (-conf sb3_spiking added), hyperparameters from {HYPERPARAMS_FILE}")
    sys.argv += ["-conf", "sb3_spiking"]
