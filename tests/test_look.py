"""Recordings against membranes by hand, snnTorch itself, and what the agents act on."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import snntorch as snn
import torch as th
from gymnasium import spaces
from small_agents import ENVIRONMENTS, TRAINING, DictEnv, make_model
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize

import sb3_spiking.minatar  # noqa: F401  (registers its games)
from sb3_spiking import AgentError, Recording, ReluExtractor, SpikingMLP, SpikingPolicy, record
from sb3_spiking.evaluation.operations import ENERGIES
from sb3_spiking.look.panels import mosaic, outputs
from sb3_spiking.look.recorder import Recorder
from sb3_spiking.look.recording import pack, unpack


def test_bits_by_hand():
    spikes = np.zeros((2, 3, 3), np.float32)
    spikes[0, 0, 0] = spikes[0, 2, 2] = spikes[1, 0, 1] = 1
    bits = pack(spikes)
    assert bits.tolist() == [[1, 1], [2, 0]]
    np.testing.assert_array_equal(unpack(bits, (3, 3)), spikes)


def test_maps_side_by_side():
    planes = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    whole = mosaic(planes)
    np.testing.assert_array_equal(whole, [[0, 1, np.nan, 4, 5], [2, 3, np.nan, 6, 7]])


def with_biases(biases, **settings):
    """A DQN of CartPole without weights, whose neurons are driven by biases alone."""
    settings = {"num_steps": 4, "net_arch": [len(bias) for bias in biases], "input_scale": 1.0, **settings}
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs=settings, seed=0, **TRAINING)
    with th.no_grad():
        for layer, bias in zip(model.q_net.features_extractor.dense, biases, strict=True):
            layer.connection.weight.zero_()
            layer.connection.bias.copy_(th.tensor(bias))
    return model


@pytest.mark.parametrize(
    ("settings", "membranes", "spikes"),
    [
        # After a spike a delayed reset leaves nothing, or takes the threshold away; at once it shows in the membrane
        ({"beta": 0.5, "reset_mechanism": "zero"}, [0.8, 1.2, 0.8, 1.2], [0, 1, 0, 1]),
        ({"beta": 1.0, "reset_mechanism": "subtract"}, [0.8, 1.6, 1.4, 1.2], [0, 1, 1, 1]),
        ({"beta": 1.0, "reset_mechanism": "subtract", "reset_delay": False}, [0.8, 0.6, 0.4, 0.2], [0, 1, 1, 1]),
        ({"beta": 0.5, "reset_mechanism": "zero", "reset_delay": False}, [0.8, 0.0, 0.8, 0.0], [0, 1, 0, 1]),
        ({"beta": 0.5, "reset_mechanism": "none"}, [0.8, 1.2, 1.4, 1.5], [0, 1, 1, 1]),
        ({"beta": 1.0, "reset_mechanism": "subtract", "input_scale": 2.0}, [1.6, 2.2, 2.8, 3.4], [1, 1, 1, 1]),
    ],
)
def test_membranes_by_hand(settings, membranes, spikes):
    model = with_biases([[0.8, -1.0, 0.0]], **settings)
    recording = record(model, "CartPole-v1", 3, membranes="all")
    (layer,) = recording.layers
    assert (layer.kind, layer.shape, layer.steps, layer.source) == ("spikes", (3,), 4, None)
    for decision in range(3):
        np.testing.assert_allclose(layer.membranes[decision, :, 0], membranes, rtol=1e-6, atol=1e-7)
        assert layer.spikes[decision, :, 0].tolist() == [bool(each) for each in spikes]
        assert not layer.spikes[decision, :, 1:].any()
        assert (layer.membranes[decision, :, 2] == 0).all()
    assert layer.rates().tolist() == [sum(spikes) / 12] * 3
    assert outputs(layer, 1, 3).tolist() == [[each, 0, 0] for each in spikes] * 2


SETTINGS = {
    "default": {},
    "leaky": {"beta": 0.7, "reset_mechanism": "zero", "num_steps": 5},
    "attached": {"beta": 0.5, "reset_mechanism": "subtract", "reset_delay": False, "num_steps": 9},
    "paper": {"preset": "liu2022", "num_steps": 6},
    "normalised": {"normalization": "potential", "input_scale": 1.0},
    "delayed": {"layer_delay": True, "num_steps": 6},
    "spikes out": {"readout": "spike"},
    "delayed, spikes out": {"readout": "spike", "layer_delay": True, "num_steps": 7},
    "membranes out": {"readout": "max_membrane", "beta": 0.8},
    "poisson": {"encoding": "poisson", "num_steps": 5},
    "one step": {"num_steps": 1},
    "common mode": {"common_mode": True},
    "long": {"num_steps": 64, "beta": 0.9},
}


def recorded(kind, name, decisions=4, **more):
    make, settings = ENVIRONMENTS[kind]
    model = make_model((make, {"num_steps": 4, **settings, "input_scale": 4.0, **SETTINGS[name]}))
    return model, record(model, make(), decisions, membranes="all", seed=3, **more)


def seen_by(layer, before):
    """What comes into a layer, shape (D, T or 1, *)."""
    if layer.source is not None:
        window = before[layer.source].spikes
    elif "input_bits" in layer.arrays:
        window = unpack(layer.arrays["input_bits"], layer.input_shape)
    else:
        window = layer.arrays["inputs"]
    window = th.as_tensor(np.asarray(window, np.float32))
    if layer.delay and window.shape[1] > 1:
        window = th.cat([th.zeros_like(window[:, :1]), window[:, :-1]], dim=1)
    return window


@pytest.mark.parametrize(("kind", "name"), [*itertools.product(ENVIRONMENTS, SETTINGS)])
def test_what_is_recorded_is_snntorch_and_what_the_agent_acts_on(kind, name):
    model, recording = recorded(kind, name)
    assert recording.decisions == 4
    settings = model.policy.settings
    for layer in recording.layers:
        # snnTorch's own neuron, step by step, fed by what the recording says came in
        window = seen_by(layer, recording.layers)
        weight, bias = (th.as_tensor(layer.arrays[each]) for each in ("weight", "bias"))
        flat = window.flatten(0, 1)
        if weight.dim() == 4:
            currents = th.nn.functional.conv2d(flat, weight, bias, **layer.convolution)
        else:
            currents = th.nn.functional.linear(flat.flatten(1), weight, bias)
        if "scale" in layer.arrays:
            scale, shift = (th.as_tensor(layer.arrays[each]) for each in ("scale", "shift"))
            currents = th.nn.functional.group_norm(currents, 1, scale, shift)
        currents = currents.unflatten(0, window.shape[:2]).expand(-1, layer.steps, *layer.shape)
        neuron = layer.neuron
        leaky = snn.Leaky(
            beta=neuron["beta"],
            threshold=neuron["threshold"],
            reset_mechanism=neuron["reset_mechanism"],
            reset_delay=neuron["reset_delay"],
        )
        membrane = th.zeros_like(currents[:, 0])
        for step in range(layer.steps):
            spikes, membrane = leaky(currents[:, step] * neuron["input_scale"], membrane)
            np.testing.assert_allclose(layer.membranes[:, step], membrane.detach().numpy(), atol=1e-4, rtol=1e-4)
            if layer.kind == "spikes":
                np.testing.assert_array_equal(layer.spikes[:, step], spikes.detach().numpy())
        assert layer.kind == "membranes" or layer.spikes.any() or layer is recording.layers[-1]
    last = recording.layers[-1]
    values = recording.q_values
    if settings.readout == "rate":
        assert recording.readout["weight"].shape == (2, last.neurons)
        rates = last.spikes[:, : last.steps - settings.layer_delay].sum(axis=1) / last.steps
        spiking = rates @ recording.readout["weight"].T + recording.readout["bias"]
    elif settings.readout == "spike":
        assert recording.readout == {}
        spiking = last.spikes.mean(axis=1)
    else:
        assert last.kind == "membranes"
        spiking = last.membranes.max(axis=1)
    if name == "common mode":  # what all actions share is not the spiking network's
        spiking, values = spiking - spiking.mean(axis=1, keepdims=True), values - values.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(spiking, values, rtol=1e-4, atol=1e-5)
    assert (recording.actions == values.argmax(axis=1)).all() or name == "common mode"

    if settings.encoding == "poisson":
        return
    # The policy itself, by its fast path, which nobody observes
    for decision in range(4):
        observation = {key: part[decision] for key, part in recording.observations.items()}
        observation = observation[""] if "" in observation else observation
        action, _ = model.predict(observation, deterministic=True)
        assert action == recording.actions[decision]
        tensors, _ = model.policy.obs_to_tensor(observation)
        with th.no_grad():
            preprocessed = preprocess_obs(tensors, model.observation_space)
            window = model.q_net.features_extractor.window(preprocessed)[:, 0]
        body = [layer for layer in recording.layers if not layer.name.startswith("q_net")]
        different = (window.numpy() != 0) != body[-1].spikes[decision]
        assert different.mean() < 1e-3 if settings.num_steps > 8 else not different.any()


@pytest.mark.parametrize("head", [[], [8]], ids=["rates", "units behind"])
@pytest.mark.parametrize("delay", [True, False])
@pytest.mark.parametrize("policy", [SpikingPolicy, "MlpPolicy"])
def test_the_readout_of_a_body_of_one_layer(policy, delay, head):
    settings = {"net_arch": [16], "num_steps": 4, "input_scale": 8.0, "layer_delay": delay}
    if policy == "MlpPolicy":
        settings = {"features_extractor_class": SpikingMLP, "features_extractor_kwargs": settings, "net_arch": head}
    elif head:
        pytest.skip("SpikingPolicy has no units behind its spikes")
    model = DQN(policy, "CartPole-v1", policy_kwargs=settings, seed=0, **TRAINING)
    recording = record(model, "CartPole-v1", decisions=5)
    last, readout = recording.layers[-1], recording.readout
    assert readout["delay"] == (delay and not head)
    rates = last.activations if head else last.spikes[:, : 4 - readout["delay"]].sum(axis=1) / 4
    np.testing.assert_allclose(rates @ readout["weight"].T + readout["bias"], recording.q_values, atol=1e-5)


def test_some_layers():
    model = make_model(ENVIRONMENTS["vector"])
    first, second = "features_extractor.dense.0", "features_extractor.dense.1"
    assert record(model, "CartPole-v1", decisions=2, layers=[first]).readout == {}
    assert record(model, "CartPole-v1", decisions=2, layers=[second]).readout["weight"].shape == (2, 16)
    with pytest.raises(AgentError, match=f"membranes: '{second}' is not among the layers that are recorded, {first}"):
        record(model, "CartPole-v1", decisions=2, layers=[first], membranes=[second])


class Shared(BaseFeaturesExtractor):
    """The same layer for an observation and its negative."""

    def __init__(self, space):
        super().__init__(space, 16)
        self.units = th.nn.Sequential(th.nn.Linear(4, 8), th.nn.ReLU())

    def forward(self, observations):
        return th.cat([self.units(observations), self.units(-observations)], dim=1)


def test_a_layer_that_runs_twice_is_recorded_twice(tmp_path):
    model = DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"features_extractor_class": Shared, "net_arch": []}, **TRAINING)
    record(model, "CartPole-v1", decisions=3).save(tmp_path / "recording.npz")
    recording = Recording.load(tmp_path / "recording.npz")
    one, two = recording.layers
    assert [layer.name for layer in recording.layers] == [one.name, f"{one.name} (2)"]
    weight, bias = one.arrays["weight"], one.arrays["bias"]
    for layer, sign in ((one, 1), (two, -1)):
        currents = sign * recording.observations[""] @ weight.T + bias
        np.testing.assert_allclose(layer.activations, np.maximum(currents, 0), atol=1e-5)
    # 2 x 4 x 8 connections, and 16 x 2 of the output
    np.testing.assert_allclose(one.arrays["picojoules"] + two.arrays["picojoules"], 64 * 4.6)
    np.testing.assert_allclose(recording.picojoules, 96 * 4.6)
    assert recording.readout == {}  # of both runs side by side


def test_a_readout_of_several_layers_side_by_side_is_not_that_of_the_last_one():
    model = DQN("MultiInputPolicy", DictEnv(), policy_kwargs={"net_arch": []}, seed=0, **TRAINING)
    assert record(model, DictEnv(), decisions=2).readout == {}


def test_sources_follow_the_network():
    _, recording = recorded("dict", "default")
    names = [layer.name.removeprefix("features_extractor.") for layer in recording.layers]
    assert names == ["cnns.image.conv.0", "cnns.image.conv.1", "cnns.image.conv.2", "cnns.image.dense.0", "dense.0"]
    # What comes into the last one are spikes, a vector and a discrete observation side by side
    assert [layer.source for layer in recording.layers] == [None, 0, 1, 2, None]
    last = recording.layers[-1]
    np.testing.assert_array_equal(last.arrays["inputs"][:, :, :8], recording.layers[3].spikes)
    assert last.input_shape == (8 + 6 + 3,)
    assert set(recording.observations) == {"image", "state", "mode"}


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_relu_networks_have_activations(kind):
    make, settings = ENVIRONMENTS[kind]
    shape = {name: value for name, value in settings.items() if name != "num_steps"}
    policy = {"dict": "MultiInputPolicy", "image": "CnnPolicy"}.get(kind, "MlpPolicy")
    kwargs = {"features_extractor_class": ReluExtractor, "features_extractor_kwargs": shape, "net_arch": []}
    model = DQN(policy, make(), policy_kwargs=kwargs, seed=0, **TRAINING)
    recording = record(model, make(), 3)
    assert {layer.kind for layer in recording.layers} == {"activations"}
    for layer in recording.layers:
        window = seen_by(layer, recording.layers) if layer.source is None else None
        if window is None:
            window = th.as_tensor(recording.layers[layer.source].activations)[:, None]
        weight, bias = (th.as_tensor(layer.arrays[each]) for each in ("weight", "bias"))
        flat = window[:, 0]
        if weight.dim() == 4:
            currents = th.nn.functional.conv2d(flat, weight, bias, **layer.convolution)
        else:
            currents = th.nn.functional.linear(flat.flatten(1), weight, bias)
        np.testing.assert_allclose(layer.activations, currents.relu().numpy(), atol=1e-5)
    last = recording.layers[-1].activations
    np.testing.assert_allclose(
        last @ recording.readout["weight"].T + recording.readout["bias"], recording.q_values, atol=1e-4, rtol=1e-4
    )


def test_sb3s_own_networks():
    recording = record(DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [5, 7]}), "CartPole-v1", 2)
    assert [(layer.name, layer.shape, layer.source) for layer in recording.layers] == [
        ("q_net.0", (5,), None),
        ("q_net.2", (7,), 0),
    ]
    env = ENVIRONMENTS["image"][0]()
    recording = record(DQN("CnnPolicy", env, **TRAINING), env, 2)
    assert [layer.shape for layer in recording.layers] == [(32, 8, 8), (64, 3, 3), (64, 1, 1), (512,)]


def test_other_algorithms():
    kwargs = {"features_extractor_class": SpikingMLP, "net_arch": []}
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, n_steps=8, batch_size=8)
    recording = record(model, "CartPole-v1", 3)
    assert recording.q_values.shape == (3, 0)
    assert [layer.kind for layer in recording.layers] == ["spikes", "spikes"]
    np.testing.assert_array_equal(
        recording.actions, [model.predict(each, deterministic=True)[0] for each in recording.observations[""]]
    )


def test_what_the_game_shows_and_says():
    model = with_biases([[0.8]])
    with th.no_grad():
        model.q_net.q_net[0].weight.zero_()
        model.q_net.q_net[0].bias.copy_(th.tensor([1.0, 2.0]))
    env = gym.make("CartPole-v1", render_mode="rgb_array")
    recording = record(model, env, 100, seed=5, agent="right")
    # Always to the right: the pole falls, a reward each time
    assert recording.over
    assert recording.actions.tolist() == [1] * recording.decisions
    assert recording.rewards.sum() == recording.decisions < 15
    assert recording.action_names == ["left", "right"]
    assert recording.env == "CartPole-v1"
    assert recording.frames.shape == (recording.decisions, 213, 320, 3)
    env.reset(seed=5)
    np.testing.assert_allclose(recording.observations[""][0], env.reset(seed=5)[0])
    assert (recording.lives == -1).all()
    # 2 spikes... a neuron with 4 steps: 4 x 1 multiplications, 4 additions and a spike's 2 connections each
    spikes = recording.layers[0].spikes.sum(axis=(1, 2))
    np.testing.assert_allclose(recording.picojoules, 4 * 4.6 + 4 * 0.9 + 0.9 * 2 * spikes)


def test_random_actions_are_marked_and_a_seed_repeats_them():
    model = with_biases([[0.8]])
    state = th.get_rng_state()
    recordings = [record(model, "CartPole-v1", 30, seed=seed, epsilon=0.5) for seed in (1, 1, 2)]
    assert th.equal(th.get_rng_state(), state)
    first, again, other = recordings
    assert 0 < first.explored.mean() < 1
    assert (first.actions == again.actions).all()
    assert (first.observations[""] == again.observations[""]).all()
    assert first.actions.tolist() != other.actions.tolist()
    greedy = first.q_values.argmax(axis=1)
    assert (first.actions == greedy)[~first.explored].all()


def test_poisson_spikes_are_repeated_by_a_seed():
    recordings = [recorded("vector", "poisson")[1] for _ in range(2)]
    bits = [recording.layers[0].arrays["input_bits"] for recording in recordings]
    assert bits[0].shape == (4, 5, 1)
    assert (bits[0] == bits[1]).all()
    np.testing.assert_array_equal(recordings[0].layers[1].spikes, recordings[1].layers[1].spikes)


def test_a_file_holds_everything(tmp_path):
    _, recording = recorded("dict", "membranes out")
    recording.save(tmp_path / "recording.npz")
    loaded = Recording.load(tmp_path / "recording.npz")
    for name in ("agent", "env", "action_names", "over"):
        assert getattr(loaded, name) == getattr(recording, name)
    for name in ("actions", "explored", "rewards", "lives", "picojoules", "q_values"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(recording, name))
    assert loaded.frames is None
    for key, part in recording.observations.items():
        np.testing.assert_array_equal(loaded.observations[key], part)
    for mine, theirs in zip(recording.layers, loaded.layers, strict=True):
        assert {**vars(mine), "arrays": None} == {**vars(theirs), "arrays": None}
        assert mine.arrays.keys() == theirs.arrays.keys()
        for name, array in mine.arrays.items():
            np.testing.assert_array_equal(array, theirs.arrays[name])
    assert [path.name for path in tmp_path.iterdir()] == ["recording.npz"]


def test_layers_are_chosen_by_name():
    model, _ = recorded("vector", "default")
    names = ["features_extractor.dense.0", "features_extractor.dense.1"]
    recording = record(model, "CartPole-v1", 2, layers=names[1:], membranes=names[1:])
    (layer,) = recording.layers
    assert layer.name == names[1]
    assert "membranes" in layer.arrays
    # Its input has no layer here: it is recorded itself
    np.testing.assert_array_equal(
        unpack(layer.arrays["input_bits"], (16,)), record(model, "CartPole-v1", 2).layer(names[0]).spikes
    )
    with pytest.raises(ValueError, match=r"there is no layer 'dense'; expected one of features_extractor\.dense\.1"):
        recording.layer("dense")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decisions": 0}, "decisions=0: expected a whole number of at least 1"),
        ({"epsilon": 1.5}, r"epsilon=1.5: expected 0 to 1"),
        ({"layers": ["conv"]}, "layers: the network has no layer 'conv'; it has features_extractor.dense.0"),
        ({"membranes": ["conv"]}, "membranes: the network has no layer 'conv'"),
        ({"env": "Acrobot-v1"}, "observation_space of the environment is"),
    ],
)
def test_wrong_arguments(arguments, message):
    model = with_biases([[0.8]])
    with pytest.raises(ValueError, match=message):
        record(model, **{"env": "CartPole-v1", **arguments})


def test_another_file(tmp_path):
    np.savez(tmp_path / "other.npz", numbers=np.zeros(3))
    (tmp_path / "text.npz").write_text("no")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez_compressed(tmp_path / "flipped.npz", about=np.zeros(1000))
    content = bytearray((tmp_path / "flipped.npz").read_bytes())
    content[60:64] = b"\xff\xff\xff\xff"
    (tmp_path / "flipped.npz").write_bytes(content)
    for name in ("other.npz", "text.npz", "empty.npz", "flipped.npz"):
        with pytest.raises(AgentError, match="not a recording of sb3_spiking"):
            Recording.load(tmp_path / name)


def test_spikes_that_are_not_snntorchs_are_an_error(monkeypatch):
    policy = SpikingPolicy(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), lambda _: 0.0, net_arch=[3], num_steps=2)
    neuron = policy.q_net.features_extractor.dense[0].neuron
    monkeypatch.setattr(neuron, "_run", lambda currents, steps, membranes: th.ones(2, 1, 3))
    with Recorder(policy.q_net) as recorder, pytest.raises(RuntimeError, match=r"of 6 spikes that the agent acts on are not"):
        policy.q_net(-th.ones(1, 4))
    assert recorder.layers == []


def test_hooks_are_gone_afterwards():
    model, _ = recorded("image", "default")
    assert not any(module._forward_hooks for module in model.policy.modules())


ENERGY_TEST = {"conv_layers": [[2, 3, 1]], "layout": "hwc", "features_dim": 4, "num_steps": 2}


def test_energy_is_of_the_operations_that_are_asked_for():
    model = DQN(SpikingPolicy, "MinAtar/Breakout-v1", policy_kwargs=ENERGY_TEST, seed=0, **TRAINING)
    numbers, spikes = (
        record(model, "MinAtar/Breakout-v1", decisions=2, energy=ENERGIES[name]).picojoules
        for name in ("45nm-float32", "45nm-float32-boolean-spikes")
    )
    # 4,608 multiplications, against an addition for 2 steps, 2 filters and 9 places of each plane that is set
    assert (numbers > 2 * spikes).all()


def test_an_agent_of_normalised_observations_wants_them():
    env = VecNormalize(make_vec_env("CartPole-v1"))
    model = DQN(SpikingPolicy, env, policy_kwargs={"net_arch": [4], "num_steps": 2}, buffer_size=50)
    with pytest.raises(ValueError, match="the agent sees normalised observations: expected its own VecNormalize"):
        record(model, "CartPole-v1")
    env.reset()
    before = env.obs_rms.count
    recording = record(model, model.get_env(), 3)
    assert recording.rewards.tolist() == [1, 1, 1]
    assert (env.obs_rms.count, env.training, env.norm_reward) == (before, True, True)


def test_what_comes_later_is_not_taken_for_what_was_silent_at_first():
    class Silent(gym.Env):
        observation_space, action_space = spaces.Box(0, 1, (3,), np.float32), spaces.Discrete(2)
        count = 0

        def reset(self, *, seed=None, options=None):
            self.count = 0
            return np.zeros(3, np.float32), {}

        def step(self, action):
            self.count += 1
            return np.ones(3, np.float32), 0.0, self.count == 3, False, {}

    settings = {"net_arch": [8], "num_steps": 6, "layer_delay": True, "readout": "mean_membrane"}
    model = DQN(SpikingPolicy, Silent(), policy_kwargs=settings, seed=0, **TRAINING)
    connection = model.q_net.features_extractor.dense[0].connection
    with th.no_grad():
        connection.weight.abs_()
        connection.bias.fill_(-0.1)
    hidden, out = record(model, Silent(), decisions=3, membranes="all").layers
    assert hidden.spikes[0].sum() == 0 < hidden.spikes[1].sum()
    assert out.source is None
