"""Surrogate gradients by name, so that a network's settings stay plain numbers and strings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import snntorch.surrogate
import torch as th


class SurrogateFactory(NamedTuple):
    """
    An entry of :data:`SURROGATES`.

    :param make: builds snnTorch's function; takes the steepness if the surrogate has one
    :param default_slope: snnTorch's default steepness, or None for a surrogate without one
    :param formula: number by which the kernels of neurons know its derivative, or None: such neurons run in plain PyTorch
    :param fused_rates: whether whole layers at once have its derivative for gradients through rates
    """

    make: Callable[..., Callable[[th.Tensor], th.Tensor]]
    default_slope: float | None = None
    formula: int | None = None
    fused_rates: bool = False


class _Sigmoid(th.autograd.Function):
    """
    snnTorch's sigmoid surrogate, whose derivative is even: written with ``exp(-slope |U|)``, which cannot overflow. snnTorch's
    own is inf / inf for currents of a few thresholds below it.
    """

    @staticmethod
    def forward(ctx: Any, membrane_over_threshold: th.Tensor, slope: float) -> th.Tensor:
        ctx.save_for_backward(membrane_over_threshold)
        ctx.slope = slope
        return (membrane_over_threshold > 0).float()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: th.Tensor) -> tuple[th.Tensor, None]:
        (membrane_over_threshold,) = ctx.saved_tensors
        exponential = th.exp(-ctx.slope * membrane_over_threshold.abs())
        return grad_outputs[0] * ctx.slope * exponential / (exponential + 1) ** 2, None


# snnTorch's deterministic surrogates. ``slope`` is the first steepness parameter of each: ``slope`` itself,
# or ``alpha`` for atan; what else a surrogate takes stays at snnTorch's default. Left out are the random SSO,
# LSO (it calls SSO's operator in snnTorch 1.0) and custom_surrogate (a function cannot be saved as a setting).
SURROGATES: dict[str, SurrogateFactory] = {
    "fast_sigmoid": SurrogateFactory(lambda slope: snntorch.surrogate.fast_sigmoid(slope=slope), 25.0, 0, fused_rates=True),
    "atan": SurrogateFactory(lambda slope: snntorch.surrogate.atan(alpha=slope), 2.0, 1, fused_rates=True),
    "sigmoid": SurrogateFactory(lambda slope: lambda membrane: _Sigmoid.apply(membrane, slope), 25.0, 2),
    "SFS": SurrogateFactory(lambda slope: snntorch.surrogate.SFS(slope=slope), 25.0, 3),
    "spike_rate_escape": SurrogateFactory(lambda slope: snntorch.surrogate.spike_rate_escape(slope=slope), 25.0, 4),
    "triangular": SurrogateFactory(lambda: snntorch.surrogate.triangular(), formula=5),
    "heaviside": SurrogateFactory(lambda: snntorch.surrogate.heaviside(), formula=6),
    "straight_through_estimator": SurrogateFactory(lambda: snntorch.surrogate.straight_through_estimator(), formula=7),
}


@dataclass(frozen=True)
class Surrogate:
    """
    The Heaviside step with a surrogate gradient from :data:`SURROGATES`, named rather than enclosed: snnTorch's own
    surrogates are closures, which cannot be pickled.

    :param name: a key of :data:`SURROGATES`
    :param slope: steepness; None takes snnTorch's default
    :raises ValueError: for an unknown name, or a slope where the surrogate has none
    """

    name: str
    slope: float | None = None

    def __post_init__(self) -> None:
        if self.name not in SURROGATES:
            raise ValueError(f"spike_grad={self.name!r}: expected one of {', '.join(map(repr, SURROGATES))}")
        default = SURROGATES[self.name].default_slope
        if self.slope is None:
            object.__setattr__(self, "slope", default)
        elif default is None:
            raise ValueError(f"slope={self.slope!r}: the surrogate {self.name!r} has no slope, leave it out")

    def __call__(self, membrane_over_threshold: th.Tensor) -> th.Tensor:
        """
        :param membrane_over_threshold: ``U - threshold``, any shape
        :return: 1 where it is positive, else 0, same shape, float32
        """
        make = SURROGATES[self.name].make
        spike_grad = make() if self.slope is None else make(self.slope)
        return spike_grad(membrane_over_threshold)
