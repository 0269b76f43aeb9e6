"""The ReLU network of the same shape as a spiking one: what it is compared with, and what learns beside it."""

from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn
from torch.nn import functional as F

from sb3_spiking.extractors import (
    SpikingCombinedExtractor,
    SpikingExtractor,
    SpikingMLP,
    SpikingNatureCNN,
    choose_extractor,
)

#: Settings of a spiking network that a ReLU network of the same shape shares
SHAPE_SETTINGS = ("conv_layers", "layout", "features_dim", "net_arch")


class ReluLayer(nn.Module):
    """
    The convolution or linear layer of a :class:`~sb3_spiking.snn.layers.SpikingLayer`, with ReLU in place of the neurons.

    :param connection: the Conv2d or Linear
    """

    def __init__(self, connection: nn.Module) -> None:
        super().__init__()
        self.connection = connection

    def forward(self, window: th.Tensor) -> th.Tensor:
        """
        :param window: a window of one step, shape (1, B, \\*in)
        :return: activations, shape (1, B, \\*out)
        """
        (inputs,) = window
        inputs = inputs.flatten(1) if isinstance(self.connection, nn.Linear) else inputs.contiguous()
        return F.relu(self.connection(inputs))[None]


class _Relu:
    """A body whose layers have ReLU in place of spiking neurons."""

    def make_layer(self, connection: nn.Conv2d | nn.Linear, neuron: dict[str, Any], first: bool) -> nn.Module:
        return ReluLayer(connection)


class _ReluMLP(_Relu, SpikingMLP):
    pass


class _ReluNatureCNN(_Relu, SpikingNatureCNN):
    pass


class _ReluCombinedExtractor(_Relu, SpikingCombinedExtractor):
    image_body = _ReluNatureCNN


_BODIES: dict[type[SpikingExtractor], type[Any]] = {
    SpikingMLP: _ReluMLP,
    SpikingNatureCNN: _ReluNatureCNN,
    SpikingCombinedExtractor: _ReluCombinedExtractor,
}


class ReluExtractor(BaseFeaturesExtractor):
    """
    The body that a spiking policy would choose for an observation space, as a ReLU network: the same layers in the same
    order, fed by the observation itself. As a features extractor of SB3's own policies it is the network that a spiking one
    is compared with::

        DQN("MlpPolicy", env, policy_kwargs=dict(
            features_extractor_class=ReluExtractor, features_extractor_kwargs=dict(net_arch=[64]), net_arch=[]))

    :param observation_space: observation space
    :param normalized_image: whether images come in [0, 1] already, as in SB3's ``NatureCNN``
    :param like: a spiking body whose layers it has; None for what a spiking policy would choose
    :param settings: those of :class:`~sb3_spiking.settings.SpikingSettings` that shape a network: ``conv_layers``, ``layout``,
        ``features_dim`` and ``net_arch``
    :raises ValueError: for wrong settings, or an observation space that the body does not take
    """

    def __init__(
        self,
        observation_space: gym.Space,
        normalized_image: bool = False,
        like: type[SpikingExtractor] | None = None,
        **settings: Any,
    ) -> None:
        spiking = next((each for each in like.__mro__ if each in _BODIES), None) if like is not None else None
        if spiking is None:
            spiking = choose_extractor(observation_space, normalized_image, bool(settings.get("conv_layers")))
        unknown = set(settings) - set(SHAPE_SETTINGS)
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))}: a ReLU network takes {', '.join(SHAPE_SETTINGS)} alone")
        # The body's record travels in the state; what it says of neurons is the same for ever with a preset
        resolved = spiking.resolve(observation_space, normalized_image, preset="liu2022", num_steps=1, **settings)
        body = _BODIES[spiking](observation_space, normalized_image, **resolved.as_dict())
        super().__init__(observation_space, body.features_dim)
        self.body = body

    def forward(self, observations: PyTorchObs) -> th.Tensor:
        """
        :param observations: preprocessed observations, shape (B, \\*)
        :return: activations of the last layer, shape (B, F)
        """
        return self.body(observations)
