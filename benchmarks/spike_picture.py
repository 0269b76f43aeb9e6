"""
A picture of an agent that plays MinAtar or Atari, with its spikes beside it: what it sees, where its first convolution fires,
each spike of its last layer, and the Q-values that they add up to.

    python benchmarks/spike_picture.py --env PongNoFrameskip-v4 --first 47 --out docs/spikes.png
"""

import argparse
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import matplotlib
import numpy as np
import torch as th

import sb3_spiking.minatar  # noqa: F401  (registers its games)
from sb3_spiking.evaluation.agents import load_agent
from sb3_spiking.snn.layers import SpikingLayer

matplotlib.use("agg")
import matplotlib.pyplot as plt

AGENTS = Path(__file__).parents[1] / "rl-trained-agents"


def screen(game: Any, observation: np.ndarray) -> np.ndarray:
    """
    :param game: the environment without wrappers
    :param observation: what an agent sees of it
    :return: the game as a person sees it, colours in [0, 1], shape (H, W, 3)
    """
    if hasattr(game, "ale"):
        return game.ale.getScreenRGB() / 255
    channels = observation.shape[-1]  # MinAtar: a plane for each kind of thing
    colors = np.array([(0.0, 0.0, 0.0), *plt.get_cmap("tab10").colors[:channels]])  # type: ignore[attr-defined]
    return colors[(observation * np.arange(1, channels + 1)).max(axis=-1)]


def watch(env: str, first: int, decisions: int, seed: int) -> dict[str, np.ndarray]:
    """
    :param env: id of the game
    :param first: decision that the picture starts with
    :param decisions: in the picture
    :param seed: of the game
    :return: ``screens`` (D, H, W, 3), ``convolution`` (D, T, O, H', W'), ``dense`` (D, T, units), ``values`` (D, A)
    """
    agent = load_agent(AGENTS, "dqn", env, device="cpu")
    policy: Any = agent.model.policy
    spikes: list[th.Tensor] = []
    for layer in policy.q_net.modules():
        if isinstance(layer, SpikingLayer):
            layer.register_forward_hook(lambda _, __, window: spikes.append(window[:, 0]))
    venv: Any = agent.make_env(1, seed, whole_games=True)
    observation: Any = venv.reset()
    seen: dict[str, list[Any]] = {name: [] for name in ("screens", "convolution", "dense", "values")}
    for decision in range(first + decisions):
        spikes.clear()
        with th.no_grad():
            values = policy.q_net.spiking_values(policy.obs_to_tensor(observation)[0])
        if decision >= first:
            shown = screen(venv.unwrapped.envs[0].unwrapped, observation[0])
            for name, each in zip(seen, (shown, spikes[0].numpy(), spikes[-1].numpy(), values[0].numpy()), strict=True):
                seen[name].append(each)
        observation, *_ = venv.step(values.argmax(dim=1).numpy())
    return {name: np.array(each) for name, each in seen.items()}


def action_names(game: Any) -> list[str]:
    """What the actions of a game without wrappers are called."""
    if hasattr(game, "ale"):
        return [name.lower() for name in game.get_action_meanings()]
    names = ("no-op", "left", "up", "right", "down", "fire")  # MinAtar's, of which a game has some
    return [names[action] for action in game.game.env.minimal_action_set()]


def draw(seen: dict[str, np.ndarray], actions: list[str], path: Path) -> None:
    """
    :param seen: see :func:`watch`
    :param actions: names of the actions
    :param path: of the picture
    """
    decisions, num_steps, units = seen["dense"].shape
    figure = plt.figure(figsize=(1.5 * decisions, 8), layout="constrained")
    rows = figure.add_gridspec(4, decisions, height_ratios=(1.1, 1.1, 2.6, 1))
    fired = seen["convolution"].sum(axis=(1, 2))
    for place in range(decisions):
        game, spikes = figure.add_subplot(rows[0, place]), figure.add_subplot(rows[1, place])
        game.imshow(seen["screens"][place])
        spikes.imshow(fired[place], cmap="magma", vmin=0, vmax=fired.max())
        for axes, label in ((game, "what it sees"), (spikes, "first convolution:\nspikes at a place")):
            axes.set(xticks=[], yticks=[])
            if place == 0:
                axes.set_ylabel(label)
    raster, values = figure.add_subplot(rows[2, :]), figure.add_subplot(rows[3, :])
    steps, neurons = np.nonzero(seen["dense"].reshape(-1, units))
    raster.scatter(steps + 0.5, neurons, s=5, color="black", marker="|", linewidths=1)
    raster.set(ylabel="last layer: neuron", ylim=(-1, units), xlabel=f"simulation step, {num_steps} a decision")
    moments = (np.arange(decisions) + 0.5) * num_steps
    for action, name in enumerate(actions):
        values.plot(moments, seen["values"][:, action], "o-", label=name, markersize=4)
    chosen = seen["values"].argmax(axis=1)
    values.plot(moments, seen["values"].max(axis=1), "o", color="black", fillstyle="none", markersize=9)
    for moment, action, value in zip(moments, chosen, seen["values"].max(axis=1), strict=True):
        values.annotate(actions[action], (moment, value), (0, 8), textcoords="offset points", ha="center", fontsize="small")
    values.margins(y=0.5)
    values.set(ylabel="Q-values", xticks=[])
    values.legend(fontsize="small", ncols=len(actions), loc="lower left")
    for axes in (raster, values):
        axes.set_xlim(0, decisions * num_steps)
        for border in range(1, decisions):
            axes.axvline(border * num_steps, color="lightgray", linewidth=0.8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="MinAtar/Breakout-v1", help="game of an agent in rl-trained-agents")
    parser.add_argument("--first", type=int, default=20, help="decision that the picture starts with")
    parser.add_argument("--decisions", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, default=Path("spikes.png"))
    args = parser.parse_args()

    th.set_num_threads(1)
    gym.register_envs(ale_py)
    draw(watch(args.env, args.first, args.decisions, args.seed), action_names(gym.make(args.env).unwrapped), args.out)


if __name__ == "__main__":
    main()
