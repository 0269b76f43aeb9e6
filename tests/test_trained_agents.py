from pathlib import Path

import numpy as np
import pytest

import sb3_spiking.minatar  # noqa: F401  (registers its games)
from sb3_spiking import SpikingPolicy
from sb3_spiking.evaluation.agents import load_agent
from sb3_spiking.evaluation.episodes import PROTOCOLS, run_episodes

FOLDER = Path(__file__).parents[1] / "rl-trained-agents"
RELU = FOLDER.with_name("relu-agents")
ZIPS = [path for folder in (FOLDER, RELU) for path in sorted(folder.glob("*/*/*.zip"))]


def test_they_are_small_enough_to_clone():
    sizes = [path.stat().st_size for folder in (FOLDER, RELU) for path in folder.rglob("*") if path.is_file()]
    assert max(sizes) < 10e6
    assert sum(sizes) < 60e6


@pytest.mark.parametrize("path", ZIPS, ids=lambda path: f"{path.parts[-4]}, {path.stem}")
def test_each_loads_without_unpickling_and_decides(path):
    env = path.stem.replace("MinAtar-", "MinAtar/")
    agent = load_agent(path.parents[2], path.parents[1].name, env)
    assert isinstance(agent.model.policy, SpikingPolicy) == path.is_relative_to(FOLDER)
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
