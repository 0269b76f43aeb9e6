"""
Does a spiking network come alive on Breakout? Firing rates of its four layers before and after a few hundred updates, for
the network of Liu et al. 2022 and our default for images with several surrogate gradients: a table of docs/laboratory.md.

    python benchmarks/breakout_firing.py --folder logs/breakout_firing

Each line is one RL Zoo command, whose firing rates are those that sb3_spiking.SpikeMonitor wrote to TensorBoard.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from machine import describe
from tqdm import tqdm

from sb3_spiking.sweep.scoring import spikes

LEAKY = "gradients='exact',beta=0.5,reset_mechanism='zero'"
# policy_kwargs, but for num_steps; the arctan is the paper's surrogate
NETWORKS = {
    "liu2022": "preset='liu2022'",
    "liu2022, fast sigmoid 25": "preset='liu2022',spike_grad='fast_sigmoid',slope=25",
    "liu2022, fast sigmoid 5": "preset='liu2022',spike_grad='fast_sigmoid',slope=5",
    "liu2022, fast sigmoid 2": "preset='liu2022',spike_grad='fast_sigmoid',slope=2",
    "unscaled, fast sigmoid 25": f"{LEAKY},input_scale=1,slope=25",
    "unscaled, fast sigmoid 5": f"{LEAKY},input_scale=1,slope=5",
    "scaled by 4, fast sigmoid 5": f"{LEAKY},input_scale=4,slope=5",
    "default": "",
}
MONITOR = "callback:[{'sb3_spiking.SpikeMonitor':dict(log_freq=100)}]"


def train(settings: str, folder: Path, args: argparse.Namespace) -> None:
    """One RL Zoo run; its output goes to train.log."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "rl_zoo3.train", "--algo", "dqn", "--env", "BreakoutNoFrameskip-v4"]
    command += ["-conf", "sb3_spiking", "-f", str(folder), "--tensorboard-log", str(folder / "tb"), "--seed", "0"]
    command += ["-n", str(args.steps), "--num-threads", str(args.num_threads)]
    command += ["-params", f"learning_starts:{args.learning_starts}", MONITOR]
    command += [f"policy_kwargs:dict(num_steps={args.num_steps},{settings})"]
    with (folder / "train.log").open("w") as log:
        result = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    if result.returncode != 0:
        raise RuntimeError(f"failed, see {folder / 'train.log'}: {' '.join(command)}")


def firing_rates(folder: Path) -> tuple[list[float], list[float]]:
    """Firing rates of the layers, the first and the last that were logged."""
    logged = spikes(folder / "tb").filter(like="firing_rate/")
    return logged.iloc[0].tolist(), logged.iloc[-1].tolist()


def percent(rates: list[float]) -> str:
    return " | ".join(f"{100 * rate:.2g}%" for rate in rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("logs/breakout_firing"), help="a new folder for the runs")
    parser.add_argument("--steps", type=int, default=3000, help="steps in the environment, of 4 frames each")
    parser.add_argument("--learning-starts", type=int, default=1000, help="steps before the first update")
    parser.add_argument("--num-steps", type=int, default=64, help="simulation steps of a window")
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--network", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    args = parser.parse_args()

    if args.folder.exists():
        parser.error(f"--folder {args.folder} exists; expected a new one")

    lines = []
    for name in tqdm(args.network):
        folder = args.folder / name.replace(", ", "_").replace(" ", "_")
        train(NETWORKS[name], folder, args)
        start, end = firing_rates(folder)
        lines.append(f"| {name} | {percent(start)} | {percent(end)} |")
    updates = (args.steps - args.learning_starts) // 4
    print(f"\n{describe()}\nT = {args.num_steps}\n")
    layers = [f"layer {layer}" for layer in (1, 2, 3, 4)]
    print(f"| network | start: {' | '.join(layers)} | after {updates} updates: {' | '.join(layers)} |")
    print("|---|" + "--:|" * 2 * len(layers))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
