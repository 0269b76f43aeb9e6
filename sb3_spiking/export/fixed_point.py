"""
An agent with the numbers of SynSense's chips: weights and biases of 8 bits, membranes of 16 bits, whole numbers all of them.

Each layer has one factor for its weights, biases and threshold, the largest with which all fit, and everything is rounded:
what sinabs does when it discretizes. A neuron fires when its membrane is at least the threshold. Membranes stop at the ends of
16 bits; the chip adds event by event, which we do step by step. The output layer of the ``rate`` readout is the host's and
stays as it is.
"""

import copy
from typing import Any

import torch as th
from stable_baselines3 import DQN
from torch import nn

from sb3_spiking.export.network import Network, Stage

WEIGHT_BITS, STATE_BITS = 8, 16
LOWEST_STATE, HIGHEST_STATE = -(2 ** (STATE_BITS - 1)), 2 ** (STATE_BITS - 1) - 1


def scale_of(stage: Stage) -> float:
    """
    :param stage: a layer
    :return: the largest factor with which weights and biases fit 8 bits and the threshold fits 16
    """
    factors = [_scale(stage.weight, WEIGHT_BITS), _scale(stage.bias, WEIGHT_BITS), HIGHEST_STATE / stage.threshold]
    return min(factors)


def whole_threshold(stage: Stage) -> int:
    """
    :param stage: a layer that fires
    :return: its threshold as a whole number, 0 where it is none, or too small beside the weights
    """
    return round(stage.threshold * scale_of(stage)) if stage.threshold > 0 else 0


def _scale(values: th.Tensor, bits: int) -> float:
    lowest, highest = 2 ** (bits - 1), 2 ** (bits - 1) - 1
    ends = [(highest, float(values.max())), (lowest, -float(values.min()))]
    return min((limit / end for limit, end in ends if end > 0), default=float("inf"))


class ChipNeurons(nn.Module):
    """
    Integrate-and-fire neurons whose membranes are whole numbers of 16 bits.

    :param threshold: a whole number
    :param to_zero: whether a spike resets to zero; otherwise it subtracts the threshold
    """

    def __init__(self, threshold: int, to_zero: bool) -> None:
        super().__init__()
        self.threshold, self.to_zero = threshold, to_zero

    def forward(self, currents: th.Tensor, num_steps: int | None = None) -> th.Tensor:
        """
        :param currents: whole numbers, shape (T, B, \\*), or (1, B, \\*) if the same at each of ``num_steps`` steps
        :param num_steps: T, by default the currents' own
        :return: spikes, shape (T, B, \\*)
        """
        steps = len(currents) if num_steps is None else num_steps
        membrane, window = th.zeros_like(currents[0]), []
        for current in currents.expand(steps, *currents.shape[1:]):
            membrane = (membrane + current).clamp(LOWEST_STATE, HIGHEST_STATE)
            spike = (membrane >= self.threshold).to(current.dtype)
            membrane = membrane * (1 - spike) if self.to_zero else membrane - self.threshold * spike
            window.append(spike)
        return th.stack(window)


class ChipLayer(nn.Module):
    """
    A layer on a core: rounded weights and :class:`ChipNeurons`. Single precision holds what it adds exactly.

    :param stage: the layer before rounding
    :param num_steps: of a window
    """

    def __init__(self, stage: Stage, num_steps: int) -> None:
        super().__init__()
        self.num_steps = num_steps
        scale = scale_of(stage)
        outputs, inputs, *kernel = stage.weight.shape
        self.connection: nn.Module = (
            nn.Conv2d(inputs, outputs, kernel[0], stage.stride) if kernel else nn.Linear(inputs, outputs)
        )
        self.connection.load_state_dict({"weight": (stage.weight * scale).round(), "bias": (stage.bias * scale).round()})
        self.connection.requires_grad_(False).to(stage.weight.device)
        self.neuron = ChipNeurons(whole_threshold(stage), stage.reset_mechanism == "zero")

    def forward(self, window: th.Tensor) -> th.Tensor:
        """
        :param window: events, shape (T, B, \\*in), or (1, B, \\*in) if the same at each step
        :return: spikes, shape (T, B, \\*out)
        """
        images = window.flatten(0, 1)
        currents = self.connection(images.flatten(1) if isinstance(self.connection, nn.Linear) else images)
        return self.neuron(currents.unflatten(0, window.shape[:2]), self.num_steps)


def can_be_rounded(network: Network) -> bool:
    """Whether :func:`on_chip` takes an agent: events, and neurons that a chip has, whatever the size of the layers."""
    neurons = all(
        stage.fires and stage.beta == 1 and stage.resets_at_once and whole_threshold(stage) > 0 for stage in network.stages
    )
    return neurons and network.has_events and not network.settings.layer_delay


def on_chip(network: Network) -> DQN:
    """
    :param network: an agent that :func:`can_be_rounded` takes
    :return: a copy that plays with the numbers of a chip
    """
    model = network.model
    other = copy.copy(model)
    other.policy = copy.deepcopy(model.policy)
    other._create_aliases()
    q_net: Any = other.policy.q_net
    layers = [ChipLayer(stage, network.settings.num_steps) for stage in network.stages]
    if network.linear is None:
        output = layers.pop()
        q_net.q_net, q_net.output_neuron = output.connection, output.neuron
    body = q_net.features_extractor
    convolutions = [layer for layer in layers if isinstance(layer.connection, nn.Conv2d)]
    if convolutions:
        body.conv = nn.ModuleList(convolutions)
    body.dense = nn.ModuleList(layers[len(convolutions) :])
    return other
