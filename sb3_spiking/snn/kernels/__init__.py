"""
What a spiking network spends its time on, one module a backend: a window of Leaky neurons, and the connections that spikes
go through. This is the one place that chooses between backends, by device; the callers know nothing of them.

* ``reference``: the definition in plain PyTorch, which everything else is tested against
* ``cpu`` and ``events``: Numba on the CPU
"""

import functools
import importlib
import warnings
from types import ModuleType

import torch as th

from sb3_spiking.snn.kernels import reference
from sb3_spiking.snn.surrogates import Surrogate


@functools.cache
def _backend(name: str, needs: str) -> ModuleType | None:
    """The module of a backend, or None with one warning where the machine does not support it."""
    try:
        backend = importlib.import_module(f"{__name__}.{name}")
        backend.check()
        return backend
    except Exception as error:
        warnings.warn(
            f"{needs} does not work here ({type(error).__name__}: {error}): spiking networks run in plain PyTorch, "
            "with the same results but several times slower",
            stacklevel=2,
        )
        return None


def _traced() -> bool:
    """Whether PyTorch is recording operations, to compile or to export them: it can see into plain PyTorch alone."""
    return th.compiler.is_compiling() or th.jit.is_tracing()


def leaky_window(
    currents: th.Tensor,
    num_steps: int,
    beta: th.Tensor,
    threshold: th.Tensor,
    input_scale: float,
    spike_grad: Surrogate,
    reset_mechanism: str,
    reset_delay: bool,
    membranes: bool = False,
) -> th.Tensor:
    """See :func:`sb3_spiking.snn.kernels.reference.leaky_window`."""
    backend: ModuleType | None = None
    if not _traced() and currents.device.type == "cpu":
        backend = _backend("cpu", "Numba")
    if backend is None or not backend.supports(currents, spike_grad):
        backend = reference
    window: th.Tensor = backend.leaky_window(
        currents, num_steps, beta, threshold, input_scale, spike_grad, reset_mechanism, reset_delay, membranes
    )
    return window
