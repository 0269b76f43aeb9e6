"""
The Leaky window fused for the CPU by Numba: one pass over the currents forward, one backward. Neurons go in blocks whose
membranes stay in the cache for the whole window. The membranes are not saved but computed again in the backward pass.
"""

from typing import Any

import numpy as np
import torch as th

from sb3_spiking.snn.first_derivatives import first_derivatives
from sb3_spiking.snn.kernels.dynamics import FORMULAS, RESETS, Dynamics, contiguous, order_of, restored
from sb3_spiking.snn.kernels.threads import kernel, run
from sb3_spiking.snn.surrogates import Surrogate

# Neurons of a block: the row of a step stays in the fastest cache, a backward window in the next
_BLOCK = 2048

ZERO_LATER, ZERO_NOW = RESETS["zero", True], RESETS["zero", False]
SUBTRACT_LATER, SUBTRACT_NOW = RESETS["subtract", True], RESETS["subtract", False]

_FAST_SIGMOID, _ATAN, _SIGMOID, _SFS, _SPIKE_RATE_ESCAPE, _TRIANGULAR, _HEAVISIDE = (
    FORMULAS[name] for name in ("fast_sigmoid", "atan", "sigmoid", "SFS", "spike_rate_escape", "triangular", "heaviside")
)


# Each of the following runs over a row: one step of a block. A loop is vectorised only where it is a function of its own.


@kernel
def _charge(current, beta, threshold, scale, reset, before, charged):
    """
    A step's membranes before an immediate reset, the equations of the reference. before: those after the last step, but for
    the reset to zero that is due where they are above the threshold, immediate or delayed.
    """
    zero = before.dtype.type(0)
    if reset == ZERO_LATER or reset == ZERO_NOW:
        for i in range(before.size):
            charged[i] = beta * (zero if before[i] > threshold else before[i]) + current[i] * scale
    elif reset == SUBTRACT_LATER or reset == SUBTRACT_NOW:
        for i in range(before.size):
            charged[i] = beta * before[i] + current[i] * scale - (threshold if before[i] > threshold else zero)
    else:
        for i in range(before.size):
            charged[i] = beta * before[i] + current[i] * scale


@kernel
def _subtract(threshold, before, charged, after):
    """Membranes after an immediate subtraction."""
    zero, one = before.dtype.type(0), before.dtype.type(1)
    for i in range(before.size):
        fired = one if charged[i] > threshold else zero
        due = one if before[i] > threshold else zero
        after[i] = charged[i] - (fired - due) * threshold


@kernel
def _spikes(threshold, charged, row):
    zero, one = row.dtype.type(0), row.dtype.type(1)
    for i in range(row.size):
        row[i] = one if charged[i] > threshold else zero


@kernel
def _membranes(threshold, reset, charged, row):
    """Membranes after a step, which an immediate subtraction has already reduced."""
    zero = row.dtype.type(0)
    for i in range(row.size):
        row[i] = zero if reset == ZERO_NOW and charged[i] > threshold else charged[i]


@kernel
def _forward(first, last, currents, beta, threshold, scale, reset, membranes, out):
    """Neurons first to last. currents: (T or 1, N); out: spikes or membranes, (T, N)."""
    step = 0 if currents.shape[0] == 1 else 1
    scratch = np.empty((2, _BLOCK), out.dtype)
    for start in range(first, last, _BLOCK):
        stop = min(start + _BLOCK, last)
        before, charged = scratch[0, : stop - start], scratch[1, : stop - start]
        before[:] = 0
        for t in range(out.shape[0]):
            _charge(currents[t * step, start:stop], beta, threshold, scale, reset, before, charged)
            if not membranes:
                _spikes(threshold, charged, out[t, start:stop])
            if reset == SUBTRACT_NOW:
                _subtract(threshold, before, charged, charged)
            if membranes:
                _membranes(threshold, reset, charged, out[t, start:stop])
            before, charged = charged, before


@kernel
def _derivative(surrogate, slope, threshold, charged, out):
    """d spike / d membrane, by the formulas of snntorch.surrogate."""
    number = charged.dtype.type
    zero, one = number(0), number(1)
    if surrogate == _FAST_SIGMOID:
        for i in range(charged.size):
            width = slope * abs(charged[i] - threshold) + one
            out[i] = one / (width * width)
    elif surrogate == _ATAN:
        half, factor = slope / number(2), number(np.pi) * slope / number(2)
        for i in range(charged.size):
            scaled = factor * (charged[i] - threshold)
            out[i] = half / (one + scaled * scaled)
    elif surrogate == _SIGMOID:
        for i in range(charged.size):
            exponential = np.exp(-slope * abs(charged[i] - threshold))
            out[i] = slope * exponential / ((exponential + one) * (exponential + one))
    elif surrogate == _SFS:
        for i in range(charged.size):
            over = charged[i] - threshold
            width = slope * abs(over) + one
            out[i] = one / (width * width) if over > one else zero
    elif surrogate == _SPIKE_RATE_ESCAPE:
        for i in range(charged.size):
            out[i] = slope * np.exp(-abs(charged[i] - threshold - one))
    elif surrogate == _TRIANGULAR:
        for i in range(charged.size):
            out[i] = -one if charged[i] >= threshold else one
    elif surrogate == _HEAVISIDE:
        for i in range(charged.size):
            out[i] = one if charged[i] > threshold else zero
    else:
        out[:] = one


@kernel
def _learn(threshold, reset, charged, before, gradient, slopes, carry, onto_beta, onto_threshold):
    """Add one step's part of the gradients of beta and of the threshold, for each neuron."""
    zero = charged.dtype.type(0)
    for i in range(charged.size):
        fired, due = charged[i] > threshold, before[i] > threshold
        onto_spike = gradient[i]
        if reset == ZERO_NOW:
            onto_spike -= carry[i] * charged[i]
        elif reset == SUBTRACT_NOW:
            onto_spike -= carry[i] * threshold
        onto_spike *= slopes[i]
        onto_charged = onto_spike + (zero if reset == ZERO_NOW and fired else carry[i])
        onto_beta[i] += onto_charged * (zero if (reset == ZERO_NOW or reset == ZERO_LATER) and due else before[i])
        onto_threshold[i] -= onto_spike
        if reset == SUBTRACT_LATER or reset == SUBTRACT_NOW:
            onto_threshold[i] -= onto_charged if due else zero
        if reset == SUBTRACT_NOW:
            onto_threshold[i] -= carry[i] * (fired - due)


@kernel
def _step_back(beta, threshold, scale, reset, charged, before, gradient, slopes, carry, row):
    """
    From the gradient of the membranes after a step, carry, to that after the last one, and the gradient of the current, row.
    gradient: of the spikes.
    """
    zero, one = charged.dtype.type(0), charged.dtype.type(1)
    if reset == ZERO_NOW:
        for i in range(charged.size):
            silent = zero if charged[i] > threshold else one
            onto_charged = carry[i] * silent + (gradient[i] - carry[i] * charged[i]) * slopes[i]
            row[i] = onto_charged * scale
            carry[i] = beta * onto_charged
    elif reset == ZERO_LATER:
        for i in range(charged.size):
            silent = zero if before[i] > threshold else one
            onto_charged = carry[i] + gradient[i] * slopes[i]
            row[i] = onto_charged * scale
            carry[i] = beta * onto_charged * silent
    elif reset == SUBTRACT_NOW:
        for i in range(charged.size):
            onto_charged = carry[i] + (gradient[i] - carry[i] * threshold) * slopes[i]
            row[i] = onto_charged * scale
            carry[i] = beta * onto_charged
    else:
        for i in range(charged.size):
            onto_charged = carry[i] + gradient[i] * slopes[i]
            row[i] = onto_charged * scale
            carry[i] = beta * onto_charged


@kernel
def _add(row, total):
    for i in range(row.size):
        total[i] += row[i]


@kernel
def _backward(first, last, currents, beta, threshold, scale, reset, surrogate, slope, membranes, grad, out, learned):
    """
    Neurons first to last. grad: of the spikes or membranes, (T, N); out: gradient of the currents, (T or 1, N), zeros if
    (1, N); learned: gradients of beta and of the threshold for each neuron, (2, N), or (2, 0) if neither is wanted.
    """
    num_steps = grad.shape[0]
    step = 0 if currents.shape[0] == 1 else 1
    window = np.empty((num_steps, _BLOCK), grad.dtype)
    # Membranes after each step and its immediate subtraction; without one they follow from those before
    reduced = np.empty((num_steps if reset == SUBTRACT_NOW else 0, _BLOCK), grad.dtype)
    rows = np.zeros((4, _BLOCK), grad.dtype)
    for start in range(first, last, _BLOCK):
        stop = min(start + _BLOCK, last)
        size = stop - start
        carry, slopes, scratch, nothing = rows[0, :size], rows[1, :size], rows[2, :size], rows[3, :size]
        onto_beta, onto_threshold = learned[0, start:stop], learned[1, start:stop]
        after = reduced if reset == SUBTRACT_NOW else window
        for t in range(num_steps):
            before = nothing if t == 0 else after[t - 1, :size]
            _charge(currents[t * step, start:stop], beta, threshold, scale, reset, before, window[t, :size])
            if reset == SUBTRACT_NOW:
                _subtract(threshold, before, window[t, :size], reduced[t, :size])
        carry[:] = 0
        for t in range(num_steps - 1, -1, -1):
            charged, gradient = window[t, :size], grad[t, start:stop]
            before = nothing if t == 0 else after[t - 1, :size]
            _derivative(surrogate, slope, threshold, charged, slopes)
            if membranes:
                _add(gradient, carry)
                gradient = nothing
            if onto_beta.size:
                _learn(threshold, reset, charged, before, gradient, slopes, carry, onto_beta, onto_threshold)
            row = out[t, start:stop] if step else scratch
            _step_back(beta, threshold, scale, reset, charged, before, gradient, slopes, carry, row)
            if not step:
                _add(scratch, out[0, start:stop])


def _run_forward(currents: th.Tensor, num_steps: int, numbers: tuple[Any, ...], membranes: bool) -> th.Tensor:
    permuted, order = contiguous(currents)
    out = permuted.new_empty(num_steps, *permuted.shape[1:])
    flat = permuted.flatten(1).numpy()
    run(_forward, flat.shape[1], out.numel(), flat, *numbers, membranes, out.flatten(1).numpy())
    return restored(out, order)


class _LeakyWindow(th.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        currents: th.Tensor,
        beta: th.Tensor,
        threshold: th.Tensor,
        num_steps: int,
        numbers: tuple[Any, ...],
        spike_grad: Surrogate,
        membranes: bool,
    ) -> th.Tensor:
        ctx.save_for_backward(currents, beta, threshold)
        ctx.settings = (numbers, spike_grad, membranes)
        return _run_forward(currents.detach(), num_steps, numbers, membranes)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, *grad_outputs: th.Tensor) -> tuple[th.Tensor | None, ...]:
        currents, beta, threshold = ctx.saved_tensors
        numbers, spike_grad, membranes = ctx.settings
        # In the order of the larger one: a constant current is one step, its gradient all of them
        order = order_of(grad_outputs[0] if currents.shape[0] == 1 else currents)
        permuted = currents.permute(order).contiguous()
        grad = grad_outputs[0].permute(order).contiguous().flatten(1).numpy()
        flat = permuted.flatten(1).numpy()
        out = th.empty_like(permuted) if flat.shape[0] > 1 else th.zeros_like(permuted)
        learns = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        learned = np.zeros((2, flat.shape[1] if learns else 0), flat.dtype)
        surrogate, slope = FORMULAS[spike_grad.name], flat.dtype.type(spike_grad.slope or 0)
        results = (out.flatten(1).numpy(), learned)
        run(_backward, flat.shape[1], 4 * grad.size, flat, *numbers, surrogate, slope, membranes, grad, *results)
        totals: list[th.Tensor | None] = [None, None]
        if learns:
            sums = learned.sum(axis=1, dtype=np.float64)
            totals = [p.new_tensor(total).reshape(p.shape) for total, p in zip(sums, (beta, threshold), strict=True)]
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
    number = np.float32 if currents.dtype == th.float32 else np.float64
    numbers = (number(beta.item()), number(threshold.item()), number(dynamics.input_scale), dynamics.reset)
    if th.is_grad_enabled():
        return _LeakyWindow.apply(currents, beta, threshold, num_steps, numbers, dynamics.spike_grad, membranes)
    return _run_forward(currents, num_steps, numbers, membranes)
