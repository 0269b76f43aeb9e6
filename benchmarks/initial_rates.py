"""
Which layers fire before anything is learned: firing rates by layer, scale of the currents and initialisation of the weights.

    python benchmarks/initial_rates.py

Observations come from random actions. "default" is PyTorch's initialisation, which SB3's DQN keeps, "orthogonal" that of
SB3's PPO.
"""

import argparse

import ale_py
import gymnasium as gym
import numpy as np
import torch as th
from machine import describe
from minatar.gym import register_envs
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from sb3_spiking import SpikingMLP, SpikingNatureCNN, SpikingPolicy
from sb3_spiking.training.callbacks import spike_counts

ENVS = 8
STEPS = 100
OBSERVATIONS = 128
MINATAR = {"conv_layers": [(16, 3, 1)], "layout": "hwc", "features_dim": 128}
ENVIRONMENTS = {
    "CartPole-v1": {},
    "LunarLander-v3": {},
    "Acrobot-v1": {},
    "PongNoFrameskip-v4": {},
    "BreakoutNoFrameskip-v4": {},
    "MinAtar/Breakout-v1": MINATAR,
    "MinAtar/Asterix-v1": MINATAR,
    "MinAtar/SpaceInvaders-v1": MINATAR,
}


def make_env(name: str) -> VecEnv:
    """Environments as RL Zoo makes them."""
    if "NoFrameskip" in name:
        return VecFrameStack(make_atari_env(name, ENVS, seed=0), 4)
    return make_vec_env(name, ENVS, seed=0)


def observations(env: VecEnv) -> np.ndarray:
    """Shape (OBSERVATIONS, \\*)."""
    env.action_space.seed(0)
    seen = [env.reset()]
    for _ in range(STEPS):
        seen.append(env.step(np.array([env.action_space.sample() for _ in range(ENVS)]))[0])
    everything = np.concatenate([np.asarray(each) for each in seen])
    return everything[np.random.default_rng(0).choice(len(everything), OBSERVATIONS, replace=False)]


def rates(model: BaseAlgorithm, seen: np.ndarray) -> str:
    """Mean spikes per neuron and step of each layer."""
    counts = spike_counts(model.policy, model.policy.obs_to_tensor(seen)[0])
    return ", ".join(f"{100 * layer.firing_rate:.1f}" for layer in counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scales", nargs="+", type=float, default=[1.0, 2.0, 3.0, 4.0, 6.0])
    parser.add_argument("--num-steps", type=int, default=4)
    parser.add_argument("--only", default="", help="environments with this in their names")
    args = parser.parse_args()
    gym.register_envs(ale_py)
    register_envs()
    th.set_num_threads(1)
    print(f"{describe()}\n\n| | scale | default, % | orthogonal, % |\n|---|--:|---|---|")
    for name, settings in ENVIRONMENTS.items():
        if args.only not in name:
            continue
        env = make_env(name)
        seen = observations(env)
        image = len(env.observation_space.shape or ()) == 3
        for scale in args.scales:
            chosen = {**settings, "input_scale": scale, "num_steps": args.num_steps}
            th.manual_seed(0)
            dqn = DQN(SpikingPolicy, env, policy_kwargs=chosen, buffer_size=1)
            body = {"features_extractor_class": SpikingNatureCNN if image else SpikingMLP, "features_extractor_kwargs": chosen}
            policy = "CnnPolicy" if "NoFrameskip" in name else "MlpPolicy"
            ppo = PPO(policy, env, policy_kwargs={**body, "net_arch": []}, n_steps=8, batch_size=8)
            print(f"| {name} | {scale:g} | {rates(dqn, seen)} | {rates(ppo, seen)} |", flush=True)
        env.close()


if __name__ == "__main__":
    main()
