"""Agents as NIR, sinabs and ONNX: the same spikes, the same actions, and one line for what a target cannot hold."""

import contextlib
import io
import json
import math
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from small_agents import ENVIRONMENTS, make_model
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

import sb3_spiking.minatar
from sb3_spiking import AgentError, SpikingMLP, commands, from_nir
from sb3_spiking.evaluation.agents import load_agent
from sb3_spiking.export.comparison import compare, values_of
from sb3_spiking.export.network import network_of
from sb3_spiking.export.nir_graph import DT, check_nir, nir_graph, write_nir
from sb3_spiking.export.onnx_window import OnnxAgent, write_onnx
from sb3_spiking.export.sinabs_layers import check_sinabs, run_sinabs, sinabs_network, write_sinabs
from sb3_spiking.export.targets import TARGETS

ROOT = Path(__file__).parents[1]
IF = {"beta": 1.0, "reset_mechanism": "subtract"}
LIF = {"beta": 0.5, "reset_mechanism": "zero"}
NEURONS = {"integrate-and-fire": IF, "leaky": LIF, "integrate-and-fire to zero": {**LIF, "beta": 1.0}}
# What an export takes beside its own environment
EXTRA = "pip install '.[export]'"


def small_agent(observations="vector", num_steps=5, **settings):
    """A network whose layers fire."""
    model = make_model(ENVIRONMENTS[observations], settings={"num_steps": num_steps, "input_scale": 2.0, **settings})
    with th.no_grad():
        for layer in model.q_net.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.weight *= 4
    model.policy.q_net_target.load_state_dict(model.policy.q_net.state_dict())
    return model


def seen_by(model, count=64):
    model.observation_space.seed(5)
    if isinstance(model.observation_space, gym.spaces.Dict):
        samples = [model.observation_space.sample() for _ in range(count)]
        return {name: np.stack([each[name] for each in samples]) for name in samples[0]}
    if model.observation_space.dtype == np.float32:
        return np.random.default_rng(5).normal(size=(count, *model.observation_space.shape)).astype(np.float32)
    return np.stack([model.observation_space.sample() for _ in range(count)])


def spikes_of(model, observations):
    """Of every layer at every step, those of output neurons among them, (T, B, *)."""
    layers, network = [], model.policy.q_net
    neurons = [module for module in network.modules() if isinstance(module, sb3_spiking.Leaky)]
    hooks = [each.register_forward_hook(lambda module, inputs, output: layers.append(output)) for each in neurons]
    with th.no_grad():
        network.spiking_values(model.policy.obs_to_tensor(observations)[0])
    for hook in hooks:
        hook.remove()
    return layers


# What no target but ONNX, or none, can hold


def refusal(target, model):
    with pytest.raises(AgentError) as error:
        TARGETS[target].check(model, False)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("target", TARGETS)
def test_only_a_spiking_dqn_is_taken(target):
    env = make_vec_env("CartPole-v1")
    relu = DQN("MlpPolicy", env, buffer_size=1)
    assert "an agent of DQN with DQNPolicy: expected DQN with SpikingPolicy" in refusal(target, relu)
    ppo = PPO("MlpPolicy", env, policy_kwargs={"features_extractor_class": SpikingMLP})
    assert "an agent of PPO with ActorCriticPolicy: expected DQN" in refusal(target, ppo)
    assert "encoding='poisson'" in refusal(target, small_agent(encoding="poisson"))
    assert refusal(target, small_agent(encoding="poisson")).endswith("train with encoding='direct'")


def test_a_part_of_an_observation_that_is_called_as_the_output():
    class Env(gym.Env):
        observation_space = gym.spaces.Dict({"values": gym.spaces.Box(-1, 1, (3,))})
        action_space = gym.spaces.Discrete(2)

    model = make_model((Env, {"net_arch": [8]}))
    assert refusal("onnx", model).endswith("train with another name")


@pytest.mark.parametrize("target", ["nir", "sinabs"])
def test_what_is_more_than_layers_is_onnx_alone(target):
    assert refusal(target, small_agent(normalization="potential")).endswith("train with normalization=None")
    assert refusal(target, small_agent("dict")).endswith("train on one image, grid or vector")


@pytest.mark.parametrize(
    ("target", "settings", "message"),
    [
        ("nir", IF, "reset_mechanism='subtract': NIR's neurons reset to zero; train with reset_mechanism='zero'"),
        ("nir", {**IF, "reset_delay": False}, "train with reset_mechanism='zero'"),
        ("nir", {**LIF, "reset_mechanism": "none"}, "train with reset_mechanism='zero'"),
        ("nir", {**LIF, "layer_delay": True}, "train with layer_delay=False"),
        ("sinabs", {**IF, "reset_delay": False}, "train with reset_delay=True"),
        ("sinabs", {**IF, "beta": 0.0}, "train with beta=1"),
        ("sinabs", {**LIF, "reset_mechanism": "none"}, "train with reset_mechanism='subtract' or 'zero'"),
        ("sinabs", {**IF, "layer_delay": True}, "train with layer_delay=False"),
        ("sinabs", {**IF, "readout": "max_membrane"}, "train with readout='rate' or 'spike'"),
        ("sinabs", {**IF, "readout": "last_membrane"}, "train with readout='rate' or 'spike'"),
    ],
)
def test_a_refusal_names_what_to_change_in_training(target, settings, message):
    assert message in refusal(target, small_agent(**settings))


def test_a_threshold_that_was_learned_down_to_zero_is_refused():
    model = small_agent(**IF, learn_threshold=True)
    with th.no_grad():
        model.q_net.features_extractor.dense[0].neuron.threshold.fill_(0.0)
    assert "a threshold of 0: neurons of sinabs have one above 0; train with threshold=1" in refusal("sinabs", model)


def test_one_layer_that_differs_is_enough_for_a_refusal():
    model = small_agent(beta=(0.5, 1.0), reset_mechanism=("zero", "subtract"))
    assert "reset_mechanism='subtract'" in refusal("nir", model)


# NIR


@pytest.mark.parametrize("observations", ["vector", "image", "grid"])
@pytest.mark.parametrize("readout", ["rate", "spike", "max_membrane", "mean_membrane", "last_membrane"])
def test_what_nir_says_plays_again(observations, readout, tmp_path):
    pytest.importorskip("nir", reason=EXTRA)
    for settings in (LIF, {**LIF, "beta": 1.0}, {**LIF, "reset_delay": False, "threshold": 0.75}):
        model = small_agent(observations, readout=readout, **settings)
        write_nir(network_of(model), tmp_path / "agent.nir")
        again, seen = from_nir(tmp_path / "agent.nir"), seen_by(model)
        assert again.policy.settings.num_steps == 5
        ours, theirs = (values_of(each.policy)(seen) for each in (model, again))
        np.testing.assert_array_equal(ours, theirs)
        assert np.ptp(ours, axis=0).max() > 0
        np.testing.assert_array_equal(model.predict(seen, deterministic=True)[0], again.predict(seen, deterministic=True)[0])


class Bits(gym.Env):
    observation_space, action_space = gym.spaces.MultiBinary(6), gym.spaces.Discrete(2)


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        (ENVIRONMENTS["image"][0], {"net_arch": [8], "features_extractor_class": SpikingMLP}),
        (
            ENVIRONMENTS["grid"][0],
            {"conv_layers": [], "layout": "hwc", "features_dim": 8, "features_extractor_class": sb3_spiking.SpikingNatureCNN},
        ),
        (Bits, {"net_arch": [8, 4], "layout": "hwc"}),
    ],
    ids=["dense on images", "no convolutions", "layout of a vector"],
)
@pytest.mark.filterwarnings("ignore:.*layout")
def test_what_nir_says_of_a_body_of_ones_own_plays_again(env, settings, tmp_path):
    pytest.importorskip("nir", reason=EXTRA)
    model = make_model((env, {**LIF, "num_steps": 5, "input_scale": 8.0, **settings}))
    write_nir(network_of(model), tmp_path / "agent.nir")
    again, seen = from_nir(tmp_path / "agent.nir"), seen_by(model)
    ours, theirs = (values_of(each.policy)(seen) for each in (model, again))
    np.testing.assert_array_equal(ours, theirs)
    assert np.ptp(ours, axis=0).max() > 0


def test_what_the_graph_says_counts(tmp_path):
    """Numbers by hand: U <- U + DT / tau (r i - U), a spike above the threshold, then 0."""
    nir = pytest.importorskip("nir", reason=EXTRA)
    model = small_agent(**LIF)
    path = tmp_path / "agent.nir"
    write_nir(network_of(model), path)
    graph = nir.read(path)
    assert graph.nodes["neurons0"].tau == pytest.approx(np.full(16, 2 * DT))
    graph.nodes["neurons0"].tau = np.full(16, 4 * DT)
    graph.nodes["neurons0"].r = np.full(16, 3.0)
    graph.nodes["neurons0"].v_threshold = np.full(16, 2.0)
    nir.write(path, graph)
    again = from_nir(path)
    assert again.policy.settings.beta == (0.75, 0.5)
    assert again.policy.settings.input_scale == (0.75, 0.5)
    seen = seen_by(model)
    currents = seen @ graph.nodes["layer0"].weight.T + graph.nodes["layer0"].bias
    membrane, expected = np.zeros_like(currents), []
    for _ in range(5):
        membrane = membrane + 0.25 * (3 * currents - membrane)
        expected.append(membrane > 2)
        membrane = np.where(membrane > 2, 0, membrane)
    assert 0.05 < np.mean(expected) < 0.6
    np.testing.assert_array_equal(spikes_of(again, seen)[0].numpy() > 0, expected)


def test_an_approximation_says_so_and_is_another_agent(tmp_path):
    pytest.importorskip("nir", reason=EXTRA)
    model = small_agent(**IF, layer_delay=True)
    network = network_of(model)
    assert len(check_nir(network, approximate=True)) == 2
    write_nir(network, tmp_path / "agent.nir", approximate=True)
    record = json.loads((tmp_path / "agent.nir.json").read_text())
    assert [line.split(":")[0] for line in record["approximated"]] == ["reset_mechanism='subtract'", "layer_delay=True"]
    again = from_nir(tmp_path / "agent.nir")
    plain = small_agent(**{**IF, "reset_mechanism": "zero"})
    plain.policy.q_net.load_state_dict(
        {name: each for name, each in model.policy.q_net.state_dict().items() if not name.endswith("_extra_state")},
        strict=False,
    )
    seen = seen_by(model)
    np.testing.assert_array_equal(values_of(plain.policy)(seen), values_of(again.policy)(seen))
    assert (values_of(model.policy)(seen) != values_of(again.policy)(seen)).any()


def test_common_mode_stays_where_it_was_needed(tmp_path):
    pytest.importorskip("nir", reason=EXTRA)
    model = make_model(ENVIRONMENTS["grid"], settings={"num_steps": 4, **LIF, "common_mode": True})
    write_nir(network_of(model), tmp_path / "agent.nir")
    again, seen = from_nir(tmp_path / "agent.nir"), seen_by(model)
    np.testing.assert_array_equal(values_of(model.policy)(seen), values_of(again.policy)(seen))
    assert again.policy.common_mode is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda graph: graph.nodes["neurons0"].v_threshold.__setitem__(0, 2.0), "v_threshold differs from neuron to neuron"),
        (lambda graph: graph.nodes["neurons0"].v_leak.fill(0.1), "v_leak other than 0"),
        (lambda graph: graph.edges.append(("layer0", "readout")), "a graph with branches"),
        (lambda graph: graph.nodes.pop("layer1"), "no graph of an agent"),
    ],
)
def test_a_graph_that_is_no_agent_takes_one_line(change, message, tmp_path):
    nir = pytest.importorskip("nir", reason=EXTRA)
    path = tmp_path / "agent.nir"
    write_nir(network_of(small_agent(**LIF)), path)
    graph = nir.read(path)
    change(graph)
    with contextlib.suppress(Exception):
        nir.write(path, graph)
    with pytest.raises(AgentError, match=message):
        from_nir(path)


def test_files_that_are_not_there_or_damaged(tmp_path):
    pytest.importorskip("nir", reason=EXTRA)
    path = tmp_path / "agent.nir"
    with pytest.raises(AgentError, match="there is no such file"):
        from_nir(path)
    write_nir(network_of(small_agent(**LIF)), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(AgentError, match="no graph of an agent"):
        from_nir(path)
    path.write_bytes(content)
    (tmp_path / "agent.nir.json").write_text('{"num_steps": 1000000000}')
    with pytest.raises(AgentError, match=r"no graph of an agent|num_steps"):
        from_nir(path)


def stepped(module, inputs, num_steps):
    """A module of another simulator, step by step."""
    outputs, state = [], None
    with th.no_grad():
        for _ in range(num_steps):
            output, state = module(inputs, state)
            outputs.append(output)
    return th.stack(outputs)


def norse_module(graph):
    return pytest.importorskip("norse.torch", reason="pip install --no-deps norse").from_nir(graph, dt=DT)


def snntorch_module(graph):
    pytest.importorskip("nirtorch", reason=EXTRA)
    from snntorch.import_nir import import_from_nir

    with contextlib.redirect_stdout(io.StringIO()):  # it prints every number
        return import_from_nir(graph)


@pytest.mark.parametrize("observations", ["vector", "grid"])
@pytest.mark.parametrize(
    ("module", "beta"),
    [(norse_module, 0.5), (norse_module, 0.9), (norse_module, 1.0), (snntorch_module, 0.5), (snntorch_module, 0.9)],
)
def test_other_simulators_fire_the_same_spikes(module, beta, observations):
    pytest.importorskip("nir", reason=EXTRA)
    model = small_agent(observations, num_steps=7, readout="spike", **{**LIF, "beta": beta})
    network, seen = network_of(model), seen_by(model, 24)
    ours = spikes_of(model, seen)[-1]
    assert 0.05 < ours.mean() < 0.95
    inputs = network.inputs(seen)
    # NIR flattens without a dimension of batches: one decision at a time
    theirs = [stepped(module(nir_graph(network)), each[None], 7).reshape(7, -1) for each in inputs]
    np.testing.assert_array_equal(ours.numpy(), th.stack(theirs, dim=1).numpy())


def test_what_snntorch_makes_of_neurons_without_leak():
    """Its import has a leak of 0.9 in their place: docs/export.md warns of it."""
    pytest.importorskip("nir", reason=EXTRA)
    module = snntorch_module(nir_graph(network_of(small_agent(**{**LIF, "beta": 1.0}))))
    assert module.neurons0.beta.item() == pytest.approx(0.9)


def test_what_sinabs_makes_of_neurons_without_leak():
    """Its import resets them by subtraction, and lets them fire more than once a step: docs/export.md warns of the first."""
    pytest.importorskip("nir", reason=EXTRA)
    sinabs = pytest.importorskip("sinabs", reason="pip install --no-deps sinabs")
    module = sinabs.from_nir(nir_graph(network_of(small_agent(**{**LIF, "beta": 1.0}))), batch_size=1)
    neurons = [each for each in module.modules() if isinstance(each, sinabs.layers.IAF)]
    assert len(neurons) == 2
    assert all(type(each.reset_fn) is sinabs.activation.MembraneSubtract for each in neurons)


@pytest.mark.parametrize("env", ["CartPole-v1", "Acrobot-v1", "LunarLander-v3"])
@pytest.mark.parametrize("module", [norse_module, snntorch_module, None], ids=["norse", "snntorch", "from_nir"])
def test_a_thousand_decisions_by_nir(module, env, tmp_path):
    pytest.importorskip("nir", reason=EXTRA)
    agent = load_agent(ROOT / "rl-trained-agents", "dqn", env, device="cpu")
    network = network_of(agent.model)
    write_nir(network, tmp_path / "agent.nir")
    if module is None:
        values = values_of(from_nir(tmp_path / "agent.nir").policy)
    else:
        import nir
        from snntorch import utils

        there = module(nir.read(tmp_path / "agent.nir"))

        def values(observations):
            utils.reset(there)  # snnTorch's neurons keep their membranes to themselves
            return stepped(there, network.inputs(observations), network.settings.num_steps).mean(dim=0).numpy()

    found = compare(agent, values, 1000, n_envs=50)
    assert found.equal == found.decisions == 1000
    assert found.difference < 1e-3


# sinabs


@pytest.mark.parametrize("observations", ["vector", "image", "grid"])
@pytest.mark.parametrize("settings", [*NEURONS.values(), {**IF, "beta": 0.9}, {**IF, "threshold": 0.7}])
def test_sinabs_fires_the_same_spikes(settings, observations):
    pytest.importorskip("sinabs", reason="pip install --no-deps sinabs")
    model = small_agent(observations, num_steps=7, readout="spike", **settings)
    network, seen = network_of(model), seen_by(model)
    module = sinabs_network(network)
    ours = spikes_of(model, seen)
    assert all(0.02 < each.mean() < 0.98 for each in ours)
    for _ in range(2):  # from zero membranes on each time
        theirs = run_sinabs(module, network.inputs(seen), 7)
        np.testing.assert_array_equal(ours[-1].numpy(), theirs.numpy())
    fewer = run_sinabs(module, network.inputs(seen)[:3], 7)
    np.testing.assert_array_equal(ours[-1][:, :3].numpy(), fewer.numpy())


def test_a_membrane_at_the_threshold_does_not_fire_there_either():
    """sinabs fires at >=, we above: 0.5 four times reaches 2 without a spike, 0.5 five times not."""
    pytest.importorskip("sinabs", reason="pip install --no-deps sinabs")
    model = small_agent(num_steps=6, net_arch=[1], threshold=2.0, **{**IF, "input_scale": 1.0})
    connection = model.policy.q_net.features_extractor.dense[0].connection
    with th.no_grad():
        connection.weight.copy_(th.tensor([[0.5, 0, 0, 0]]))
        connection.bias.zero_()
    network, seen = network_of(model), np.array([[1.0, 0, 0, 0]], np.float32)
    spikes = [0, 0, 0, 0, 1, 0]
    assert spikes_of(model, seen)[0].flatten().tolist() == spikes
    assert run_sinabs(sinabs_network(network), network.inputs(seen), 6).flatten().tolist() == spikes


def test_values_that_are_no_numbers_are_no_difference_of_0():
    agent = load_agent(ROOT / "rl-trained-agents", "dqn", "CartPole-v1", device="cpu")
    found = compare(agent, lambda observations: np.full((len(observations), 2), np.nan), 20)
    assert math.isnan(found.difference)


@pytest.mark.parametrize("env", ["Breakout", "SpaceInvaders", "Asterix", "Freeway", "Seaquest"])
def test_a_thousand_decisions_by_sinabs(env, tmp_path):
    pytest.importorskip("sinabs", reason="pip install --no-deps sinabs")
    agent = load_agent(ROOT / "rl-trained-agents", "dqn", f"MinAtar/{env}-v1", device="cpu")
    exported = TARGETS["sinabs"].write(agent.model, tmp_path / "agent.pt", False)
    found = compare(agent, exported.values, 1000, n_envs=50)
    assert found.equal == found.decisions == 1000
    record = json.loads((tmp_path / "agent.pt.json").read_text())
    assert np.shape(record["readout_layer"]["weight"]) == (agent.model.action_space.n, 128)
    module = th.load(tmp_path / "agent.pt", weights_only=False)
    assert [type(each).__name__ for each in module] == ["Conv2d", "LIFSqueeze", "Flatten", "Linear", "LIFSqueeze"]


# ONNX


@pytest.mark.parametrize("observations", ENVIRONMENTS)
@pytest.mark.parametrize(
    "settings",
    [
        *NEURONS.values(),
        {**IF, "reset_delay": False},
        {**LIF, "reset_mechanism": "none"},
        {**LIF, "readout": "spike"},
        {**LIF, "readout": "max_membrane"},
        {**IF, "layer_delay": True, "num_steps": 7},
        {**LIF, "normalization": "potential"},
        {**LIF, "threshold": 0.7, "beta": 0.3},
    ],
)
def test_onnx_gives_the_same_values(observations, settings, tmp_path):
    pytest.importorskip("onnx", reason=EXTRA)
    pytest.importorskip("onnxruntime", reason=EXTRA)
    model = small_agent(observations, **settings)
    exported = TARGETS["onnx"].write(model, tmp_path / "agent.onnx", False)
    seen = seen_by(model)
    for count in (1, 64):
        part = {name: each[:count] for name, each in seen.items()} if isinstance(seen, dict) else seen[:count]
        ours, theirs = values_of(model.policy)(part), exported.values(part)
        assert theirs.shape == (count, model.action_space.n)
        close = np.isclose(ours, theirs, rtol=1e-4, atol=1e-4).all(axis=1)
        assert close.mean() > 0.98  # a borderline spike may flip
    assert np.ptp(ours, axis=0).max() > 0


def test_onnx_normalises_images_itself(tmp_path):
    onnx = pytest.importorskip("onnx", reason=EXTRA)
    pytest.importorskip("onnxruntime", reason=EXTRA)
    model = small_agent("image", **LIF)
    write_onnx(model, tmp_path / "agent.onnx")
    (observation,) = onnx.load(tmp_path / "agent.onnx").graph.input
    kind = observation.type.tensor_type
    assert kind.elem_type == onnx.TensorProto.UINT8
    assert [each.dim_param or each.dim_value for each in kind.shape.dim] == ["batch", 1, 36, 36]
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 36, 36), dtype=np.uint8)
    np.testing.assert_allclose(
        OnnxAgent(tmp_path / "agent.onnx").values(images), values_of(model.policy)(images), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    "env", ["CartPole-v1", "MinAtar/Breakout-v1", pytest.param("PongNoFrameskip-v4", marks=pytest.mark.slow)]
)
def test_a_thousand_decisions_by_onnx(env, tmp_path):
    pytest.importorskip("onnx", reason=EXTRA)
    pytest.importorskip("onnxruntime", reason=EXTRA)
    agent = load_agent(ROOT / "rl-trained-agents", "dqn", env, device="cpu")
    exported = TARGETS["onnx"].write(agent.model, tmp_path / "agent.onnx", False)
    found = compare(agent, exported.values, 1000, n_envs=20)
    assert found.equal >= 0.999 * found.decisions


# Files


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    pytest.importorskip("nir", reason=EXTRA)
    with pytest.raises(AgentError):
        write_nir(network_of(small_agent(**IF)), tmp_path / "agent.nir")
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_missing_takes_one_line(tmp_path, monkeypatch):
    import sys

    for name in ("nir", "onnx", "sinabs"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(AgentError, match=r"this needs the package nir: pip install '.\[export\]'"):
        write_nir(network_of(small_agent(**LIF)), tmp_path / "agent.nir")
    with pytest.raises(AgentError, match="this needs the package onnx: "):
        write_onnx(small_agent(**LIF), tmp_path / "agent.onnx")
    with pytest.raises(AgentError, match="this needs the package sinabs: pip install pbr && pip install --no-deps sinabs"):
        write_sinabs(network_of(small_agent(**IF)), tmp_path / "agent.pt")
    check_sinabs(network_of(small_agent(**IF)))  # needs none


@pytest.mark.parametrize("what", ["--check", "--to nir", "--to sinabs", "--to onnx"])
def test_a_relu_agent_takes_one_line(what, tmp_path, capsys):
    arguments = f"export {what} --env CartPole-v1 -f {ROOT / 'relu-agents'} -o {tmp_path / 'out'}"
    if what == "--check":
        commands.main(arguments.split())
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(": ")[0] for line in lines] == ["nir", "sinabs", "onnx", "Speck, DYNAP-CNN"]
        assert all(": no, an agent of DQN with DQNPolicy: expected DQN with SpikingPolicy" in line for line in lines)
    else:
        with pytest.raises(SystemExit) as end:
            commands.main(arguments.split())
        error = capsys.readouterr().err
        assert end.value.code == 2
        assert error.count("\n") == 1
        assert (
            "CartPole-v1.zip: an agent of DQN with DQNPolicy: expected DQN with SpikingPolicy; a ReLU DQN becomes one" in error
        )
    assert not (tmp_path / "out").exists()


def test_an_approximation_is_printed_with_its_difference(tmp_path, capsys):
    pytest.importorskip("nir", reason=EXTRA)
    arguments = f"export --to nir --env MinAtar/Breakout-v1 -f {ROOT / 'rl-trained-agents'} -o {tmp_path}"
    with pytest.raises(SystemExit):
        commands.main([*arguments.split()])
    assert not list(tmp_path.iterdir())
    capsys.readouterr()
    commands.main([*arguments.split(), "--approximate"])
    output = capsys.readouterr().out
    assert output.startswith("approximated: reset_mechanism='subtract': NIR's neurons reset to zero")
    equal = int(re.search(r"(\d+) of 1000 decisions equal", output)[1])
    # docs/export.md
    assert f"takes {equal} of 1,000 equal decisions" in (ROOT / "docs/export.md").read_text()
