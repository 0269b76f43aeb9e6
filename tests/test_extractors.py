"""The body of a network, and the settings that make it."""

import copy
import warnings

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from small_agents import DictEnv, GridEnv, ImageEnv, make_model
from stable_baselines3 import DQN
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn

from sb3_spiking import (
    SpikingCombinedExtractor,
    SpikingMLP,
    SpikingNatureCNN,
    SpikingPolicy,
)
from sb3_spiking.snn import READOUTS, Leaky


def test_chooses_the_body_from_the_observation_space(small):
    make, _ = small
    body = {GridEnv: SpikingNatureCNN, DictEnv: SpikingCombinedExtractor, ImageEnv: SpikingNatureCNN}.get(make, SpikingMLP)
    assert type(make_model(small).q_net.features_extractor) is body


def test_atari_network_is_the_papers():
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    policy = SpikingPolicy(space, spaces.Discrete(18), lambda _: 1e-4, preset="liu2022")
    weights = [tuple(p.shape) for name, p in policy.q_net.named_parameters() if "weight" in name]
    assert weights == [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 3136), (18, 512)]
    neurons = []
    for module in policy.q_net.modules():
        if isinstance(module, Leaky):
            module.register_forward_hook(lambda module, inputs, output: neurons.append(output[0, 0].numel()))
    policy.q_net(th.zeros(1, 4, 84, 84))
    assert neurons == [12_800, 5_184, 3_136, 512]


def test_channels_last_and_first_images_give_the_same_values():
    values = []
    for shape in ((36, 36, 1), (1, 36, 36)):
        th.manual_seed(0)
        space = spaces.Box(0, 255, shape, np.uint8)
        policy = SpikingPolicy(space, spaces.Discrete(3), lambda _: 1e-4, features_dim=16)
        image = th.arange(36 * 36).reshape(1, *shape) % 256
        values.append(policy.q_net(image))
        assert policy.settings.layout == ("chw" if shape[0] == 1 else "hwc")
    assert th.equal(*values)


def test_a_layout_that_contradicts_sb3_is_said():
    class Image(ImageEnv):
        observation_space = spaces.Box(0, 255, (12, 10, 4), np.uint8)

    settings = {"conv_layers": [(4, 3, 1)], "features_dim": 8}
    with pytest.warns(UserWarning, match="layout='hwc': taken as 10 channels of 4 x 12. SB3 puts the channels"):
        DQN(SpikingPolicy, Image(), policy_kwargs={**settings, "layout": "hwc"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = DQN(SpikingPolicy, Image(), policy_kwargs={**settings, "layout": "chw"})
    assert model.q_net.features_extractor.conv[0].connection.weight.shape == (4, 4, 3, 3)


def test_layout_of_a_grid_is_explicit():
    cube = spaces.Box(0, 1, (10, 10, 10), bool)
    actions, schedule, layers = spaces.Discrete(2), (lambda _: 1e-4), [(4, 3, 1)]
    with pytest.raises(ValueError, match=r"layout=None: .* expected 'chw' or 'hwc'"):
        SpikingPolicy(cube, actions, schedule, conv_layers=layers)
    grid = th.rand(1, 10, 10, 10) < 0.3
    values = []
    for layout, observation in (("hwc", grid), ("chw", grid.permute(0, 3, 1, 2))):
        th.manual_seed(0)
        policy = SpikingPolicy(cube, actions, schedule, conv_layers=layers, layout=layout, features_dim=8)
        values.append(policy.q_net(observation))
    assert th.equal(*values)


def test_paper_network_by_its_formulas():
    """liu2022 written out a second time, with the paper's h = v + (x - v) / tau and firing at h >= 1."""
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    policy = SpikingPolicy(space, spaces.Discrete(4), lambda _: 1e-4, preset="liu2022", num_steps=16)
    net = policy.q_net.double()  # in float32 a borderline spike may follow the rounding of a batched convolution
    with th.no_grad():  # enough activity in all layers for a comparison that means something
        for parameter in net.parameters():
            parameter.mul_(8)
    layers = [*net.features_extractor.conv, *net.features_extractor.dense]

    class Spike(th.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return (x >= 0).double()

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * 2 / (2 * (1 + (th.pi / 2 * 2 * x) ** 2))

    frames = th.randint(0, 256, (2, 4, 84, 84)).double() / 255
    membranes, counts = [0.0] * 4, 0.0
    for _ in range(16):
        x = frames
        for index, layer in enumerate(layers):
            if index == 3:
                x = x.flatten(1)
            h = membranes[index] + (layer.connection(x) - membranes[index]) / 2.0
            x = Spike.apply(h - 1.0)
            membranes[index] = h * (1 - x)
        counts = counts + x
    expected = net.q_net(counts / 16)
    expected_gradients = th.autograd.grad(expected.square().sum(), list(net.parameters()))
    window = net.features_extractor.window(frames)
    values = READOUTS["rate"].values(window, net.q_net, None)
    gradients = th.autograd.grad(values.square().sum(), list(net.parameters()))
    assert 0.01 < window.mean() < 0.9
    assert th.equal(window.sum(dim=0), counts)
    th.testing.assert_close(values, expected)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        # the threshold of the float32 network is 6e-8 below 1
        th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6 * theirs.abs().max().item())


@pytest.mark.parametrize(
    ("preset", "beta", "scale", "readout"), [("liu2022_spike", 0.5, 0.5, "spike"), ("liu2022_if", 1, 1, "rate")]
)
def test_ablations_of_the_paper(preset, beta, scale, readout):
    policy = SpikingPolicy(spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(4), lambda _: 1e-4, preset=preset)
    neurons = [module for module in policy.q_net.modules() if isinstance(module, Leaky)]
    assert len(neurons) == (5 if readout == "spike" else 4)
    assert all(neuron.beta == beta and neuron.input_scale == scale for neuron in neurons)
    values = policy.q_net(th.randint(0, 256, (1, 4, 84, 84)))
    if readout == "spike":  # a firing rate of 64 steps
        assert th.equal((values * 64).round(), values * 64)


@pytest.mark.parametrize(
    ("space", "inputs", "poisson_inputs"),
    [
        (spaces.Discrete(5), 5, 5),
        (spaces.MultiDiscrete([2, 3]), 5, 5),
        (spaces.MultiBinary((2, 3)), 6, 6),
        (spaces.Box(0, 1, (2, 2)), 4, 4),
        (spaces.Box(-1, 1, (2, 2)), 4, 8),
        (spaces.Box(0, np.inf, (3,)), 3, 6),
        (spaces.Box(0, 255, (36, 36), np.uint8), 1296, 2592),  # no image to SB3, so not divided by 255
    ],
    ids=str,
)
def test_inputs_of_every_space(space, inputs, poisson_inputs):
    for encoding, expected in (("direct", inputs), ("poisson", poisson_inputs)):
        policy = SpikingPolicy(space, spaces.Discrete(2), lambda _: 1e-4, net_arch=[4], encoding=encoding)
        assert policy.q_net.features_extractor.dense[0].connection.in_features == expected
        action, _ = policy.predict(space.sample())
        assert action in (0, 1)


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("encoding", ["direct", "poisson"])
def test_every_coding_trains(small, readout, encoding):
    model = make_model(small, settings={"readout": readout, "encoding": encoding, "learn_beta": True, "learn_threshold": True})
    before = copy.deepcopy(model.q_net.state_dict())
    model.learn(20)
    changed = [name for name, value in model.q_net.named_parameters() if not th.equal(value, before[name])]
    assert any(name.startswith("q_net") for name in changed)
    model.policy.optimizer.zero_grad()
    model.q_net(model.replay_buffer.sample(16).observations).square().sum().backward()
    for name, parameter in model.q_net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_settings_per_layer_reach_their_layer():
    policy = SpikingPolicy(
        spaces.Box(-1, 1, (3,)), spaces.Discrete(2), lambda _: 1e-4, net_arch=[8, 8], beta=[0.1, 0.2, 0.3], readout="spike"
    )
    assert [m.beta.item() for m in policy.q_net.modules() if isinstance(m, Leaky)] == pytest.approx([0.1, 0.2, 0.3])


VECTOR, IMAGE, ACTIONS = spaces.Box(-1, 1, (3,)), spaces.Box(0, 255, (1, 36, 36), np.uint8), spaces.Discrete(2)


@pytest.mark.parametrize(
    ("space", "actions", "kwargs", "message"),
    [
        (VECTOR, spaces.Box(-1, 1, (2,)), {}, r"action_space=Box.*expected spaces.Discrete"),
        (VECTOR, ACTIONS, {"num_steps": 0}, r"num_steps=0"),
        (VECTOR, ACTIONS, {"tau": 2}, r"Unknown setting 'tau'"),
        (VECTOR, ACTIONS, {"net_arch": []}, r"net_arch=\[\]: expected at least one layer"),
        (VECTOR, ACTIONS, {"beta": [0.5] * 3}, r"has 3 values: expected one for each of 2 spiking layers"),
        (VECTOR, ACTIONS, {"features_extractor_class": SpikingNatureCNN}, r"SpikingNatureCNN takes an image or a grid"),
        (VECTOR, ACTIONS, {"features_extractor_class": SpikingCombinedExtractor}, r"takes Dict observations"),
        (VECTOR, ACTIONS, {"conv_layers": [(4, 3, 1)]}, r"conv_layers=.*convolutions take an image"),
        (VECTOR, ACTIONS, {"features_extractor_class": NatureCNN}, r"features_extractor_class=NatureCNN: expected a spiking"),
        (IMAGE, ACTIONS, {"conv_layers": [(4, 40, 1)]}, r"nothing is left of an observation of 36 x 36"),
        (spaces.Dict(a=VECTOR), ACTIONS, {"conv_layers": [(4, 3, 1)]}, r"there is no uint8 image"),
        (spaces.Dict(a=VECTOR), ACTIONS, {"net_arch": []}, r"net_arch=\[\]"),
    ],
)
def test_wrong_arguments_fail_before_training(space, actions, kwargs, message):
    with pytest.raises(ValueError, match=message):
        SpikingPolicy(space, actions, lambda _: 1e-4, **kwargs)


def test_activation_fn_says_that_it_means_nothing():
    with pytest.warns(UserWarning, match="activation_fn=ReLU has no effect"):
        SpikingPolicy(VECTOR, ACTIONS, lambda _: 1e-4, activation_fn=nn.ReLU)


def test_settings_among_the_features_extractors_arguments():
    policy = SpikingPolicy(IMAGE, ACTIONS, lambda _: 1e-4, features_extractor_kwargs={"features_dim": 8, "num_steps": 2})
    assert (policy.settings.features_dim, policy.settings.num_steps) == (8, 2)


def test_dqn_knows_the_policy_by_its_name():
    model = DQN("SpikingPolicy", "CartPole-v1")
    assert type(model.policy) is SpikingPolicy
