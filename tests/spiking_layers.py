"""Networks for tests of kernels."""

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_spiking import SpikingPolicy
from sb3_spiking.snn import SpikingLayer, kernels

RESETS = [(mechanism, delay) for mechanism in ("zero", "subtract", "none") for delay in (True, False)]


IMAGES = spaces.Box(0, 255, (4, 84, 84), np.uint8)


def paper_network(num_steps, dtype=th.float32):
    """The paper's network with weights that make every layer fire."""
    policy = SpikingPolicy(IMAGES, spaces.Discrete(4), lambda _: 1e-4, preset="liu2022", num_steps=num_steps)
    body = policy.q_net.features_extractor
    with th.no_grad():
        for layer, scale in zip((*body.conv, *body.dense), (4.45, 7.43, 7.91, 8.77), strict=True):
            layer.connection.weight *= scale
    return policy.to(dtype)


def plain(monkeypatch):
    monkeypatch.setattr(kernels, "_backend", lambda *args: None)


def everything(network, images, weights):
    """Spikes of each layer, values and gradients; without SB3's preprocessing, which knows single precision alone."""
    body, layers = network.features_extractor, []
    hooks = [
        layer.neuron.register_forward_hook(lambda module, inputs, spikes: layers.append(spikes.detach()))
        for layer in (*body.conv, *body.dense)
    ]
    values = network.q_net(body(images))
    for hook in hooks:
        hook.remove()
    return layers, values, th.autograd.grad((values * weights).sum(), list(network.parameters()))


# Channels, height and width of the image; for each layer (outputs, kernel, stride), or (units,) of a linear one
NETWORKS = [
    ((4, 36, 36), [(32, 8, 4), (64, 4, 2), (64, 2, 1), (70,)]),
    ((10, 10, 10), [(16, 3, 1), (128,), (5,)]),
    ((3, 17, 11), [(33, 3, 2), (130, 2, 3), (9,)]),
    ((1, 9, 5), [(100, 5, 1), (20, 1, 2)]),
    ((2, 6, 6), [(7, 6, 1), (300,), (64,), (1,)]),
    ((4, 1, 1), [(256,), (256,)]),
]


def layers_of(shape, sizes, reset, dtype, rate=0.15, delay=False):
    """Spiking layers whose currents are scaled for a firing rate."""
    channels, height, width = shape
    layers = []
    for outputs, *convolution in sizes:
        if convolution:
            kernel, stride = convolution
            connection = nn.Conv2d(channels, outputs, kernel, stride)
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        else:
            connection = nn.Linear(channels * height * width, outputs)
            height, width = 1, 1
        neuron = {"beta": 0.6, "threshold": 0.9, "input_scale": 0.7, "reset_mechanism": reset[0], "reset_delay": reset[1]}
        layer = SpikingLayer(connection, 5, neuron, delay=delay and bool(layers)).to(dtype)
        with th.no_grad():
            fan_in = connection.weight[0].numel()
            connection.weight.normal_(std=2 / (fan_in if not layers else rate * fan_in) ** 0.5)
            connection.bias.normal_()
        layers.append(layer)
        channels = outputs
    return layers


def one_after_another(layers, window):
    for layer in layers:
        window = layer(window)
    return window
