"""The Leaky window in plain PyTorch: the definition that every other backend is tested against."""

import torch as th

from sb3_spiking.snn.kernels.dynamics import Dynamics


def leaky_window(
    currents: th.Tensor,
    num_steps: int,
    beta: th.Tensor,
    threshold: th.Tensor,
    dynamics: Dynamics,
    membranes: bool = False,
) -> th.Tensor:
    """
    ``snntorch.Leaky`` stepped over a window, membranes starting at zero:

    ``U[t] = beta U[t-1] + input_scale I[t]`` and ``S[t] = 1`` where ``U[t] > threshold``, with a reset by
    ``reset_mechanism``. A delayed reset acts on ``U[t-1]`` at step ``t`` and is detached from the graph; without delay it
    acts on ``U[t]`` at once and gradients flow through the spike that caused it, as in snnTorch.

    :param currents: input currents I, shape (T, B, \\*), or (1, B, \\*) if the same at every step
    :param num_steps: T
    :param beta: membrane decay per step, in [0, 1]
    :param threshold: firing threshold, at least 0
    :param dynamics: factor on the currents, surrogate and reset
    :param membranes: return the membranes after each step instead of the spikes
    :return: spikes or membranes, shape (T, B, \\*), in the currents' dtype
    """
    input_scale, spike_grad, reset_mechanism, reset_delay = dynamics
    scaled = currents if input_scale == 1.0 else currents * input_scale
    membrane = th.zeros_like(scaled[0])
    spike = membrane
    window = []
    for current in scaled.expand(num_steps, *scaled.shape[1:]):
        # The reset that is due from the step before. Without delay there is only what subtracting left over: a
        # membrane that was above twice the threshold is above it still, and is not reset a second time.
        if reset_delay:
            due = spike.detach()
        elif reset_mechanism == "subtract":
            due = (membrane > threshold).to(current.dtype)
        if reset_mechanism == "subtract":
            membrane = beta * membrane + current - due * threshold
        elif reset_mechanism == "zero" and reset_delay:
            membrane = beta * ((1 - due) * membrane) + current
        else:
            membrane = beta * membrane + current
        spike = spike_grad(membrane - threshold).to(current.dtype)
        if not reset_delay:
            if reset_mechanism == "subtract":
                membrane = membrane - (spike - due) * threshold
            elif reset_mechanism == "zero":
                membrane = membrane - spike * membrane
        window.append(membrane if membranes else spike)
    return th.stack(window)
