"""
How much the neurons of trained agents still tell: of the decisions in which a neuron fires, the share in which it does so at
every step, beside firing rates, silent neurons and how far the weights have grown. 300 greedy decisions in 4 environments.

    python benchmarks/saturation.py --env BreakoutNoFrameskip-v4 -f rl-trained-agents
"""

import argparse
from pathlib import Path

import numpy as np
import torch as th
from machine import describe
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from sb3_spiking.evaluation.agents import Agent, load_agent
from sb3_spiking.snn.layers import SpikingLayer
from sb3_spiking.training.callbacks import spike_counts

DECISIONS = 300
ENVS = 4


def played(agent: Agent) -> np.ndarray:
    """Observations of an agent's greedy decisions, shape (DECISIONS * ENVS, \\*)."""
    env = agent.make_env(ENVS, seed=0)
    seen = [np.asarray(env.reset())]
    for _ in range(DECISIONS - 1):
        actions, _ = agent.model.predict(seen[-1], deterministic=True)
        seen.append(np.asarray(env.step(actions)[0]))
    env.close()
    return np.concatenate(seen)


def growth(model: BaseAlgorithm) -> list[float]:
    """Of each spiking layer: how large its weights are, in multiples of PyTorch's uniform initialisation, 1/sqrt(3 n)."""
    network = model.policy.q_net
    assert isinstance(network, nn.Module)
    weights = [layer.connection.weight.detach().flatten(1) for layer in network.modules() if isinstance(layer, SpikingLayer)]
    return [(weight.square().mean() * 3 * weight.shape[1]).sqrt().item() for weight in weights]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", default="dqn")
    parser.add_argument("--env", required=True)
    parser.add_argument("-f", "--folder", nargs="+", required=True, help="RL Zoo's log folders")
    parser.add_argument("--load-best", action="store_true", help="the best agent by RL Zoo's evaluations")
    args = parser.parse_args()
    th.set_num_threads(1)
    titles = ("layer", "fires in", "silent neurons", "saturated windows", "weights grew by")
    print(f"{describe()}\n\n| | {' | '.join(titles)} |\n|---|{'--:|' * len(titles)}")
    for folder in args.folder:
        agent = load_agent(folder, args.algo, args.env, load_best=args.load_best, device="cpu", trusted=True)
        policy = agent.model.policy
        observations, _ = policy.obs_to_tensor(played(agent))
        layers = zip(spike_counts(policy, observations), growth(agent.model), strict=True)
        for number, (layer, grown) in enumerate(layers, start=1):
            shares = f"{layer.firing_rate:.1%} | {layer.silent_neurons:.0%} | {layer.saturated_windows:.0%}"
            print(f"| {Path(folder).name} | {number} | {shares} | {grown:.1f} |")


if __name__ == "__main__":
    main()
