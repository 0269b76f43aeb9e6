"""Numba kernels on the threads that PyTorch itself uses."""

import ctypes
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import torch as th

# Work of fewer elementary operations than this is not worth a second thread
_GRAIN = 100_000

_TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def kernel(function: Callable[..., None]) -> Callable[..., None]:
    """
    Compile ``function(first, last, *arguments)`` at its first call. It runs without Python's lock, and the machine code is
    kept on disk for the next process.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}  # an exception in a loop keeps it from vectorising
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # there is no folder where Numba may write
        return numba.njit(**options)(function)


def run(function: Callable[..., None], count: int, work: int, *arguments: Any) -> None:
    """
    Call a kernel on 0 to ``count``, divided among at most ``torch.get_num_threads()`` threads.

    :param function: a :func:`kernel`
    :param count: number of independent pieces
    :param work: elementary operations in all of them, roughly
    :param arguments: what the kernel takes after the range
    """
    parts = max(1, min(th.get_num_threads(), count, work // _GRAIN))
    if parts == 1:
        function(0, count, *arguments)
        return
    errors: list[BaseException] = []
    numbers = itertools.count()

    def task(_: Any) -> None:
        try:
            while (part := next(numbers)) < parts:
                function(count * part // parts, count * (part + 1) // parts, *arguments)
        except BaseException as error:  # nothing may leave a call from C
            errors.append(error)

    _parallel(task, parts)
    if errors:
        raise errors[0]


def _parallel_by_openmp(task: Callable[[Any], None], threads: int) -> None:
    """
    On the threads of PyTorch's OpenMP. After each of its operations they wait for the next one for milliseconds without
    sleeping: threads of our own, or of Numba's parallel loops, would compete with them for the same cores, and it costs half
    the speed. Unlike those loops it may also be called from several Python threads at once, as the jobs of an optimisation do.
    """
    _process.GOMP_parallel(_TASK(task), None, ctypes.c_uint(threads), ctypes.c_uint(0))


def _parallel_by_pool(task: Callable[[Any], None], threads: int) -> None:
    """Where PyTorch is built without OpenMP."""
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="sb3_spiking")
    others = [_pool.submit(task, None) for _ in range(threads - 1)]
    task(None)
    for other in others:
        other.result()


def _forget_pool() -> None:
    global _pool
    _pool = None


def _keep_freed_memory() -> None:
    """
    Have the C library hold on to the memory that a window needed instead of asking the system for new pages for the next one,
    zeroed, a fifth of an update's time. glibc alone has these two parameters (malloc.h).
    """
    trim_threshold, mmap_threshold = -1, -3
    _process.mallopt(mmap_threshold, 32 << 20)
    _process.mallopt(trim_threshold, 1 << 30)


_pool: ThreadPoolExecutor | None = None
_process = ctypes.CDLL(None)  # what the process has loaded: the C library, PyTorch's OpenMP
if hasattr(_process, "mallopt"):
    _keep_freed_memory()
if hasattr(_process, "GOMP_parallel"):
    _process.GOMP_parallel.restype = None
    _parallel = _parallel_by_openmp
else:
    _parallel = _parallel_by_pool
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_pool)  # threads do not survive a fork
