"""Environments of each kind of observation, and small agents for them."""

import json

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env

from sb3_spiking import SpikingPolicy
from sb3_spiking.training.manifest import MANIFEST


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


def make_agent(train_freq=1, n_envs=1, **kwargs):
    settings = {"learning_starts": 50, "buffer_size": 400, "train_freq": train_freq, "target_update_interval": 40, "seed": 3}
    env = make_vec_env("CartPole-v1", n_envs=n_envs, seed=3)
    return DQN("SpikingPolicy", env, policy_kwargs={"net_arch": [16], "num_steps": 3}, **{**settings, **kwargs})


def change_manifest(path, change):
    """Of a checkpoint."""
    manifest = json.loads((path / MANIFEST).read_text())
    change(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))
