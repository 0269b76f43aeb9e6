"""
Does a spiking network learn to see a small thing on a screen? Networks learn by regression where the ball and the agent's
paddle of Pong are, from the frames that an Atari agent sees, and are asked about other frames.

    python benchmarks/position_fit.py

The positions come from the console's memory, at the addresses of Anand et al. 2019 (arXiv 1906.08226). Frames are those of
random play in which the ball is there. The table has the share of a position's variance that is explained, and the firing
rates at the end. Mean over seeds, the least of the seeds in brackets.
"""

import argparse
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from machine import describe
from regression import learn
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack, VecTransposeImage
from stable_baselines3.dqn.policies import DQNPolicy
from tqdm import trange

from sb3_spiking import ReluExtractor, SpikingPolicy
from sb3_spiking.training.callbacks import spike_counts

#: Addresses in the console's memory
BALL_X, BALL_Y, PADDLE_Y = 49, 54, 51
POSITIONS = {"ball across": BALL_X, "ball up and down": BALL_Y, "paddle": PADDLE_Y}
BATCH_SIZE = 64

#: Side of the screen and layers: those of benchmarks/atari.yml, and the default body for Atari
SHAPES: dict[str, tuple[int, dict[str, Any]]] = {
    "small": (42, {"conv_layers": [(16, 6, 3), (32, 4, 2)], "features_dim": 256}),
    "nature": (84, {"conv_layers": [(32, 8, 4), (64, 4, 2), (64, 3, 1)], "features_dim": 512}),
}
LEAKY: dict[str, Any] = {
    "num_steps": 8, "gradients": "exact", "beta": 0.5, "reset_mechanism": "zero", "input_scale": 4, "slope": 5,
}  # fmt: skip
INTEGRATOR: dict[str, Any] = {"beta": 1.0, "reset_mechanism": "subtract"}
NORMALIZED: dict[str, Any] = {"input_scale": 1, "normalization": "potential"}
#: policy_kwargs on top of the shape and LEAKY, None for the ReLU network
NETWORKS: dict[str, dict[str, Any] | None] = {
    "ReLU": None,
    "spiking, slope 25": {"slope": 25},
    "spiking, slope 5": {},
    "spiking, slope 2": {"slope": 2},
    "no leak, reset by subtraction, slope 2": {**INTEGRATOR, "slope": 2},
    "the default: the same, through rates": {**INTEGRATOR, "slope": 2, "gradients": "rates"},
    "potential normalisation, slope 5": NORMALIZED,
    "potential normalisation, no leak, reset by subtraction, slope 2": {**NORMALIZED, **INTEGRATOR, "slope": 2},
}


def played(count: int, screen_size: int, n_envs: int = 8, apart: int = 3) -> tuple[th.Tensor, th.Tensor]:
    """
    :param count: of observations
    :param screen_size: side of a frame in pixels
    :param n_envs: games in parallel
    :param apart: steps from one observation to the next, in which the action stays the same
    :return: observations with the ball on the screen, shape (N, 4, side, side), N at most ``count``; and the positions,
        scaled to mean 0 and variance 1, shape (N, 3)
    """
    wrapped = make_atari_env("PongNoFrameskip-v4", n_envs, seed=0, wrapper_kwargs={"screen_size": screen_size})
    env: Any = VecTransposeImage(VecFrameStack(wrapped, 4))
    generator = np.random.default_rng(0)
    seen, memory = [], []
    observations = env.reset()
    for _ in trange(count // n_envs, desc="frames", leave=False):
        actions = generator.integers(env.action_space.n, size=n_envs)
        for _ in range(apart):
            observations, *_ = env.step(actions)
        seen.append(observations.copy())
        memory.append(np.stack([game.unwrapped.ale.getRAM() for game in env.unwrapped.envs]))
    env.close()
    frames, bytes_ = np.concatenate(seen), np.concatenate(memory)
    there = (bytes_[:, BALL_Y] > 0) & (bytes_[:, BALL_X] > 0)
    positions = bytes_[there][:, list(POSITIONS.values())].astype(np.float32)
    return th.as_tensor(frames[there]), th.as_tensor((positions - positions.mean(0)) / positions.std(0))


def make(shape_seen: tuple[int, ...], network: dict[str, Any] | None, shape: dict[str, Any], seed: int, rate: float) -> Any:
    """A policy of SB3's DQN with a value for each position."""
    th.manual_seed(seed)
    seen, values = spaces.Box(0, 255, shape_seen, np.uint8), spaces.Discrete(len(POSITIONS))
    if network is None:
        body: Any = {"features_extractor_class": ReluExtractor, "features_extractor_kwargs": shape}
        return DQNPolicy(seen, values, lambda _: rate, net_arch=[], **body)
    return SpikingPolicy(seen, values, lambda _: rate, **{**shape, **LEAKY, **network})


def explained(predicted: th.Tensor, values: th.Tensor) -> th.Tensor:
    """Share of the variance of each column of values that a prediction explains, shape (A,)."""
    return 1 - ((predicted - values) ** 2).mean(dim=0) / values.var(dim=0, correction=0)


def fit(policy: Any, frames: th.Tensor, positions: th.Tensor, updates: int, seed: int) -> tuple[list[float], list[float]]:
    """
    Learn the first four fifths, and measure on the rest.

    :return: share of the variance of each position that is explained, and the firing rates of the layers
    """
    learned = len(frames) * 4 // 5
    learn(policy, frames[:learned], positions[:learned], updates, BATCH_SIZE, seed)
    with th.no_grad():
        predicted = th.cat([policy.q_net(part) for part in frames[learned:].split(BATCH_SIZE)])
    layers = spike_counts(policy, frames[learned : learned + BATCH_SIZE])
    rates = [layer.firing_rate for layer in layers]
    return explained(predicted, positions[learned:]).tolist(), rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="small", choices=list(SHAPES))
    parser.add_argument("--num-steps", type=int, default=4, help="simulation steps of a window")
    parser.add_argument("--frames", type=int, default=6000)
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--network", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--num-threads", type=int, default=1)
    args = parser.parse_args()

    gym.register_envs(ale_py)
    th.set_num_threads(args.num_threads)
    screen_size, shape = SHAPES[args.shape]
    frames, positions = played(args.frames, screen_size)
    lines = []
    for name in args.network:
        network = NETWORKS[name]
        if network is not None:
            network = {**network, "num_steps": args.num_steps}
        runs = []
        for seed in range(args.seeds):
            policy = make(tuple(frames.shape[1:]), network, shape, seed, args.learning_rate)
            runs.append(fit(policy, frames, positions, args.updates, seed))
        shares = np.array([run[0] for run in runs])
        cells = [f"{mean:.0%} ({least:.0%})" for mean, least in zip(shares.mean(0), shares.min(0), strict=True)]
        rates = np.mean([run[1] for run in runs], axis=0)
        lines.append(f"| {name} | {' | '.join(cells)} | {', '.join(f'{rate:.1%}' for rate in rates)} |")
        print(lines[-1], flush=True)
    print(f"\n{describe()}\n{len(frames)} frames, T = {args.num_steps}\n")
    print(f"| | {' | '.join(POSITIONS)} | firing rates |\n|---|" + "--:|" * len(POSITIONS) + "---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
