import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

# Where there is no GPU, Triton's kernels run in its interpreter, which must be chosen before anything imports Triton
if shutil.which("nvidia-smi") is None:
    os.environ["TRITON_INTERPRET"] = "1"

# One thread in processes that tests start, too: two of them share two cores
os.environ["OMP_NUM_THREADS"] = "1"

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env

import sb3_spiking
from sb3_spiking import SpikingPolicy, commands


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    th.set_num_threads(1)


@pytest.fixture
def import_benchmark(monkeypatch):
    """Imports a module of ``benchmarks`` by name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module


@pytest.fixture(autouse=True)
def seeded():
    th.manual_seed(0)
    np.random.seed(0)


class DictEnv(gym.Env):
    """An image, a vector and a discrete observation; random, 20 steps an episode."""

    observation_space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (1, 36, 36), np.uint8),
            "state": spaces.Box(-np.inf, np.inf, (2, 3), np.float32),
            "mode": spaces.Discrete(3),
        }
    )
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.count = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.count += 1
        return self.observation_space.sample(), float(action), False, self.count == 20, {}


class GridEnv(DictEnv):
    """A grid of 10x10 boolean planes, channels last, as MinAtar's."""

    observation_space = spaces.Box(0, 1, (10, 10, 4), bool)


class ImageEnv(DictEnv):
    """Images with channels last, which SB3 transposes."""

    observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)


# An environment of each kind of observation, and settings that make a small network of it
ENVIRONMENTS = {
    "vector": (lambda: gym.make("CartPole-v1"), {"net_arch": [16, 16]}),
    "image": (ImageEnv, {"features_dim": 16}),
    "dict": (DictEnv, {"features_dim": 8, "net_arch": [16]}),
    "grid": (GridEnv, {"conv_layers": [(4, 3, 1)], "layout": "hwc", "features_dim": 16}),
}


@pytest.fixture(params=ENVIRONMENTS)
def small(request):
    """A function that makes an environment, and settings of a small network for it."""
    make, settings = ENVIRONMENTS[request.param]
    return make, {"num_steps": 3, **settings}


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


@pytest.fixture(scope="session")
def relu_run(tmp_path_factory):
    """
    A folder with log folders of RL Zoo: ``relu`` has a DQN that was trained on CartPole briefly, ``damaged`` half of its file,
    ``taken`` a copy, ``ppo`` a PPO, ``sac`` a SAC on
    Pendulum.
    """
    folder = tmp_path_factory.mktemp("relu_run")
    environment = {**os.environ, "PYTHONPATH": str(Path(sb3_spiking.__file__).parents[1])}
    arguments = "--algo dqn --env CartPole-v1 -f relu -n 3000 --num-threads 1 --eval-freq 1000 --seed 1"
    command = [sys.executable, "-m", "rl_zoo3.train", *arguments.split(), "-params", "policy_kwargs:dict(net_arch=[32,32])"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    shutil.copytree(folder / "relu", folder / "damaged")
    (path,) = (folder / "damaged").glob("dqn/*/CartPole-v1.zip")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    shutil.copytree(folder / "relu", folder / "taken")
    (folder / "ppo/ppo/CartPole-v1_1").mkdir(parents=True)
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).save(folder / "ppo/ppo/CartPole-v1_1/CartPole-v1.zip")
    (folder / "sac/sac/Pendulum-v1_1").mkdir(parents=True)
    SAC("MlpPolicy", "Pendulum-v1", buffer_size=1).save(folder / "sac/sac/Pendulum-v1_1/Pendulum-v1.zip")
    return folder


@pytest.fixture
def in_process(monkeypatch, capsys):
    """Runs a command of ours in a folder without a process of its own; what it prints, and what it says of its progress."""

    def run(command, arguments, folder):
        monkeypatch.chdir(folder)
        commands.main([command, *arguments.split()])
        output = capsys.readouterr()
        return output.out, output.err

    return run


@pytest.fixture
def fails(relu_run, in_process, capsys):
    """Runs a command of ours in that folder, which must end with one line; the line."""

    def run(module, arguments):
        with pytest.raises(SystemExit) as end:
            in_process(module, arguments, relu_run)
        output = capsys.readouterr()
        assert end.value.code == 2
        assert output.out == ""
        assert output.err.count("\n") == 1, output.err
        assert output.err.startswith("error: ")
        return output.err

    return run
