"""An agent is the network that was trained, whatever the defaults are by now."""

import copy
import dataclasses
import importlib
import io
import pickle

import gymnasium as gym
import pytest
import torch as th
from small_agents import TRAINING, DictEnv, ImageEnv, observation_of, q_values
from stable_baselines3 import DQN, PPO

import sb3_spiking.policies
from sb3_spiking import (
    AgentError,
    FrameStackReplayBuffer,
    SpikingMLP,
    SpikingPolicy,
    SpikingSettings,
)
from sb3_spiking.sharing.archive import read_agent
from sb3_spiking.sharing.loading import build

CHANGED_DEFAULTS = {
    "num_steps": 5,
    "beta": 0.9,
    "threshold": 0.5,
    "input_scale": 3.0,
    "spike_grad": "atan",
    "reset_mechanism": "zero",
    "reset_delay": False,
    "learn_beta": True,
    "learn_threshold": True,
    "encoding": "poisson",
    "readout": "max_membrane",
    "features_dim": 24,
}


def change_defaults(monkeypatch, **changed):
    """What another version of the package would have as defaults."""
    original = SpikingSettings.resolve.__func__

    def resolve(cls, *, preset=None, defaults=None, **given):
        return original(cls, preset=preset, defaults={**(defaults or {}), **changed}, **given)

    monkeypatch.setattr(SpikingSettings, "resolve", classmethod(resolve))


@pytest.mark.parametrize("changed", [{name: value} for name, value in CHANGED_DEFAULTS.items()] + [CHANGED_DEFAULTS], ids=str)
def test_a_saved_agent_outlives_its_defaults(changed, monkeypatch, tmp_path):
    for make, given in ((ImageEnv, {}), (DictEnv, {"net_arch": [8]}), (lambda: gym.make("CartPole-v1"), {"net_arch": [16]})):
        given = {"features_dim": 16, **given} if "features_dim" not in changed else given
        env = make()
        model = DQN(SpikingPolicy, env, policy_kwargs=dict(given), **TRAINING).learn(20)
        observation = observation_of(model)
        expected, settings = q_values(model, observation), model.policy.settings
        model.save(tmp_path / "agent")
        with monkeypatch.context() as patch:
            change_defaults(patch, **changed)
            fresh = DQN(SpikingPolicy, env, policy_kwargs=dict(given), **TRAINING)
            assert fresh.policy.settings != settings
            loaded = DQN.load(tmp_path / "agent", env=env)
            assert loaded.policy.settings == settings
            assert loaded.q_net is loaded.policy.q_net
            assert loaded.q_net_target is loaded.policy.q_net_target
            assert th.equal(q_values(loaded, observation), expected)
            # it goes on learning, and a copy of it travels on
            before = q_values(loaded, observation)
            loaded.learn(24)
            assert not th.equal(q_values(loaded, observation), before)
            loaded.save(tmp_path / "again")
            again = DQN.load(tmp_path / "again")
            assert again.policy.settings == settings
            assert th.equal(q_values(again, observation), q_values(loaded, observation))
            loaded.policy.save(tmp_path / "policy.pt")
            assert SpikingPolicy.load(tmp_path / "policy.pt").settings == settings


def test_a_bodys_default_layers_may_change_too(monkeypatch):
    model = DQN(SpikingPolicy, "CartPole-v1")
    observation, file = observation_of(model), io.BytesIO()
    model.save(file)
    monkeypatch.setitem(SpikingMLP.defaults, "net_arch", (32,))
    assert DQN(SpikingPolicy, "CartPole-v1").policy.settings.net_arch == (32,)
    file.seek(0)
    loaded = DQN.load(file)
    assert loaded.policy.settings.net_arch == (256, 256)
    assert th.equal(q_values(loaded, observation), q_values(model, observation))


def test_a_preset_that_changes_does_not_change_an_agent(monkeypatch):
    env = gym.make("CartPole-v1")
    model = DQN(SpikingPolicy, env, policy_kwargs={"preset": "liu2022"})
    file = io.BytesIO()
    model.save(file)
    monkeypatch.setitem(sb3_spiking.PRESETS, "liu2022", {**sb3_spiking.PRESETS["liu2022"], "num_steps": 32})
    assert DQN(SpikingPolicy, env, policy_kwargs={"preset": "liu2022"}).policy.settings.num_steps == 32
    file.seek(0)
    assert DQN.load(file).policy.settings == model.policy.settings


def test_other_settings_than_the_saved_are_refused():
    saved = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"num_steps": 4, "net_arch": [8]})
    other = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"num_steps": 6, "net_arch": [8]})
    before = copy.deepcopy(other.get_parameters())
    with pytest.raises(ValueError, match=r"num_steps: saved 4, here 6"):
        other.set_parameters(saved.get_parameters())
    for name, value in before["policy"].items():
        if isinstance(value, th.Tensor):
            assert th.equal(value, other.get_parameters()["policy"][name])
    with pytest.raises(ValueError, match=r"num_steps: saved 4, here 6"):
        other.q_net.load_state_dict(saved.q_net.state_dict())


def test_agents_that_name_the_old_place_of_the_replay_load():
    assert importlib.import_module("sb3_spiking.replay").FrameStackReplayBuffer is FrameStackReplayBuffer
    old = b"csb3_spiking.replay\nFrameStackReplayBuffer\n."  # a pickle of the class, by its name
    assert pickle.loads(old) is FrameStackReplayBuffer


def test_another_algorithms_body_says_what_differs(monkeypatch, tmp_path):
    kwargs = {"features_extractor_class": SpikingMLP, "net_arch": []}
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs)
    model.save(tmp_path / "agent")
    change_defaults(monkeypatch, num_steps=5)
    with pytest.raises(ValueError, match=r"num_steps: saved 4, here 5.*\{'num_steps': 4\}"):
        PPO.load(tmp_path / "agent")
    with pytest.raises(AgentError, match="num_steps: saved 4, here 5"):
        build(PPO, read_agent(tmp_path / "agent.zip"))
    kwargs["features_extractor_kwargs"] = {"num_steps": 4}
    loaded = PPO.load(tmp_path / "agent", custom_objects={"policy_kwargs": kwargs})
    assert loaded.policy.features_extractor.settings == model.policy.features_extractor.settings


def test_settings_travel_without_pickles(tmp_path):
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"net_arch": [8]})
    th.save(model.policy.state_dict(), tmp_path / "state.pth")
    state = th.load(tmp_path / "state.pth", weights_only=True)
    record = state["q_net.features_extractor._extra_state"]
    assert SpikingSettings.resolve(**record) == model.policy.settings
    assert dataclasses.asdict(model.policy.settings) == record
