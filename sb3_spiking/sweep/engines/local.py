"""Jobs as processes of this machine."""

import math
import os
import signal
import subprocess

import torch as th

from sb3_spiking.errors import AgentError
from sb3_spiking.sweep.engines import Outcome, Resources, outcome
from sb3_spiking.sweep.process import Process


class LocalRun:
    """A process of this machine, and the slot that it takes."""

    def __init__(self, process: "subprocess.Popen[bytes]", slot: int) -> None:
        self.process, self.slot = process, slot

    def poll(self) -> Outcome | None:
        status = self.process.poll()
        return None if status is None else outcome(status)


class Local:
    """
    As many jobs as there are cores, memory and GPUs for.

    :param resources: of a job
    :raises AgentError: if there is not enough for one
    """

    def __init__(self, resources: Resources) -> None:
        self._gpus = resources.gpus
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        have: dict[str, tuple[int, float, str]] = {"cores": (cores, resources.threads, "--threads")}
        if resources.memory is not None:
            gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
            have["GB of memory"] = (int(gigabytes), resources.memory, "--memory")
        if resources.gpus:
            have["GPUs"] = (th.cuda.device_count(), resources.gpus, "--gpus")
        for what, (there, asked, option) in have.items():
            if asked > there:
                raise AgentError(f"{option} {asked:g}: this machine has {there} {what}")
        self.slots: int | None = min(int(there / asked) for there, asked, _ in have.values())
        self._runs: list[LocalRun] = []

    def start(self, name: str, process: Process) -> LocalRun:
        self._runs = [run for run in self._runs if run.process.poll() is None]
        slot = next(slot for slot in range(len(self._runs) + 1) if slot not in {run.slot for run in self._runs})
        first = int(slot * self._gpus)
        numbers = list(map(str, range(first, first + math.ceil(self._gpus))))
        if given := os.environ.get("CUDA_VISIBLE_DEVICES"):  # more jobs than these are for share them
            names = given.split(",")
            numbers = [names[int(number) % len(names)] for number in numbers]
        visible = ",".join(numbers)
        environment = {**process.environment, "CUDA_VISIBLE_DEVICES": visible}
        run = LocalRun(Process(process.arguments, process.log, process.folder, environment).start(), slot)
        self._runs.append(run)
        return run

    def close(self) -> None:
        for run in self._runs:
            if run.process.poll() is None:
                run.process.send_signal(signal.SIGKILL)
        for run in self._runs:
            run.process.wait()
