"""Numba kernels on the threads that PyTorch itself uses."""

import ctypes
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import torch as th
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

# Work of fewer elementary operations than this is not worth a second thread, from within a kernel and from Python
GRAIN = 100_000
_GRAIN_OF_PYTHON = 400_000

_TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
# Name under which compiled kernels find GOMP_parallel, or what stands in for it
_PARALLEL = "sb3_spiking_parallel"


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
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
    parts = max(1, min(th.get_num_threads(), count, work // _GRAIN_OF_PYTHON))
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


@intrinsic
def in_parallel(context, function, count, parts, arguments):
    """
    From within a kernel, call the :func:`kernel` ``function`` on 0 to ``count``, divided into ``parts``, on that many
    threads. No Python takes part, which saves 50 microseconds against :func:`run`. Returns 0, or 1 if a part ran out of
    memory.
    """
    size = types.intp
    inner = context.resolve_function_type(function, (size, size, *arguments.types), {})

    def generate(context, builder, signature, values):
        _, count, parts, packed = values
        threads = parts
        compiled = function.dispatcher.overloads[inner.args]
        context.active_code_library.add_linking_library(compiled.library)
        passed = cgutils.unpack_tuple(builder, packed)
        number, flags = count.type, ir.IntType(32)
        shared = ir.LiteralStructType([number, number, number, number, *(value.type for value in passed)])
        data = cgutils.alloca_once(builder, shared)
        for at, value in enumerate((count, parts, number(0), number(0), *passed)):
            builder.store(value, cgutils.gep_inbounds(builder, data, 0, at))

        pointer = ir.IntType(8).as_pointer()
        task = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [pointer]), builder.module.get_unique_name("part"))
        task.linkage = "internal"
        inside = ir.IRBuilder(task.append_basic_block("entry"))
        their = inside.bitcast(task.args[0], data.type)
        count, parts, *passed = (
            inside.load(cgutils.gep_inbounds(inside, their, 0, at)) for at in (0, 1, *range(4, len(shared.elements)))
        )
        next_part, failed = (cgutils.gep_inbounds(inside, their, 0, at) for at in (2, 3))
        loop, body, end = (task.append_basic_block(name) for name in ("loop", "body", "end"))
        inside.branch(loop)
        inside.position_at_end(loop)
        part = inside.atomic_rmw("add", next_part, number(1), "monotonic")
        inside.cbranch(inside.icmp_signed("<", part, parts), body, end)
        inside.position_at_end(body)
        bounds = [inside.sdiv(inside.mul(count, bound), parts) for bound in (part, inside.add(part, number(1)))]
        status, _ = context.call_internal_no_propagate(inside, compiled.fndesc, inner, [*bounds, *passed])
        inside.atomic_rmw("or", failed, inside.zext(status.is_error, number), "monotonic")
        inside.branch(loop)
        inside.position_at_end(end)
        inside.ret_void()

        data_pointer = builder.bitcast(data, pointer)
        with builder.if_else(builder.icmp_signed(">", threads, number(1))) as (many, one):
            with many:
                openmp = ir.FunctionType(ir.VoidType(), [task.type, pointer, flags, flags])
                parallel = cgutils.get_or_insert_function(builder.module, openmp, _PARALLEL)
                builder.call(parallel, [task, data_pointer, builder.trunc(threads, flags), flags(0)])
            with one:
                builder.call(task, [data_pointer])
        return builder.load(cgutils.gep_inbounds(builder, data, 0, 3))

    return size(function, size, size, arguments), generate


_pool: ThreadPoolExecutor | None = None
try:
    _process: Any = ctypes.CDLL(None)  # what the process has loaded: the C library, PyTorch's OpenMP
except (OSError, TypeError):  # Windows knows no such thing
    _process = None
if hasattr(_process, "mallopt"):
    _keep_freed_memory()
if hasattr(_process, "GOMP_parallel"):
    _process.GOMP_parallel.restype = None
    _parallel = _parallel_by_openmp
    _for_kernels: Any = _process.GOMP_parallel
else:
    _parallel = _parallel_by_pool
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_pool)  # threads do not survive a fork
    # On one thread
    _for_kernels = ctypes.CFUNCTYPE(None, _TASK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(
        lambda task, data, *_: task(data)
    )
binding.add_symbol(_PARALLEL, ctypes.cast(_for_kernels, ctypes.c_void_p).value)
