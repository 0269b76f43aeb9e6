"""Converted agents against the published rules, step by step, and against the ReLU agents they come from."""

import json
import math
import shutil

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from processes import finished, python
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_spiking import ReluExtractor, SpikingMLP, SpikingPolicy
from sb3_spiking.conversion.agreement import agreement, plot
from sb3_spiking.conversion.rules import ConversionError, Percentile, activation_scales, connections, convert, with_num_steps
from sb3_spiking.conversion.saving import run_folder
from sb3_spiking.evaluation.agents import load_agent
from sb3_spiking.snn.layers import delayed
from sb3_spiking.snn.readout import READOUTS


class ImagesEnv(gym.Env):
    """Images of noise."""

    observation_space = spaces.Box(0, 255, (4, 36, 36), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.mark.parametrize("percentile", [50.0, 99.0, 99.9, 100.0])
@pytest.mark.parametrize("nonzero", [False, True])
def test_percentiles_of_parts_are_those_of_the_whole(percentile, nonzero):
    values = th.randn(5000, 3) + th.tensor([0.0, 1.0, -9.0])
    streamed = Percentile(percentile, 5000, nonzero)
    for part in values.split(700):
        streamed.add(part)
    for column, found in zip(values.numpy().T, streamed.value().tolist(), strict=True):
        counted = column[column > 0] if nonzero else column
        assert found == pytest.approx(np.percentile(counted, percentile) if len(counted) else np.nan, rel=1e-5, nan_ok=True)


def relu_agent(env, policy="MlpPolicy", **policy_kwargs):
    return DQN(policy, env, buffer_size=1, policy_kwargs=policy_kwargs or None, seed=0)


def test_weights_and_scales_by_hand():
    env = make_vec_env("CartPole-v1")
    model = relu_agent(env, net_arch=[2])
    hidden, output = connections(model.q_net)
    with th.no_grad():
        hidden.weight.copy_(th.tensor([[1.0, 0, 0, 0], [0, -2.0, 0, 0]]))
        hidden.bias.copy_(th.tensor([0.5, 0.0]))
        output.weight.copy_(th.tensor([[1.0, 2.0], [3.0, 4.0]]))
        output.bias.copy_(th.tensor([0.1, 0.2]))
    observations = np.zeros((4, 4), np.float32)
    observations[:, 0], observations[:, 1] = (0.0, 1.0, 2.0, 3.5), (1.0, 1.0, -1.0, 0.0)

    # Before the ReLU: 0.5, 1.5, 2.5, 4 and -2, -2, 2, 0; above zero: 0.5, 1.5, 2, 2.5, 4
    def scales(batches, percentile, **settings):
        settings = {"per_channel": False, **settings}
        return [scale.tolist() for scale in activation_scales(model, batches, 4, percentile, **settings)]

    assert scales([observations], 100.0) == [[4.0, 4.0], pytest.approx([15.7, 15.7])]
    assert scales([observations[:2], observations[2:]], 50.0)[0] == [1.0, 1.0]
    assert scales([observations], 50.0, nonzero=True)[0] == [2.0, 2.0]
    assert scales([observations], 100.0, per_channel=True) == [[4.0, 2.0], pytest.approx([6.6, 15.7])]
    # The second unit is active once with 2, a fifth of 20 is more
    observations[0, 0] = 19.5
    assert scales([observations], 100.0, per_channel=True)[0] == [20.0, 4.0]
    assert scales([np.zeros((4, 4), np.float32) - [[9, 0, 0, 0]]], 100.0, nonzero=True)[0] == [1.0, 1.0]
    converted = convert(model, [[4.0, 2.0], [10.0, 5.0]], env, num_steps=9, readout="rate")
    layer, readout = converted.q_net.features_extractor.dense[0], converted.q_net.q_net[0]
    assert layer.connection.weight.tolist() == [[0.25, 0, 0, 0], [0, -1.0, 0, 0]]
    assert layer.connection.bias.tolist() == [0.125, 0.0]
    assert readout.weight.tolist() == [[4.0, 4.0], [12.0, 8.0]]
    th.testing.assert_close(readout.bias, output.bias)
    spike = convert(model, [[4.0, 2.0], [10.0, 5.0]], env, num_steps=9, readout="spike").q_net.q_net[0]
    # Actions are compared: they share the largest scale
    th.testing.assert_close(spike.weight, th.tensor([[0.4, 0.4], [1.2, 0.8]]))
    th.testing.assert_close(spike.bias, th.tensor([0.01, 0.02]))
    for name, parameter in converted.q_net.state_dict().items():
        if isinstance(parameter, th.Tensor):
            assert th.equal(parameter, converted.q_net_target.state_dict()[name])


def tan_simulation(model, scales, inputs, num_steps, layer_delay):
    """Rules 3 and 4 of Tan et al. 2021 as written; N and V of the output neurons' total input, spikes of the hidden ones."""
    layers = connections(model.q_net)
    before, weights, biases = 1.0, [], []
    for layer, scale in zip(layers, scales, strict=True):
        weights.append(layer.weight * before / scale)
        biases.append(layer.bias / scale)
        before = scale
    membranes = [inputs.new_zeros(len(inputs), len(bias)) for bias in biases]
    spikes = [th.zeros_like(membrane) for membrane in membranes]
    counts = [th.zeros_like(membrane) for membrane in membranes]
    total = th.zeros_like(membranes[-1])
    for _ in range(num_steps):
        last = [each.clone() for each in spikes]
        signal = inputs
        for place, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            current = signal @ weight.T + bias
            membranes[place] += current
            if place == len(weights) - 1:
                total += current
            spikes[place] = (membranes[place] >= 1).to(inputs.dtype)
            membranes[place] -= spikes[place]
            counts[place] += spikes[place]
            signal = last[place] if layer_delay else spikes[place]
    return counts, total


@pytest.mark.parametrize("layer_delay", [True, False])
@pytest.mark.parametrize("readout", ["rate", "spike"])
def test_the_published_simulation(layer_delay, readout):
    env = make_vec_env("CartPole-v1")
    model = relu_agent(env, net_arch=[30, 20])
    model.policy.double()
    inputs = th.rand(64, 4, dtype=th.float64) * 2
    with th.no_grad():
        model.q_net.q_net[4].bias += 0.3  # output neurons that only see negative values would never spike
        scales = [1.3, 0.4, 0.5]
        counts, total = tan_simulation(model, scales, inputs, 25, layer_delay)
        per_layer = [
            th.full((len(layer.weight),), scale) for layer, scale in zip(connections(model.q_net), scales, strict=True)
        ]
        converted = convert(model, per_layer, env, num_steps=25, readout=readout, layer_delay=layer_delay)
        converted.policy.double()
        for layer, source, before, after in zip(
            [*converted.q_net.features_extractor.dense], connections(model.q_net)[:2], (1.0, 1.3), (1.3, 0.4), strict=True
        ):
            layer.connection.weight.copy_(source.weight * before / after)  # in double precision
            layer.connection.bias.copy_(source.bias / after)
        network = converted.q_net
        if readout == "spike":
            network.q_net[0].weight.copy_(connections(model.q_net)[2].weight * 0.4 / 0.5)
            network.q_net[0].bias.copy_(connections(model.q_net)[2].bias / 0.5)
        window = network.features_extractor.window(inputs)
        # SB3's preprocessing, which forward begins with, knows single precision alone
        seen = delayed(window) if layer_delay else window
        values = READOUTS[readout].values(seen, network.q_net, network.output_neuron)
    assert counts[0].sum() > 0
    assert th.equal(window.sum(dim=0), counts[1])
    if readout == "spike":
        th.testing.assert_close(values * 25, counts[2], rtol=0, atol=1e-6)
    else:
        th.testing.assert_close(values * 25, total * scales[2], rtol=1e-4, atol=1e-4)


class GridEnv(ImagesEnv):
    """Grids of noise, channels last."""

    observation_space = spaces.Box(0, 1, (6, 5, 3), np.float32)


class DictEnv(ImagesEnv):
    observation_space = spaces.Dict({"vector": spaces.Box(0, 1, (3,), np.float32)})


def same_shape(**settings):
    return {"features_extractor_class": ReluExtractor, "features_extractor_kwargs": settings, "net_arch": []}


@pytest.mark.parametrize(("layer_delay", "per_channel"), [(True, True), (False, False)])
@pytest.mark.parametrize(
    ("env", "policy", "kwargs"),
    [
        (ImagesEnv, "CnnPolicy", {}),
        ("CartPole-v1", "MlpPolicy", {}),
        (ImagesEnv, "CnnPolicy", same_shape(conv_layers=[(8, 9, 9), (6, 2, 1)], features_dim=20)),
        (GridEnv, "MlpPolicy", same_shape(conv_layers=[(7, 3, 1)], layout="hwc", features_dim=20, net_arch=[10])),
        (GridEnv, "MlpPolicy", same_shape(net_arch=[20])),
        ("CartPole-v1", "MlpPolicy", same_shape(net_arch=[20, 10])),
        ("CartPole-v1", "MlpPolicy", {**same_shape(net_arch=[20]), "net_arch": [10]}),
        (ImagesEnv, "CnnPolicy", {**same_shape(conv_layers=[(8, 9, 9)], features_dim=20), "net_arch": [16]}),
    ],
    ids=[
        "CnnPolicy",
        "MlpPolicy",
        "our images",
        "our grids",
        "our grids, dense",
        "our vectors",
        "and a head",
        "images and a head",
    ],
)
def test_more_steps_come_closer_to_the_relu_network(env, policy, kwargs, layer_delay, per_channel):
    env = make_vec_env(env)
    model = relu_agent(env, policy, **kwargs)
    env.observation_space.seed(0)
    observations = np.stack([env.observation_space.sample() for _ in range(32)])
    if env.observation_space.shape == (4,):
        observations = np.clip(observations, -1, 1)
    scales = activation_scales(model, [observations], 32, 100.0, per_channel=per_channel)
    inputs, _ = model.policy.obs_to_tensor(observations)
    errors = []
    with th.no_grad():
        expected = model.q_net(inputs)
        for num_steps in (10, 100, 1000):
            converted = convert(model, scales, env, num_steps=num_steps, layer_delay=layer_delay)
            errors.append((converted.q_net(inputs) - expected).abs().mean().item())
    assert errors[1] < errors[0] / 4
    assert errors[2] < errors[1] / 4
    assert errors[2] < 0.01 * expected.abs().mean().item()


def test_agreement_for_several_numbers_of_steps_at_once():
    env = make_vec_env("CartPole-v1")
    model = relu_agent(env)
    observations = np.random.default_rng(0).uniform(-1, 1, (200, 4)).astype(np.float32)
    converted = convert(model, activation_scales(model, [observations], 200), env, num_steps=60)
    found = agreement(model, converted, iter([observations[:50], observations[50:]]), [5, 20, 60])
    inputs, _ = model.policy.obs_to_tensor(observations)
    with th.no_grad():
        values = model.q_net(inputs)
        actions, gaps = values.argmax(dim=1), values[:, 0].sub(values[:, 1]).abs()
        for place, num_steps in enumerate((5, 20, 60)):
            other = with_num_steps(converted, num_steps, env)
            same = other.q_net(inputs).argmax(dim=1) == actions
            assert found.shares[place] == pytest.approx(same.double().mean().item())
    assert found.shares[0] < 1
    assert found.decisions == 200
    assert found.gap == pytest.approx(gaps.median().item())
    assert found.gap_where_different is None if same.all() else found.gap_where_different < found.gap


def test_agreement_where_there_is_one_action():
    class OneAction(DictEnv):
        observation_space, action_space = spaces.Box(-1, 1, (4,), np.float32), spaces.Discrete(1)

    env = make_vec_env(OneAction)
    model = relu_agent(env)
    observations = np.random.default_rng(0).uniform(-1, 1, (20, 4)).astype(np.float32)
    converted = convert(model, activation_scales(model, [observations], 20), env, num_steps=10)
    found = agreement(model, converted, iter([observations]), [10])
    assert (found.shares[0], found.gap, found.gap_where_different) == (1, 0, None)


def test_what_cannot_be_converted_is_refused():
    env = make_vec_env("CartPole-v1")
    for model, message in (
        (relu_agent(env, activation_fn=nn.Tanh), "activation_fn=Tanh"),
        (relu_agent(env, net_arch=[]), r"net_arch=\[\]"),
        (PPO("MlpPolicy", env, n_steps=8, batch_size=8), "an agent of PPO"),
        (relu_agent(env, SpikingPolicy), "spiking one already"),
        (relu_agent(make_vec_env(ImagesEnv)), "dense layers on images"),
        (relu_agent(make_vec_env(ImagesEnv), **same_shape(like=SpikingMLP, net_arch=[8])), "dense layers on images"),
        (relu_agent(make_vec_env(DictEnv), "MultiInputPolicy", **same_shape(net_arch=[4])), "Dict observations"),
        (relu_agent(make_vec_env(DictEnv), "MultiInputPolicy"), "features_extractor_class=CombinedExtractor"),
    ):
        with pytest.raises(ConversionError, match=message):
            convert(model, [], env)


def test_the_command_goes_on_where_it_stopped_and_leaves_an_ordinary_agent(relu_run, in_process):
    arguments = (
        "--algo dqn --env CartPole-v1 -f relu -o spiking --num-steps 30 --frames 200 --decisions 64 --episodes 2 --curve 5 "
        "--max-steps 50"
    )
    first, _ = in_process("convert", arguments, relu_run)
    run = relu_run / "spiking/dqn/CartPole-v1_1"
    assert (run / "conversion.png").stat().st_size > 10_000
    record = json.loads((run / "conversion.json").read_text())
    assert record["agreement_steps"][-1] == 30
    assert [point["num_steps"] for point in record["scores"]] == [5, 30]
    made = (run / "CartPole-v1.zip").stat().st_mtime_ns
    rows = (run / "episodes.csv").read_text()
    assert len(rows.splitlines()) == 1 + 3 * 2
    # Again: nothing is done twice; with another setting: everything
    printed, progress = in_process("convert", arguments, relu_run)
    assert (run / "CartPole-v1.zip").stat().st_mtime_ns == made
    assert (run / "episodes.csv").read_text() == rows
    assert "calibration" not in progress
    assert printed == first
    in_process("convert", f"{arguments} --rule patel", relu_run)
    model = DQN.load(run / "CartPole-v1.zip")
    assert isinstance(model.policy, SpikingPolicy)
    assert model.policy.settings.readout == "spike"
    enjoy = "rl_zoo3.enjoy --algo dqn --env CartPole-v1 -f spiking --no-render -n 60 --num-threads 1"
    finished(python("-m", *enjoy.split(), folder=relu_run))
    assert not list((relu_run / "spiking/dqn").glob(".*"))


def test_normalised_observations_need_trust(tmp_path, in_process, capsys):
    env = VecNormalize(make_vec_env("CartPole-v1"))
    model = DQN("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, buffer_size=100, learning_starts=10, seed=0).learn(50)
    run = tmp_path / "logs/dqn/CartPole-v1_1"
    (run / "CartPole-v1").mkdir(parents=True)
    model.save(run / "CartPole-v1.zip")
    env.save(str(run / "CartPole-v1/vecnormalize.pkl"))
    (run / "CartPole-v1/config.yml").write_text("normalize: true\n")
    arguments = "--env CartPole-v1 -f logs --trust --num-steps 20 --frames 50 --decisions 16 --episodes 2 --max-steps 20"
    printed, _ = in_process("convert", arguments, tmp_path)
    assert "T = 20: score" in printed
    assert (tmp_path / "logs-converted/dqn/CartPole-v1_1/CartPole-v1/vecnormalize.pkl").is_file()
    # A graph would not have the statistics
    with pytest.raises(SystemExit):
        in_process("export", "--to nir --env CartPole-v1 -f logs-converted --trust", tmp_path)
    assert "trained with VecNormalize" in capsys.readouterr().err
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-f nowhere", "no dqn agent for CartPole-v1 in nowhere"),
        ("-f relu --algo ppo", "no ppo agent for CartPole-v1 in relu"),
        ("-f ppo --algo ppo", "an agent of PPO: conversion takes a DQN"),
        ("-f relu --env Cartpole-v7", "there is no such environment"),
        ("-f relu --num-steps 0", "--num-steps: 0: expected a whole number of at least 1"),
        ("-f relu --percentile 0", "--percentile: 0: expected above 0"),
        ("-f relu --curve 500", "--curve 500: expected from 3 to less than --num-steps, 500"),
        ("-f relu --curve 2 10", "--curve 2 10: expected from 3 to less than --num-steps, 500"),
        ("-f relu --num-steps 2", "--num-steps 2: each layer sees the spikes of the last step"),
        ("-f noted", "conversion.json: damaged JSON"),
        ("-f relu -o relu", "the new agent would take the old one's place"),
        ("-f relu -o taken", "holds an agent that is not a converted one"),
        ("-f damaged", "damaged, or no agent of SB3"),
    ],
)
def test_wrong_input_gets_one_line(relu_run, fails, arguments, message):
    if "noted" in arguments:
        shutil.copytree(relu_run / "relu", relu_run / "noted", dirs_exist_ok=True)
        shutil.copytree(relu_run / "relu", relu_run / "noted-converted", dirs_exist_ok=True)
        (relu_run / "noted-converted/dqn/CartPole-v1_1/conversion.json").write_text('{"rule": ')
    assert message in fails("convert", arguments if "--env" in arguments else f"--env CartPole-v1 {arguments}")


def test_runs_of_an_older_environment_keep_their_number(tmp_path):
    model = DQN("MlpPolicy", "LunarLander-v3", policy_kwargs={"net_arch": [4]})
    for number in (1, 2):
        run = tmp_path / f"old/dqn/LunarLander-v2_{number}"
        run.mkdir(parents=True)
        model.save(run / "LunarLander-v2.zip")
        agent = load_agent(tmp_path / "old", "dqn", "LunarLander-v2", exp_id=number)
        assert run_folder(agent, tmp_path / "new") == tmp_path / f"new/dqn/LunarLander-v3_{number}"


def test_the_interval_of_a_plot_is_that_of_the_environment(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("sb3_spiking.conversion.agreement.interval", lambda values, limits: seen.append(limits) or (0.0, 1.0))
    point = {"num_steps": 8, "before": [500.0, 700.0], "after": [500.0, 700.0]}
    record = {"agreement_steps": [8], "agreement": [1.0], "decisions": 9, "rule": "reset by subtraction", "scores": [point]}
    for kwargs in ({}, {"max_episode_steps": 1000}):
        plot({**record, "env": "CartPole-v1"}, tmp_path / "a.png", kwargs)
    assert seen[0] == (0, 500)
    assert seen[-1] == (-math.inf, math.inf)
