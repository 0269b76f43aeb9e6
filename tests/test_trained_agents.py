from pathlib import Path

import numpy as np
import pytest
import torch as th

import sb3_spiking.minatar  # noqa: F401  (registers its games)
from sb3_spiking import SpikingPolicy
from sb3_spiking.evaluation.agents import load_agent
from sb3_spiking.evaluation.episodes import PROTOCOLS, run_episodes

FOLDER = Path(__file__).parents[1] / "rl-trained-agents"
RELU, CHIP = FOLDER.with_name("relu-agents"), FOLDER.with_name("chip-agents")
ZIPS = [path for folder in (FOLDER, RELU, CHIP) for path in sorted(folder.glob("*/*/*.zip"))]


def test_they_are_small_enough_to_clone():
    sizes = [path.stat().st_size for folder in (FOLDER, RELU, CHIP) for path in folder.rglob("*") if path.is_file()]
    assert max(sizes) < 10e6
    assert sum(sizes) < 30e6


@pytest.mark.parametrize("path", ZIPS, ids=lambda path: f"{path.parts[-4]}, {path.stem}")
def test_each_loads_without_unpickling_and_decides(path):
    env = path.stem.replace("MinAtar-", "MinAtar/")
    agent = load_agent(path.parents[2], path.parents[1].name, env)
    assert isinstance(agent.model.policy, SpikingPolicy) != path.is_relative_to(RELU)
    venv = agent.make_env(2)
    actions, _ = agent.model.predict(venv.reset(), deterministic=True)
    assert len(actions) == 2
    evaluations = np.load(path.with_name("evaluations.npz"))
    assert agent.model.num_timesteps in evaluations["timesteps"]
    for name in ("args.yml", "config.yml", "command.txt"):
        assert (path.with_suffix("") / name).read_text()


def test_cartpole_is_solved():
    agent = load_agent(FOLDER, "dqn", "CartPole-v1")
    scores = [each.score for each in run_episodes(agent, PROTOCOLS["zoo"], {0, 1, 2, 3, 4}, seed=7, n_envs=5)]
    assert scores == [500.0] * 5


def by_additions(policy, planes):
    """
    The network written with nothing but additions of weights and comparisons: scaling the currents is in the weights, the mean
    over the steps, which changes no action, is left out.

    :param planes: what is set, shape (10, 10, C)
    :return: T times the Q-values, shape (actions,)
    """
    settings, extractor = policy.settings, policy.q_net.features_extractor
    (convolution,), (dense,) = extractor.conv, extractor.dense
    readout = policy.q_net.q_net[0]
    (weights, bias), (dense_weights, dense_bias) = (
        [
            (parameter * settings.input_scale).detach().double().numpy()
            for parameter in (layer.connection.weight, layer.connection.bias)
        ]
        for layer in (convolution, dense)
    )
    units = len(dense_bias)
    membranes, fired = [np.zeros((16, 8, 8)), np.zeros(units)], [np.zeros((16, 8, 8), bool), np.zeros(units, bool)]
    values = np.zeros(len(readout.weight))
    for _ in range(settings.num_steps):
        currents = np.zeros((16, 8, 8)) + bias[:, None, None]
        for row, column, plane in np.argwhere(planes):
            for above, left in np.ndindex(3, 3):
                if 0 <= row - above < 8 and 0 <= column - left < 8:
                    currents[:, row - above, column - left] += weights[:, plane, above, left]
        for number in range(2):
            if number:
                currents = dense_bias + dense_weights[:, np.flatnonzero(fired[0])].sum(axis=1)
            membranes[number][fired[number]] -= settings.threshold
            membranes[number] += currents
            fired[number] = membranes[number] > settings.threshold
        values += readout.bias.detach().numpy() + readout.weight.detach().numpy()[:, fired[1]].sum(axis=1)
    return values


@pytest.mark.parametrize("game", ["Breakout", "SpaceInvaders"])
def test_the_agents_of_a_chip_play_minatar_by_additions_alone(game):
    agent = load_agent(CHIP, "dqn", f"MinAtar/{game}-v1", device="cpu")
    policy = agent.model.policy
    assert (policy.settings.beta, policy.settings.reset_mechanism, policy.settings.reset_delay) == (1, "subtract", True)
    assert (policy.settings.readout, policy.settings.encoding) == ("rate", "direct")
    env = agent.make_env(1, seed=3)
    planes = env.reset()
    assert planes.dtype == bool
    for _ in range(60):
        (action,), _ = agent.model.predict(planes, deterministic=True)
        with th.no_grad():
            values = policy.q_net(th.as_tensor(planes))[0].numpy()
        added = by_additions(policy, planes[0])
        np.testing.assert_allclose(added, values * policy.settings.num_steps, rtol=1e-4, atol=1e-4)
        assert added.argmax() == action
        planes, *_ = env.step(np.array([action]))
