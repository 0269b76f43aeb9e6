"""
What a spiking network spends its time on, one module a backend: a window of Leaky neurons, and the connections that spikes
go through. This is the one place that chooses between backends, by device; the callers know nothing of them. Before its first
use in a process a backend is compared with plain PyTorch, see :mod:`.checks`; :func:`use` chooses by hand.

* ``reference``: the definition in plain PyTorch, which everything else is tested against
* ``cpu``, ``event_driven`` and ``input_gradient``: Numba on the CPU
* ``fused``: Numba on the CPU, layers at once where no exact gradient is wanted; it is built on ``registers`` and ``vectors``
* ``cuda``: Triton

Which code runs for a network, and why, can be read: ``with kernels.explain() as lines: model.q_net(observations)``.
"""

import contextlib
import functools
import importlib
import os
import sys
import threading
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from types import ModuleType

import torch as th
from torch.nn import functional as F

from sb3_spiking.snn.kernels import checks, reference
from sb3_spiking.snn.kernels.dynamics import FORMULAS, Dynamics, Kept, Layer
from sb3_spiking.snn.surrogates import SURROGATES

#: Environment variable of :func:`use`
VARIABLE = "SB3_SPIKING_KERNELS"
_CHOICES = ("auto", "reference")

_PATIENCE_SECONDS = 2.0  # longer than it takes to read compiled kernels from the disk
# What a backend needs
_NEEDS = {"cpu": "Numba", "event_driven": "Numba", "fused": "Numba", "cuda": "Triton"}
# The numbers that there are kernels of neurons for, by device
_LEAKY_DTYPES = {"cpu": (th.float32, th.float64), "cuda": (th.float32, th.float64, th.float16, th.bfloat16)}

# Event by event, a multiplication takes longer than in a dense convolution: it pays while fewer than this share of the neurons
# fire, and where each weight is used at more than this number of places, since the weights must be put in another order first.
# In fused layers it saves the windows of numbers too. See docs/speed.md.
_EVENTS_BELOW_RATE = 0.3
_FUSED_BELOW_RATE = 0.5
_EVENTS_ABOVE_PLACES = 100
# Vectors of 512 bits make matrix products so fast that in a linear layer with gradients events pay below this rate only, and
# for more than this number of places. Elsewhere, measured on AMD processors, oneDNN's convolutions are faster than MKL's
# matrix products for more than this number of rows.
_WIDE_VECTORS = th.backends.cpu.get_cpu_capability() == "AVX512"
_WIDE_BELOW_RATE = 0.1
_WIDE_ABOVE_PLACES = 1000
_ROWS_FOR_MKL = 32

_readers: list[list[str]] = []


@contextlib.contextmanager
def explain() -> Iterator[list[str]]:
    """Collects a line for each choice between backends: what is computed, by which, and why."""
    lines: list[str] = []
    _readers.append(lines)
    try:
        yield lines
    finally:
        _readers[:] = [each for each in _readers if each is not lines]


def chosen(by: str, why: str, *what: object) -> None:
    """
    For :func:`explain`: say which code runs.

    :param by: a backend, or a way to go through layers
    :param why: the reason
    :param what: is computed, and its shape
    """
    for lines in _readers:
        lines.append(f"{' '.join(map(str, what))}: {by} ({why})")


def use(kernels: str) -> None:
    """
    Choose what spiking networks are computed by, in this process. The environment variable ``SB3_SPIKING_KERNELS`` does the
    same from the start.

    :param kernels: ``"auto"``, the fastest that works on the machine, or ``"reference"``, plain PyTorch
    :raises ValueError: for anything else
    """
    global _in_use
    if kernels not in _CHOICES:
        raise ValueError(f"kernels {kernels!r}: expected one of {', '.join(map(repr, _CHOICES))}")
    _in_use = kernels


def _backend(name: str, check: Callable[..., None], *case: Hashable) -> ModuleType | None:
    """The module of a backend, or None where it is not to be used."""
    return None if _in_use == "reference" else _checked(name, check, *case)


@functools.cache
def _checked(name: str, check: Callable[..., None], *case: Hashable) -> ModuleType | None:
    """The module of a backend that agrees with plain PyTorch in a case, or None with a warning."""
    try:
        backend = importlib.import_module(f"{__name__}.{name}")
        with _patience():
            check(backend, *case)
        return backend
    except Exception as error:
        what = "computes wrong results here" if isinstance(error, checks.WrongResultError) else "does not work here"
        warnings.warn(
            f"{_NEEDS[name]} {what} ({type(error).__name__}: {error}): spiking networks run in plain PyTorch, with the same "
            "results but several times slower. If nothing is missing, please report this line, with the processor or GPU and "
            f"what `pip list` says of torch and {_NEEDS[name].lower()}",
            stacklevel=2,
        )
        return None


def _why_not(name: str) -> str:
    """Why a backend is not used that there is for a case."""
    return f"{VARIABLE} or use() says so" if _in_use == "reference" else f"{_NEEDS[name]} does not work here"


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Say once what takes so long, where kernels are not on disk yet."""
    timer = threading.Timer(_PATIENCE_SECONDS, _say_once)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@functools.cache
def _say_once() -> None:
    print("sb3_spiking compiles its kernels for this machine, once: up to half a minute", file=sys.stderr, flush=True)


def _checked_as(dynamics: Dynamics) -> Dynamics:
    """
    What a check stands for: kernels take scale and slope as numbers, and a schedule may change the slope at every step.
    """
    slope = None if dynamics.spike_grad.slope is None else 2.0
    return dynamics._replace(input_scale=0.7, spike_grad=replace(dynamics.spike_grad, slope=slope))


def traced() -> bool:
    """Whether PyTorch is recording operations, to compile or to export them: it can see into plain PyTorch alone."""
    return th.compiler.is_compiling() or th.jit.is_tracing()


def _check_steps(currents: th.Tensor, num_steps: int) -> None:
    if len(currents) not in (1, num_steps):
        raise ValueError(f"currents of {len(currents)} steps in a window of {num_steps}: expected as many, or 1 for all")


def leaky_window(
    currents: th.Tensor,
    num_steps: int,
    beta: th.Tensor,
    threshold: th.Tensor,
    dynamics: Dynamics,
    membranes: bool = False,
) -> th.Tensor:
    """See :func:`sb3_spiking.snn.kernels.reference.leaky_window`."""
    _check_steps(currents, num_steps)
    backend, device, dtype, surrogate = None, currents.device.type, currents.dtype, dynamics.spike_grad.name
    if traced():
        why = "traced"
    elif dtype not in _LEAKY_DTYPES.get(device, ()) or surrogate not in FORMULAS:
        why = f"no kernel for {surrogate} in {dtype} on {device}"
    else:
        learns = beta.requires_grad or threshold.requires_grad
        case = (_checked_as(dynamics), len(currents) == 1, membranes, learns, th.is_grad_enabled())
        backend = _backend(device, checks.leaky, device, dtype, *case)
        why = _why_not(device) if backend is None else f"{surrogate} in {dtype} on {device}"
    chosen("plain PyTorch" if backend is None else _NEEDS[device], why, "neurons", *currents.shape)
    window: th.Tensor = (backend or reference).leaky_window(currents, num_steps, beta, threshold, dynamics, membranes)
    return window


def leaky_rates(
    currents: th.Tensor, num_steps: int, beta: th.Tensor, threshold: th.Tensor, dynamics: Dynamics, shares: tuple[float, ...]
) -> tuple[th.Tensor, th.Tensor] | None:
    """
    A window of neurons with what gradients through rates need of it, in one go.

    :param currents: shape (T, B, \\*), or (1, B, \\*) if the same at every step
    :param num_steps: T
    :param beta: membrane decay per step, in [0, 1]
    :param threshold: at least 0
    :param dynamics: of the neurons
    :param shares: what a spike counts at each step, T numbers
    :return: as of :func:`sb3_spiking.snn.rates.of_neurons`; None where there is no kernel
    """
    _check_steps(currents, num_steps)
    device, dtype = currents.device.type, currents.dtype
    if device != "cuda" or traced() or dtype not in _LEAKY_DTYPES[device] or dynamics.spike_grad.name not in FORMULAS:
        return None
    backend = _backend(device, checks.leaky_rates, device, dtype, _checked_as(dynamics), len(currents) == 1)
    if backend is None:
        return None
    chosen(_NEEDS[device], "gradients through rates", "neurons", *currents.shape)
    with th.no_grad():
        result: tuple[th.Tensor, th.Tensor] = backend.leaky_rates(currents, num_steps, beta, threshold, dynamics, shares)
    return result


def _not_plain(window: th.Tensor) -> str:
    """Why operations on a window do not mean what they say, on the CPU and in its own precision: empty where they do."""
    if window.device.type != "cpu" or window.dtype not in (th.float32, th.float64):
        return f"{window.dtype} on {window.device.type}"
    if traced():
        return "traced"
    return "autocast" if th.is_autocast_enabled("cpu") else ""


def currents(window: th.Tensor, weight: th.Tensor, bias: th.Tensor | None, stride: int = 1) -> th.Tensor:
    """
    ``conv2d`` without padding, or ``linear`` of all that a step holds, of ``torch.nn.functional`` at each step of a window.
    Spikes go event by event where few fire.

    :param window: shape (T, B, C, H, W), or (T, B, \\*) into a linear layer; T = 1 if the same at every step
    :param weight: shape (O, C, KH, KW), or (O, I)
    :param bias: shape (O,), or None
    :param stride: of a convolution, in both directions
    :return: shape (T, B, O, OH, OW), or (T, B, O)
    """
    if weight.dim() == 4:
        return _convolution(window, weight, bias, stride)
    if window.dim() == 5 and window.shape[:2].numel() > len(weight) and not _not_plain(window):
        channels_last = window.permute(0, 1, 3, 4, 2)
        if channels_last.is_contiguous():  # then rather the fewer weights are put in another order than the images
            weight = weight.unflatten(1, window.shape[2:]).permute(0, 2, 3, 1).flatten(1)
            window = channels_last
    # Events know a linear layer as a convolution of images of one pixel
    return _convolution(window.flatten(2)[..., None, None], weight[..., None, None], bias, 1).flatten(2)


def _convolution(window: th.Tensor, weight: th.Tensor, bias: th.Tensor | None, stride: int) -> th.Tensor:
    why = _not_plain(window) or ("" if window.dtype == weight.dtype else f"weights in {weight.dtype}")
    plain = not why
    linear = window.shape[2:] == weight.shape[1:]
    lines, columns = ((size - kernel) // stride + 1 for size, kernel in zip(window.shape[3:], weight.shape[2:], strict=True))
    places = window.shape[:2].numel() * lines * columns
    what = ("linear layer", *weight.flatten(1).shape) if linear else ("convolution", *weight.shape)
    wide = linear and _WIDE_VECTORS
    if plain and window.shape[0] == 1:
        why = "the same at every step"
    elif plain and places <= (_WIDE_ABOVE_PLACES if wide else _EVENTS_ABOVE_PLACES):
        why = f"{places} places are too few"
    elif plain:
        backend = _backend("event_driven", checks.events, window.dtype, th.is_grad_enabled())
        packed = None if backend is None else backend.pack(window)
        if backend is None or packed is None:
            why = _why_not("event_driven") if backend is None else "not spikes"
        else:
            why = f"{packed.spikes / window.numel():.0%} fire"
            if packed.spikes < (_WIDE_BELOW_RATE if wide else _EVENTS_BELOW_RATE) * window.numel():
                chosen("event by event", why, *what)
                result: th.Tensor = backend.convolution(window, weight, bias, stride, packed)
                return result
    chosen("PyTorch", why, *what)
    images = window.flatten(0, 1)
    if not linear:
        images = images.contiguous(memory_format=th.channels_last)
        return F.conv2d(images, weight, bias, stride).unflatten(0, (len(window), -1))
    inputs, matrix = images.flatten(1), weight.flatten(1)
    if plain and not _WIDE_VECTORS and len(inputs) > _ROWS_FOR_MKL and th.backends.mkldnn.is_available():
        outputs = F.conv2d(inputs[None, None].permute(0, 3, 1, 2), matrix[:, :, None, None], bias).permute(0, 2, 3, 1)
    else:
        outputs = F.linear(inputs, matrix, bias)
    return outputs.reshape(len(window), -1, len(weight), 1, 1)


def fused_layers(
    window: th.Tensor, num_steps: int, layers: Iterable[Layer], shares: Sequence[tuple[float, ...]] = ()
) -> tuple[th.Tensor, int, list[Kept]]:
    """
    Run layers at once, without exact gradients: as many as there is a way for, none or some or all.

    :param window: input, shape (T, B, \\*), or (1, B, \\*) if the same at every step
    :param num_steps: T
    :param layers: one after another; nothing asks for them where there is no way
    :param shares: for gradients through rates, what a spike of each layer counts at each step, T numbers each
    :return: the window after these layers, shape (T, B, \\*), their number, and what each of them keeps if there are shares
    """
    why = _not_plain(window) or ("" if len(window) == 1 and window.shape[1] > 0 else "an input that changes, or none")
    plans = [] if why else list(layers)
    dynamics = tuple({_checked_as(layer.dynamics): None for layer in plans})
    if any(layer.weight.dtype != window.dtype for layer in plans):
        why = f"weights not in {window.dtype}"
    elif shares and not all(SURROGATES[each.spike_grad.name].fused_rates for each in dynamics):
        why = "no kernel for rates of this surrogate"
    if not why:
        backend = _backend("fused", checks.fused, window.dtype)
        if shares and backend is not None:
            backend = _backend("fused", checks.rates, window.dtype, dynamics)
        if backend is not None:
            with th.no_grad():
                result: tuple[th.Tensor, int, list[Kept]] = backend.spikes(
                    window[0], num_steps, plans, _FUSED_BELOW_RATE, _convolution, shares
                )
            done = result[1]
            why = "all of them" if done == len(plans) else "the last one fires in half of the steps or more"
            chosen("fused", why, done, "of", len(plans), "layers")
            return result
        why = _why_not("fused")
    chosen("one by one", why, "layers")
    return window, 0, []


_in_use = "auto"
use(os.environ.get(VARIABLE, "auto"))
