"""A spiking agent as numbers: its layers one after another, and what stands around them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import preprocess_obs
from torch import nn

from sb3_spiking.common_mode import without_common_mode
from sb3_spiking.errors import AgentError
from sb3_spiking.extractors import SpikingMLP, SpikingNatureCNN
from sb3_spiking.observations import channels_height_width
from sb3_spiking.policies import SpikingPolicy, SpikingQNetwork
from sb3_spiking.settings import SpikingSettings
from sb3_spiking.snn.neurons import Leaky


@dataclass(frozen=True)
class Stage:
    """
    A layer of neurons in one simulation step: U = beta U + W x + b, a spike where U > threshold, then the reset. The factor
    on the currents is within weights and bias.

    :param weight: of a convolution without padding, shape (O, C, K, K), or of a linear layer, shape (O, F)
    :param bias: shape (O,)
    :param stride: of the convolution
    :param in_shape: of its input, (C, H, W) or (F,)
    :param out_shape: of its neurons, (O, H', W') or (O,)
    :param beta: membrane decay per step
    :param threshold: of the membrane
    :param reset_mechanism: ``"zero"``, ``"subtract"`` or ``"none"``
    :param reset_delay: whether the reset comes with the next step, as snnTorch has it
    :param fires: False for the neurons of a membrane readout
    """

    weight: th.Tensor
    bias: th.Tensor
    stride: int
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    beta: float
    threshold: float
    reset_mechanism: str
    reset_delay: bool
    fires: bool = True

    @property
    def is_convolution(self) -> bool:
        """Whether its weights are those of a convolution."""
        return self.weight.dim() == 4

    @property
    def resets_at_once(self) -> bool:
        """
        Whether the reset is the plain one, at once and as often as there are spikes: to zero, or a delayed subtraction
        without leak. A subtraction without delay is another thing in snnTorch, which holds back spikes of a membrane above
        twice the threshold; a delayed one with leak subtracts what has not leaked.
        """
        return self.reset_mechanism == "zero" or (self.reset_mechanism == "subtract" and self.reset_delay and self.beta == 1)

    def __str__(self) -> str:
        kind = f"convolution {self.weight.shape[2]}x{self.weight.shape[3]}" if self.is_convolution else "linear"
        return f"{kind}, {' x '.join(map(str, self.in_shape))} to {' x '.join(map(str, self.out_shape))}"


@dataclass(frozen=True)
class Network:
    """
    A spiking agent.

    :param model: the agent, without what it needed to learn alone
    :param stages: layers of neurons, those of the readout among them
    :param linear: weight and bias of the output layer behind the last spikes, None where the readout has neurons
    """

    model: DQN
    stages: tuple[Stage, ...]
    linear: tuple[th.Tensor, th.Tensor] | None

    @property
    def settings(self) -> SpikingSettings:
        """Of the spiking network."""
        return self.q_net.settings

    @property
    def q_net(self) -> SpikingQNetwork:
        """The network that chooses."""
        policy: Any = self.model.policy
        return policy.q_net

    @property
    def has_events(self) -> bool:
        """Whether observations are zeros and ones: events for a chip."""
        return is_binary(self.model.observation_space)

    def inputs(self, observations: Any) -> th.Tensor:
        """
        :param observations: as the policy takes them, shape (B, \\*)
        :return: what the first layer sees at each step, shape (B, C, H, W) or (B, F)
        """
        network = self.q_net
        tensors, _ = self.model.policy.obs_to_tensor(observations)
        inputs = preprocess_obs(tensors, network.observation_space, normalize_images=network.normalize_images)
        assert isinstance(inputs, th.Tensor)
        if not isinstance(network.features_extractor, SpikingNatureCNN):
            return inputs.flatten(1)
        return inputs.permute(0, 3, 1, 2).contiguous() if self.settings.layout == "hwc" else inputs

    def values(self, outputs: th.Tensor) -> th.Tensor:
        """
        :param outputs: of the last stage, spikes or membranes, shape (T, B, \\*)
        :return: Q-values, shape (B, A)
        """
        if self.linear is not None:
            weight, bias = self.linear
            return nn.functional.linear(outputs.flatten(2).mean(dim=0), weight, bias)
        return REDUCTIONS[reduction(self.settings.readout)](outputs)


#: How what comes out of a network at each step, shape (T, B, A), becomes Q-values
REDUCTIONS = {
    "mean": lambda outputs: outputs.mean(dim=0),
    "max": lambda outputs: outputs.amax(dim=0),
    "last": lambda outputs: outputs[-1],
}


def reduction(readout: str) -> str:
    """The key of :data:`REDUCTIONS` of a readout."""
    return {"max_membrane": "max", "last_membrane": "last"}.get(readout, "mean")


def is_binary(space: spaces.Space) -> bool:
    """Whether what SB3 makes of values of a space are zeros and ones."""
    if isinstance(space, spaces.Box):
        return np.issubdtype(space.dtype, np.bool_) or (
            np.issubdtype(space.dtype, np.integer) and bool(np.all(space.low >= 0) and np.all(space.high <= 1))
        )
    return isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary))


def network_of(model: BaseAlgorithm) -> Network:
    """
    :param model: a spiking DQN; one that learned with ``common_mode`` acts without that network
    :return: its numbers, which are its own tensors where nothing scales them
    :raises AgentError: for another agent, or one that is more than layers one after another
    """
    check_spiking(model)
    assert isinstance(model, DQN)
    if getattr(model.policy, "common_mode", False) is not False:
        model = without_common_mode(model)
    network: SpikingQNetwork = model.policy.q_net  # type: ignore[assignment]
    settings, body = network.settings, network.features_extractor
    if type(body) not in (SpikingMLP, SpikingNatureCNN):
        raise AgentError(
            f"{model.observation_space}: several bodies side by side, which only --to onnx can hold; train on one image, grid "
            "or vector"
        )
    if settings.normalization is not None:
        raise AgentError(
            f"normalization={settings.normalization!r}: the currents of a whole layer are normalised at each step, which only "
            "--to onnx can hold; train with normalization=None"
        )
    if isinstance(body, SpikingNatureCNN):
        shape: tuple[int, ...] = channels_height_width(model.observation_space, settings.layout)
        layers: Any = (*body.conv, *body.dense)
    else:
        assert isinstance(body, SpikingMLP)
        layers = tuple(body.dense)
        shape = (layers[0].connection.in_features,)
    stages = []
    for layer in layers:
        stages.append(_stage(layer.connection, layer.neuron, shape))
        shape = stages[-1].out_shape
    linear: Any = network.q_net[0]
    if network.output_neuron is None:
        return Network(model, tuple(stages), (linear.weight.detach(), linear.bias.detach()))
    fires = settings.readout == "spike"
    return Network(model, (*stages, replace(_stage(linear, network.output_neuron, shape), fires=fires)), None)


def check_spiking(model: BaseAlgorithm) -> None:
    """
    :param model: any agent
    :raises AgentError: for one that is no spiking DQN, or whose input is drawn at random
    """
    if not isinstance(model, DQN) or not isinstance(model.policy, SpikingPolicy):
        raise AgentError(
            f"an agent of {type(model).__name__} with {type(model.policy).__name__}: expected DQN with SpikingPolicy; a ReLU "
            "DQN becomes one by sb3-spiking convert"
        )
    if model.policy.settings.encoding != "direct":
        raise AgentError(
            f"encoding={model.policy.settings.encoding!r}: spikes that are drawn anew for each decision make no two equal; "
            "train with encoding='direct'"
        )


def _stage(connection: nn.Conv2d | nn.Linear, neuron: Leaky, in_shape: tuple[int, ...]) -> Stage:
    beta, threshold = neuron.constants()
    dynamics = neuron.dynamics
    if isinstance(connection, nn.Conv2d):
        stride, kernel = connection.stride[0], connection.kernel_size[0]
        out_shape: tuple[int, ...] = (len(connection.weight), *((size - kernel) // stride + 1 for size in in_shape[1:]))
    else:
        stride, out_shape = 1, (len(connection.weight),)
    bias = th.zeros(len(connection.weight)) if connection.bias is None else connection.bias
    return Stage(
        connection.weight.detach() * dynamics.input_scale,
        bias.detach() * dynamics.input_scale,
        stride,
        in_shape,
        out_shape,
        beta,
        threshold,
        dynamics.reset_mechanism,
        dynamics.reset_delay,
    )
