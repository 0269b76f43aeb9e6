"""Normalised currents, by hand and against PyTorch's layer norm."""

import pytest
import torch as th
from gymnasium import spaces
from small_agents import make_model, observation_of, q_values
from stable_baselines3 import DQN, PPO
from torch import nn
from torch.nn import functional as F

from sb3_spiking import SpikingMLP, SpikingPolicy
from sb3_spiking.evaluation.operations import OperationCounter
from sb3_spiking.snn.layers import SpikingLayer
from sb3_spiking.snn.normalization import NORMALIZATIONS

NEURON = {"beta": 0.0, "threshold": 0.5, "reset_mechanism": "none"}


def test_by_hand():
    linear = nn.Linear(1, 2)
    layer = SpikingLayer(linear, 2, NEURON, normalization="potential")
    with th.no_grad():
        linear.weight.copy_(th.tensor([[1.0], [3.0]]))
        linear.bias.zero_()
    # Currents (x, 3x) have mean 2x and deviation |x|: normalised (-0.5, 0.5), of which none is above the threshold of 0.5
    window = th.tensor([[[2.0]], [[-2.0]]])
    assert layer(window).sum() == 0
    with th.no_grad():
        layer.normalization.weight.fill_(0.6)
    assert layer(window).tolist() == [[[0.0, 1.0]], [[1.0, 0.0]]]
    with th.no_grad():
        layer.normalization.bias.copy_(th.tensor([1.2, 0.0]))
    assert layer(window).tolist() == [[[1.0, 1.0]], [[1.0, 0.0]]]


@pytest.mark.parametrize("steps", [1, 5])
def test_a_convolution_is_normalised_over_all_its_neurons_at_each_step(steps):
    convolution = nn.Conv2d(2, 3, 3)
    layer = SpikingLayer(convolution, 5, NEURON, normalization="potential")
    window = th.randn(steps, 4, 2, 6, 6)
    currents = convolution(window.flatten(0, 1))
    expected = F.layer_norm(currents, currents.shape[1:]) * 0.5
    expected = layer.neuron(expected.unflatten(0, (steps, 4)), 5)
    spikes = layer(window)
    assert 0.1 < spikes.mean() < 0.9
    assert (spikes != expected).float().mean() < 1e-3


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_learns_saves_and_loads(small, normalization, tmp_path):
    model = make_model(small, settings={"normalization": normalization})
    norms = [module for module in model.q_net.modules() if isinstance(module, nn.GroupNorm)]
    before = [norm.bias.clone() for norm in norms]
    assert len(norms) == sum(isinstance(module, SpikingLayer) for module in model.q_net.modules())
    model.learn(60)
    assert all(not th.equal(norm.bias, bias) for norm, bias in zip(norms, before, strict=True))
    model.save(tmp_path / "agent")
    loaded = DQN.load(tmp_path / "agent")
    observation = observation_of(model)
    assert th.equal(q_values(model, observation), q_values(loaded, observation))
    # with gradients and without
    with_gradients = model.q_net(model.policy.obs_to_tensor(observation)[0]).detach()
    assert th.allclose(with_gradients, q_values(model, observation), atol=1e-6)


def test_ppos_initialisation_leaves_it():
    kwargs = {"features_extractor_kwargs": {"normalization": "potential", "threshold": 0.25, "net_arch": [8]}, "net_arch": []}
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"features_extractor_class": SpikingMLP, **kwargs})
    (norm,) = [module for module in model.policy.features_extractor.modules() if isinstance(module, nn.GroupNorm)]
    assert norm.weight.tolist() == [0.25] * 8


def test_its_operations():
    policy = SpikingPolicy(
        spaces.Box(-1, 1, (4,)), spaces.Discrete(2), lambda _: 0.0, num_steps=3, net_arch=[5, 6], normalization="potential"
    )
    with OperationCounter(policy) as counter, th.no_grad():
        policy.q_net(th.ones(1, 4))
    first, second, _ = counter.layers
    # The first layer's current is the same at every step
    assert first.multiply_accumulates.tolist() == [4 * 5 + 3 * 5]
    assert second.multiply_accumulates.tolist() == [3 * 3 * 6]


def test_wrong_values():
    with pytest.raises(ValueError, match="normalization='batch': expected None or one of 'potential'"):
        SpikingPolicy(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), lambda _: 0.0, normalization="batch")


def test_a_layer_of_one_unit_has_nothing_to_normalise():
    """A convolution of one channel has its places."""
    with pytest.raises(ValueError, match="normalization='potential' of one unit: its current would be 0"):
        DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"net_arch": [4, 1], "normalization": "potential"})
    settings = {"conv_layers": [(1, 3, 1)], "layout": "hwc", "features_dim": 8, "normalization": "potential", "num_steps": 1}
    policy = SpikingPolicy(spaces.Box(0, 1, (10, 10, 4)), spaces.Discrete(2), lambda _: 0.0, **settings)
    policy.predict(policy.observation_space.sample())
