"""
Gradients through rates: a backward pass that costs what a ReLU network's does, whatever the number of simulation steps.

A neuron's spikes are added up over the window, each step with its share, and so are the derivatives of the spikes with
respect to a current that is added at every step. That is all that is kept: rate ``r = sum_t share[t] S[t]`` and derivative
``d``. In the backward pass ``onto_current = d * onto_rate``: ``d`` stands where a ReLU network has 0 or 1. Of one layer under
a constant current the gradient is exact. Behind other layers currents change over the window, and it is close, see
docs/network.md. Related: Yu et al. 2024 (arXiv 2410.11488), without shares.

Windows pass from layer to layer as they do with exact gradients. What a gradient of a window says is its sum over the steps:
the functions here hand back the same at every step.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch as th

from sb3_spiking.snn.first_derivatives import first_derivatives

Shares = tuple[float, ...]


class LayerShares(NamedTuple):
    """What each step counts for what comes behind a layer: of what goes into its neurons, and of their spikes."""

    inputs: Shares
    outputs: Shares


@functools.cache
def on_device(shares: Shares, dtype: th.dtype, device: th.device) -> th.Tensor:
    """The numbers as a tensor, of shape (T,): a GPU need not be given them each time."""
    with th.inference_mode(False):
        return th.tensor(shares, dtype=dtype, device=device)


def input_shares(shares: Shares, beta: float) -> Shares:
    """
    A current at one step is in the membrane at each later one, as far as it has not leaked: an early spike counts more for
    the next layer than a late one.

    :param shares: what a neuron's own spike at each step counts, T numbers
    :param beta: its membrane's decay per step
    :return: what a current into it counts at each step, T numbers with the sum 1
    """
    reach: list[float] = []
    for share in reversed(shares):
        reach.insert(0, share + beta * (reach[0] if reach else 0.0))
    return tuple(each / sum(reach) for each in reach)


def one_step_earlier(shares: Shares) -> Shares:
    """What spikes count at each step that are seen one step later."""
    return (*shares[1:], 0.0)


def through_delay(window: th.Tensor) -> th.Tensor:
    """
    :param window: shape (T, \\*)
    :return: the window one step later, nothing at the first step, shape (T, \\*)
    """
    result: th.Tensor = _Delayed.apply(window)
    return result


class _Delayed(th.autograd.Function):
    @staticmethod
    def forward(ctx: Any, window: th.Tensor) -> th.Tensor:
        return th.cat([th.zeros_like(window[:1]), window[:-1]])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: th.Tensor) -> th.Tensor:
        return grad_outputs[0]  # the same at every step


class _Rates(th.autograd.Function):
    """Rates of a window, which take the gradient to it whole."""

    @staticmethod
    def forward(ctx: Any, window: th.Tensor, seen: th.Tensor, shares: Shares) -> th.Tensor:
        ctx.steps = len(window)
        return th.tensordot(on_device(shares, seen.dtype, seen.device), seen, dims=1) if len(seen) > 1 else seen[0].clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: th.Tensor) -> tuple[th.Tensor, None, None]:
        (grad,) = grad_outputs
        return (grad / ctx.steps).expand(ctx.steps, *grad.shape), None, None


def _onto_rate(grad: th.Tensor, derivative: th.Tensor) -> th.Tensor:
    """The gradient of rates, given that of them or of a window of spikes."""
    if grad.dim() == derivative.dim():
        return grad
    return grad[0] * len(grad) if grad.stride(0) == 0 else grad.sum(dim=0)


class _Layer(th.autograd.Function):
    """What a convolution or linear layer and its neurons did, with a ReLU network's gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        rates: th.Tensor,
        weight: th.Tensor,
        bias: th.Tensor | None,
        stride: int,
        derivative: th.Tensor,
        outputs: th.Tensor,
    ) -> th.Tensor:
        ctx.save_for_backward(rates, weight, derivative)
        ctx.settings = stride, None if bias is None else bias.shape
        return outputs.view_as(outputs)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, *grad_outputs: th.Tensor) -> tuple[th.Tensor | None, ...]:
        rates, weight, derivative = ctx.saved_tensors
        stride, bias_shape = ctx.settings
        grad = _onto_rate(grad_outputs[0], derivative) * derivative
        wanted = ctx.needs_input_grad[:3]
        if weight.dim() == 4:
            # Much faster than with the channels first, where these are few
            grad, rates = (each.contiguous(memory_format=th.channels_last) for each in (grad, rates))
            geometry = ([stride] * 2, [0, 0], [1, 1], False, [0, 0], 1)
            grads = th.ops.aten.convolution_backward(grad, rates, weight, bias_shape, *geometry, wanted)
            return (*grads, None, None, None)
        onto_rates = (grad @ weight).view_as(rates) if wanted[0] else None
        onto_weight = grad.t() @ rates.flatten(1) if wanted[1] else None
        return onto_rates, onto_weight, grad.sum(dim=0) if wanted[2] else None, None, None, None


class _Neurons(th.autograd.Function):
    """What neurons alone did."""

    @staticmethod
    def forward(ctx: Any, currents: th.Tensor, derivative: th.Tensor, outputs: th.Tensor) -> th.Tensor:
        ctx.save_for_backward(derivative)
        return outputs.view_as(outputs)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, *grad_outputs: th.Tensor) -> tuple[th.Tensor, None, None]:
        (derivative,) = ctx.saved_tensors
        return _onto_rate(grad_outputs[0], derivative) * derivative, None, None


def of_neurons(neurons: Callable[[th.Tensor], th.Tensor], currents: th.Tensor, shares: Shares) -> tuple[th.Tensor, th.Tensor]:
    """
    What neurons do, differentiated by PyTorch.

    :param neurons: maps currents to spikes
    :param currents: shape (T, B, \\*), or (1, B, \\*) if the same at every step
    :param shares: what their spikes count at each step
    :return: the spikes, shape (T, B, \\*), and the derivative of their rates with respect to a current that is added at every
        step, shape (B, \\*)
    """
    with th.enable_grad():
        currents = currents.detach().requires_grad_()
        spikes = neurons(currents)
    each = on_device(shares, spikes.dtype, spikes.device).view(-1, *[1] * (spikes.dim() - 1)).expand_as(spikes)
    (onto_currents,) = th.autograd.grad(spikes, currents, each)
    return spikes.detach(), onto_currents.sum(dim=0)


def of_window(window: th.Tensor, seen: th.Tensor, shares: Shares) -> th.Tensor:
    """
    :param window: shape (T, B, \\*), or (1, B, \\*) if the same at every step
    :param seen: the window as the next layer sees it, of the same shape: one step later, or itself
    :param shares: what it counts there at each step
    :return: rates: the steps added up, each with its share, shape (B, \\*)
    """
    if not window.requires_grad and len(window) == 1:
        return seen[0]
    rates: th.Tensor = _Rates.apply(window, seen.detach(), shares)
    return rates


def layer(
    rates: th.Tensor,
    weight: th.Tensor,
    bias: th.Tensor | None,
    stride: int,
    derivative: th.Tensor,
    outputs: th.Tensor,
) -> th.Tensor:
    """
    What a layer did, as a node of the graph.

    :param rates: into it, shape (B, \\*in)
    :param weight: shape (O, C, KH, KW) of a convolution, or (O, I) of a linear layer
    :param bias: shape (O,), or None
    :param stride: of the convolution
    :param derivative: of its neurons' rates with respect to a current that is added at every step, shape (B, \\*out)
    :param outputs: their spikes, shape (T, B, \\*out), or their rates, shape (B, \\*out)
    :return: these
    """
    result: th.Tensor = _Layer.apply(rates, weight, bias, stride, derivative, outputs)
    return result


def neurons(currents: th.Tensor, derivative: th.Tensor, outputs: th.Tensor) -> th.Tensor:
    """
    What neurons did, behind a connection that PyTorch computes.

    :param currents: of the rates into it, shape (B, \\*)
    :param derivative: as of :func:`layer`
    :param outputs: as of :func:`layer`
    :return: these
    """
    result: th.Tensor = _Neurons.apply(currents, derivative, outputs)
    return result
