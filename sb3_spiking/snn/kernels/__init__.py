"""
What a spiking network spends its time on, one module a backend: a window of Leaky neurons, and the connections that spikes
go through. This is the one place that chooses between backends, by device; the callers know nothing of them.

* ``reference``: the definition in plain PyTorch, which everything else is tested against
* ``cpu``, ``events`` and ``dense``: Numba on the CPU
* ``inference``: Numba on the CPU, whole layers where no gradient is wanted
* ``cuda``: Triton
"""

import functools
import importlib
import warnings
from collections.abc import Sequence
from types import ModuleType

import torch as th
from torch.nn import functional as F

from sb3_spiking.snn.kernels import reference
from sb3_spiking.snn.kernels.dynamics import SURROGATES, Layer
from sb3_spiking.snn.surrogates import Surrogate

# The module for a device, and what it needs
_LEAKY_BACKENDS = {"cpu": "Numba", "cuda": "Triton"}

# Event by event, a multiplication takes several times as long as in a dense convolution: it pays while fewer than this share
# of the neurons fire, and where each weight is used at more than this number of places, since the weights must be put in
# another order first. See docs/speed.md.
_EVENTS_BELOW_RATE = 0.2
_EVENTS_ABOVE_PLACES = 100
_ROWS_FOR_MKL = 32


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


def traced() -> bool:
    """Whether PyTorch is recording operations, to compile or to export them: it can see into plain PyTorch alone."""
    return th.compiler.is_compiling() or th.jit.is_tracing()


def _leaky_backend(currents: th.Tensor, spike_grad: Surrogate) -> ModuleType:
    device, backend = currents.device.type, None
    if device in _LEAKY_BACKENDS and spike_grad.name in SURROGATES and not traced():
        backend = _backend(device, _LEAKY_BACKENDS[device])
    return reference if backend is None or currents.dtype not in backend.DTYPES else backend


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
    window: th.Tensor = _leaky_backend(currents, spike_grad).leaky_window(
        currents, num_steps, beta, threshold, input_scale, spike_grad, reset_mechanism, reset_delay, membranes
    )
    return window


def _plain(window: th.Tensor) -> bool:
    """Whether operations on a window mean what they say, on the CPU and in its own precision."""
    plain = window.device.type == "cpu" and window.dtype in (th.float32, th.float64)
    return plain and not traced() and not th.is_autocast_enabled("cpu")


def convolution(window: th.Tensor, weight: th.Tensor, bias: th.Tensor | None, stride: int) -> th.Tensor:
    """
    ``torch.nn.functional.conv2d`` at each step of a window, without padding. Spikes go event by event where few fire.

    :param window: shape (T, B, C, H, W), or (1, B, C, H, W) if the same at every step
    :param weight: shape (O, C, KH, KW)
    :param bias: shape (O,), or None
    :param stride: stride in both directions
    :return: shape (T, B, O, OH, OW)
    """
    plain = _plain(window) and window.dtype == weight.dtype
    lines, columns = ((size - kernel) // stride + 1 for size, kernel in zip(window.shape[3:], weight.shape[2:], strict=True))
    if plain and window.shape[0] > 1 and window.shape[:2].numel() * lines * columns > _EVENTS_ABOVE_PLACES:
        events = _backend("events", "Numba")
        packed = None if events is None else events.pack(window)
        if events is not None and packed is not None and packed.spikes < _EVENTS_BELOW_RATE * window.numel():
            currents: th.Tensor = events.convolution(window, weight, bias, stride, packed)
            return currents
    images = window.flatten(0, 1)
    if images.shape[1:] != weight.shape[1:]:
        images = images.contiguous(memory_format=th.channels_last)
        return F.conv2d(images, weight, bias, stride).unflatten(0, window.shape[:2])
    # A linear layer. For many rows oneDNN's convolutions are faster than MKL's matrix products, for few the other way round.
    inputs, matrix = images.flatten(1), weight.flatten(1)
    if plain and len(inputs) > _ROWS_FOR_MKL and th.backends.mkldnn.is_available():
        outputs = F.conv2d(inputs[None, None].permute(0, 3, 1, 2), matrix[:, :, None, None], bias).permute(0, 2, 3, 1)
    else:
        outputs = F.linear(inputs, matrix, bias)
    return outputs.reshape(*window.shape[:2], len(weight), 1, 1)


def infer(window: th.Tensor, num_steps: int, layers: Sequence[Layer]) -> tuple[th.Tensor, int]:
    """
    Run layers without gradients, as many as there is a fast way for: none or some or all.

    :param window: input, shape (T, B, C, H, W), or (1, B, C, H, W) if the same at every step
    :param num_steps: T
    :param layers: one after another
    :return: the window after these layers, shape (T, B, O, OH, OW), and their number
    """
    constant = window.shape[0] == 1 and window.shape[1] > 0
    if (
        constant
        and not th.is_grad_enabled()
        and _plain(window)
        and all(layer.weight.dtype == window.dtype for layer in layers)
    ):
        backend = _backend("inference", "Numba")
        if backend is not None:
            result: tuple[th.Tensor, int] = backend.spikes(window[0], num_steps, layers, _EVENTS_BELOW_RATE)
            return result
    return window, 0
