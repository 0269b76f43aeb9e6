"""
What an update of the paper's network spends its time on, and the least that each part could take on this machine: the second
table of docs/speed.md. CPU.

    python benchmarks/update_profile.py
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import peers
import torch as th
from machine import describe
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from sb3_spiking.snn.kernels import cpu, event_driven, fused

PARTS = {
    "target": "target network, all of it",
    "leaky": "Leaky forward",
    "leaky_backward": "Leaky backward",
    "pack": "packing spikes into bits",
    "currents": "currents, event by event",
    "weights": "gradient of the weights, event by event",
    "inputs": "gradient of the spikes, dense",
    "rest": "the rest: first convolution, readout, loss, PyTorch",
}
FUNCTIONS = {
    cpu._forward: "leaky",
    cpu._backward: "leaky_backward",
    event_driven._pack: "pack",
    event_driven._forward: "currents",
    event_driven._weight_gradient: "weights",
}


def best(task: Callable[[], Any], repeats: int = 20) -> float:
    """Seconds of the fastest of several runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        task()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def floors(policy: Any, images: th.Tensor) -> dict[str, float]:
    """Seconds of the arithmetic or of the memory traffic of a part, at the best speed that this machine shows for it."""
    spikes: list[th.Tensor] = []
    body = policy.q_net.features_extractor
    layers = (*body.conv, *body.dense)
    hooks = [layer.neuron.register_forward_hook(lambda *args: spikes.append(args[-1])) for layer in body.conv]
    with th.no_grad():
        policy.q_net(images)
    for hook in hooks:
        hook.remove()
    windows = [th.cat(spikes[number::3], dim=1) for number in range(3)]  # the convolutions take the batch in parts
    products = additions = 0.0
    for window, layer in zip(windows, layers[1:], strict=True):
        connection = layer.connection
        if isinstance(connection, nn.Conv2d):
            (size,), (stride,) = set(connection.kernel_size), set(connection.stride)
            outputs = (window.shape[-1] - size) // stride + 1
            uses = F.conv_transpose2d(th.ones(1, 1, outputs, outputs), th.ones(1, 1, size, size), stride=stride)[0, 0]
            uses = F.pad(uses, (0, window.shape[-1] - uses.shape[-1]) * 2)
            products += window.shape[:2].numel() * outputs**2 * connection.weight.numel()
        else:
            uses = th.ones(window.shape[-2:])
            products += window.shape[:2].numel() * connection.weight.numel()
        additions += float((window.sum(dim=(0, 1, 2)) * uses).sum()) * len(connection.weight)

    left, right = th.rand(2048, 3136), th.rand(512, 3136)
    columns, kernel = left[None, None].permute(0, 3, 1, 2), right[:, :, None, None]
    product = min(best(lambda: left @ right.T), best(lambda: F.conv2d(columns, kernel)))
    # Each number that is added comes from the second-level cache, which holds the weights of a layer: read by BLAS
    weights = np.ones(50_000, np.float32)
    reading = best(lambda: weights @ weights, 2000) / weights.size
    source, copy = th.ones(2**25), th.empty(2**25)
    traffic = best(lambda: copy.copy_(source)) / (2 * source.numel())
    neurons = sum(window.numel() for window in windows) + policy.settings.num_steps * len(images) * 512
    varying = neurons - windows[0].numel()
    return {
        "leaky": (neurons + varying) * traffic,
        "leaky_backward": (neurons + 2 * varying) * traffic,
        "currents": additions * reading / th.get_num_threads(),
        "weights": additions * reading / th.get_num_threads(),
        "inputs": products * product / (left.shape[0] * right.numel()),
    }


def profile(policy: Any, images: th.Tensor, repeats: int) -> dict[str, float]:
    """Median seconds of each part of an update, and of all."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(function: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        def wrapper(*args: Any) -> Any:
            start = time.perf_counter()
            result = function(*args)
            seconds[name(*args)] += time.perf_counter() - start
            return result

        return wrapper

    modules: list[Any] = [cpu, event_driven]
    for module in modules:
        module.run = timed(module.run, lambda kernel, *_: FUNCTIONS[kernel])
    event_driven.input_gradient = timed(event_driven.input_gradient, lambda *_: "inputs")
    fused.spikes = timed(fused.spikes, lambda *_: "target")
    rounds = []
    for _ in tqdm(range(repeats + 1), leave=False):
        seconds.clear()
        start = time.perf_counter()
        with th.no_grad():
            policy.q_net_target(images)
        policy.zero_grad()
        values = policy.q_net(images)
        F.smooth_l1_loss(values, th.zeros_like(values)).backward()
        total = time.perf_counter() - start
        rounds.append({**seconds, "rest": total - sum(seconds.values()), "all": total})
    return {name: statistics.median(each[name] for each in rounds[1:]) for name in (*PARTS, "all")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-steps", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()

    th.set_num_threads(args.num_threads)
    policy, images = peers.spiking_policy(args.num_steps), peers.images(args.batch_size)
    least = floors(policy, images)
    seconds = profile(policy, images, args.repeats)
    print(f"{describe()}; {args.num_threads} threads")
    print(f"T = {args.num_steps}, batch of {args.batch_size}, medians of {args.repeats} updates\n")
    print("| | ms | of all | floor: ms |")
    print("|---|--:|--:|--:|")
    for name, title in PARTS.items():
        floor = f"{1000 * least[name]:.0f}" if name in least else ""
        print(f"| {title} | {1000 * seconds[name]:.0f} | {100 * seconds[name] / seconds['all']:.0f}% | {floor} |")
    print(f"| all | {1000 * seconds['all']:.0f} | 100% | |")


if __name__ == "__main__":
    main()
