"""
What a backend computes on this machine, compared with plain PyTorch before it is used for the first time: small windows with
their gradients, in the very settings that are asked for. A kernel that compiles but computes something else, on another
processor, driver or version, would train a wrong network without a sign.
"""

from collections.abc import Iterable
from functools import partial
from types import ModuleType

import torch as th
from torch.nn import functional as F

from sb3_spiking.snn.kernels import reference
from sb3_spiking.snn.kernels.dynamics import Dynamics, Layer
from sb3_spiking.snn.rates import of_neurons as rates_of_neurons
from sb3_spiking.snn.surrogates import Surrogate


class WrongResultError(Exception):
    """A backend computes something else than plain PyTorch."""


def _numbers(*shape: int, dtype: th.dtype = th.float64) -> th.Tensor:
    """Normal numbers, always the same, without touching PyTorch's random state."""
    return th.randn(shape, generator=th.Generator().manual_seed(0), dtype=th.float64).to(dtype)


def _equal(result: th.Tensor, expected: th.Tensor, what: str) -> None:
    if not th.equal(result.cpu().double(), expected.cpu().double()):
        raise WrongResultError(f"{what} differ from those of plain PyTorch")


def _close(result: th.Tensor, expected: th.Tensor, dtype: th.dtype, what: str) -> None:
    tolerance = 1e-4 if dtype in (th.float32, th.float64) else 3e-2
    if not th.allclose(result.cpu().double(), expected.cpu().double(), rtol=tolerance, atol=tolerance, equal_nan=True):
        raise WrongResultError(f"{what} differ from those of plain PyTorch")


def _convolution(window: th.Tensor, weight: th.Tensor, bias: th.Tensor | None, stride: int) -> th.Tensor:
    return F.conv2d(window.flatten(0, 1), weight, bias, stride).unflatten(0, window.shape[:2])


def leaky(
    backend: ModuleType,
    device: str,
    dtype: th.dtype,
    dynamics: Dynamics,
    constant: bool,
    membranes: bool,
    learns: bool,
    gradients: bool,
) -> None:
    """
    A window of neurons.

    :param backend: with a function ``leaky_window``
    :param device: that it runs on
    :param dtype: of the currents
    :param dynamics: of the neurons
    :param constant: whether the current is the same at every step
    :param learns: whether beta and the threshold have gradients
    :param gradients: whether there are any
    :raises WrongResultError: if anything differs
    """
    num_steps, neurons = 5, 300  # more than a block of Triton's kernels
    currents = _numbers(1 if constant else num_steps, neurons, dtype=dtype) * 2
    weights = _numbers(num_steps, neurons, dtype=dtype)
    results = []
    with th.inference_mode(False), th.set_grad_enabled(gradients), th.autocast(device, enabled=False):
        for module, where, number in ((backend, device, dtype), (reference, "cpu", th.promote_types(dtype, th.float32))):
            inputs = [each.to(dtype).to(where, number) for each in (currents, th.tensor(0.6), th.tensor(0.9))]
            wanted = inputs[: 3 if learns else 1] if gradients else []
            for each in wanted:
                each.requires_grad_()
            window = module.leaky_window(inputs[0], num_steps, *inputs[1:], dynamics, membranes)
            grads: tuple[th.Tensor, ...] = ()
            if wanted:
                grads = th.autograd.grad((window * weights.to(where, number)).sum(), wanted, materialize_grads=True)
            results.append((window.detach(), grads))
    (window, grads), (expected, expected_grads) = results
    if membranes:
        _close(window, expected, dtype, "membranes")
    else:
        _equal(window, expected, "spikes")
    for grad, expected_grad, what in zip(grads, expected_grads, ("currents", "beta", "the threshold"), strict=False):
        _close(grad, expected_grad, dtype, f"gradients of {what}")


def leaky_rates(backend: ModuleType, device: str, dtype: th.dtype, dynamics: Dynamics, constant: bool) -> None:
    """
    A window of neurons with what gradients through rates need of it.

    :param backend: with a function ``leaky_rates``
    :param device: that it runs on
    :param dtype: of the currents
    :param dynamics: of the neurons
    :param constant: whether the current is the same at every step
    :raises WrongResultError: if spikes or derivatives differ
    """
    num_steps, neurons, shares = 5, 300, (0.4, 0.2, 0.2, 0.1, 0.1)
    currents = _numbers(1 if constant else num_steps, neurons, dtype=dtype) * 2
    beta, threshold = (th.tensor(each).to(dtype) for each in (0.6, 0.9))
    number = th.promote_types(dtype, th.float32)
    with th.inference_mode(False), th.autocast(device, enabled=False):
        on_device = (each.to(device) for each in (beta, threshold))
        spikes, derivatives = backend.leaky_rates(currents.to(device), num_steps, *on_device, dynamics, shares)
        window = partial(reference.leaky_window, num_steps=num_steps, beta=beta.to(number), threshold=threshold.to(number))
        expected = rates_of_neurons(partial(window, dynamics=dynamics), currents.to(number), shares)
    _equal(spikes, expected[0], "spikes")
    _close(derivatives, expected[1], dtype, "derivatives of rates")


def events(backend: ModuleType, dtype: th.dtype, gradients: bool) -> None:
    """
    A convolution and a linear layer of spikes.

    :param backend: with the functions ``pack`` and ``convolution``
    :param dtype: of the weights
    :param gradients: whether there are any
    :raises WrongResultError: if anything differs
    """
    with th.inference_mode(False), th.set_grad_enabled(gradients), th.autocast("cpu", enabled=False):
        for channels, size, outputs, kernel, stride in ((20, 6, 37, 3, 2), (70, 1, 20, 1, 1)):
            window = (_numbers(3, 2, channels, size, size) > 1).to(dtype)
            weight, bias = _numbers(outputs, channels, kernel, kernel, dtype=dtype), _numbers(outputs, dtype=dtype)
            inputs = [window, weight, bias]
            if gradients:
                for each in inputs:
                    each.requires_grad_()
            packed = backend.pack(window.detach())
            if packed is None or packed.spikes != window.sum():
                raise WrongResultError("the number of spikes differs from that of plain PyTorch")
            currents = backend.convolution(*inputs, stride, packed)
            expected = _convolution(window, weight, bias, stride)
            _close(currents.detach(), expected.detach(), dtype, "currents")
            if gradients:
                grads, expected_grads = (th.autograd.grad(each.square().sum(), inputs) for each in (currents, expected))
                for grad, expected_grad, what in zip(grads, expected_grads, ("spikes", "weights", "biases"), strict=True):
                    scale = expected_grad.abs().max()
                    _close(grad / scale, expected_grad / scale, dtype, f"gradients of {what}")


def fused(backend: ModuleType, dtype: th.dtype) -> None:
    """
    Two convolutions and a linear layer, one after another, with every way to reset.

    :param backend: with a function ``spikes``
    :param dtype: of the weights
    :raises WrongResultError: if more than single spikes differ, which the order of a sum may decide about
    """
    num_steps, images = 4, _numbers(2, 3, 9, 9, dtype=dtype)
    shapes = ((20, 3, 3, 3), (37, 20, 2, 2), (40, 37 * 36))
    weights = [_numbers(*shape, dtype=dtype) * scale for shape, scale in zip(shapes, (0.3, 0.3, 0.1), strict=True)]
    one = th.ones((), dtype=dtype)
    with th.no_grad(), th.autocast("cpu", enabled=False):
        for reset in (("zero", True), ("zero", False), ("subtract", True), ("subtract", False), ("none", True)):
            dynamics = Dynamics(0.7, Surrogate("fast_sigmoid"), *reset)
            layers = [Layer(weight, weight.new_zeros(len(weight)), 1, 0.6, 0.9, dynamics) for weight in weights]
            window, done, _ = backend.spikes(images, num_steps, layers, 1.0, _convolution)
            expected = images[None]
            for weight in weights[:done]:
                flat = expected.flatten(0, 1)
                currents = F.conv2d(flat, weight) if weight.dim() == 4 else F.linear(flat.flatten(1), weight)
                currents = currents.unflatten(0, expected.shape[:2])
                expected = reference.leaky_window(currents, num_steps, 0.6 * one, 0.9 * one, dynamics)
            if done != len(layers) or (window.flatten(2) != expected.flatten(2)).sum() > 2:
                raise WrongResultError("spikes differ from those of plain PyTorch")


def rates(backend: ModuleType, dtype: th.dtype, every: Iterable[Dynamics]) -> None:
    """
    What gradients through rates keep of a convolution and a linear layer.

    :param backend: with a function ``spikes``
    :param dtype: of the weights
    :param every: dynamics of neurons
    :raises WrongResultError: if rates or their derivatives differ
    """
    images, shares = _numbers(2, 3, 9, 9, dtype=dtype), (0.4, 0.3, 0.2, 0.1)
    weights = [_numbers(20, 3, 3, 3, dtype=dtype) * 0.3, _numbers(40, 20 * 49, dtype=dtype) * 0.1]
    each = images.new_tensor(shares).view(-1, 1, 1)
    beta, threshold = images.new_tensor(0.6), images.new_tensor(0.9)
    with th.inference_mode(False), th.autocast("cpu", enabled=False):
        for dynamics in every:
            layers = [Layer(weight, weight.new_zeros(len(weight)), 1, 0.6, 0.9, dynamics) for weight in weights]
            with th.no_grad():
                _, done, kept = backend.spikes(images, 4, layers, 1.0, _convolution, (shares, shares))
            inputs = images[None]
            for weight, (their_rates, their_derivatives) in zip(weights[:done], kept, strict=True):
                flat = inputs.flatten(0, 1)
                with th.no_grad():
                    currents = F.conv2d(flat, weight) if weight.dim() == 4 else F.linear(flat.flatten(1), weight)
                currents = currents.unflatten(0, inputs.shape[:2]).flatten(2).requires_grad_()
                with th.enable_grad():
                    spikes = reference.leaky_window(currents, 4, beta, threshold, dynamics)
                (derivatives,) = th.autograd.grad(spikes, currents, each.expand_as(spikes))
                _close(their_derivatives.flatten(1), derivatives.sum(dim=0), dtype, "derivatives of rates")
                _close(their_rates.flatten(1), (spikes.detach() * each).sum(dim=0), dtype, "rates")
                inputs = spikes.detach().unflatten(2, their_rates.shape[1:])
