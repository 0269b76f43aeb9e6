"""``snntorch.Leaky`` over a whole window of time."""

from typing import Any

import snntorch as snn
import torch as th

from sb3_spiking.snn.kernels import leaky_rates, leaky_window
from sb3_spiking.snn.kernels.dynamics import Dynamics
from sb3_spiking.snn.surrogates import Surrogate


class _Bounded(th.autograd.Function):
    """
    Clamp whose gradient vanishes only where it would push a value further out. ``th.clamp`` has none outside the
    bounds at all: a learned beta that once steps over 1 would stay there for good.
    """

    @staticmethod
    def forward(ctx: Any, value: th.Tensor, low: float, high: float) -> th.Tensor:
        ctx.save_for_backward(value)
        ctx.low, ctx.high = low, high
        return value.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: th.Tensor) -> tuple[th.Tensor, None, None]:
        (value,) = ctx.saved_tensors
        (grad,) = grad_outputs
        # Gradient descent moves against the gradient
        outward = ((value < ctx.low) & (grad > 0)) | ((value > ctx.high) & (grad < 0))
        return grad.masked_fill(outward, 0.0), None, None


def _bounded(value: th.Tensor, low: float, high: float) -> th.Tensor:
    return _Bounded.apply(value, low, high) if value.requires_grad else value.clamp(low, high)


class Leaky(snn.Leaky):
    """
    A layer of leaky integrate-and-fire neurons that runs a whole window of simulation steps in one call. Spikes and
    gradients are those of ``snntorch.Leaky`` stepped over the window from zero membranes. Nothing is kept between windows.
    With membrane U, current I, spike S, and a delayed reset::

        "subtract":  U[t] = beta U[t-1] + input_scale I[t] - threshold S[t-1]
        "zero":      U[t] = beta (1 - S[t-1]) U[t-1] + input_scale I[t]
        "none":      U[t] = beta U[t-1] + input_scale I[t]
        S[t] = 1 where U[t] > threshold, else 0

    A network's defaults are others: :class:`~sb3_spiking.settings.SpikingSettings`.

    :param beta: membrane decay per step, in [0, 1]
    :param threshold: a neuron fires when its membrane is above this
    :param spike_grad: name of the surrogate gradient, see :data:`sb3_spiking.snn.surrogates.SURROGATES`
    :param slope: steepness of the surrogate; None takes snnTorch's default
    :param reset_mechanism: ``"zero"``, ``"subtract"`` (of the threshold) or ``"none"``
    :param reset_delay: reset one step after the spike, detached from the graph (True), or at once with gradient
    :param learn_beta: make beta a parameter, one number for the layer
    :param learn_threshold: make the threshold a parameter, one number for the layer
    :param input_scale: factor on the input currents
    """

    def __init__(
        self,
        *,
        beta: float,
        threshold: float = 1.0,
        spike_grad: str = "fast_sigmoid",
        slope: float | None = None,
        reset_mechanism: str = "zero",
        reset_delay: bool = True,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        input_scale: float = 1.0,
    ) -> None:
        super().__init__(
            # as_tensor of snnTorch would make an integer parameter of beta=1
            beta=float(beta),
            threshold=float(threshold),
            spike_grad=Surrogate(spike_grad, slope),
            reset_mechanism=reset_mechanism,
            reset_delay=reset_delay,
            learn_beta=learn_beta,
            learn_threshold=learn_threshold,
        )
        # snnTorch's registry keeps every neuron alive for ever; it serves hidden states, which we do not have
        snn.SpikingNeuron.instances.remove(self)
        self.input_scale = float(input_scale)

    def forward(self, currents: th.Tensor, num_steps: int | None = None) -> th.Tensor:
        """
        :param currents: input currents, shape (T, B, \\*), or (1, B, \\*) if the same at each of ``num_steps`` steps
        :param num_steps: T, by default the currents' own
        :return: spikes (0 or 1), shape (T, B, \\*)
        """
        return self._run(currents, num_steps, membranes=False)

    def membranes(self, currents: th.Tensor, num_steps: int | None = None) -> th.Tensor:
        """
        :param currents: input currents, shape (T, B, \\*), or (1, B, \\*) if the same at each of ``num_steps`` steps
        :param num_steps: T, by default the currents' own
        :return: membranes after each step, before a delayed reset and after an immediate one, shape (T, B, \\*)
        """
        return self._run(currents, num_steps, membranes=True)

    def rates(self, currents: th.Tensor, num_steps: int, shares: tuple[float, ...]) -> tuple[th.Tensor, th.Tensor] | None:
        """
        What gradients through rates need, where there is a kernel for it.

        :param currents: as of :meth:`forward`
        :param num_steps: T
        :param shares: what a spike counts at each step, T numbers
        :return: as of :func:`sb3_spiking.snn.rates.of_neurons`; None where there is no kernel
        """
        return leaky_rates(currents, num_steps, *self._parameters_within_bounds(), self.dynamics, shares)

    @property
    def dynamics(self) -> Dynamics:
        """What these neurons do, but for beta and the threshold."""
        return Dynamics(self.input_scale, self.spike_grad, self.reset_mechanism, self.reset_delay)

    def constants(self) -> tuple[float, float]:
        """beta and the threshold as they are now, within their bounds."""
        return min(max(self.beta.item(), 0.0), 1.0), max(self.threshold.item(), 0.0)

    def _run(self, currents: th.Tensor, num_steps: int | None, membranes: bool) -> th.Tensor:
        return leaky_window(
            currents,
            currents.shape[0] if num_steps is None else num_steps,
            *self._parameters_within_bounds(),
            self.dynamics,
            membranes,
        )

    def _parameters_within_bounds(self) -> tuple[th.Tensor, th.Tensor]:
        """beta and the threshold."""
        return _bounded(self.beta, 0.0, 1.0), _bounded(self.threshold, 0.0, float("inf"))

    def extra_repr(self) -> str:
        return (
            f"beta={self.beta.item():.4g}, threshold={self.threshold.item():.4g}, "
            f"{self.spike_grad.name}({'' if self.spike_grad.slope is None else self.spike_grad.slope}), "
            f"reset={self.reset_mechanism}{', delayed' if self.reset_delay else ''}, input_scale={self.input_scale:.4g}"
        )
