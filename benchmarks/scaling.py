"""
Time and memory of an update (target forward, forward and backward) of the paper's network against the number of simulation
steps, the batch size and the width, ours beside the snnTorch loop and the ReLU network: the plot of docs/speed.md.

    python benchmarks/scaling.py --out docs/scaling.png
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import peers
import torch as th
from machine import describe
from stable_baselines3.dqn.policies import CnnPolicy
from timing import medians, peak_memory
from torch.nn import functional as F
from tqdm import tqdm

from sb3_spiking.extractors import NATURE_CONV_LAYERS

AXES: dict[str, list[float]] = {
    "num_steps": [1, 2, 4, 8, 16, 32, 64, 128],
    "batch_size": [1, 4, 16, 32, 64, 128],
    "width": [0.25, 0.5, 1, 2],
}
POINT: dict[str, float] = {"num_steps": 16, "batch_size": 32, "width": 1}


COLORS = {"ours": "C0", "ours, through rates": "C2", "snnTorch loop": "C1", "ReLU": "gray"}


class Point(NamedTuple):
    """An update's milliseconds and megabytes."""

    axis: str
    value: float
    name: str
    time: float
    memory: float


def update(name: str, num_steps: float, batch_size: float, width: float) -> Callable[[], Any]:
    """An update of a network, a key of COLORS; the ReLU network has neither steps nor another width."""
    if name == "ReLU":
        network: Any = CnnPolicy(peers.IMAGES, peers.ACTIONS, lambda _: 1e-4).q_net
    else:
        layers = tuple((int(channels * width), kernel, stride) for channels, kernel, stride in NATURE_CONV_LAYERS)
        gradients = "rates" if name == "ours, through rates" else "exact"
        policy = peers.spiking_policy(int(num_steps), conv_layers=layers, features_dim=int(512 * width), gradients=gradients)
        network = peers.SnnTorchLoop(policy) if name == "snnTorch loop" else policy.q_net
    images = peers.images(int(batch_size))
    inputs = images.float() / 255 if name == "snnTorch loop" else images

    def run() -> None:
        with th.no_grad():
            network(inputs)
        network.zero_grad()
        values = network(inputs)
        F.smooth_l1_loss(values, th.zeros_like(values)).backward()

    return run


def draw(points: list[Point], path: Path) -> None:
    """Time above, memory below, a column for each axis."""
    figure, plots = plt.subplots(2, len(AXES), figsize=(12, 6), sharey="row")
    for column, axis in zip(plots.T, AXES, strict=True):
        for name, color in COLORS.items():
            those = [point for point in points if (point.axis, point.name) == (axis, name)]
            values = [point.value for point in those]
            for plot, numbers in zip(column, ([each.time for each in those], [each.memory for each in those]), strict=True):
                if len(those) > 1:
                    plot.loglog(values, numbers, "o-", color=color, label=name)
                elif those:
                    plot.axhline(numbers[0], color=color, linestyle=":", label=name)
                plot.set_xticks(AXES[axis], [f"{value:g}" for value in AXES[axis]])
                plot.minorticks_off()
        column[1].set_xlabel(axis)
    plots[0, 0].set_ylabel("an update: ms")
    plots[1, 0].set_ylabel("memory: MB")
    plots[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("scaling.png"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--num-threads", type=int, default=2)
    args = parser.parse_args()

    th.set_num_threads(args.num_threads)
    print(f"{describe()}; {args.num_threads} threads; where not varied: {POINT}\n")
    print("| | | network | ms | MB |\n|---|--:|---|--:|--:|")
    points: list[Point] = []
    for axis, values in AXES.items():
        for name in COLORS:
            for value in tqdm(values if name != "ReLU" or axis == "batch_size" else [POINT[axis]], desc=name, leave=False):
                arguments: tuple[Any, ...] = (name, *{**POINT, axis: value}.values())
                small = (name, arguments[1], 1, arguments[3])
                time = 1e3 * medians({0: update(*arguments)}, args.repeats)[0]
                memory = peak_memory(update, arguments, small, args.num_threads) / 1e6
                points.append(Point(axis, value, name, time, memory))
                print(f"| {axis} | {value:g} | {name} | {time:.1f} | {memory:.0f} |", flush=True)
    draw(points, args.out)
    print(f"\n{args.out}")


if __name__ == "__main__":
    main()
