"""The ReLU network beside a spiking one: alone, and as what learns the part that all actions share."""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from small_agents import ENVIRONMENTS, TRAINING, make_model, observation_of, q_values
from stable_baselines3 import DQN
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import NatureCNN
from torch.nn import functional as F

from sb3_spiking import ReluExtractor, SpikingMLP, SpikingNatureCNN, SpikingPolicy, without_common_mode
from sb3_spiking.evaluation.operations import OperationCounter

IMAGE = spaces.Box(0, 255, (4, 84, 84), np.uint8)


def test_the_relu_network_of_images_is_sb3s():
    ours, theirs = ReluExtractor(IMAGE), NatureCNN(IMAGE)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.parameters(), strict=True)))
    observations = th.rand(3, 4, 84, 84)
    assert th.equal(ours(observations), theirs(observations))


def test_the_relu_network_of_a_dict():
    make, settings = ENVIRONMENTS["dict"]
    space = make().observation_space
    network = ReluExtractor(space, **settings, conv_layers=[(2, 9, 9)])
    observations = {"image": th.rand(2, 1, 36, 36), "state": th.randn(2, 2, 3), "mode": F.one_hot(th.tensor([0, 2]), 3)}
    convolution, image_layer, dense = [layer.connection for layer in network.modules() if hasattr(layer, "connection")]
    image = F.relu(image_layer(F.relu(convolution(observations["image"])).flatten(1)))
    parts = {"image": image, "state": observations["state"].flatten(1), "mode": observations["mode"]}
    expected = F.relu(dense(th.cat([parts[key] for key in space.spaces], dim=1)))
    assert th.equal(network(observations), expected)


def test_a_relu_network_takes_no_settings_of_neurons():
    with pytest.raises(ValueError, match=r"beta, slope: a ReLU network takes conv_layers, layout, features_dim, net_arch"):
        ReluExtractor(IMAGE, beta=0.5, slope=2.0)


@pytest.mark.parametrize("readout", ["rate", "spike", "max_membrane"])
def test_values_by_hand(small, readout):
    model = make_model(small, settings={"common_mode": True, "readout": readout})
    observations = model.policy.obs_to_tensor(model.get_env().reset())[0]
    network = model.q_net
    spiking = network.spiking_values(observations)
    extractor, linear = network.common_mode
    prepared = observations
    if not isinstance(observations, dict):
        prepared = observations.float() / (255 if observations.dtype == th.uint8 else 1)
        shared = linear(extractor(prepared))
        assert shared.shape == (1, 1)
        assert th.equal(network(observations), spiking - spiking.mean() + shared)
    assert th.allclose(network(observations).diff(), spiking.diff(), atol=1e-6)


def test_actions_are_the_spiking_networks_alone(small):
    model = make_model(small, n_envs=2, settings={"common_mode": True}).learn(60)
    observation = model.get_env().reset()
    tensors = model.policy.obs_to_tensor(observation)[0]
    actions = model.predict(observation, deterministic=True)[0]
    assert actions.tolist() == model.q_net(tensors).argmax(dim=1).tolist()
    with th.no_grad():
        for parameter in model.q_net.common_mode.parameters():
            parameter.fill_(th.nan)
    assert actions.tolist() == model.predict(observation, deterministic=True)[0].tolist()


def test_both_networks_learn_and_each_target_is_a_copy(small):
    model = make_model(small, settings={"common_mode": True, "input_scale": 8.0})
    before = copy.deepcopy(model.policy.state_dict())
    assert th.equal(before["q_net.common_mode.1.weight"], before["q_net_target.common_mode.1.weight"])
    model.learn(40)
    after = model.policy.state_dict()
    assert not th.equal(after["q_net.common_mode.1.weight"], before["q_net.common_mode.1.weight"])
    assert not th.equal(after["q_net.q_net.0.weight"], before["q_net.q_net.0.weight"])
    assert not th.equal(after["q_net_target.common_mode.1.weight"], before["q_net_target.common_mode.1.weight"])


def test_the_gradient_of_what_all_actions_share_is_c_alone():
    model = make_model(("CartPole-v1", {"net_arch": [16], "num_steps": 4}), settings={"common_mode": True, "input_scale": 4.0})
    model.q_net(th.randn(8, 4)).sum().backward()
    spiking = [p.grad for name, p in model.q_net.named_parameters() if not name.startswith("common_mode")]
    assert max(grad.abs().max().item() for grad in spiking) < 1e-5
    assert model.q_net.common_mode[1].bias.grad.item() == pytest.approx(8 * 2)


def test_saved_loaded_and_continued(small, tmp_path):
    model = make_model(small, settings={"common_mode": {"features_dim": 4}}).learn(40)
    model.save(tmp_path / "agent")
    model.save_replay_buffer(tmp_path / "replay")
    loaded = DQN.load(tmp_path / "agent", env=model.get_env())
    assert th.equal(q_values(model, observation_of(model)), q_values(loaded, observation_of(model)))
    loaded.load_replay_buffer(tmp_path / "replay")
    for agent in (model, loaded):
        agent.set_logger(configure())
        np.random.seed(7)
        agent.train(gradient_steps=2, batch_size=4)
    for ours, theirs in zip(model.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert th.equal(ours, theirs)
    policy = SpikingPolicy(**model.policy._get_constructor_parameters())
    policy.load_state_dict(model.policy.state_dict())


def test_the_user_chooses_the_shape():
    model = make_model(("CartPole-v1", {"net_arch": [16]}), settings={"common_mode": {"net_arch": [5, 3]}})
    shapes = [tuple(p.shape) for p in model.q_net.common_mode.parameters() if p.dim() == 2]
    assert shapes == [(5, 4), (3, 5), (1, 3)]


def test_double_dqn_with_both(small):
    model = make_model(small, settings={"common_mode": True, "double_dqn": True}).learn(40)
    observations = model.policy.obs_to_tensor(observation_of(model))[0]
    target = model.q_net_target
    values = target.compensated(target.spiking_values(observations), observations)
    chosen = model.q_net.spiking_values(observations).argmax(dim=1)
    assert th.equal(target(observations), values[:, chosen])


def test_a_copy_to_deploy(small, tmp_path):
    model = make_model(small, n_envs=2, settings={"common_mode": True}).learn(60)
    copied = without_common_mode(model)
    assert model.q_net.common_mode is not None
    copied.save(tmp_path / "agent")
    plain = DQN.load(tmp_path / "agent", env=model.get_env())
    assert "common_mode" not in plain.policy_kwargs
    assert not any("common_mode" in name for name in plain.policy.state_dict())
    observations = model.policy.obs_to_tensor(model.get_env().reset())[0]
    for agent in (copied, plain):
        assert th.equal(agent.q_net(observations), model.q_net.spiking_values(observations))
        assert th.equal(agent.q_net_target(observations), agent.q_net(observations))
    plain.learn(40, reset_num_timesteps=False)


def test_a_decision_does_without_c(small):
    layers = []
    for common_mode in (True, False):
        model = make_model(small, settings={"common_mode": common_mode})
        with OperationCounter(model.policy) as counter:
            model.predict(observation_of(model), deterministic=True)
            layers.append([layer.name for layer in counter.layers])
    assert layers[0] == layers[1]


@pytest.mark.parametrize("value", [{"beta": 0.5}, "yes", 1])
def test_wrong_values(value):
    with pytest.raises(ValueError, match="common_mode="):
        SpikingPolicy(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), lambda _: 0.0, common_mode=value)
    with pytest.raises(ValueError, match="expected an agent trained with common_mode=True"):
        without_common_mode(DQN("MlpPolicy", "CartPole-v1", **TRAINING))


def test_compensation_has_the_shape_of_the_body_that_was_chosen():
    image, grid = spaces.Box(0, 255, (12, 12, 3), np.uint8), spaces.Box(0, 1, (10, 10, 4), bool)
    for space, body, settings in (
        (image, SpikingMLP, {"net_arch": [16]}),
        (grid, SpikingNatureCNN, {"conv_layers": [], "layout": "hwc", "features_dim": 16}),
        (grid, type("Mine", (SpikingNatureCNN,), {}), {"conv_layers": [(4, 3, 1)], "layout": "hwc", "features_dim": 16}),
    ):
        q_net = SpikingPolicy(
            space, spaces.Discrete(3), lambda _: 1e-3, features_extractor_class=body, common_mode=True, **settings
        ).q_net
        shapes = [parameter.shape for parameter in q_net.features_extractor.parameters()]
        assert [parameter.shape for parameter in q_net.common_mode[0].parameters()] == shapes


def test_a_shape_that_does_not_fit_is_said_to_be_the_compensations():
    grid = spaces.Box(0, 1, (10, 10, 4), bool)
    settings = {"conv_layers": [(4, 3, 1)], "layout": "hwc", "features_dim": 16, "common_mode": {"conv_layers": []}}
    with pytest.raises(ValueError, match=r"^common_mode=\{'conv_layers': \[\]\}: net_arch=\[\]: expected at least one layer"):
        SpikingPolicy(grid, spaces.Discrete(3), lambda _: 1e-3, **settings)


@pytest.mark.parametrize("common_mode", [True, {"net_arch": [8]}])
def test_a_q_network_saves_and_loads_with_its_compensation(tmp_path, common_mode):
    space = spaces.Box(-1, 1, (4,))
    q_net = SpikingPolicy(space, spaces.Discrete(2), lambda _: 1e-3, net_arch=[16], common_mode=common_mode).q_net
    q_net.save(tmp_path / "q_net.pt")
    observations = th.rand(3, 4)
    assert th.equal(type(q_net).load(tmp_path / "q_net.pt")(observations), q_net(observations))
