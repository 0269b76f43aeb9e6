"""Python in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import sb3_spiking


def environment(**variables):
    """This process's variables and others; a clone that is not installed is on the path, from any folder."""
    return {**os.environ, "PYTHONPATH": str(Path(sb3_spiking.__file__).parents[1]), **variables}


def python(*arguments, folder, **variables):
    """
    :param arguments: of the interpreter
    :param folder: that it runs in
    :param variables: of the environment
    :return: the process, which has ended, with what it printed
    """
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment(**variables), capture_output=True, text=True)


def finished(process):
    """What a process printed, errors too, which must have ended well."""
    output = process.stdout + process.stderr
    assert process.returncode == 0, output
    return output
