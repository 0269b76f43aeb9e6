"""
How the last layer's spikes over a window become values.

A readout is a function ``(window, linear, neuron) -> values``: ``window`` are the spikes (T, B, F) of the last hidden
layer, ``linear`` the output layer's weights, ``neuron`` the output layer's Leaky, None for a readout without output
neurons; the values have shape (B, A).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch as th
from torch import nn

from sb3_spiking.snn.neurons import Leaky


class Readout(NamedTuple):
    """
    An entry of :data:`READOUTS`.

    :param values: the function
    :param neuron: None for a readout without output neurons, else what sets them apart from the other layers' Leaky
    """

    values: Callable[[th.Tensor, nn.Module, Any], th.Tensor]
    neuron: dict[str, Any] | None


def rate(window: th.Tensor, linear: nn.Module, neuron: None) -> th.Tensor:
    """The linear layer of the mean spike: Q = FC2(firing rates), Liu et al. 2022 (arXiv 2201.07211)."""
    return linear(window.mean(dim=0))


def spike(window: th.Tensor, linear: nn.Module, neuron: Leaky) -> th.Tensor:
    """The firing rate of the output neurons, in [0, 1]: Liu et al.'s DsqnSpike."""
    return neuron(linear(window)).mean(dim=0)


def max_membrane(window: th.Tensor, linear: nn.Module, neuron: Leaky) -> th.Tensor:
    """The highest membrane of output neurons that do not fire: Chen et al. 2022 (arXiv 2201.09754)."""
    return neuron.membranes(linear(window)).amax(dim=0)


def mean_membrane(window: th.Tensor, linear: nn.Module, neuron: Leaky) -> th.Tensor:
    """The mean membrane of output neurons that do not fire."""
    return neuron.membranes(linear(window)).mean(dim=0)


def last_membrane(window: th.Tensor, linear: nn.Module, neuron: Leaky) -> th.Tensor:
    """The membrane of output neurons that do not fire, after the last step."""
    return neuron.membranes(linear(window))[-1]


# A membrane that is read and never reset integrates without firing
_INTEGRATOR = {"reset_mechanism": "none", "learn_threshold": False}

READOUTS: dict[str, Readout] = {
    "rate": Readout(rate, None),
    "spike": Readout(spike, {}),
    "max_membrane": Readout(max_membrane, _INTEGRATOR),
    "mean_membrane": Readout(mean_membrane, _INTEGRATOR),
    "last_membrane": Readout(last_membrane, _INTEGRATOR),
}
