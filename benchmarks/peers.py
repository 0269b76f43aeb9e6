"""
The network of Liu et al. 2022 (arXiv 2201.07211) as its peers write it, with the same weights and so the same work: what
speed is measured against. Each maps images (B, 4, 84, 84) in [0, 1] to Q-values (B, A).
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import snntorch as snn
import torch as th
from gymnasium import spaces
from snntorch import surrogate
from stable_baselines3.dqn.policies import CnnPolicy, DQNPolicy
from torch import nn

from sb3_spiking import SpikingPolicy
from sb3_spiking.snn import kernels
from sb3_spiking.training.callbacks import spike_counts

IMAGES = spaces.Box(0, 255, (4, 84, 84), np.uint8)
ACTIONS = spaces.Discrete(4)

# Factors on PyTorch's initial weights with which every layer fires in about a tenth of the steps, on images of uniform noise
WEIGHT_SCALES = (4.45, 7.43, 7.91, 8.77)


def images(batch_size: int, seed: int = 0) -> th.Tensor:
    """Images of uniform noise, uint8, shape (B, 4, 84, 84)."""
    return th.randint(0, 256, (batch_size, *IMAGES.shape), dtype=th.uint8, generator=th.Generator().manual_seed(seed))


def spiking_policy(num_steps: int, weight_scales: tuple[float, ...] = WEIGHT_SCALES, **settings: Any) -> SpikingPolicy:
    """Our policy with the paper's network, awake."""
    th.manual_seed(0)
    policy = SpikingPolicy(IMAGES, ACTIONS, lambda _: 1e-4, preset="liu2022", num_steps=num_steps, **settings)
    with th.no_grad():
        for connection, scale in zip(connections(policy), weight_scales, strict=False):
            connection.weight *= scale
    policy.q_net_target.load_state_dict(policy.q_net.state_dict())
    return policy


def firing_rates(policy: SpikingPolicy, observations: th.Tensor) -> list[float]:
    """Mean spikes per neuron and step of each layer."""
    return [layer.firing_rate for layer in spike_counts(policy, observations)]


def relu_policy() -> DQNPolicy:
    """SB3's CnnPolicy."""
    return CnnPolicy(IMAGES, ACTIONS, lambda _: 1e-4)


def connections(policy: SpikingPolicy) -> list[Any]:
    """The connections of a policy: three convolutions, two linear layers."""
    return [module for module in policy.q_net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]


def copies(policy: SpikingPolicy) -> list[Any]:
    """Copies of the connections."""
    return copy.deepcopy(connections(policy))


class SnnTorchLoop(nn.Module):
    """A loop over the steps of a window, as in snnTorch's tutorials."""

    def __init__(self, policy: SpikingPolicy) -> None:
        super().__init__()
        self.num_steps = policy.settings.num_steps
        self.connections = nn.ModuleList(copies(policy))
        self.neurons = nn.ModuleList(
            snn.Leaky(
                beta=0.5,
                threshold=policy.settings.threshold,
                spike_grad=surrogate.atan(alpha=2.0),
                reset_mechanism="zero",
                reset_delay=False,
            )
            for _ in range(4)
        )
        snn.SpikingNeuron.instances.clear()

    def forward(self, images: th.Tensor) -> th.Tensor:
        neurons: Any = self.neurons
        membranes = [neuron.reset_mem() for neuron in neurons]
        spikes = th.zeros(())
        for _ in range(self.num_steps):
            signal = images
            for layer, neuron in enumerate(neurons):
                if layer == 3:
                    signal = signal.flatten(1)
                connection: Any = self.connections[layer]
                signal, membranes[layer] = neuron(0.5 * connection(signal), membranes[layer])
            spikes = spikes + signal
        return self.connections[4](spikes / self.num_steps)


class SpikingJellyNet(nn.Module):
    """SpikingJelly's multi-step mode: each layer over the whole window, the first convolution once."""

    def __init__(self, policy: SpikingPolicy) -> None:
        from spikingjelly.activation_based import layer, neuron
        from spikingjelly.activation_based import surrogate as sj_surrogate

        super().__init__()
        self.num_steps = policy.settings.num_steps
        conv1, conv2, conv3, linear, q_net = copies(policy)

        def lif() -> nn.Module:
            return neuron.LIFNode(
                tau=2.0,
                decay_input=True,
                v_threshold=1.0,
                v_reset=0.0,
                surrogate_function=sj_surrogate.ATan(alpha=2.0),
                detach_reset=False,
                step_mode="m",
            )

        self.conv1, self.q_net = conv1, q_net
        self.window = nn.Sequential(
            lif(),
            layer.SeqToANNContainer(conv2),
            lif(),
            layer.SeqToANNContainer(conv3),
            lif(),
            layer.Flatten(step_mode="m"),
            layer.SeqToANNContainer(linear),
            lif(),
        )

    def forward(self, images: th.Tensor) -> th.Tensor:
        from spikingjelly.activation_based import functional

        functional.reset_net(self)
        currents = self.conv1(images)
        window = self.window(currents.expand(self.num_steps, *currents.shape))
        return self.q_net(window.mean(dim=0))


class DenseConnections(nn.Module):
    """The convolutions and linear layers alone, without neurons: channels last, the first one once."""

    def __init__(self, policy: SpikingPolicy) -> None:
        super().__init__()
        self.num_steps = policy.settings.num_steps
        self.connections = nn.ModuleList(copies(policy))
        for connection in self.connections:
            connection.to(memory_format=th.channels_last)  # type: ignore[call-overload]

    def forward(self, images: th.Tensor) -> th.Tensor:
        conv1, conv2, conv3, linear, q_net = self.connections
        once = conv1(images.contiguous(memory_format=th.channels_last))
        window = once.repeat(self.num_steps, 1, 1, 1).contiguous(memory_format=th.channels_last)
        rates = linear(conv3(conv2(window)).flatten(1)).unflatten(0, (self.num_steps, -1)).mean(dim=0)
        return q_net(rates)


def in_plain_pytorch(network: Any) -> Callable[[th.Tensor], th.Tensor]:
    """A network of ours as it runs on a machine without Numba and Triton."""

    def run(images: th.Tensor) -> th.Tensor:
        kernels.use("reference")
        try:
            return network(images)
        finally:
            kernels.use("auto")

    return run
