"""
Steps per second of DQN.learn on Breakout and CartPole, with spiking and ReLU policies and the same training: environment,
replay, acting and updates together.

    python benchmarks/learn_speed.py

The paper's network starts out silent (docs/learning.md); here its weights are scaled so that every layer fires in about a
tenth of the steps on noise, and the learning rate is 0, so that it stays so.
"""

import argparse
import time
from typing import Any

import ale_py
import gymnasium as gym
import peers
import torch as th
from machine import describe
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack
from tqdm import tqdm

from sb3_spiking import FrameStackReplayBuffer, SpikingPolicy

TRAINING = {"learning_starts": 100, "train_freq": 4, "batch_size": 32, "buffer_size": 10_000, "learning_rate": 0.0}


def make(game: str, num_steps: int | None, device: str) -> DQN:
    """
    :param game: ``Breakout`` or ``CartPole``
    :param num_steps: simulation steps of a window, None for SB3's ReLU policy
    :param device: of the networks
    :return: a DQN past its first update
    """
    env: VecEnv | str = "CartPole-v1"
    arguments: dict[str, Any] = {**TRAINING, "device": device, "seed": 0}
    if game == "Breakout":
        env = VecFrameStack(make_atari_env("BreakoutNoFrameskip-v4", seed=0), 4)
        arguments["replay_buffer_class"] = FrameStackReplayBuffer
    if num_steps is None:
        model = DQN("CnnPolicy" if game == "Breakout" else "MlpPolicy", env, **arguments)
    else:
        settings = {"preset": "liu2022"} if game == "Breakout" else {}
        model = DQN(SpikingPolicy, env, policy_kwargs={"num_steps": num_steps, **settings}, **arguments)
        if game == "Breakout":
            state = peers.spiking_policy(num_steps).state_dict()
            model.policy.load_state_dict(state, strict=False)
    model.learn(200)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="steps of a turn")
    parser.add_argument("--repeats", type=int, default=5, help="rounds in which each policy has its turn")
    parser.add_argument("--num-steps", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()

    gym.register_envs(ale_py)
    th.set_num_threads(args.num_threads)
    policies: list[int | None] = [None, *args.num_steps]
    models = {(game, steps): make(game, steps, args.device) for game in ("Breakout", "CartPole") for steps in policies}
    rates: dict[tuple[str, int | None], list[float]] = {name: [] for name in models}
    for _ in tqdm(range(args.repeats)):
        for name, model in models.items():
            start = time.perf_counter()
            model.learn(args.steps, reset_num_timesteps=False)
            rates[name].append(args.steps / (time.perf_counter() - start))
    print(f"\n{describe()}; {args.device}, {args.num_threads} threads")
    print(f"medians of {args.repeats} interleaved rounds of {args.steps} steps; an update of a batch of 32 every 4 steps\n")
    print("| environment | policy | steps per second | of the ReLU policy |")
    print("|---|---|--:|--:|")
    for (game, steps), each in rates.items():
        median, relu = sorted(each)[len(each) // 2], sorted(rates[game, None])[len(each) // 2]
        print(f"| {game} | {'ReLU' if steps is None else f'spiking, T = {steps}'} | {median:.0f} | {median / relu:.2f} |")


if __name__ == "__main__":
    main()
