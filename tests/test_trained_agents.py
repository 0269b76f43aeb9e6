from pathlib import Path

import gymnasium as gym
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
    assert sum(sizes) < 60e6


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


@pytest.mark.parametrize(
    ("env", "screen", "convolution", "units", "actions"),
    [
        ("MinAtar/Breakout-v1", (10, 10, 3), (16, 8, 8), 128, ["no-op", "left", "right"]),
        (
            "PongNoFrameskip-v4",
            (210, 160, 3),
            (16, 13, 13),
            256,
            ["noop", "fire", "right", "left", "rightfire", "leftfire"],
        ),
    ],
)
def test_the_picture_shows_what_the_network_does(import_benchmark, tmp_path, env, screen, convolution, units, actions):
    spike_picture = import_benchmark("spike_picture")
    agent = load_agent(FOLDER, "dqn", env, device="cpu")
    seen = spike_picture.watch(env, 3, 2, seed=0)
    assert {name: each.shape for name, each in seen.items()} == {
        "screens": (2, *screen),
        "convolution": (2, 4, *convolution),
        "dense": (2, 4, units),
        "values": (2, len(actions)),
    }
    assert 0 <= seen["screens"].min() < 0.5 < seen["screens"].max() <= 1
    assert spike_picture.action_names(gym.make(env).unwrapped) == actions
    # The Q-values are those of the spikes that it shows
    rates = th.as_tensor(seen["dense"]).mean(dim=1)
    np.testing.assert_allclose(agent.model.policy.q_net.q_net(rates).detach().numpy(), seen["values"], rtol=1e-4)
    spike_picture.draw(seen, actions, tmp_path / "spikes.png")
    assert (tmp_path / "spikes.png").stat().st_size > 10_000


def test_cartpole_is_solved():
    agent = load_agent(FOLDER, "dqn", "CartPole-v1")
    scores = [each.score for each in run_episodes(agent, PROTOCOLS["zoo"], {0, 1, 2, 3, 4}, seed=7, n_envs=5)]
    assert scores == [500.0] * 5
