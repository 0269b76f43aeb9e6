"""A trained ReLU DQN becomes a spiking one: integrate-and-fire neurons whose rates stand for the activations."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn

from sb3_spiking.extractors import SpikingCombinedExtractor, SpikingMLP, SpikingNatureCNN
from sb3_spiking.policies import SpikingPolicy
from sb3_spiking.relu import SHAPE_SETTINGS, ReluExtractor
from sb3_spiking.snn.layers import SpikingLayer


class ConversionError(ValueError):
    """An agent that cannot be converted; the message is one line."""


class ConversionRule(NamedTuple):
    """
    What sets published conversions apart.

    :param nonzero: a layer's scale is a percentile of its activations above zero, otherwise of all that comes before the ReLU
    :param readout: ``rate``: the output layer's total input, which is spike count plus remaining membrane; ``spike``: its
        spikes
    :param layer_delay: all layers run at once, each sees the spikes of the last step
    """

    nonzero: bool
    readout: str
    layer_delay: bool


#: ``rueckauer``: Rueckauer et al. 2017 (Front. Neurosci. 11:682). ``patel``: Patel et al. 2019 (Neural Networks 120:108), who
#: decide by counting spikes. ``tan``: Tan et al. 2021 (AAAI 35(11):9816, arXiv 2009.14456) with the robust firing rate.
RULES = {
    "rueckauer": ConversionRule(nonzero=True, readout="rate", layer_delay=False),
    "patel": ConversionRule(nonzero=True, readout="spike", layer_delay=False),
    "tan": ConversionRule(nonzero=False, readout="rate", layer_delay=True),
}


class _ChannelsFirst(nn.Module):
    """Images or grids, shape (B, H, W, C), as convolutions take them, shape (B, C, H, W)."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return observations.permute(0, 3, 1, 2)


def _modules(network: QNetwork) -> list[nn.Module]:
    """What a Q-network runs one after another."""
    extractor = network.features_extractor
    if type(extractor) is NatureCNN:
        return [*extractor.cnn, *extractor.linear, *network.q_net]
    if type(extractor) is FlattenExtractor:
        return [extractor.flatten, *network.q_net]
    if type(extractor) is ReluExtractor:
        body = extractor.body
        if isinstance(body, SpikingCombinedExtractor):
            raise ConversionError(f"Dict observations, {network.observation_space}: expected an image, a grid or a vector")
        modules: list[nn.Module] = []
        if isinstance(body, SpikingNatureCNN) and body.settings.layout == "hwc":
            modules.append(_ChannelsFirst())
        for layer in body.modules():
            if isinstance(layer, nn.Conv2d):
                modules += [layer, nn.ReLU()]
            elif isinstance(layer, nn.Linear):
                modules += [nn.Flatten(), layer, nn.ReLU()]
        return [*modules, *network.q_net]
    raise ConversionError(
        f"features_extractor_class={type(extractor).__name__}: expected SB3's NatureCNN or FlattenExtractor, the default of "
        "CnnPolicy and MlpPolicy, or ReluExtractor"
    )


def connections(network: QNetwork) -> list[nn.Conv2d | nn.Linear]:
    """
    :param network: Q-network of SB3's CnnPolicy or MlpPolicy, whose body is the default one or a ReluExtractor
    :return: its convolutions and linear layers, from the input to the output
    :raises ConversionError: for a network that is made of anything else
    """
    modules = [module for module in _modules(network) if not isinstance(module, (nn.Flatten, _ChannelsFirst))]
    layers: list[Any] = modules[::2]
    activations = modules[1::2]
    for activation in activations:
        if type(activation) is not nn.ReLU:
            raise ConversionError(
                f"activation_fn={type(activation).__name__}: firing rates stand for the activations of ReLU, expected nn.ReLU"
            )
    for layer in layers:
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            raise ConversionError(f"the Q-network has a layer of type {type(layer).__name__}: expected Conv2d or Linear")
    if len(layers) < 2:
        raise ConversionError("net_arch=[]: a linear Q-function has no units that could spike")
    return layers


class Percentile:
    """
    The exact percentile of each column of values that come in parts, of which only the highest are kept.

    :param percentile: in (0, 100]
    :param total: number of rows that will come
    :param nonzero: of the values above zero
    """

    def __init__(self, percentile: float, total: int, nonzero: bool = False) -> None:
        self.percentile, self.nonzero = percentile, nonzero
        self._keep = min(total, int(total * (1 - percentile / 100)) + 2)
        self._highest, self._counts = th.empty(0), th.empty(0)

    def add(self, values: th.Tensor) -> None:
        """More values, shape (rows, columns)."""
        counted = values > 0 if self.nonzero else th.ones_like(values, dtype=th.bool)
        values = values.masked_fill(~counted, -math.inf)
        earlier = self._highest.to(values) if self._highest.numel() else values[:0]
        both = th.cat([earlier, values])
        self._highest = both.topk(min(self._keep, len(both)), dim=0).values
        self._counts = counted.sum(dim=0) + (self._counts.to(values.device) if self._counts.numel() else 0)

    def value(self) -> th.Tensor:
        """The percentiles of all values so far, as numpy.percentile has them, NaN for no values; shape (columns,)."""
        from_top = (self._counts - 1).clamp(min=0).double() * (1 - self.percentile / 100)
        below = self._highest.gather(0, from_top.ceil().long().clamp(max=len(self._highest) - 1)[None])[0]
        above, share = self._highest.gather(0, from_top.floor().long()[None])[0], from_top.frac()
        between = th.where(share > 0, above * (1 - share) + below * share, above.double())
        return th.where(self._counts > 0, between, math.nan).float()


# A channel that hardly ever was active may be in the next game: its scale is not below this share of the layer's largest
_LEAST_SCALE = 0.2


def activation_scales(
    model: DQN,
    observations: Iterable[np.ndarray],
    count: int,
    percentile: float = 99.9,
    *,
    nonzero: bool = False,
    per_channel: bool = True,
) -> list[th.Tensor]:
    """
    :param model: trained ReLU agent
    :param observations: batches as the policy takes them, shape (B, \\*)
    :param count: number of observations in all of them
    :param percentile: of a layer's values
    :param nonzero: of the values above zero; otherwise of all, before the ReLU
    :param per_channel: one scale for each channel of a convolution and each unit of a linear layer, at least a fifth of the
        layer's largest: Kim et al. 2020 (AAAI 34(7):11270), but for this bound. False: one for each layer, as the rules in
        :data:`RULES` are published
    :return: scales of each layer, the output layer's too, shape (channels,); 1 for a layer that is never active
    """
    network = model.q_net
    layers = connections(network)
    values: dict[nn.Module, Percentile] = {}
    with th.no_grad():
        for batch in observations:
            inputs, _ = model.policy.obs_to_tensor(batch)
            signal = preprocess_obs(inputs, network.observation_space, network.normalize_images)
            assert isinstance(signal, th.Tensor)
            for module in _modules(network):
                signal = module(signal)
                if module in layers:
                    columns = signal.shape[1] if per_channel else 1
                    rows = signal.movedim(1, -1).reshape(-1, columns)
                    total = count * signal[0].numel() // columns
                    values.setdefault(module, Percentile(percentile, total, nonzero)).add(rows)
    scales = []
    for layer in layers:
        found = values[layer].value().nan_to_num(0.0) if layer in values else th.zeros(1)
        largest = float(found.max())
        scale = found.clamp(min=_LEAST_SCALE * largest) if largest > 0 else th.ones_like(found)
        scales.append(scale.cpu().expand(len(layer.weight)))
    return scales


def convert(
    model: BaseAlgorithm,
    scales: Sequence[th.Tensor | Sequence[float]],
    env: VecEnv,
    *,
    num_steps: int = 500,
    readout: str = "rate",
    layer_delay: bool = True,
) -> DQN:
    """
    Divide what goes into each layer by its scale, so that rates of at most a spike a step stand for its activations: W_l <-
    W_l s_(l-1) / s_l and b_l <- b_l / s_l. With the ``rate`` readout the output layer gives Q-values in their own units.

    Neurons integrate without leak and lose the threshold, 1, with each spike. With snnTorch's ``reset_delay`` the subtraction
    comes with the next step's current, which makes no difference here; without it, snnTorch would hold back spikes of a neuron
    whose membrane stays above the threshold.

    :param model: trained DQN with CnnPolicy or MlpPolicy, see :func:`connections`
    :param scales: of each layer's channels, see :func:`activation_scales`
    :param env: environment of the agent
    :param num_steps: simulation steps of a decision
    :param readout: ``rate`` or ``spike``, see :class:`ConversionRule`
    :param layer_delay: see :class:`ConversionRule`
    :return: a DQN with a :class:`~sb3_spiking.policies.SpikingPolicy`
    :raises ConversionError: for an agent that cannot be converted
    """
    policy = check_convertible(model)
    assert isinstance(model, DQN)
    layers: list[Any] = connections(policy.q_net)
    extractor = policy.q_net.features_extractor
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    units = [layer.out_features for layer in layers[:-1] if isinstance(layer, nn.Linear)]
    settings: dict[str, Any] = {
        "num_steps": num_steps,
        "beta": 1.0,
        "threshold": 1.0,
        "input_scale": 1.0,
        "normalization": None,
        "encoding": "direct",
        "reset_mechanism": "subtract",
        "reset_delay": True,
        "readout": readout,
        "layer_delay": layer_delay,
        "net_arch": units,
    }
    if isinstance(extractor, ReluExtractor):
        settings |= {name: getattr(extractor.body.settings, name) for name in SHAPE_SETTINGS}
        head = [layer.out_features for layer in policy.q_net.q_net if isinstance(layer, nn.Linear)]
        settings["net_arch"] = [*(settings["net_arch"] or ()), *head[:-1]]
    elif convolutions:
        shapes = [[layer.out_channels, layer.kernel_size[0], layer.stride[0]] for layer in convolutions]
        settings |= {"conv_layers": shapes, "features_dim": units[0], "net_arch": units[1:]}
    converted = DQN(
        SpikingPolicy,
        env,
        policy_kwargs={"normalize_images": policy.normalize_images, **settings},
        buffer_size=1,
        gamma=model.gamma,
        device=model.device,
    )
    converted.exploration_rate = model.exploration_rate
    converted.num_timesteps = model.num_timesteps
    network = converted.policy.q_net
    spiking: list[Any] = [module.connection for module in network.modules() if isinstance(module, SpikingLayer)]
    before = th.ones(1)
    with th.no_grad():
        for source, target, scale in zip(layers, [*spiking, network.q_net[0]], scales, strict=True):
            after = th.as_tensor(scale).to(source.weight)
            if source is layers[-1]:  # actions are compared: they share a scale
                after = th.ones_like(after) if readout == "rate" else after.max().expand_as(after)
            # A linear layer behind a convolution sees all places of the first channel, then all of the second
            inputs = before.repeat_interleave(source.weight.shape[1] // len(before)).to(source.weight)
            places = (1,) * (source.weight.dim() - 2)
            target.weight.copy_(source.weight * inputs.view(1, -1, *places) / after.view(-1, 1, *places))
            target.bias.copy_(source.bias / after)
            before = after
    converted.policy.q_net_target.load_state_dict(network.state_dict())
    return converted


def check_convertible(model: BaseAlgorithm) -> DQNPolicy:
    """
    :param model: any agent
    :return: its policy
    :raises ConversionError: if :func:`convert` does not take it
    """
    if not isinstance(model, DQN):
        raise ConversionError(f"an agent of {type(model).__name__}: conversion takes a DQN")
    if isinstance(model.policy, SpikingPolicy):
        raise ConversionError("the agent is a spiking one already")
    extractor, space = model.policy.q_net.features_extractor, model.observation_space
    dense = type(extractor) is FlattenExtractor or isinstance(getattr(extractor, "body", None), SpikingMLP)
    if dense and is_image_space(space, normalized_image=not model.policy.normalize_images):
        raise ConversionError(
            f"dense layers on images, {space}: a spiking agent takes images with convolutions; expected CnnPolicy"
        )
    connections(model.policy.q_net)
    return model.policy


def with_num_steps(model: DQN, num_steps: int, env: VecEnv) -> DQN:
    """
    :param model: spiking agent
    :param num_steps: simulation steps of a decision
    :param env: environment of the agent
    :return: an agent with the same weights and another window
    """
    kwargs = {**model.policy_kwargs, "num_steps": num_steps}
    other = DQN(SpikingPolicy, env, policy_kwargs=kwargs, buffer_size=1, gamma=model.gamma, device=model.device)
    other.exploration_rate = model.exploration_rate
    network = other.policy.q_net
    settings = {name: value for name, value in network.state_dict().items() if name.endswith("_extra_state")}
    network.load_state_dict({**model.policy.q_net.state_dict(), **settings})
    return other
