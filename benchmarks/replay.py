"""
Adding to, sampling from and memory of FrameStackReplayBuffer, beside SB3's ReplayBuffer, for Atari observations: the numbers
in docs/speed.md.

    python benchmarks/replay.py
"""

import argparse
from typing import Any

import numpy as np
from gymnasium import spaces
from machine import describe
from stable_baselines3.common.buffers import ReplayBuffer
from timing import medians

from sb3_spiking import FrameStackReplayBuffer

SPACES = (spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(4))


def fill(buffer: ReplayBuffer, transitions: int) -> None:
    """Episodes of 200 steps of noise."""
    generator = np.random.default_rng(0)
    observation = np.zeros((1, *SPACES[0].shape), np.uint8)
    for step in range(transitions):
        done = step % 200 == 199
        frame = generator.integers(0, 256, (1, 1, *SPACES[0].shape[1:]), np.uint8)
        after = np.concatenate([observation[:, 1:], frame], axis=1)
        infos: list[dict[str, Any]] = [{}]
        buffer.add(observation, after, np.zeros((1, 1)), np.zeros(1), np.array([done]), infos)
        observation = np.concatenate([np.zeros_like(after[:, 1:]), frame], axis=1) if done else after


def size(buffer: ReplayBuffer) -> int:
    """Bytes of the observations."""
    if isinstance(buffer, FrameStackReplayBuffer):
        return buffer.frames.nbytes
    return buffer.observations.nbytes + buffer.next_observations.nbytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()

    makes = {
        "SB3": lambda: ReplayBuffer(args.transitions, *SPACES, device="cpu"),
        "ours": lambda: FrameStackReplayBuffer(args.transitions, *SPACES, device="cpu"),
    }
    buffers = {name: make() for name, make in makes.items()}
    for buffer in buffers.values():
        fill(buffer, args.transitions)
    tasks: dict[Any, Any] = {(name, "sample"): lambda buffer=buffer: buffer.sample(32) for name, buffer in buffers.items()}
    first = buffers["SB3"].observations[:200], buffers["SB3"].next_observations[:200]
    for name, buffer in buffers.items():

        def add(buffer: ReplayBuffer = buffer) -> None:
            for before, after in zip(*first, strict=True):
                buffer.add(before, after, np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])

        tasks[name, "add"] = add
    seconds = medians(tasks, args.repeats)
    print(describe())
    print(f"{args.transitions} transitions, medians of {args.repeats} interleaved rounds\n")
    print("| | sample 32: ms | add: us | GB for a million |")
    print("|---|--:|--:|--:|")
    for name, buffer in buffers.items():
        sample, added = 1e3 * seconds[name, "sample"], 1e6 * seconds[name, "add"] / len(first[0])
        print(f"| {name} | {sample:.3g} | {added:.3g} | {size(buffer) / args.transitions / 1e3:.1f} |")


if __name__ == "__main__":
    main()
