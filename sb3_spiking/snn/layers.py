"""A layer of a spiking network: weights and neurons."""

from typing import Any

import torch as th
from torch import nn

from sb3_spiking.snn.neurons import Leaky


class SpikingLayer(nn.Module):
    """
    A convolution or linear layer followed by Leaky neurons, over a whole window.

    :param connection: maps (N, \\*in) to (N, \\*out)
    :param num_steps: simulation steps of a window
    :param neuron: settings of the :class:`Leaky` neurons
    """

    def __init__(self, connection: nn.Module, num_steps: int, neuron: dict[str, Any]) -> None:
        super().__init__()
        self.connection = connection
        self.num_steps = num_steps
        self.neuron = Leaky(**neuron)

    def forward(self, window: th.Tensor) -> th.Tensor:
        """
        :param window: input over the window, shape (T, B, \\*in), or (1, B, \\*in) if the same at every step: then the
            connection runs once, not T times
        :return: spikes, shape (T, B, \\*out)
        """
        currents = self.connection(window.flatten(0, 1)).unflatten(0, window.shape[:2])
        return self.neuron(currents, self.num_steps)
