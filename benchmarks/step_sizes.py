"""
How far Adam moves the weights of trained agents: the last model of each keeps Adam's state. With g the root mean square of a
weight's gradients, as Adam keeps it, a step has the size learning rate * g / (g + epsilon) where gradients agree (Kingma & Ba
2015, arXiv 1412.6980): the learning rate where gradients are above epsilon, less and less where they are below.

    sb3-spiking sweep benchmarks/minatar_1m.yml --results logs/results --only Asterix-v1_relu_1 Asterix-v1_cmc-if_1
    python benchmarks/step_sizes.py --env MinAtar/Asterix-v1 -f logs/training/minatar_1m/MinAtar-Asterix-v1_*
"""

import argparse
from pathlib import Path
from typing import Any

from machine import describe

import sb3_spiking.minatar  # noqa: F401  (registers its games)
from sb3_spiking.evaluation.agents import load_agent


def step_sizes(policy: Any) -> dict[str, tuple[float, float]]:
    """
    :param policy: of a DQN, with its optimizer's state
    :return: for each layer of the network that acts, from the input to the output: the median of g, the mean step
    """
    (group,) = policy.optimizer.param_groups
    sizes = {}
    for name, parameter in policy.q_net.named_parameters():
        if parameter.ndim > 1 and not name.startswith("common_mode."):
            gradient = policy.optimizer.state[parameter]["exp_avg_sq"].sqrt()
            step = group["lr"] * gradient / (gradient + group["eps"])
            sizes[name] = (float(gradient.median()), float(step.mean()))
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", default="dqn")
    parser.add_argument("--env", required=True)
    parser.add_argument("-f", "--folder", nargs="+", required=True, help="RL Zoo's log folders")
    args = parser.parse_args()

    lines = []
    for folder in args.folder:
        # Adam's state is in the part of an agent's file that is unpickled
        policy = load_agent(folder, args.algo, args.env, device="cpu", trusted=True).model.policy
        sizes = step_sizes(policy)
        cells = [f"{size:.1e}" for column in zip(*sizes.values(), strict=True) for size in column]
        lines.append(f"| {Path(folder).name} | {' | '.join(cells)} |")
    layers = range(1, len(sizes) + 1)
    titles = [f"{what}: layer {layer}" for what in ("gradient", "step") for layer in layers]
    print(f"\n{describe()}\n\n| | {' | '.join(titles)} |\n|---|{'--:|' * len(titles)}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
