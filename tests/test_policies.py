"""SB3's contracts."""

import copy
import inspect
from functools import partial

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import QRDQN
from small_agents import TRAINING, ImageEnv, make_model, observation_of, q_values
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.logger import configure
from torch import nn

from sb3_spiking import (
    SpikingMLP,
    SpikingNatureCNN,
    SpikingPolicy,
)
from sb3_spiking.extractors import SpikingExtractor
from sb3_spiking.policies import _POLICY_ARGUMENTS


@pytest.mark.parametrize("n_envs", [1, 2])
def test_learn_save_load_continue(small, n_envs, tmp_path):
    model = make_model(small, n_envs).learn(40)
    model.save(tmp_path / "agent")
    model.save_replay_buffer(tmp_path / "replay")
    loaded = DQN.load(tmp_path / "agent", env=model.get_env())
    assert loaded.policy.settings == model.policy.settings
    for (name, ours), (other_name, theirs) in zip(
        model.policy.named_parameters(), loaded.policy.named_parameters(), strict=True
    ):
        assert name == other_name
        assert th.equal(ours, theirs)
    observation = observation_of(model)
    assert th.equal(q_values(model, observation), q_values(loaded, observation))
    assert model.predict(observation, deterministic=True)[0] == loaded.predict(observation, deterministic=True)[0]
    # the optimizer's state is there too, and the same update follows
    loaded.load_replay_buffer(tmp_path / "replay")
    for agent in (model, loaded):
        agent.set_logger(configure())
        np.random.seed(7)
        agent.train(gradient_steps=2, batch_size=4)
    for ours, theirs in zip(model.q_net.parameters(), loaded.q_net.parameters(), strict=True):
        assert th.equal(ours, theirs)
    loaded.learn(20, reset_num_timesteps=False)


def test_load_without_environment_and_without_replay(small, tmp_path):
    model = make_model(small)
    model.save(tmp_path / "agent")
    loaded = DQN.load(tmp_path / "agent", buffer_size=1)
    observation = observation_of(model)
    assert th.equal(q_values(model, observation), q_values(loaded, observation))


def test_policy_alone_saves_and_loads(small, tmp_path):
    model = make_model(small)
    observation = observation_of(model)
    model.policy.save(tmp_path / "policy.pt")
    loaded = SpikingPolicy.load(tmp_path / "policy.pt")
    assert loaded.settings == model.policy.settings
    assert loaded.predict(observation)[0] == model.policy.predict(observation)[0]
    model.q_net.save(tmp_path / "q_net.pt")
    network = type(model.q_net).load(tmp_path / "q_net.pt")
    assert th.equal(network(model.policy.obs_to_tensor(observation)[0]), q_values(model, observation))


def test_predict_single_and_vectorised(small):
    model = make_model(small)
    single = observation_of(model)
    action, state = model.predict(single, deterministic=True)
    assert action.shape == ()
    assert state is None
    batch = {k: np.stack([v, v]) for k, v in single.items()} if isinstance(single, dict) else np.stack([single, single])
    actions, _ = model.predict(batch, deterministic=True)
    assert actions.tolist() == [action, action]


def test_actions_begin_at_zero():
    with pytest.raises(ValueError, match=r"action_space=Discrete\(3, start=1\): SB3's DQN takes actions from 0 on"):
        SpikingPolicy(spaces.Box(-1, 1, (3,)), spaces.Discrete(3, start=1), lambda _: 1e-3)


def test_same_seed_same_training(small):
    parameters = [make_model(small, seed=5, settings={"encoding": "poisson"}).learn(30).get_parameters() for _ in range(2)]
    for name, value in parameters[0]["policy"].items():
        assert th.equal(value, parameters[1]["policy"][name]) if isinstance(value, th.Tensor) else True


def test_deepcopy_after_training_and_modes(small):
    model = make_model(small).learn(20)
    observation = observation_of(model)
    expected = q_values(model, observation)
    copied = copy.deepcopy(model.policy)
    assert th.equal(copied.q_net(model.policy.obs_to_tensor(observation)[0]), expected)
    for mode in (True, False):
        model.policy.set_training_mode(mode)
        assert th.equal(q_values(model, observation), expected)
    assert not model.q_net_target.training


def test_target_equals_the_q_network_after_a_copy(small):
    settings = {"learn_beta": True, "learn_threshold": True, "readout": "spike"}
    model = make_model(small, settings=settings)
    observation = model.policy.obs_to_tensor(observation_of(model))[0]
    model.learn(18)  # copies at 10; updates at 12 and 16
    before = model.q_net_target(observation)
    with th.no_grad():
        for parameter in model.q_net.parameters():
            parameter.mul_(1.3)
        assert not all(th.equal(*pair) for pair in zip(model.q_net.parameters(), model.q_net_target.parameters(), strict=True))
        assert th.equal(model.q_net_target(observation), before)
        model._n_calls = TRAINING["target_update_interval"] - 1
        model._on_step()
        assert th.equal(model.q_net_target(observation), model.q_net(observation))


def test_set_parameters(small):
    model, other = make_model(small, seed=0), make_model(small, seed=1)
    observation = observation_of(model)
    assert not th.equal(q_values(model, observation), q_values(other, observation))
    other.set_parameters(model.get_parameters())
    assert th.equal(q_values(model, observation), q_values(other, observation))


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_the_body_serves_other_algorithms(algorithm, tmp_path):
    env = ImageEnv()
    kwargs = {"features_extractor_class": SpikingNatureCNN, "net_arch": []}
    body = {"num_steps": 3, "features_dim": 16}
    model = algorithm("CnnPolicy", env, n_steps=8, policy_kwargs={**kwargs, "features_extractor_kwargs": body})
    model.learn(16)
    model.save(tmp_path / "agent")
    loaded = algorithm.load(tmp_path / "agent")
    rates = loaded.policy.extract_features(loaded.policy.obs_to_tensor(env.observation_space.sample())[0])
    rates = rates[0] if isinstance(rates, tuple) else rates
    assert rates.shape == (1, 16)
    assert th.equal((rates * 3).round(), rates * 3)  # spikes of three steps


@pytest.mark.parametrize("readout", ["spike", "max_membrane"])
def test_features_are_firing_rates(readout):
    body = {"features_extractor_class": SpikingMLP, "features_extractor_kwargs": {"net_arch": [8], "readout": readout}}
    with pytest.raises(
        ValueError, match=f"readout='{readout}': a features extractor gives firing rates, expected readout='rate'"
    ):
        PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, policy_kwargs={**body, "net_arch": []}).learn(8)


def test_a_preset_that_the_saved_network_does_not_have_is_said(recwarn):
    saved = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"net_arch": [8]}).get_parameters()
    other = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"net_arch": [8], "preset": "liu2022"})
    with pytest.warns(
        UserWarning, match=r"the saved network is not that of the preset: it has num_steps=4, beta=1.0, .*stays so"
    ):
        other.set_parameters(saved)
    assert other.policy.settings.num_steps == 4
    same = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"net_arch": [8], "preset": "liu2022"})
    same.set_parameters(
        DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"net_arch": [8], "preset": "liu2022"}).get_parameters()
    )
    assert not recwarn.list


def test_double_dqn_trains_on_its_own_target(tmp_path):
    model = make_model(("CartPole-v1", {"double_dqn": True, "num_steps": 4, "net_arch": [32]}))
    model.learn(60)
    with th.no_grad():
        for parameter in model.q_net_target.parameters():
            parameter += 0.3 * th.randn_like(parameter)
    samples = model.replay_buffer.sample(50)
    online, target = (
        model.q_net.spiking_values(samples.next_observations),
        model.q_net_target.spiking_values(samples.next_observations),
    )
    chosen = target.gather(1, online.argmax(dim=1, keepdim=True))
    assert th.equal(model.q_net_target(samples.next_observations), chosen)
    assert (chosen < target.max(dim=1, keepdim=True).values).any()
    # One update of DQN is one with the target of van Hasselt et al. 2016
    other = copy.deepcopy(model.policy)
    assert other.q_net_target._chooser[0] is other.q_net
    model.replay_buffer.sample = lambda *args, **kwargs: samples
    model.train(1, 50)
    goal = samples.rewards + (1 - samples.dones) * model.gamma * chosen.detach()
    values = other.q_net(samples.observations).gather(1, samples.actions.long())
    other.optimizer.zero_grad()
    th.nn.functional.smooth_l1_loss(values, goal).backward()
    th.nn.utils.clip_grad_norm_(other.parameters(), model.max_grad_norm)
    other.optimizer.step()
    for parameter, expected in zip(model.q_net.parameters(), other.q_net.parameters(), strict=True):
        th.testing.assert_close(parameter, expected)
    del model.replay_buffer.sample
    model.save(tmp_path / "model")
    loaded = DQN.load(tmp_path / "model", env=model.env)
    assert loaded.q_net_target._chooser[0] is loaded.q_net
    loaded.learn(40)
    model.policy.save(tmp_path / "policy")
    policy = type(model.policy).load(tmp_path / "policy")
    assert policy.q_net_target._chooser[0] is policy.q_net
    assert not any("chooser" in name for name in policy.state_dict())


def test_double_dqn_survives_restored_settings(tmp_path):
    make_model(("CartPole-v1", {"num_steps": 3, "net_arch": [8]})).save(tmp_path / "model")
    state = DQN.load(tmp_path / "model").policy.state_dict()
    policy = make_model(("CartPole-v1", {"double_dqn": True})).policy
    policy.load_state_dict(state)
    assert policy.settings.num_steps == 3
    assert policy.q_net_target._chooser[0] is policy.q_net
    assert policy.q_net_target(th.rand(5, 4)).shape == (5, 1)
    with pytest.raises(ValueError, match="double_dqn=1: expected True or False"):
        make_model(("CartPole-v1", {"double_dqn": 1}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"comon_mode": True}, "Did you mean 'common_mode'"),
        ({"optimizer_kwarg": {}}, "Did you mean 'optimizer_kwargs'"),
        ({"num_step": 4}, "Did you mean 'num_steps'"),
        ({"common_mode": {"netarch": [8]}}, r"Unknown setting 'netarch'\. Did you mean 'net_arch'"),
        ({"whatever": 1}, "takes: preset, .*net_arch, .*optimizer_kwargs, double_dqn, common_mode$"),
    ],
)
def test_typing_help(settings, message):
    with pytest.raises(ValueError, match=message):
        SpikingPolicy(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), lambda _: 1e-3, **settings)


def test_typing_help_knows_all_arguments():
    given = set(inspect.signature(SpikingPolicy).parameters) - {"observation_space", "action_space", "lr_schedule", "settings"}
    assert given == {*_POLICY_ARGUMENTS, "net_arch"}


def test_another_algorithm_says_whose_policy_it_is():
    with pytest.raises(ValueError, match=r"a policy of DQN.*features_extractor_class=sb3_spiking\.SpikingMLP"):
        PPO(SpikingPolicy, "CartPole-v1")
    with pytest.raises(AttributeError, match=r"a policy of DQN.*features_extractor_class=sb3_spiking\.SpikingMLP"):
        QRDQN(SpikingPolicy, "CartPole-v1")


@pytest.mark.parametrize("gradients", ["exact", "rates", None])
def test_hooks_of_what_can_be_called_fire(small, gradients):
    make, settings = small
    if gradients is not None:
        settings = {**settings, "gradients": gradients}
    model = make_model((make, {**settings, "common_mode": True}), 1)
    q_net = model.q_net
    called = set()
    # The network takes the window of a body, whose forward would give rates
    others = (SpikingExtractor, nn.ModuleList, nn.ModuleDict)
    modules = [each for each in q_net.modules() if not isinstance(each, others)]
    for module in modules:
        module.register_forward_hook(lambda module, *_: called.add(module))
    observations, _ = q_net.obs_to_tensor(observation_of(model))
    with th.set_grad_enabled(gradients is not None):
        q_net(observations)
    assert [each for each in modules if each not in called] == []


IMAGE = spaces.Box(0, 1, (3, 3, 2), np.bool_)
WRONG = {
    "a preset in a list": ({"preset": ["liu2022"]}, "preset=.*expected one of"),
    "a function as a body": ({"features_extractor_class": repr}, "features_extractor_class=repr: expected a spiking body"),
    "one neuron to normalise": (
        {"conv_layers": [(1, 3, 1)], "layout": "hwc", "normalization": "potential"},
        "one neuron is left, whose current would be 0",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    settings, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        SpikingPolicy(IMAGE, spaces.Discrete(2), lambda _: 1e-3, **settings)


def test_arrays_are_lists():
    settings = {"conv_layers": np.array([[4, 3, 1]]), "layout": "hwc", "spike_grad": np.array(["atan", "atan"])}
    policy = SpikingPolicy(IMAGE, spaces.Discrete(2), lambda _: 1e-3, **settings)
    assert policy.settings.conv_layers == ((4, 3, 1),)
    assert policy.settings.spike_grad == ("atan", "atan")


@pytest.mark.parametrize("settings", [{"features_dim": 32}, {"layout": "hwc"}])
def test_settings_of_convolutions_without_one_are_told(settings):
    with pytest.warns(UserWarning, match="has no effect without convolutions"):
        SpikingPolicy(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), lambda _: 1e-3, **settings)


def test_an_activation_without_a_name():
    with pytest.warns(UserWarning, match="has no effect"):
        SpikingPolicy(
            IMAGE, spaces.Discrete(2), lambda _: 1e-3, layout="hwc", conv_layers=[(4, 3, 1)], activation_fn=partial(nn.ReLU)
        )
