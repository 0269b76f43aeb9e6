"""What the fused kernels have in common: numbers for the settings that they branch on, and the order of the memory."""

from typing import NamedTuple

import torch as th

from sb3_spiking.snn.surrogates import SURROGATES, Surrogate

#: by reset_mechanism and reset_delay
RESETS = {
    ("none", True): 0,
    ("none", False): 0,
    ("zero", True): 1,
    ("zero", False): 2,
    ("subtract", True): 3,
    ("subtract", False): 4,
}

#: by name of the surrogate
FORMULAS = {name: each.formula for name, each in SURROGATES.items() if each.formula is not None}


class Dynamics(NamedTuple):
    """
    What a layer's neurons do, but for beta and the threshold, which may be learned.

    :param input_scale: factor on the currents
    :param spike_grad: Heaviside step of membrane less threshold, with a surrogate gradient
    :param reset_mechanism: ``"subtract"``, ``"zero"`` or ``"none"``
    :param reset_delay: reset at the next step (True) or in the step of the spike (False)
    """

    input_scale: float
    spike_grad: Surrogate
    reset_mechanism: str
    reset_delay: bool

    @property
    def reset(self) -> int:
        """Its number in :data:`RESETS`."""
        return RESETS[self.reset_mechanism, self.reset_delay]


class Layer(NamedTuple):
    """
    Weights and neurons of a spiking layer.

    :param weight: of a convolution without padding, shape (O, C, KH, KW), or of a linear layer, shape (O, C * H * W)
    :param bias: shape (O,), or None
    :param stride: stride of the convolution
    :param beta: in [0, 1]
    :param threshold: at least 0
    :param dynamics: of its neurons
    :param delay: whether it sees spikes one step later
    """

    weight: th.Tensor
    bias: th.Tensor | None
    stride: int
    beta: float
    threshold: float
    dynamics: Dynamics
    delay: bool = False


class Kept(NamedTuple):
    """
    What gradients through rates keep of a layer.

    :param rates: of its spikes, each step with its share, shape (B, \\*)
    :param derivatives: of the rates with respect to a current that is added at every step, of the same shape
    """

    rates: th.Tensor
    derivatives: th.Tensor


def order_of(window: th.Tensor) -> list[int]:
    """
    :param window: shape (T, \\*)
    :return: the permutation of its dimensions into the order of the memory, but for the first, which stays
    """
    return [0, *sorted(range(1, window.dim()), key=window.stride, reverse=True)]


def contiguous(window: th.Tensor) -> tuple[th.Tensor, list[int]]:
    """
    :param window: shape (T, \\*)
    :return: the same values with dimensions permuted into the order of the memory, as a contiguous tensor, and the
        permutation
    """
    order = order_of(window)
    return window.permute(order).contiguous(), order


def restored(permuted: th.Tensor, order: list[int]) -> th.Tensor:
    """The inverse of the permutation of :func:`contiguous`."""
    return permuted.permute(sorted(range(len(order)), key=order.__getitem__))
