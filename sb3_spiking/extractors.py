"""The spiking bodies: SB3 features extractors made of spiking layers."""

import math
import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

import gymnasium as gym
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space, is_image_space_channels_first
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_spiking.observations import channels_height_width, image_keys, is_intensity, nan_where_not_finite
from sb3_spiking.settings import SpikingSettings
from sb3_spiking.snn import rates
from sb3_spiking.snn.encoding import ENCODINGS
from sb3_spiking.snn.layers import SpikingLayer, delayed, learn_through_rates, run_layers
from sb3_spiking.snn.readout import READOUTS

# The convolutions of Mnih et al. 2015 (Nature 518:529), which Liu et al. 2022 keep: channels, kernel size, stride
NATURE_CONV_LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))

# What was shown to learn on CartPole, MinAtar and Atari with few simulation steps: neurons that keep their charge, which are
# the settings' own defaults, and a surrogate wide enough to reach membranes far below the threshold. A deep network on images
# needs larger currents to fire from the first step on: see docs/learning.md
_DEFAULTS = {"slope": 2.0}
_IMAGE_DEFAULTS = {"conv_layers": NATURE_CONV_LAYERS, "input_scale": 4.0, "gradients": "rates"}


class SpikingExtractor(BaseFeaturesExtractor):
    """
    Base class of the spiking bodies. The whole window runs layer by layer: :meth:`window` gives the last layer's spikes,
    :meth:`forward` their mean over the window, so that a body serves every SB3 algorithm as its features extractor.

    A subclass fills in its settings in :meth:`resolve`, builds its layers in ``__init__``, ends that with :meth:`connect`, and
    runs them in :meth:`window`.

    The resolved settings travel in the ``state_dict``: loading the state of a network with other settings fails.

    :param observation_space: observation space, channels first or last for images
    :param normalized_image: whether images come in [0, 1] already, as in SB3's ``NatureCNN``
    :param settings: settings by name, see :class:`~sb3_spiking.settings.SpikingSettings`; ``preset`` names a base
    :raises ValueError: for wrong settings, or an observation space that the body does not take
    """

    #: the body's own defaults, which come before those of :class:`~sb3_spiking.settings.SpikingSettings`
    defaults: ClassVar[dict[str, Any]] = {**_DEFAULTS, "conv_layers": (), "net_arch": (256, 256)}

    def __init__(self, observation_space: gym.Space, normalized_image: bool, settings: SpikingSettings) -> None:
        assert settings.net_arch is not None
        super().__init__(observation_space, settings.net_arch[-1] if settings.net_arch else settings.features_dim)
        self.settings = settings
        self.normalized_image = normalized_image

    @classmethod
    def resolve(cls, observation_space: gym.Space, normalized_image: bool, **settings: Any) -> SpikingSettings:
        """
        :return: the settings with every default filled in
        :raises ValueError: for wrong settings, or an observation space that the body does not take
        """
        return SpikingSettings.resolve(defaults=cls.defaults, **settings)

    def window(self, observations: PyTorchObs) -> th.Tensor:
        """
        :param observations: preprocessed observations, shape (B, \\*)
        :return: the last layer's spikes, shape (T, B, F)
        """
        raise NotImplementedError

    def forward(self, observations: PyTorchObs) -> th.Tensor:
        """
        :param observations: preprocessed observations, shape (B, \\*)
        :return: firing rates over the window, spikes per step in [0, 1], shape (B, F); NaN for an observation that is not
            finite
        """
        if self.settings.readout != "rate":
            raise ValueError(
                f"readout={self.settings.readout!r}: a features extractor gives firing rates, expected readout='rate'; "
                "others are for SpikingPolicy"
            )
        window = self.delayed(self.window(observations))
        return window.mean(dim=0) + nan_where_not_finite(observations, self._observation_space)

    def neurons(self, count: int, depth: int | None = None) -> list[dict[str, Any]]:
        """
        :param count: spiking layers of the body
        :param depth: how many of them spikes pass on the longest way; None for all
        :return: Leaky settings of each; those of the readout's neurons, if it has some, go to
            ``output_neuron_settings``
        """
        readout = READOUTS[self.settings.readout]
        neurons = self.settings.neurons(count + (readout.neuron is not None), count if depth is None else depth)
        self.output_neuron_settings = None if readout.neuron is None else {**neurons.pop(), **readout.neuron}
        return neurons

    def encode(self, observation: th.Tensor, space: gym.Space) -> th.Tensor:
        """
        :param observation: preprocessed values of one space, shape (B, C, \\*)
        :param space: the space they come from
        :return: input over the window, shape (T, B, C', \\*), or (1, B, C', \\*) if constant
        """
        encoding = ENCODINGS[self.settings.encoding]
        return encoding(observation, self.settings.num_steps, is_intensity(space, self.normalized_image))

    def encoded_channels(self, channels: int, space: gym.Space) -> int:
        """How many channels or features an encoding makes of ``channels``."""
        return self.encode(th.empty(1, channels, device="meta"), space).shape[2]

    def make_layer(self, connection: nn.Conv2d | nn.Linear, neuron: dict[str, Any], first: bool) -> nn.Module:
        """A layer with neurons of the given settings, fed by the observation if it is the first, else by spikes."""
        delay = self.settings.layer_delay and not first
        return SpikingLayer(connection, self.settings.num_steps, neuron, delay, self.settings.normalization)

    def dense_layers(
        self, in_features: int, units: tuple[int, ...], neurons: list[dict[str, Any]], first: bool
    ) -> nn.ModuleList:
        """Linear spiking layers of the given numbers of units, whether the observation comes first or other layers."""
        sizes = (in_features, *units)
        layers: list[nn.Module] = []
        for size, next_size, neuron in zip(sizes[:-1], sizes[1:], neurons, strict=True):
            layers.append(self.make_layer(nn.Linear(size, next_size), neuron, first and not layers))
        return nn.ModuleList(layers)

    def connect(self, layers: Iterable[nn.Module], shares: rates.Shares | None = None) -> rates.Shares | None:
        """
        Choose the gradients of layers that follow on each other, as the settings say.

        :param layers: from the input to the output
        :param shares: what their last spikes count at each step, with gradients through rates; None for what the readout does
        :return: what an input counts at each step, None with exact gradients
        """
        if self.settings.gradients == "exact":
            return None
        if shares is None:
            shares = (1 / self.settings.num_steps,) * self.settings.num_steps
            if self.output_neuron_settings is not None:
                shares = rates.input_shares(shares, self.output_neuron_settings["beta"])
            if self.settings.layer_delay:
                shares = rates.one_step_earlier(shares)
        return learn_through_rates(list(layers), shares)

    def delayed(self, window: th.Tensor) -> th.Tensor:
        """
        :param window: spikes, shape (T, \\*)
        :return: as what comes behind sees them, one step later with ``layer_delay``, shape (T, \\*)
        """
        if not self.settings.layer_delay:
            return window
        return rates.through_delay(window) if self.settings.gradients == "rates" else delayed(window)

    def get_extra_state(self) -> dict[str, Any]:
        return self.settings.as_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        differences = self.settings.differences(SpikingSettings.resolve(**state))
        differences.pop("gradients", None)  # it acts the same
        if differences:
            listed = ", ".join(f"{name}: saved {saved!r}, here {here!r}" for name, (here, saved) in differences.items())
            saved_settings = {name: saved for name, (_, saved) in differences.items()}
            raise ValueError(
                f"The saved spiking network has other settings ({listed}). Build it with the saved ones, "
                f"{saved_settings}, before loading: for a features extractor of PPO and the like in "
                "load(..., custom_objects={'policy_kwargs': ...}) as features_extractor_kwargs."
            )


class SpikingMLP(SpikingExtractor):
    """
    Dense spiking layers, of the sizes in ``net_arch``, on the flattened observation.

    :param observation_space: any space that SB3 can flatten, but Dict
    :param normalized_image: as in SB3's ``NatureCNN``
    :param settings: see :class:`SpikingExtractor`
    """

    def __init__(self, observation_space: gym.Space, normalized_image: bool = False, **settings: Any) -> None:
        super().__init__(observation_space, normalized_image, self.resolve(observation_space, normalized_image, **settings))
        units = self.settings.net_arch or ()
        in_features = self.encoded_channels(get_flattened_obs_dim(observation_space), observation_space)
        self.dense = self.dense_layers(in_features, units, self.neurons(len(units)), first=True)
        self.connect(self.dense)

    @classmethod
    def resolve(cls, observation_space: gym.Space, normalized_image: bool, **settings: Any) -> SpikingSettings:
        resolved = super().resolve(observation_space, normalized_image, **settings)
        if resolved.conv_layers:
            raise ValueError(
                f"conv_layers={resolved.conv_layers!r}: convolutions take an image or a grid, a Box of three dimensions; "
                f"the observation space is {observation_space}"
            )
        for name in ("features_dim", "layout"):
            if getattr(resolved, name) != getattr(SpikingSettings, name):
                warnings.warn(
                    f"{name}={getattr(resolved, name)!r} has no effect without convolutions; expected net_arch",
                    stacklevel=2,
                )
        _require_dense_layer(resolved)
        return resolved

    def window(self, observations: PyTorchObs) -> th.Tensor:
        assert isinstance(observations, th.Tensor)
        return run_layers(self.dense, self.encode(observations.flatten(1), self._observation_space))


class SpikingNatureCNN(SpikingExtractor):
    """
    Spiking convolutions, a dense spiking layer of ``features_dim`` units, and those of ``net_arch``: by default the
    network of Liu et al. 2022, three convolutions and 512 units. With other ``conv_layers`` it takes small grids too,
    whose ``layout`` must be given unless they are uint8 images.

    :param observation_space: a Box of three dimensions
    :param normalized_image: as in SB3's ``NatureCNN``
    :param settings: see :class:`SpikingExtractor`
    """

    defaults: ClassVar[dict[str, Any]] = {**_DEFAULTS, **_IMAGE_DEFAULTS, "net_arch": ()}

    def __init__(self, observation_space: gym.Space, normalized_image: bool = False, **settings: Any) -> None:
        super().__init__(observation_space, normalized_image, self.resolve(observation_space, normalized_image, **settings))
        convolutions, net_arch = self.settings.conv_layers or (), self.settings.net_arch or ()
        neurons = self.neurons(len(convolutions) + 1 + len(net_arch))
        channels, height, width = channels_height_width(observation_space, self.settings.layout)
        in_channels = self.encoded_channels(channels, observation_space)
        layers: list[nn.Module] = []
        self.largest_layer = 0
        for (out_channels, kernel_size, stride), neuron in zip(convolutions, neurons, strict=False):
            convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride)
            layers.append(self.make_layer(convolution, neuron, not layers))
            in_channels = out_channels
            height, width = _conv_output_size(height, width, ((out_channels, kernel_size, stride),))
            self.largest_layer = max(self.largest_layer, out_channels * height * width)
        self.conv = nn.ModuleList(layers)
        units = (self.settings.features_dim, *net_arch)
        self.dense = self.dense_layers(in_channels * height * width, units, neurons[len(convolutions) :], first=not layers)
        self.connect((*self.conv, *self.dense))

    @classmethod
    def resolve(cls, observation_space: gym.Space, normalized_image: bool, **settings: Any) -> SpikingSettings:
        resolved = super().resolve(observation_space, normalized_image, **settings)
        if not (isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 3):
            raise ValueError(
                f"{cls.__name__} takes an image or a grid, a Box of three dimensions; the observation space is "
                f"{observation_space}. For other observations use SpikingMLP, or SpikingPolicy, which chooses the body."
            )
        layout = resolved.layout
        if layout is None:
            if not is_image_space(observation_space, normalized_image=normalized_image):
                raise ValueError(
                    "layout=None: which dimension of an observation space that is not a uint8 image holds the channels "
                    f"cannot be told from its shape {observation_space.shape}; expected 'chw' or 'hwc'"
                )
            layout = "chw" if is_image_space_channels_first(observation_space) else "hwc"
        convolutions = resolved.conv_layers or ()
        channels, height, width = channels_height_width(observation_space, layout)
        is_first = is_image_space_channels_first(observation_space)
        if is_image_space(observation_space, normalized_image=normalized_image) and is_first != (layout == "chw"):
            warnings.warn(
                f"layout={layout!r}: taken as {channels} channels of {height} x {width}. SB3 puts the channels of uint8 "
                "images first; leave layout out where that is right",
                stacklevel=2,
            )
        if min(_conv_output_size(height, width, convolutions)) < 1:
            raise ValueError(
                f"conv_layers={convolutions!r}: nothing is left of an observation of {height} x {width} after these "
                "convolutions; expected smaller kernels or strides, for example conv_layers=[(16, 3, 1)] for a 10 x 10 grid"
            )
        for number, (out_channels, _, _) in enumerate(convolutions, start=1):
            size = _conv_output_size(height, width, convolutions[:number])
            if resolved.normalization is not None and out_channels * math.prod(size) == 1:
                raise ValueError(
                    f"normalization={resolved.normalization!r} of conv_layers={convolutions!r}: one neuron is left, whose "
                    "current would be 0; expected two at least"
                )
        return replace(resolved, layout=layout)

    def window(self, observations: PyTorchObs) -> th.Tensor:
        assert isinstance(observations, th.Tensor)
        if self.settings.layout == "hwc":
            observations = observations.permute(0, 3, 1, 2)
        encoded = self.encode(observations, self._observation_space)
        return run_layers((*self.conv, *self.dense), encoded, self.settings.num_steps * self.largest_layer)


class SpikingCombinedExtractor(SpikingExtractor):
    """
    For Dict observations: a :class:`SpikingNatureCNN` for each image, everything else flattened and encoded, all of
    it together into the dense spiking layers of ``net_arch``.

    :param observation_space: a Dict of images and of spaces that SB3 can flatten
    :param normalized_image: as in SB3's ``CombinedExtractor``
    :param settings: see :class:`SpikingExtractor`
    """

    #: of each image
    image_body: ClassVar[type[SpikingExtractor]] = SpikingNatureCNN

    def __init__(self, observation_space: gym.Space, normalized_image: bool = False, **settings: Any) -> None:
        super().__init__(observation_space, normalized_image, self.resolve(observation_space, normalized_image, **settings))
        assert isinstance(observation_space, spaces.Dict)
        images = image_keys(observation_space, normalized_image)
        units = self.settings.net_arch or ()
        per_image = len(self.settings.conv_layers or ()) + 1
        # Images go side by side
        neurons = self.neurons(per_image * len(images) + len(units), per_image * bool(images) + len(units))
        in_features = 0
        cnns: dict[str, nn.Module] = {}
        for key, space in observation_space.spaces.items():
            if key in images:
                body, neurons = neurons[:per_image], neurons[per_image:]
                per_layer = {name: tuple(neuron[name] for neuron in body) for name in body[0]}
                image = {**self.settings.as_dict(), **per_layer, "net_arch": (), "readout": "rate"}
                cnns[key] = self.image_body(space, normalized_image, **image)
                in_features += self.settings.features_dim
            else:
                in_features += self.encoded_channels(get_flattened_obs_dim(space), space)
        self.cnns = nn.ModuleDict(cnns)
        # What comes from an image is delayed where it is put beside the rest, which comes from the observation
        self.dense = self.dense_layers(in_features, units, neurons, first=True)
        shares = self.connect(self.dense)
        if shares is not None and self.settings.layer_delay:
            shares = rates.one_step_earlier(shares)
        for cnn in self.cnns.values():
            assert isinstance(cnn, SpikingNatureCNN)
            cnn.connect((*cnn.conv, *cnn.dense), shares)

    @classmethod
    def resolve(cls, observation_space: gym.Space, normalized_image: bool, **settings: Any) -> SpikingSettings:
        if not isinstance(observation_space, spaces.Dict):
            raise ValueError(f"{cls.__name__} takes Dict observations; the observation space is {observation_space}")
        has_images = bool(image_keys(observation_space, normalized_image))
        defaults = {**cls.defaults, **(_IMAGE_DEFAULTS if has_images else {})}
        resolved = SpikingSettings.resolve(defaults=defaults, **settings)
        if resolved.conv_layers and not has_images:
            raise ValueError(f"conv_layers={resolved.conv_layers!r}: there is no uint8 image in {observation_space}")
        _require_dense_layer(resolved)
        return resolved

    def spike_inputs(self) -> th.Tensor:
        """
        :return: which inputs of the first dense layer are spikes, shape (inputs,): what comes from an image, and everything
            with an encoding that makes spikes
        """
        assert isinstance(self._observation_space, spaces.Dict)
        encoded = self.settings.encoding != "direct"
        parts = []
        for key, space in self._observation_space.spaces.items():
            image = key in self.cnns
            size = self.settings.features_dim if image else self.encoded_channels(get_flattened_obs_dim(space), space)
            parts.append(th.full((size,), image or encoded))
        return th.cat(parts)

    def window(self, observations: PyTorchObs) -> th.Tensor:
        assert isinstance(observations, dict)
        assert isinstance(self._observation_space, spaces.Dict)
        parts = []
        for key, space in self._observation_space.spaces.items():
            if key in self.cnns:
                cnn = self.cnns[key]
                assert isinstance(cnn, SpikingNatureCNN)
                parts.append(self.delayed(cnn.window(observations[key])))
            else:
                parts.append(self.encode(observations[key].flatten(1), space))
        steps = max(part.shape[0] for part in parts)
        return run_layers(self.dense, th.cat([part.expand(steps, -1, -1) for part in parts], dim=2))


def choose_extractor(observation_space: gym.Space, normalized_image: bool, convolutions: bool) -> type[SpikingExtractor]:
    """
    :param observation_space: observation space
    :param normalized_image: as in SB3's ``NatureCNN``
    :param convolutions: whether the settings ask for convolutions
    :return: the body for these observations
    """
    if isinstance(observation_space, spaces.Dict):
        return SpikingCombinedExtractor
    grid = isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 3
    if grid and (convolutions or is_image_space(observation_space, normalized_image=normalized_image)):
        return SpikingNatureCNN
    return SpikingMLP


def _conv_output_size(height: int, width: int, conv_layers: tuple[tuple[int, int, int], ...]) -> tuple[int, int]:
    for _, kernel_size, stride in conv_layers:
        height, width = (height - kernel_size) // stride + 1, (width - kernel_size) // stride + 1
    return height, width


def _require_dense_layer(settings: SpikingSettings) -> None:
    if not settings.net_arch:
        raise ValueError("net_arch=[]: expected at least one layer of spiking units, for example net_arch=[256]")
