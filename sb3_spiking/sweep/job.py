"""
The process of a job: ``python -m sb3_spiking.sweep.job TASK``.

It trains, or goes on from the checkpoint of a process that was killed, scores and writes the result. It does nothing if the
job is done, or if another process trains it. It ends when the process that started it does, so that a job which goes on
elsewhere is trained by one process alone.
"""

import datetime
import gc
import os
import runpy
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import torch as th
from filelock import Timeout

from sb3_spiking.errors import AgentError
from sb3_spiking.evaluation.agents import import_packages
from sb3_spiking.files import replace_file
from sb3_spiking.sweep.process import PARENT
from sb3_spiking.sweep.records import Records
from sb3_spiking.sweep.scoring import write_command, write_result
from sb3_spiking.sweep.state import State, Task
from sb3_spiking.sweep.zoo_command import what_it_trains
from sb3_spiking.training.manifest import FOLDER, MANIFEST

LOG = "train.log"
# The command that a training began with
_COMMAND = "command.txt"
#: Exit status where another process trains the job
TAKEN = 75
# Seconds that a process which was killed may take to end
_PATIENCE = 60.0


def train(task: Task) -> Path:
    """
    Train as far as it takes, or convert.

    :return: folder of the run
    """
    folder = Path(task.logs)
    run = folder / task.algo / f"{task.env.replace('/', '-')}_1"
    if (run / FOLDER / MANIFEST).is_file():
        _check_command(folder / _COMMAND, task.shown)
        command = ["-m", "sb3_spiking", "resume", str(run), "--num-threads", str(task.threads)]
    else:
        command = task.command
        for path in folder.iterdir():
            if path.name != LOG:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        replace_file(folder / _COMMAND, task.shown.encode())
    print(f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S} {socket.gethostname()}: python {shlex.join(command)}", flush=True)
    _, module, *arguments = command
    sys.argv, sys.orig_argv = [module, *arguments], [sys.executable, *command]  # RL Zoo keeps the second as its command
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    gc.collect()  # the replay
    return run


def _check_command(file: Path, shown: str) -> None:
    """
    :param file: with the command that the training began with, if it is there
    :param shown: that of today's list
    :raises AgentError: if they train something else
    """
    began = file.read_text() if file.is_file() else shown
    if what_it_trains(began) != what_it_trains(shown):
        raise AgentError(
            f"{file.parent}: the training began with other settings than the list has now, {began}; remove the folder to "
            "begin anew, or change the list back to go on"
        )


def run(task: Task) -> None:
    """Train, score and write the result; what only going on needs goes."""
    folder, start = Path(task.logs), time.time()
    in_one_go = not list(folder.glob(f"*/*_1/{FOLDER}/{MANIFEST}"))
    trained = train(task)
    th.set_num_threads(task.threads)
    seconds = round(time.time() - start) if in_one_go else None
    import_packages(task.gym_packages)
    with State(Path(task.results)).draft(task.name) as draft:
        write_result(trained, task.algo, task.env, task.env_kwargs, task.episodes, seconds, draft)
        write_command(draft, task.shown)
    shutil.rmtree(trained / FOLDER, ignore_errors=True)
    print(f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S} {task.results}: {task.name} is done", flush=True)


def main(file: Path) -> int:
    """
    :param file: of the task
    :return: exit status: 0 if the job is done, 1 if it failed, :data:`TAKEN` if another process trains it
    """
    # RL Zoo takes an interrupt for the end of a training
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, args=(int(os.environ.get(PARENT, os.getppid())),), daemon=True).start()
    task = Task.read(file)
    state = State(Path(task.results))
    try:
        with state.lock(task.name, _PATIENCE):
            if task.name in Records(Path(task.results)).names():
                return 0
            state.set_failed(task.name, False)
            try:
                run(task)
            except BaseException as error:
                state.set_failed(task.name, True)
                if isinstance(error, SystemExit) and not error.code:  # as after --help
                    print(f"{task.name}: the command ended without an agent", flush=True)
                    return 1
                raise
    except Timeout:
        print(f"{task.name}: another process trains it", flush=True)
        return TAKEN
    return 0


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    print("the process that started this one has ended: so does this one", flush=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
