"""
RL Zoo's hook for extensions: it imports a module of this name, if there is one, before it reads the command line.

``python -m rl_zoo3.train --algo dqn --env ... -f sb3_spiking`` names a log folder only, which would train RL Zoo's
ReLU network. For exactly that, and no other command, ``-conf sb3_spiking`` is added. RL Zoo takes an ImportError in
here for a missing module and goes on, so one is turned into an error that stops.
"""

import argparse
import os
import sys


def algorithm_asked_for(arguments: list[str]) -> str | None:
    """
    :param arguments: the whole command, as in ``sys.orig_argv``
    :return: the algorithm of RL Zoo's ``train`` with a log folder ``sb3_spiking`` and no ``-conf``, None for other commands
    """
    for position, argument in enumerate(arguments):
        is_module = argument == "rl_zoo3.train" and arguments[position - 1] == "-m"
        is_script = argument.endswith(os.path.join("rl_zoo3", "train.py"))
        is_cli = argument == "train" and os.path.basename(arguments[position - 1]) == "rl_zoo3"
        if is_module or is_script or is_cli:
            break
    else:
        return None
    # The options as RL Zoo's own parser reads them; the others pass by
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--algo", default="ppo")
    parser.add_argument("-f", "--log-folder", default="logs")
    parser.add_argument("-conf", "--conf-file")
    try:
        options, _ = parser.parse_known_args(arguments[position + 1 :])
    except SystemExit:  # a malformed command: RL Zoo's own message comes next
        return None
    folder = os.path.basename(os.path.normpath(options.log_folder))
    return str(options.algo) if folder == "sb3_spiking" and options.conf_file is None else None


_algorithm = algorithm_asked_for(sys.orig_argv)
if _algorithm == "dqn":
    try:
        from sb3_spiking.zoo.hyperparams import HYPERPARAMS_FILE
    except ImportError as error:
        raise RuntimeError(
            "-f sb3_spiking trains a spiking agent, but the package sb3_spiking cannot be imported: "
            f"{error}. Install it, or choose another log folder for RL Zoo's ReLU agents."
        ) from error
    print(f"sb3_spiking: training a spiking agent (-conf sb3_spiking added), hyperparameters from {HYPERPARAMS_FILE}")
    sys.argv += ["-conf", "sb3_spiking"]
elif _algorithm is not None:
    print(f"sb3_spiking: --algo {_algorithm} trains RL Zoo's ReLU network; spiking agents are trained with --algo dqn")
