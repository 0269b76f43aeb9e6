"""Numba kernels on as many threads as PyTorch uses."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import torch as th

# Work of less than this many elementary operations is not worth waking up another thread
GRAIN = 100_000

_pool: ThreadPoolExecutor | None = None


def kernel(function: Callable[..., None]) -> Callable[..., None]:
    """
    Compile ``function(first, last, *arguments)`` at its first call. It runs without Python's lock, and the machine code is
    kept on disk for the next process.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # there is no folder where Numba may write
        return numba.njit(nogil=True)(function)


def run(function: Callable[..., None], count: int, work: int, *arguments: Any) -> None:
    """
    Call a kernel on 0 to ``count``, divided among at most ``torch.get_num_threads()`` threads. Numba's own parallel loops
    are not used because their default threading layer aborts the process when two Python threads start a kernel at once,
    as the jobs of an optimisation do.

    :param function: a :func:`kernel`
    :param count: number of independent pieces
    :param work: elementary operations in all of them, roughly
    :param arguments: what the kernel takes after the range
    """
    global _pool
    parts = max(1, min(th.get_num_threads(), count, work // GRAIN))
    if parts == 1:
        function(0, count, *arguments)
        return
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="sb3_spiking")
    bounds = [count * part // parts for part in range(parts + 1)]
    others = [_pool.submit(function, first, last, *arguments) for first, last in zip(bounds[1:-1], bounds[2:], strict=True)]
    function(0, bounds[1], *arguments)
    for other in others:
        other.result()


def _forget_pool() -> None:
    global _pool
    _pool = None


# Threads do not survive a fork
os.register_at_fork(after_in_child=_forget_pool)
