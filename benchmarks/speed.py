"""
How fast is the network of Liu et al. 2022, and how much memory does it need, beside its peers with the same weights? The first
table of docs/speed.md.

    python benchmarks/speed.py

SpikingJelly joins in where it is installed: pip install ".[benchmarks]" and pip install --no-deps spikingjelly
"""

import argparse
import importlib.util
from collections.abc import Callable
from typing import Any

import peers
import torch as th
from machine import describe
from timing import medians, peak_memory
from torch.nn import functional as F
from tqdm import tqdm

NAMES = {
    "snntorch": "snnTorch, step by step",
    "spikingjelly": "SpikingJelly, multi-step",
    "dense": "the convolutions alone, dense",
    "plain": "ours, plain PyTorch",
    "ours": "ours",
    "rates": "ours, gradients through rates",
    "relu": "DQN's ReLU network",
}


def make(name: str, num_steps: int, device: str) -> tuple[Callable[[th.Tensor], th.Tensor], Any]:
    """
    :param name: a key of NAMES
    :param num_steps: simulation steps of a window
    :param device: ``cpu`` or ``cuda``
    :return: a function of images (B, 4, 84, 84), uint8, and the network with its parameters
    """
    policy = peers.spiking_policy(num_steps, gradients="rates" if name == "rates" else "exact")
    network: Any = peers.relu_policy().q_net if name == "relu" else policy.q_net
    if name in ("relu", "ours", "rates"):
        run = network.to(device)
    elif name == "plain":
        run = peers.in_plain_pytorch(network.to(device))
    else:
        classes = {"snntorch": peers.SnnTorchLoop, "spikingjelly": peers.SpikingJellyNet, "dense": peers.DenseConnections}
        network = classes[name](policy).to(device)

        def run(images: th.Tensor) -> th.Tensor:
            return network(images.float() / 255)

    return run, network


def tasks(name: str, num_steps: int, batch_size: int, device: str) -> dict[str, Callable[[], Any]]:
    """What is timed, by name."""
    run, network = make(name, num_steps, device)
    one, batch = peers.images(1).to(device), peers.images(batch_size).to(device)

    def act() -> None:
        with th.no_grad():
            run(one)

    def forward() -> None:
        with th.no_grad():
            run(batch)

    def both() -> None:
        network.zero_grad()
        values = run(batch)
        F.smooth_l1_loss(values, th.zeros_like(values)).backward()

    def update() -> None:
        forward()
        both()

    return {"act": act, "forward": forward, "both": both, "update": update}


def update(name: str, num_steps: int, batch_size: int, device: str) -> Callable[[], Any]:
    """The target network's forward, then forward and backward."""
    return tasks(name, num_steps, batch_size, device)["update"]


def _three_figures(number: float) -> str:
    return f"{number:.3g}" if number < 999.5 else f"{round(number, -1):.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-steps", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7, help="rounds in which each network has its turn")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--networks", nargs="+", choices=list(NAMES), default=list(NAMES))
    args = parser.parse_args()

    th.set_num_threads(args.num_threads)
    names = args.networks
    if "spikingjelly" in names and importlib.util.find_spec("spikingjelly") is None:
        print("SpikingJelly is not installed and left out: pip install --no-deps spikingjelly")
        names.remove("spikingjelly")
    sizes = (args.num_steps, args.batch_size, args.device)
    each = {(name, task): run for name in names for task, run in tasks(name, *sizes).items()}
    seconds = medians(each, args.repeats, args.device)
    one = (args.num_steps, 1, args.device)
    memory = {
        name: peak_memory(update, (name, *sizes), (name, *one), args.num_threads, args.device)
        for name in tqdm(names, leave=False)
    }

    rates = peers.firing_rates(peers.spiking_policy(args.num_steps), peers.images(args.batch_size))
    print(f"{describe()}; {args.device}, {args.num_threads} threads")
    if args.device == "cuda":
        print(th.cuda.get_device_name())
    print(f"T = {args.num_steps}, batch of {args.batch_size}, medians of {args.repeats} interleaved rounds")
    print(f"firing rates of the four layers: {', '.join(f'{100 * rate:.1f}%' for rate in rates)}\n")
    print("| | act, 1 observation: ms | forward: ms | forward + backward: ms | one update: ms | of the first | memory: MB |")
    print("|---|" + "--:|" * 6)
    for name in names:
        columns = [_three_figures(1000 * seconds[name, task]) for task in ("act", "forward", "both", "update")]
        ratio = seconds[name, "update"] / seconds[names[0], "update"]
        print(f"| {NAMES[name]} | {' | '.join(columns)} | 1/{1 / ratio:.1f} | {memory[name] / 1e6:.0f} |")


if __name__ == "__main__":
    main()
