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
) -> tuple[th.Tensor, th.Tensor]:
    """
    ``snntorch.Leaky`` stepped over a window, membranes starting at zero:

    ``U[t] = beta U[t-1] + I[t]`` and ``S[t] = 1`` where ``U[t] > threshold``, with a reset by ``reset_mechanism``.
    A delayed reset acts on ``U[t-1]`` at step ``t`` and is detached from the graph; without delay it acts on ``U[t]``
    at once and gradients flow through the spike that caused it, as in snnTorch.

    :param currents: input currents, shape (T, B, \\*)
    :param beta: membrane decay per step, in [0, 1]
    :param threshold: firing threshold
    :param spike_grad: Heaviside step of ``U - threshold`` with a surrogate gradient
    :param reset_mechanism: ``"subtract"``, ``"zero"`` or ``"none"``
    :param reset_delay: reset at the next step (True) or in the step of the spike (False)
    :return: spikes and membranes, both of shape (T, B, \\*) and of the currents' dtype
    """
    membrane = th.zeros_like(currents[0])
    spikes, membranes = [], []
    for current in currents:
        # The reset due from the previous step. Without delay it is the one left over when a membrane
        # above twice the threshold lost one threshold and is still above it.
        due = (membrane > threshold).to(currents.dtype)
        if reset_mechanism == "subtract":
            membrane = beta * membrane + current - due * threshold
        elif reset_mechanism == "zero":
            membrane = beta * ((1 - due) * membrane) + current
        else:
            membrane = beta * membrane + current
        spike = spike_grad(membrane - threshold).to(currents.dtype)
        if not reset_delay:
            if reset_mechanism == "subtract":
                membrane = membrane - (spike - due) * threshold
            elif reset_mechanism == "zero":
                membrane = membrane - (spike - due) * membrane
        spikes.append(spike)
        membranes.append(membrane)
    return th.stack(spikes), th.stack(membranes)
