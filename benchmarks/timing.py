"""How times and memory are measured."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch as th
from tqdm import tqdm


def medians(tasks: Mapping[Any, Callable[[], Any]], repeats: int, device: str = "cpu") -> dict[Any, float]:
    """
    Seconds of each task, the median of ``repeats`` rounds in which each has its turn, so that a disturbance of the machine
    hits all. A task that takes less than 50 ms repeats itself within its turn.
    """

    def seconds(task: Callable[[], Any], times: int) -> float:
        if device == "cuda":
            th.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(times):
            task()
        if device == "cuda":
            th.cuda.synchronize()
        return (time.perf_counter() - start) / times

    for task in tasks.values():
        task()
    times = {name: max(1, int(0.05 / seconds(task, 1))) for name, task in tasks.items()}
    rounds: dict[Any, list[float]] = {name: [] for name in tasks}
    for _ in tqdm(range(repeats), leave=False):
        for name, task in tasks.items():
            rounds[name].append(seconds(task, times[name]))
    return {name: statistics.median(each) for name, each in rounds.items()}


def _status(field: str) -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024


def _peak(
    make: Callable[..., Callable[[], Any]],
    arguments: tuple[Any, ...],
    small: tuple[Any, ...],
    threads: int,
    device: str,
    result: Any,
) -> None:
    th.set_num_threads(threads)
    make(*small)()
    task = make(*arguments)
    if device == "cuda":
        before: float = th.cuda.memory_allocated()
        th.cuda.reset_peak_memory_stats()
        task()
        result.put(th.cuda.max_memory_allocated() - before)
        return
    Path("/proc/self/clear_refs").write_text("5")  # starts the peak anew
    before = _status("VmRSS")
    task()
    result.put(_status("VmHWM") - before)


def peak_memory(
    make: Callable[..., Callable[[], Any]],
    arguments: tuple[Any, ...],
    small: tuple[Any, ...],
    threads: int,
    device: str = "cpu",
) -> float:
    """
    Bytes that the task ``make(*arguments)`` needs on top of what is there once it is made, in a process of its own, in which a
    smaller one, ``make(*small)``, has run before, so that code that is loaded once does not count. Linux.
    """
    context = multiprocessing.get_context("spawn")
    result = context.Queue()
    process = context.Process(target=_peak, args=(make, arguments, small, threads, device, result))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{make.__name__}{arguments} failed")
    return result.get()
