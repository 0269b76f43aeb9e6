"""Operations and energy of a decision against counts by hand."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.dqn.policies import CnnPolicy, MlpPolicy
from torch import nn

from sb3_spiking import SpikingMLP, SpikingPolicy
from sb3_spiking.evaluation.operations import ENERGIES, Energy, OperationCounter, _uses

VECTOR = spaces.Box(-1, 1, (4,))


def counted(policy, observations, boolean_spikes=False):
    with OperationCounter(policy.q_net, boolean_spikes) as counter, th.no_grad():
        policy.q_net(observations)
        return counter.layers


def lists(layer):
    names = ("multiply_accumulates", "accumulates", "updates", "spikes")
    return [getattr(layer, name).tolist() for name in names]


def test_a_relu_network_multiplies_once_for_each_connection():
    policy = MlpPolicy(VECTOR, spaces.Discrete(2), lambda _: 0.0, net_arch=[3])
    first, second = counted(policy, th.zeros(5, 4))
    assert lists(first) == [[12.0] * 5, [0.0] * 5, [0.0] * 5, [0.0] * 5]
    assert lists(second)[0] == [6.0] * 5
    assert (first.neurons, first.parameters, second.neurons, second.parameters) == (3, 15, 2, 8)
    assert first.picojoules(ENERGIES["45nm-float32"]).tolist() == pytest.approx([12 * 4.6] * 5)


class Shared(BaseFeaturesExtractor):
    """The same layer for an observation and its negative, one after another or in one batch."""

    def __init__(self, space, at_once):
        super().__init__(space, 6)
        self.units, self.at_once = nn.Linear(4, 3), at_once

    def forward(self, observations):
        if self.at_once:
            return th.cat(self.units(th.cat([observations, -observations])).chunk(2), dim=1)
        return th.cat([self.units(observations), self.units(-observations)], dim=1)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_layer_that_runs_twice_counts_twice(at_once):
    kwargs = {"features_extractor_class": Shared, "features_extractor_kwargs": {"at_once": at_once}}
    policy = MlpPolicy(VECTOR, spaces.Discrete(2), lambda _: 0.0, net_arch=[], **kwargs)
    first, second = counted(policy, th.zeros(5, 4))
    assert lists(first) == [[24.0] * 5, [0.0] * 5, [0.0] * 5, [0.0] * 5]
    assert lists(second)[0] == [12.0] * 5


def test_a_spiking_layer_that_runs_twice_counts_the_spikes_of_each():
    class Twice(SpikingMLP):
        def window(self, observations):
            return super().window(observations) + super().window(0 * observations)

    policy = spiking_policy(([1.0, 0.0], [1.0, 0.0, 1.0]), features_extractor_class=Twice)
    first, second, readout = counted(policy, th.zeros(3, 4))
    once = counted(spiking_policy(([1.0, 0.0], [1.0, 0.0, 1.0])), th.zeros(3, 4))
    for layer, single in zip((first, second, readout), once, strict=True):
        assert layer.accumulates.tolist() == (2 * single.accumulates).tolist()
        assert layer.spikes.tolist() == (2 * single.spikes).tolist()


def test_the_network_of_dqn():
    # Multiply-accumulates of Mnih et al. 2015's network: places x channels x weights of a filter
    policy = CnnPolicy(spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(6), lambda _: 0.0)
    layers = counted(policy, th.zeros(1, 4, 84, 84, dtype=th.uint8))
    expected = [20 * 20 * 32 * 256, 9 * 9 * 64 * 512, 7 * 7 * 64 * 576, 512 * 3136, 6 * 512]
    assert [layer.multiply_accumulates.item() for layer in layers] == expected
    assert [layer.neurons for layer in layers] == [12800, 5184, 3136, 512, 6]


def spiking_policy(biases, num_steps=4, space=VECTOR, **settings):
    """Two spiking layers of 2 and 3 neurons and two actions; without weights, neuron i of a layer is driven by its bias."""
    arguments = {"net_arch": [2, 3], "beta": 0.0, "threshold": 0.5, "reset_mechanism": "none", **settings}
    policy = SpikingPolicy(space, spaces.Discrete(2), lambda _: 0.0, num_steps=num_steps, **arguments)
    with th.no_grad():
        for layer, bias in zip(policy.q_net.features_extractor.dense, biases, strict=True):
            layer.connection.weight.zero_()
            layer.connection.bias.copy_(th.tensor(bias))
    return policy


def test_a_spiking_network_accumulates_once_for_each_spike_and_connection():
    # One of two neurons fires in all four steps, then two of three
    policy = spiking_policy(([1.0, 0.0], [1.0, 0.0, 1.0]))
    first, second, readout = counted(policy, th.zeros(3, 4))
    assert lists(first) == [[8.0] * 3, [0.0] * 3, [8.0] * 3, [4.0] * 3]  # real input: 4 x 2, once
    assert lists(second) == [[0.0] * 3, [4.0 * 3] * 3, [12.0] * 3, [8.0] * 3]
    assert lists(readout) == [[0.0] * 3, [8.0 * 2] * 3, [0.0] * 3, [0.0] * 3]
    assert (first.steps, first.decays, first.parameters) == (4, False, 10)
    assert first.picojoules(Energy(10.0, 1.0)).tolist() == [8 * 10.0 + 8 * 1.0] * 3
    assert second.picojoules(Energy(10.0, 1.0)).tolist() == [12 + 12] * 3


def test_zeros_and_ones_of_an_observation_are_numbers_with_one_step_too():
    body = {"features_extractor_class": SpikingMLP, "features_extractor_kwargs": {"net_arch": [3], "num_steps": 1}}
    policy = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={**body, "net_arch": []}).policy
    for observations in (th.tensor([[1.0, 0, 1, 1]]), th.tensor([[1.0, 0, 1, 1], [0.5, 0, 0, 0]])):
        with OperationCounter(policy) as counter, th.no_grad():
            policy(observations)
            assert lists(counter.layers[0])[:2] == [[12.0] * len(observations), [0.0] * len(observations)]


def test_each_image_of_a_dict_is_multiplied_once():
    image = spaces.Box(0, 255, (1, 8, 8), np.uint8)
    space = spaces.Dict({"a": image, "b": image})
    settings = {"conv_layers": [(2, 3, 1)], "features_dim": 4, "net_arch": [3], "num_steps": 1}
    policy = SpikingPolicy(space, spaces.Discrete(2), lambda _: 0.0, **settings)
    black_and_white = {key: th.full((1, 1, 8, 8), 255, dtype=th.uint8) for key in space.spaces}
    first, _, second, *_ = counted(policy, black_and_white)
    for layer in (first, second):
        assert lists(layer)[:2] == [[6 * 6 * 9 * 2.0], [0.0]]


@pytest.mark.parametrize("policy_class", ["spiking", "relu"])
def test_booleans_that_were_normalised_are_no_spikes(policy_class):
    space = spaces.Box(0, 1, (4,), bool)
    if policy_class == "relu":
        policy = MlpPolicy(space, spaces.Discrete(2), lambda _: 0.0, net_arch=[3])
    else:
        policy = SpikingPolicy(space, spaces.Discrete(2), lambda _: 0.0, net_arch=[3], num_steps=4)
    first, *_ = counted(policy, th.tensor([[1.2, -0.8, 1.2, -0.8]]), boolean_spikes=True)
    assert lists(first)[:2] == [[12.0], [0.0]]
    first, *_ = counted(policy, th.tensor([[1.0, 0.0, 1.0, 0.0]]), boolean_spikes=True)
    assert lists(first)[:2] == [[0.0], [6.0 if policy_class == "relu" else 24.0]]


def test_a_membrane_that_decays_multiplies():
    first, *_ = counted(spiking_policy(([1.0, 0.0], [0.0, 0.0, 0.0]), beta=0.5), th.zeros(1, 4))
    assert first.decays
    assert first.picojoules(Energy(10.0, 1.0)).item() == 8 * 10 + 8 * 10


def test_spikes_of_the_last_step_do_not_arrive_with_a_delay():
    _, second, readout = counted(spiking_policy(([1.0, 0.0], [1.0, 0.0, 1.0]), layer_delay=True), th.zeros(1, 4))
    assert lists(second)[1] == [3.0 * 3]
    assert lists(second)[3] == [8.0]
    assert lists(readout)[1] == [6.0 * 2]


def test_a_readout_that_spikes_has_neurons():
    policy = spiking_policy(([1.0, 0.0], [1.0, 0.0, 1.0]), readout="spike")
    with th.no_grad():
        policy.q_net.q_net[0].weight.zero_()
        policy.q_net.q_net[0].bias.copy_(th.tensor([0.0, 1.0]))
    *_, readout = counted(policy, th.zeros(1, 4))
    assert lists(readout) == [[0.0], [16.0], [8.0], [4.0]]


def test_single_steps_are_spikes_too():
    _, second, _ = counted(spiking_policy(([1.0, 0.0], [1.0, 0.0, 1.0]), num_steps=1), th.rand(1, 4))
    assert lists(second)[:2] == [[0.0], [3.0]]


def test_batches_in_parts_are_counted_whole(monkeypatch):
    space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    policy = SpikingPolicy(space, spaces.Discrete(2), lambda _: 0.0, num_steps=3, threshold=0.05, slope=2.0)
    images = th.randint(0, 256, (5, 1, 36, 36), dtype=th.uint8)
    whole = [lists(layer) for layer in counted(policy, images)]
    assert sum(whole[2][1]) > 0
    monkeypatch.setattr("sb3_spiking.snn.layers._NUMBERS_AT_ONCE", 1)
    assert [lists(layer) for layer in counted(policy, images)] == whole


def test_poisson_input_are_spikes():
    policy = spiking_policy(([1.0, 0.0], [1.0, 0.0, 1.0]), encoding="poisson")
    first, *_ = counted(policy, th.full((1, 4), 50.0))  # tanh is 1: the ON neuron of each input fires at every step
    assert lists(first)[:2] == [[0.0], [4.0 * 4 * 2]]


CONNECTIONS = [
    (nn.Conv2d(2, 3, 3), (2, 6, 5)),
    (nn.Conv2d(2, 3, 3, stride=2), (2, 6, 7)),
    (nn.Conv2d(2, 4, 3, padding=1, stride=2), (2, 5, 5)),
    (nn.Conv2d(4, 4, (2, 3), groups=2, dilation=2), (4, 7, 7)),
    (nn.Linear(6, 5), (6,)),
]


@pytest.mark.parametrize(("connection", "shape"), CONNECTIONS)
def test_outgoing_connections_of_every_input(connection, shape):
    # As many as outputs whose derivative is not 0
    inputs = th.rand(1, *shape)
    jacobian = th.autograd.functional.jacobian(connection, inputs)
    outgoing = (jacobian != 0).reshape(-1, inputs.numel()).sum(dim=0).reshape(shape)
    assert th.equal(_uses(connection, shape), outgoing.float())


def test_actor_critics_count_what_acts():
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [5]}, n_steps=8, batch_size=8)
    with OperationCounter(model.policy) as counter:
        model.predict(np.zeros(4, np.float32))
        counted = [layer.multiply_accumulates.item() for layer in counter.layers]
        counter.clear()
        assert counter.layers == []
    assert counted == [20.0, 10.0]
    model.predict(np.zeros(4, np.float32))
    assert counter.layers == []  # its hooks are gone


PLANES = spaces.MultiBinary(4)


@pytest.mark.parametrize("num_steps", [1, 4])
def test_booleans_are_spikes_where_one_chooses_so(num_steps):
    policy = spiking_policy(([1.0, 0.0], [1.0, 0.0, 1.0]), num_steps, space=PLANES)
    observations = th.tensor([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    first, second, _ = counted(policy, observations)
    assert lists(first)[:2] == [[8.0] * 3, [0.0] * 3]
    spikes, same, _ = counted(policy, observations, boolean_spikes=True)
    # 2, 4 and no planes, each with 2 connections, at each step
    assert lists(spikes)[:2] == [[0.0] * 3, [2.0 * 2 * num_steps, 4.0 * 2 * num_steps, 0.0]]
    assert lists(spikes)[2:] == lists(first)[2:]
    assert lists(same) == lists(second)


def test_a_relu_network_adds_the_weights_of_booleans_once():
    policy = MlpPolicy(PLANES, spaces.Discrete(2), lambda _: 0.0, net_arch=[3])
    with th.no_grad():  # units that are all 0 are no booleans
        policy.q_net.q_net[0].bias.fill_(-10)
    first, second = counted(policy, th.tensor([[0, 1, 1, 0], [0, 0, 0, 1]]), boolean_spikes=True)
    assert lists(first)[:2] == [[0.0, 0.0], [6.0, 3.0]]
    assert lists(second)[:2] == [[6.0, 6.0], [0.0, 0.0]]


def test_numbers_are_no_spikes_even_where_they_are_0_or_1():
    policy = spiking_policy(([1.0, 0.0], [1.0, 0.0, 1.0]))
    first, *_ = counted(policy, th.ones(1, 4), boolean_spikes=True)
    assert lists(first)[:2] == [[8.0], [0.0]]


def test_boolean_images_in_parts_are_counted_whole(monkeypatch):
    space, settings = (
        spaces.Box(0, 1, (10, 10, 4), bool),
        {"conv_layers": [(2, 3, 1)], "layout": "hwc", "features_dim": 5},
    )
    policy = SpikingPolicy(space, spaces.Discrete(2), lambda _: 0.0, num_steps=3, **settings)
    images = th.zeros(4, 10, 10, 4, dtype=th.bool)
    images[1, 0, 0, 0] = images[2, 5, 5, 3] = images[3, 5, 5, 2] = True  # a corner, and two inside
    monkeypatch.setattr("sb3_spiking.snn.layers._NUMBERS_AT_ONCE", 1)
    first, *_ = counted(policy, images, boolean_spikes=True)
    assert lists(first)[:2] == [[0.0] * 4, [0.0, 3 * 2 * 1.0, 3 * 2 * 9.0, 3 * 2 * 9.0]]


@pytest.mark.parametrize(("num_steps", "delay"), [(1, False), (4, False), (4, True)])
def test_real_values_beside_spikes_are_multiplied_whatever_they_are(num_steps, delay):
    space = spaces.Dict({"image": spaces.Box(0, 255, (1, 36, 36), np.uint8), "flags": spaces.MultiBinary(3)})
    settings = {"conv_layers": [[2, 36, 1]], "features_dim": 6, "net_arch": [5], "beta": 0.0, "threshold": 0.5}
    policy = SpikingPolicy(
        space, spaces.Discrete(2), lambda _: 0.0, num_steps=num_steps, reset_mechanism="none", layer_delay=delay, **settings
    )
    body = policy.q_net.features_extractor
    with th.no_grad():
        for layer, bias in ((body.cnns["image"].conv[0], 1.0), (body.cnns["image"].dense[0], 1.0)):
            layer.connection.weight.zero_()
            layer.connection.bias.fill_(bias)
    observation = {"image": th.zeros(1, 1, 36, 36, dtype=th.uint8), "flags": th.tensor([[1.0, 1.0, 0.0]])}
    (dense,) = (layer for layer in counted(policy, observation) if layer.name.endswith("features_extractor.dense.0"))
    real, events, *_ = lists(dense)
    assert real == [num_steps * 3 * 5]
    # All six units of the image fire at each step; with a delay they are seen one step later than they fire
    assert events == [(num_steps - delay) * 6 * 5]
