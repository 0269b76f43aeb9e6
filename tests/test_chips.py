"""What a chip holds, and how an agent plays with a chip's numbers."""

import ast
import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from small_agents import ENVIRONMENTS, make_model
from stable_baselines3 import DQN
from torch import nn

import sb3_spiking.chip
import sb3_spiking.minatar
from sb3_spiking.evaluation.agents import Agent, load_agent
from sb3_spiking.evaluation.operations import ENERGIES, MEMORIES, OperationCounter, memory_picojoules
from sb3_spiking.events import Figures
from sb3_spiking.export.chips import CORES, Memory, memory_of, place
from sb3_spiking.export.fixed_point import (
    HIGHEST_STATE,
    LOWEST_STATE,
    ChipLayer,
    ChipNeurons,
    can_be_rounded,
    on_chip,
    scale_of,
)
from sb3_spiking.export.network import Network, Stage, is_binary, network_of
from sb3_spiking.export.sinabs_layers import run_sinabs, sinabs_network
from sb3_spiking.snn.layers import SpikingLayer

ROOT = Path(__file__).parents[1]
IF = {"beta": 1.0, "reset_mechanism": "subtract"}
SINABS = "pip install --no-deps sinabs"


def stage(in_shape, out_shape, kernel=None, stride=1, **changes):
    """A layer whose weights nobody looks at."""
    weight = th.ones(out_shape[0], in_shape[0], kernel, kernel) if kernel else th.ones(out_shape[0], math.prod(in_shape))
    return replace(Stage(weight, th.ones(out_shape[0]), stride, in_shape, out_shape, 1.0, 1.0, "subtract", True), **changes)


def grid_agent(**settings):
    return make_model(ENVIRONMENTS["grid"], settings={"num_steps": 4, **IF, "input_scale": 2.0, **settings})


def of_stages(*stages):
    network = network_of(grid_agent())
    return Network(network.model, stages, network.linear)


def test_memory_by_hand():
    """Kernels and maps round up to powers of two."""
    # 4 maps, 9 -> 16 places of the kernel, 16 outputs; 8 x 8 neurons
    assert memory_of(stage((4, 10, 10), (16, 8, 8), 3)) == (4 * 16 * 16, 16 * 8 * 8, 16)
    # A linear layer is a kernel of 8 x 8
    assert memory_of(stage((16, 8, 8), (64,))) == (16 * 64 * 64, 64, 64)
    # 36 -> 64 places, 20 -> 32 outputs; 9 -> 16 lines and columns
    assert memory_of(stage((3, 14, 14), (20, 9, 9), 6)) == (3 * 64 * 32, 20 * 16 * 16, 20)
    assert memory_of(stage((256,), (100,))) == (256 * 128, 100, 100)


@pytest.mark.parametrize(
    ("size", "channels", "outputs", "kernel", "stride"),
    [(10, 4, 16, 3, 1), (42, 2, 20, 6, 2), (9, 16, 64, 9, 1), (30, 7, 33, 5, 4)],
)
def test_memory_is_that_of_sinabs(size, channels, outputs, kernel, stride):
    pytest.importorskip("sinabs", reason=SINABS)
    from sinabs.validate_memory_speck import ValidateMapping

    places = (size - kernel) // stride + 1
    theirs = ValidateMapping(channels, outputs, (kernel, kernel), (stride, stride), (0, 0), (size, size))
    ours = memory_of(stage((channels, size, size), (outputs, places, places), kernel, stride))
    if (size - kernel) % stride == 0:  # there it counts places that are none
        assert ours.neurons == theirs.calculate_neuron_memory()
    assert ours.weights == theirs.calculate_kernel_memory()


def test_cores_are_those_of_sinabs():
    """Its module imports the vendor's library, which a machine without the chip need not have: the table is read as text."""
    sinabs = pytest.importorskip("sinabs", reason=SINABS)
    file = Path(sinabs.__file__).parent / "backend/dynapcnn/chips/dynapcnn.py"
    tables = {}
    for node in ast.walk(ast.parse(file.read_text())):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id.endswith("_memory_size")
        ):
            tables[node.targets[0].id] = eval(compile(ast.Expression(node.value), str(file), "eval"))
    columns = [tables[f"{name}_memory_size"] for name in ("weight", "neurons", "bias")]
    assert tuple(Memory(*core) for core in zip(*columns, strict=True)) == CORES


@pytest.mark.parametrize(("env", "planes"), [("Breakout", 4), ("SpaceInvaders", 6), ("Seaquest", 10)])
def test_the_full_size_agents_leak_and_are_too_large_and_hear_what_would_fit(env, planes):
    agent = load_agent(ROOT / "rl-trained-agents", "dqn", f"MinAtar/{env}-v1", device="cpu")
    placed = place(network_of(agent.model))
    assert placed.cores[0] is not None
    assert placed.cores[1] is None
    first, second = f"layer 1 (convolution 3x3, {planes} x 10 x 10 to 16 x 8 x 8)", "layer 2 (linear, 16 x 8 x 8 to 128)"
    leak = "beta=0.75: neurons of a chip do not leak in proportion; train with beta=1"
    assert placed.problems == (
        f"{first}: {leak}",
        f"{second}: {leak}",
        f"{second}: 128 Ki weights and 0.125 Ki neurons, more than a core has; train with 64 units",
    )


def test_the_units_that_it_names_fit():
    model = grid_agent(conv_layers=[(16, 3, 1)], features_dim=64)
    assert place(network_of(model)).problems == ()


@pytest.mark.parametrize(
    ("layer", "problem"),
    [
        (stage((4, 10, 10), (16, 3, 3), 3, stride=3), "stride 3: train with a stride of 1, 2, 4, 8"),
        (stage((1, 40, 40), (2, 20, 20), 21), "kernel of 21: at most 16"),
        (stage((2048,), (4,)), "number of channels of 2048: at most 1024"),
        (stage((1, 130, 130), (1, 33, 33), 2, stride=4), "input of 130: at most 128"),
        (stage((1, 80, 80), (1, 79, 79), 2), "map of 79: at most 64"),
        (stage((2, 3, 5), (4,)), "kernel of 3 x 5: both sides must be equal"),
        (
            stage((4, 10, 10), (16, 8, 8), 3, beta=0.5),
            "beta=0.5: neurons of a chip do not leak in proportion; train with beta=1",
        ),
        (stage((4, 10, 10), (16, 8, 8), 3, threshold=0.0), "a threshold of 0 beside weights of up to 1: not above 0"),
        (stage((4, 10, 10), (16, 8, 8), 3, threshold=0.003), "a threshold of 0.003 beside weights of up to 1: not above 0"),
        (stage((4, 10, 10), (16, 8, 8), 3, fires=False), "membranes are read"),
        (stage((4, 10, 10), (16, 8, 8), 3, reset_delay=False), "train with reset_mechanism='subtract', reset_delay=True"),
        # 64 x 64 neurons are 4 Ki a map, a core has 64 Ki of them and then 16 Ki weights
        (stage((2, 66, 66), (32, 64, 64), 3), "1 Ki weights and 128 Ki neurons, more than a core has; train with 16 channels"),
        (stage((1024, 10, 10), (8,)), "train with fewer or smaller maps before it"),
    ],
)
def test_each_limit_says_what_does_not_go(layer, problem):
    (found,) = [each for each in place(of_stages(layer)).problems if problem in each]
    assert found.startswith(f"layer 1 ({layer})")


def test_each_layer_has_a_core_of_its_own():
    # Only cores 5 and 6 have 64 Ki weights
    large, small = stage((16, 8, 8), (64,)), stage((4, 10, 10), (16, 8, 8), 3)
    assert set(place(of_stages(large, large, small)).cores[:2]) == {5, 6}
    assert place(of_stages(large, large, small)).problems == ()
    (problem,) = place(of_stages(large, large, large)).problems
    assert problem == "each layer fits a core, but not all of them one of their own; train with smaller layers"
    (problem,) = place(of_stages(*[small] * 10)).problems
    assert problem == "10 layers: there are 9 cores; train with fewer layers"


@pytest.mark.parametrize(
    ("space", "binary"),
    [
        (spaces.Box(0, 1, (3, 3, 2), bool), True),
        (spaces.Box(0, 1, (3,), np.uint8), True),
        (spaces.Box(0, 2, (3,), np.uint8), False),
        (spaces.Box(-1, 1, (3,), np.int8), False),
        (spaces.Box(0, 1, (3,), np.float32), False),
        (spaces.Discrete(4), True),
        (spaces.MultiBinary(4), True),
    ],
)
def test_events_are_zeros_and_ones(space, binary):
    assert is_binary(space) == binary


def test_the_hyperparameters_for_a_chip_fit_it():
    entries = sb3_spiking.chip.hyperparams
    assert set(entries) == {"MinAtar/Breakout-v1", "MinAtar/SpaceInvaders-v1", "PongNoFrameskip-v4"}
    for env, entry in entries.items():
        around = {"env_wrapper": entry.get("env_wrapper"), "frame_stack": entry.get("frame_stack", 1), "normalize": False}
        venv = Agent("", "dqn", env, None, Path(), around, "", {}).make_env()
        settings = {"common_mode": False, **eval(entry["policy_kwargs"])}
        model = DQN("SpikingPolicy", venv, buffer_size=1, policy_kwargs=settings)
        placed = place(network_of(model))
        assert placed.problems == (), env
        # The largest core is full
        assert memory_of(network_of(model).stages[-1]).weights == 64 * 1024


def test_figures_by_hand(monkeypatch):
    class Frames(gym.Env):
        observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
        action_space = spaces.Discrete(2)

    image = np.full((36, 36, 1), 87, np.uint8)
    image[3, 4], image[5, 6], image[7, 8], image[9, 9] = 108, 107, 0, 255
    env = Figures(Frames())
    events = env.observation(image)
    assert env.observation_space == spaces.Box(0, 1, (36, 36, 1), bool)
    assert events.dtype == bool
    assert np.argwhere(events[..., 0]).tolist() == [[3, 4], [7, 8], [9, 9]]
    assert is_binary(env.observation_space)
    # Each channel has a background of its own
    np.testing.assert_array_equal(env.observation(np.concatenate([image, image + 100], axis=2))[..., :1], events)
    # Channels may come first
    monkeypatch.setattr(Frames, "observation_space", spaces.Box(0, 255, (1, 36, 36), np.uint8))
    bar = np.full((1, 36, 36), 87, np.uint8)
    bar[0, :, 20] = 255
    assert np.argwhere(Figures(Frames()).observation(bar)).tolist() == [[0, row, 20] for row in range(36)]
    with pytest.raises(ValueError, match="Figures takes uint8 images"):
        Figures(gym.make("CartPole-v1"))


def test_numbers_are_no_events():
    model = make_model(ENVIRONMENTS["vector"], settings={"num_steps": 4, **IF})
    problems = place(network_of(model)).problems
    assert len(problems) == 1
    assert "a chip takes events; train on zeros and ones" in problems[0]
    assert not can_be_rounded(network_of(model))


def test_a_threshold_that_was_learned_down_to_zero_has_no_whole_number():
    model = grid_agent(learn_threshold=True, input_scale=1.0)
    assert can_be_rounded(network_of(model))
    # The largest weight is 127 steps: a step or half a step of it, which rounds to one and to none, and nothing at all
    layer = next(each for each in model.q_net.modules() if isinstance(each, SpikingLayer))
    with th.no_grad():
        layer.connection.weight.clamp_(-1, 1)[0, 0, 0, 0] = 1.0
        layer.connection.bias.zero_()
    for threshold, goes in [(0.6 / 127, True), (0.4 / 127, False), (0.0, False)]:
        with th.no_grad():
            layer.neuron.threshold.fill_(threshold)
        assert can_be_rounded(network_of(model)) == goes


# Weights of 8 bits and membranes of 16


def test_the_factor_is_the_largest_with_which_all_fit():
    layer = stage((2,), (2,), threshold=4.0)
    for weight, bias, threshold, factor in [
        ([[0.5, -0.25], [0, 0]], [0.0, 0.0], 1.0, 127 / 0.5),
        ([[0.5, -1.0], [0, 0]], [0.0, 0.0], 1.0, 128.0),
        ([[0.5, -1.0], [0, 0]], [2.0, 0.0], 1.0, 63.5),
        ([[0.5, -0.5], [0, 0]], [0.0, 0.0], 1000.0, 32.767),
    ]:
        each = replace(layer, weight=th.tensor(weight), bias=th.tensor(bias), threshold=threshold)
        assert scale_of(each) == pytest.approx(factor)


def test_neurons_of_whole_numbers_by_hand():
    currents = th.tensor([[3.0, 20000, -30000]]).expand(4, -1)[:, None]
    subtract, zero = ChipNeurons(5, to_zero=False), ChipNeurons(5, to_zero=True)
    # 3, 6 - 5, 4, 7 - 5
    assert subtract(currents)[:, 0].T.tolist() == [[0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]]
    assert zero(currents)[:, 0].T.tolist() == [[0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]]
    # Low membranes stop at the lowest state: -30,000, -32,768, -768, 232
    ends = th.tensor([-30000.0, -30000, 32000, 1000]).view(4, 1, 1)
    assert (LOWEST_STATE, HIGHEST_STATE) == (-32768, 32767)
    assert subtract(ends).flatten().tolist() == [0, 0, 0, 1]
    # High ones at the highest: 31,995, then 32,767 - 5, of which 4 are left
    assert subtract(th.tensor([32000.0, 32000, -32758]).view(3, 1, 1)).flatten().tolist() == [1, 1, 0]
    # At the threshold a chip fires
    assert subtract(th.full((2, 1, 1), 5.0)).flatten().tolist() == [1, 1]


def test_a_rounded_layer_by_hand():
    layer = stage((2,), (1,), threshold=1.0)
    layer = replace(layer, weight=th.tensor([[0.5, -0.26]]), bias=th.tensor([0.1]))
    chip = ChipLayer(layer, 3)
    assert chip.connection.weight.tolist() == [[127, -66]]
    assert chip.connection.bias.tolist() == [25]
    assert chip.neuron.threshold == 254
    # 152 a step with the first input: 152, 304 - 254, 202
    assert chip(th.tensor([[[1.0, 0]]])).flatten().tolist() == [0, 1, 0]


@pytest.mark.parametrize("reset_mechanism", ["subtract", "zero"])
def test_rounding_is_that_of_sinabs(reset_mechanism):
    sinabs = pytest.importorskip("sinabs", reason=SINABS)
    # The package around this module imports the vendor's library
    file = Path(sinabs.__file__).parent / "backend/dynapcnn/discretize.py"
    spec = importlib.util.spec_from_file_location("discretize", file)
    discretize = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(discretize)

    model = grid_agent(conv_layers=[(8, 3, 1), (8, 2, 2)], features_dim=16, reset_mechanism=reset_mechanism)
    network = network_of(model)
    module = sinabs_network(network)
    for place_of in (0, 2):
        discretize.discretize_conv_spike_(module[place_of], module[place_of + 1])
        # sinabs' threshold is the next number above ours; the chip's configuration subtracts the rounded one
        if reset_mechanism == "subtract":
            module[place_of + 1].reset_fn.subtract_value = None
    convolutions = [ChipLayer(each, 4) for each in network.stages[:2]]
    for ours, theirs in zip(convolutions, (module[0], module[2]), strict=True):
        np.testing.assert_array_equal(ours.connection.weight.numpy(), theirs.weight.detach().numpy())
        np.testing.assert_array_equal(ours.connection.bias.numpy(), theirs.bias.detach().numpy())
    assert [each.neuron.threshold for each in convolutions] == [int(module[1].spike_threshold), int(module[3].spike_threshold)]
    model.observation_space.seed(1)
    inputs = network.inputs(np.stack([model.observation_space.sample() for _ in range(32)]))
    ours = nn.Sequential(*convolutions)(inputs[None])
    assert 0.01 < ours.mean() < 0.9
    np.testing.assert_array_equal(ours.numpy(), run_sinabs(module[:4], inputs, 4).numpy())


@pytest.mark.parametrize("readout", ["rate", "spike"])
def test_a_rounded_agent_plays_with_whole_numbers(readout):
    model = grid_agent(readout=readout, net_arch=[16])
    network = network_of(model)
    assert can_be_rounded(network)
    chip = on_chip(network)
    before = {name: value for name, value in model.policy.state_dict().items() if isinstance(value, th.Tensor)}
    layers = [each for each in chip.policy.q_net.modules() if isinstance(each, (nn.Conv2d, nn.Linear))]
    rounded = layers if readout == "spike" else layers[:-1]
    assert len(layers) == 4
    for layer in rounded:
        assert layer.weight.abs().max() in (127, 128) or layer.bias.abs().max() in (127, 128)
        assert th.equal(layer.weight, layer.weight.round())
    seen = np.stack([model.observation_space.sample() for _ in range(50)])
    actions, _ = chip.predict(seen, deterministic=True)
    assert actions.shape == (50,)
    # By layers one after another
    window = network.inputs(seen)[None]
    for each in network.stages:
        window = ChipLayer(each, 4)(window)
    np.testing.assert_array_equal(network.values(window).argmax(dim=1).numpy(), actions)
    for name, value in before.items():
        assert th.equal(value, model.policy.state_dict()[name])


# Energy of memory


def test_energy_of_memory_by_hand():
    assert MEMORIES == ((8192, 10.0), (32768, 20.0), (1048576, 100.0), (math.inf, 1300.0))
    # 2,048 weights of 32 bits are 8 KiB: 5 pJ each; one more is in 32 KiB, 10 pJ
    assert memory_picojoules(100.0, 0.0, 2048, 1, 32) == 500
    assert memory_picojoules(100.0, 0.0, 2049, 1, 32) == 1000
    assert memory_picojoules(100.0, 0.0, 8193, 1, 32) == 5000
    assert memory_picojoules(100.0, 0.0, 262145, 1, 32) == 65000
    # Of 8 bits: a quarter of the size, an eighth of 64 bits
    assert memory_picojoules(100.0, 0.0, 8192, 1, 8) == 125
    # A membrane is read and written
    assert memory_picojoules(0.0, 7.0, 10**9, 2048, 32) == 70


def test_energy_with_memory_adds_to_arithmetic():
    agent = load_agent(ROOT / "rl-trained-agents", "dqn", "MinAtar/Breakout-v1", device="cpu")
    env = agent.make_env(2)
    with OperationCounter(agent.model.policy.q_net) as counter:
        agent.model.predict(env.reset(), deterministic=True)
        convolution, dense, readout = counter.layers
    plain, memory = ENERGIES["45nm-float32"], ENERGIES["45nm-float32-memory"]
    # 592 weights and biases: 5 pJ each; 1,024 membranes: 5 pJ a read or write, at each of 4 steps
    added = convolution.picojoules(memory) - convolution.picojoules(plain)
    assert added.tolist() == [36864 * 5 + 2 * 4096 * 5] * 2
    # 131,200 numbers: 512.5 KiB in 1 MiB, 50 pJ
    added = dense.picojoules(memory) - dense.picojoules(plain)
    assert added.tolist() == pytest.approx((dense.accumulates * 50 + 2 * 512 * 5).tolist())
    assert (readout.picojoules(memory) >= readout.picojoules(plain)).all()


def test_energy_with_memory_of_a_relu_network():
    agent = load_agent(ROOT / "relu-agents", "dqn", "MinAtar/Breakout-v1", device="cpu")
    env = agent.make_env(1)
    with OperationCounter(agent.model.policy.q_net) as counter:
        agent.model.predict(env.reset(), deterministic=True)
        nanojoules = [float(layer.picojoules(ENERGIES["45nm-float32-memory"])[0]) / 1000 for layer in counter.layers]
    assert nanojoules == pytest.approx([36.864 * 9.6, 131.072 * 54.6, 0.384 * 9.6])
