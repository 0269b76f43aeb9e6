import copy
import dataclasses
import io

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from conftest import DictEnv, GridEnv, ImageEnv
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn

import sb3_spiking.policies
from sb3_spiking import (
    SpikingCombinedExtractor,
    SpikingMLP,
    SpikingNatureCNN,
    SpikingPolicy,
    SpikingSettings,
)
from sb3_spiking.snn import READOUTS, Leaky

TRAINING = {"learning_starts": 8, "buffer_size": 100, "train_freq": 4, "batch_size": 4, "target_update_interval": 10}


def make_model(small, n_envs=1, seed=0, **kwargs):
    make, settings = small
    env = make_vec_env(make, n_envs=n_envs, seed=seed)
    return DQN(SpikingPolicy, env, seed=seed, policy_kwargs={**settings, **kwargs.pop("settings", {})}, **TRAINING, **kwargs)


def observation_of(model):
    model.observation_space.seed(3)
    return model.observation_space.sample()


def q_values(model, observation):
    with th.no_grad():
        return model.q_net(model.policy.obs_to_tensor(observation)[0])


# --- the body and the settings -----------------------------------------------------------------------------------


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


def test_names():
    model = DQN("SpikingPolicy", "CartPole-v1")
    assert type(model.policy) is SpikingPolicy
    for name in ("MlpPolicy", "CnnPolicy", "MultiInputPolicy"):
        assert getattr(sb3_spiking.policies, name) is SpikingPolicy


# --- SB3's contracts ---------------------------------------------------------------------------------------------


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


# --- an agent is the network that was trained --------------------------------------------------------------------

CHANGED_DEFAULTS = {
    "num_steps": 5,
    "beta": 0.9,
    "threshold": 0.5,
    "input_scale": 2.0,
    "spike_grad": "atan",
    "reset_mechanism": "subtract",
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
    for make, given in ((ImageEnv, {}), (lambda: gym.make("CartPole-v1"), {"net_arch": [16]})):
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


def test_another_algorithms_body_says_what_differs(monkeypatch, tmp_path):
    kwargs = {"features_extractor_class": SpikingMLP, "net_arch": []}
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs)
    model.save(tmp_path / "agent")
    change_defaults(monkeypatch, num_steps=5)
    with pytest.raises(ValueError, match=r"num_steps: saved 8, here 5.*\{'num_steps': 8\}"):
        PPO.load(tmp_path / "agent")
    kwargs["features_extractor_kwargs"] = {"num_steps": 8}
    loaded = PPO.load(tmp_path / "agent", custom_objects={"policy_kwargs": kwargs})
    assert loaded.policy.features_extractor.settings == model.policy.features_extractor.settings


def test_settings_travel_without_pickles(tmp_path):
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"net_arch": [8]})
    th.save(model.policy.state_dict(), tmp_path / "state.pth")
    state = th.load(tmp_path / "state.pth", weights_only=True)
    record = state["q_net.features_extractor._extra_state"]
    assert SpikingSettings.resolve(**record) == model.policy.settings
    assert dataclasses.asdict(model.policy.settings) == record
