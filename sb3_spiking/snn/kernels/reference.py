"""The Leaky window in plain PyTorch: the definition that every other backend is tested against."""

from collections.abc import Callable

import torch as th


def leaky_window(
    currents: th.Tensor,
    beta: th.Tensor,
    threshold: th.Tensor,
    spike_grad: Callable[[th.Tensor], th.Tensor],
    reset_mechanism: str,
    reset_delay: bool,
) -> tuple[list[th.Tensor], list[th.Tensor]]:
    """
    ``snntorch.Leaky`` stepped over a window, membranes starting at zero:

    ``U[t] = beta U[t-1] + I[t]`` and ``S[t] = 1`` where ``U[t] > threshold``, with a reset by ``reset_mechanism``.
    A delayed reset acts on ``U[t-1]`` at step ``t`` and is detached from the graph; without delay it acts on ``U[t]``
    at once and gradients flow through the spike that caused it, as in snnTorch.

    :param currents: input currents, shape (T, B, \\*)
    :param beta: membrane decay per step, in [0, 1]
    :param threshold: firing threshold, at least 0
    :param spike_grad: Heaviside step of ``U - threshold`` with a surrogate gradient
    :param reset_mechanism: ``"subtract"``, ``"zero"`` or ``"none"``
    :param reset_delay: reset at the next step (True) or in the step of the spike (False)
    :return: for each of the T steps, the spikes and the membranes after it, shape (B, \\*), in the currents' dtype
    """
    membrane = th.zeros_like(currents[0])
    spike = membrane
    spikes, membranes = [], []
    for current in currents:
        # The reset that is due from the step before. Without delay there is only what subtracting left over: a
        # membrane that was above twice the threshold is above it still, and is not reset a second time.
        if reset_delay:
            due = spike.detach()
        elif reset_mechanism == "subtract":
            due = (membrane > threshold).to(currents.dtype)
        if reset_mechanism == "subtract":
            membrane = beta * membrane + current - due * threshold
        elif reset_mechanism == "zero" and reset_delay:
            membrane = beta * ((1 - due) * membrane) + current
        else:
            membrane = beta * membrane + current
        spike = spike_grad(membrane - threshold).to(currents.dtype)
        if not reset_delay:
            if reset_mechanism == "subtract":
                membrane = membrane - (spike - due) * threshold
            elif reset_mechanism == "zero":
                membrane = membrane - spike * membrane
        spikes.append(spike)
        membranes.append(membrane)
    return spikes, membranes
