"""
The Leaky window fused for CUDA by Triton: a program takes a block of neurons through the whole window, forward and backward.
Membranes are kept in single precision where the currents come in less. With gradients the forward pass saves the membranes,
which take the place of the currents: nobody else needs those. Nothing waits for the device: beta and the threshold are read
there.
"""

from typing import Any

import torch as th
import triton
import triton.language as tl

from sb3_spiking.snn.first_derivatives import first_derivatives
from sb3_spiking.snn.kernels.dynamics import FORMULAS, RESETS, Dynamics, contiguous, restored
from sb3_spiking.snn.rates import on_device

_BLOCK = 256  # two neurons a thread, at Triton's four warps

_ZERO_LATER, _ZERO_NOW = tl.constexpr(RESETS["zero", True]), tl.constexpr(RESETS["zero", False])
_SUBTRACT_LATER, _SUBTRACT_NOW = tl.constexpr(RESETS["subtract", True]), tl.constexpr(RESETS["subtract", False])

_FAST_SIGMOID, _ATAN = tl.constexpr(FORMULAS["fast_sigmoid"]), tl.constexpr(FORMULAS["atan"])
_SIGMOID, _SFS = tl.constexpr(FORMULAS["sigmoid"]), tl.constexpr(FORMULAS["SFS"])
_SPIKE_RATE_ESCAPE, _TRIANGULAR = tl.constexpr(FORMULAS["spike_rate_escape"]), tl.constexpr(FORMULAS["triangular"])
_HEAVISIDE = tl.constexpr(FORMULAS["heaviside"])
_HALF_PI = tl.constexpr(1.5707963267948966)


@triton.jit
def _charged(before, due, current, beta, threshold, RESET: tl.constexpr):
    """Membranes that a current has gone into, after the reset of those where it is due."""
    if RESET == _ZERO_LATER or RESET == _ZERO_NOW:
        result = beta * tl.where(due, 0.0, before) + current
    elif RESET == _SUBTRACT_LATER or RESET == _SUBTRACT_NOW:
        result = beta * before + current - tl.where(due, threshold, 0.0)
    else:
        result = beta * before + current
    return result


@triton.jit(do_not_specialize=["num_steps"])
def _forward(
    currents, beta, threshold, out, charges, afters, neurons, num_steps,
    SCALE: tl.constexpr, RESET: tl.constexpr, MEMBRANES: tl.constexpr, CONSTANT: tl.constexpr,
    SAVE: tl.constexpr, SAVE_AFTER: tl.constexpr, NUMBER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """currents: (T or 1, N); out: spikes or membranes, (T, N); charges, afters: membranes before and after a reset, (T, N)."""
    neuron = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = neuron < neurons
    beta, threshold = tl.load(beta).to(NUMBER), tl.load(threshold).to(NUMBER)
    # As in cpu.py, the reset to zero of the last step is still to be done
    before = tl.zeros((BLOCK,), NUMBER)
    current = tl.load(currents + neuron, inside, 0.0).to(NUMBER) * SCALE
    for _ in range(num_steps):
        if not CONSTANT:
            current = tl.load(currents + neuron, inside, 0.0).to(NUMBER) * SCALE
            currents += neurons
        due = before > threshold
        charged = _charged(before, due, current, beta, threshold, RESET)
        fired = charged > threshold
        if RESET == _SUBTRACT_NOW:
            before = charged - (fired.to(NUMBER) - due.to(NUMBER)) * threshold
        else:
            before = charged
        if SAVE:
            tl.store(charges + neuron, charged, inside)
            charges += neurons
        if SAVE_AFTER:
            tl.store(afters + neuron, before, inside)
            afters += neurons
        if MEMBRANES:
            membrane = before
            if RESET == _ZERO_NOW:
                membrane = tl.where(fired, 0.0, charged)
            tl.store(out + neuron, membrane, inside)
        else:
            tl.store(out + neuron, fired.to(NUMBER), inside)
        out += neurons


@triton.jit
def _derivative(charged, threshold, slope, SURROGATE: tl.constexpr):
    """d spike / d membrane, by the formulas of snntorch.surrogate."""
    over = charged - threshold
    if SURROGATE == _FAST_SIGMOID:
        width = slope * tl.abs(over) + 1.0
        result = 1.0 / (width * width)
    elif SURROGATE == _ATAN:
        scaled = _HALF_PI * slope * over
        result = slope / 2.0 / (1.0 + scaled * scaled)
    elif SURROGATE == _SIGMOID:
        exponential = tl.exp(-slope * tl.abs(over))
        result = slope * exponential / ((exponential + 1.0) * (exponential + 1.0))
    elif SURROGATE == _SFS:
        width = slope * tl.abs(over) + 1.0
        result = tl.where(over > 1.0, 1.0 / (width * width), 0.0)
    elif SURROGATE == _SPIKE_RATE_ESCAPE:
        result = slope * tl.exp(-tl.abs(over - 1.0))
    elif SURROGATE == _TRIANGULAR:
        result = tl.where(over >= 0, -1.0, 1.0)
    elif SURROGATE == _HEAVISIDE:
        result = tl.where(over > 0, 1.0, 0.0)
    else:
        result = tl.full(charged.shape, 1.0, charged.dtype)
    return result


@triton.jit(do_not_specialize=["num_steps"])
def _backward(
    charges, afters, beta, threshold, grad, out, learned, neurons, num_steps, slope,
    SCALE: tl.constexpr, RESET: tl.constexpr, SURROGATE: tl.constexpr, MEMBRANES: tl.constexpr, CONSTANT: tl.constexpr,
    LEARN: tl.constexpr, NUMBER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """
    grad: of the spikes or membranes, (T, N); out: gradient of the currents, (T or 1, N); learned: each program's part of the
    gradients of beta and of the threshold, (programs, 2).
    """
    neuron = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = neuron < neurons
    beta, threshold = tl.load(beta).to(NUMBER), tl.load(threshold).to(NUMBER)
    carry, total = tl.zeros((BLOCK,), NUMBER), tl.zeros((BLOCK,), NUMBER)
    onto_beta, onto_threshold = tl.zeros((BLOCK,), NUMBER), tl.zeros((BLOCK,), NUMBER)
    last = tl.cast(num_steps - 1, tl.int64) * neurons
    charges += last
    afters += last - neurons
    grad += last
    if not CONSTANT:
        out += last
    for back in range(num_steps):
        charged = tl.load(charges + neuron, inside, 0.0)
        gradient = tl.load(grad + neuron, inside, 0.0).to(NUMBER)
        # The membrane after the step before, but for a reset to zero
        before = tl.zeros((BLOCK,), NUMBER)
        if RESET == _ZERO_LATER or LEARN:
            if back < num_steps - 1:
                before = tl.load(afters + neuron, inside, 0.0)
        fired, due = charged > threshold, before > threshold
        if MEMBRANES:
            carry += gradient
            gradient = tl.zeros((BLOCK,), NUMBER)
        onto_spike = gradient
        if RESET == _ZERO_NOW:
            onto_spike -= carry * charged
        elif RESET == _SUBTRACT_NOW:
            onto_spike -= carry * threshold
        onto_spike *= _derivative(charged, threshold, slope, SURROGATE)
        onto_charged = onto_spike + carry
        if RESET == _ZERO_NOW:
            onto_charged = onto_spike + tl.where(fired, 0.0, carry)
        if LEARN:
            onto_threshold -= onto_spike
            if RESET == _ZERO_LATER or RESET == _ZERO_NOW:
                onto_beta += onto_charged * tl.where(due, 0.0, before)
            else:
                onto_beta += onto_charged * before
            if RESET == _SUBTRACT_LATER or RESET == _SUBTRACT_NOW:
                onto_threshold -= tl.where(due, onto_charged, 0.0)
            if RESET == _SUBTRACT_NOW:
                onto_threshold -= carry * (fired.to(NUMBER) - due.to(NUMBER))
        if CONSTANT:
            total += onto_charged * SCALE
        else:
            tl.store(out + neuron, onto_charged * SCALE, inside)
            out -= neurons
        carry = beta * onto_charged
        if RESET == _ZERO_LATER:
            carry = tl.where(due, 0.0, carry)
        charges -= neurons
        afters -= neurons
        grad -= neurons
    if CONSTANT:
        tl.store(out + neuron, total, inside)
    if LEARN:
        tl.store(learned + 2 * tl.program_id(0), tl.sum(tl.where(inside, onto_beta, 0.0), 0))
        tl.store(learned + 2 * tl.program_id(0) + 1, tl.sum(tl.where(inside, onto_threshold, 0.0), 0))


@triton.jit(do_not_specialize=["num_steps"])
def _rates(
    currents, beta, threshold, shares, out, derivatives, neurons, num_steps, slope,
    SCALE: tl.constexpr, RESET: tl.constexpr, SURROGATE: tl.constexpr, CONSTANT: tl.constexpr, NUMBER: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """
    currents: (T or 1, N); shares: (T,); out: spikes, (T, N); derivatives: of the spikes, added up with these shares, with
    respect to a current that is added at every step, (N,). ``reach`` is the membrane's.
    """
    neuron = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = neuron < neurons
    beta, threshold = tl.load(beta).to(NUMBER), tl.load(threshold).to(NUMBER)
    before, reach, total = tl.zeros((BLOCK,), NUMBER), tl.zeros((BLOCK,), NUMBER), tl.zeros((BLOCK,), NUMBER)
    current = tl.load(currents + neuron, inside, 0.0).to(NUMBER) * SCALE
    for step in range(num_steps):
        if not CONSTANT:
            current = tl.load(currents + neuron, inside, 0.0).to(NUMBER) * SCALE
            currents += neurons
        due = before > threshold
        charged = _charged(before, due, current, beta, threshold, RESET)
        fired = charged > threshold
        if RESET == _ZERO_LATER:
            reach = tl.where(due, 0.0, reach)
        reach = beta * reach + SCALE
        onto_spike = reach * _derivative(charged, threshold, slope, SURROGATE)
        total += tl.load(shares + step) * onto_spike
        before = charged
        if RESET == _ZERO_NOW:
            reach = tl.where(fired, 0.0, reach) - onto_spike * charged
        elif RESET == _SUBTRACT_NOW:
            before = charged - (fired.to(NUMBER) - due.to(NUMBER)) * threshold
            reach -= onto_spike * threshold
        tl.store(out + neuron, fired.to(NUMBER), inside)
        out += neurons
    tl.store(derivatives + neuron, total, inside)


class _LeakyWindow(th.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        currents: th.Tensor,
        beta: th.Tensor,
        threshold: th.Tensor,
        num_steps: int,
        dynamics: Dynamics,
        membranes: bool,
        save: bool,
    ) -> th.Tensor:
        permuted, order = contiguous(currents)
        shape = (num_steps, *permuted.shape[1:])
        number = th.float64 if currents.dtype == th.float64 else th.float32
        out = permuted.new_empty(shape)
        # Without an immediate subtraction the membranes after a step follow from those before its reset
        both = save and dynamics.reset == RESETS["subtract", False] and any(ctx.needs_input_grad[1:3])
        charges = permuted.new_empty(shape, dtype=number) if save else out
        afters = permuted.new_empty(shape, dtype=number) if both else charges
        neurons = out[0].numel()
        settings = {
            "SCALE": dynamics.input_scale,
            "RESET": dynamics.reset,
            "MEMBRANES": membranes,
            "CONSTANT": len(currents) == 1,
        }
        settings |= {"NUMBER": tl.float64 if number == th.float64 else tl.float32, "BLOCK": _BLOCK, "enable_fp_fusion": False}
        programs = triton.cdiv(neurons, _BLOCK)
        if out.numel():
            with th.cuda.device_of(currents):
                _forward[(programs,)](
                    permuted, beta, threshold, out, charges, afters, neurons, num_steps,
                    SAVE=save, SAVE_AFTER=both, **settings,
                )  # fmt: skip
        if save:
            ctx.save_for_backward(charges, afters, beta, threshold)
            ctx.settings = (order, permuted.shape, currents.dtype, dynamics.spike_grad, settings)
        return restored(out, order)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, *grad_outputs: th.Tensor) -> tuple[th.Tensor | None, ...]:
        charges, afters, beta, threshold = ctx.saved_tensors
        order, shape, dtype, spike_grad, settings = ctx.settings
        grad = grad_outputs[0].permute(order).contiguous()
        out = grad.new_empty(shape, dtype=dtype)
        learns = any(ctx.needs_input_grad[1:3])
        neurons = charges[0].numel()
        programs = triton.cdiv(neurons, _BLOCK)
        learned = charges.new_zeros((programs, 2) if learns else (1, 2))
        if charges.numel():
            with th.cuda.device_of(charges):
                _backward[(programs,)](
                    charges, afters, beta, threshold, grad, out, learned, neurons, len(charges), float(spike_grad.slope or 0),
                    SURROGATE=FORMULAS[spike_grad.name], LEARN=learns, **settings,
                )  # fmt: skip
        sums = learned.sum(dim=0, dtype=th.float64)
        totals = [
            total.to(parameter.dtype).reshape(parameter.shape) if learns else None
            for total, parameter in zip(sums, (beta, threshold), strict=True)
        ]
        return (restored(out, order), *totals, None, None, None, None)


def leaky_window(
    currents: th.Tensor,
    num_steps: int,
    beta: th.Tensor,
    threshold: th.Tensor,
    dynamics: Dynamics,
    membranes: bool = False,
) -> th.Tensor:
    """See :func:`sb3_spiking.snn.kernels.reference.leaky_window`."""
    return _LeakyWindow.apply(currents, beta, threshold, num_steps, dynamics, membranes, th.is_grad_enabled())


def leaky_rates(
    currents: th.Tensor, num_steps: int, beta: th.Tensor, threshold: th.Tensor, dynamics: Dynamics, shares: tuple[float, ...]
) -> tuple[th.Tensor, th.Tensor]:
    """See :func:`sb3_spiking.snn.kernels.leaky_rates`."""
    permuted, order = contiguous(currents)
    number = th.float64 if currents.dtype == th.float64 else th.float32
    spikes = permuted.new_empty((num_steps, *permuted.shape[1:]))
    derivatives = permuted.new_empty((1, *permuted.shape[1:]))
    neurons = derivatives.numel()
    settings = {"SCALE": dynamics.input_scale, "RESET": dynamics.reset, "SURROGATE": FORMULAS[dynamics.spike_grad.name]}
    settings |= {"CONSTANT": len(currents) == 1, "NUMBER": tl.float64 if number == th.float64 else tl.float32, "BLOCK": _BLOCK}
    if neurons:
        with th.cuda.device_of(currents):
            _rates[(triton.cdiv(neurons, _BLOCK),)](
                permuted, beta, threshold, on_device(shares, number, currents.device), spikes, derivatives, neurons,
                num_steps, float(dynamics.spike_grad.slope or 0), enable_fp_fusion=False, **settings,
            )  # fmt: skip
    return restored(spikes, order), restored(derivatives, order)[0]
