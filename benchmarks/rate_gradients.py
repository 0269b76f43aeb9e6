"""
How close gradients through rates come to exact ones, layer by layer: cosine of the angle between them, and their length as a
share of the exact ones'.

    python benchmarks/rate_gradients.py

Networks with PyTorch's initialisation on what random play sees, and the agents of the repository on what they see; the
gradient is that of the sum of one random action's value for each observation, with random weights.
"""

import argparse
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import initial_rates
import numpy as np
import torch as th
from gymnasium import spaces
from machine import describe
from stable_baselines3.common.utils import set_random_seed

import sb3_spiking.minatar  # noqa: F401  (registers its games)
from sb3_spiking import SpikingPolicy
from sb3_spiking.evaluation.agents import load_agent
from sb3_spiking.snn.layers import SpikingLayer
from sb3_spiking.snn.rates import LayerShares

AGENTS = Path(__file__).parents[1] / "rl-trained-agents"
ENV = "BreakoutNoFrameskip-v4"
LEAKY: dict[str, Any] = {"beta": 0.5, "reset_mechanism": "zero", "slope": 5}
#: policy_kwargs on Breakout
NETWORKS: dict[str, dict[str, Any]] = {
    "default, T = 4": {"num_steps": 4},
    "default, T = 64": {"num_steps": 64},
    "default, equal shares, T = 4": {"num_steps": 4, "equal": True},
    "default, equal shares, T = 64": {"num_steps": 64, "equal": True},
    "immediate reset by subtraction, T = 4": {"num_steps": 4, "reset_delay": False},
    "leaky, reset to zero, T = 4": {**LEAKY, "num_steps": 4},
    "leaky, reset to zero, T = 64": {**LEAKY, "num_steps": 64},
    "leaky, slope 25, T = 8": {**LEAKY, "num_steps": 8, "slope": 25},
    "the paper's, currents times 8, T = 64": {"preset": "liu2022", "input_scale": 4},
}


def gradients(policy: Any, seen: th.Tensor) -> list[th.Tensor]:
    """Of the weights of each layer, from the input to the output."""
    generator = th.Generator().manual_seed(0)
    values = policy.q_net.spiking_values(seen)
    chosen = th.randint(values.shape[1], (len(seen), 1), generator=generator)
    weights = th.randn(len(seen), 1, generator=generator)
    body = policy.q_net.features_extractor
    parameters = [parameter for name, parameter in body.named_parameters() if name.endswith("connection.weight")]
    return list(th.autograd.grad((values.gather(1, chosen) * weights).sum(), parameters))


def compare(
    space: spaces.Space, actions: spaces.Discrete, seen: th.Tensor, state: Any, equal: bool = False, **settings: Any
) -> str:
    """
    Cosine and length, layer by layer, of a network with the state that is given, if any; ``equal``: with the same share at
    every step.
    """
    results = []
    for each in ("exact", "rates"):
        th.manual_seed(0)
        policy = SpikingPolicy(space, actions, lambda _: 0.0, **settings, gradients=each)
        if state is not None:
            policy.load_state_dict(state)
        for layer in policy.q_net.modules() if equal and each == "rates" else ():
            if isinstance(layer, SpikingLayer):
                layer.shares = LayerShares(*[(1 / layer.num_steps,) * layer.num_steps] * 2)
        results.append(gradients(policy, seen))
    pairs = zip(*results, strict=True)
    return ", ".join(
        f"{th.cosine_similarity(rates.flatten(), exact.flatten(), dim=0):.2f} / {rates.norm() / exact.norm():.2f}"
        for exact, rates in pairs
    )


def trained(name: str) -> tuple[Any, th.Tensor]:
    """
    :param name: of a game
    :return: the policy of the agent in the repository, and observations of its play, shape (256, \\*)
    """
    set_random_seed(0)
    agent = load_agent(AGENTS, "dqn", name, device="cpu")
    env: Any = agent.make_env(8, 0)
    seen = [env.reset()]
    while len(seen) < 32:
        for _ in range(4):
            observations, *_ = env.step(agent.model.predict(seen[-1], deterministic=True)[0])
        seen.append(observations)
    return agent.model.policy, th.as_tensor(np.concatenate(seen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="*", default=[f"MinAtar/{game}-v1" for game in ("Asterix", "Breakout", "Seaquest")])
    args = parser.parse_args()
    gym.register_envs(ale_py)
    th.set_num_threads(1)
    print(f"{describe()}\n\n| network | cosine / length of each layer, from the input on |\n|---|---|")
    env = initial_rates.make_env(ENV)
    pictures = th.as_tensor(initial_rates.observations(env)).permute(0, 3, 1, 2)
    space = spaces.Box(0, 255, tuple(pictures.shape[1:]), np.uint8)
    for name, settings in NETWORKS.items():
        print(f"| Breakout: {name} | {compare(space, spaces.Discrete(4), pictures, None, **settings)} |", flush=True)
    for name in args.agents:
        policy, seen = trained(name)
        settings = {key: value for key, value in policy.settings.as_dict().items() if key != "gradients"}
        state = {key: value for key, value in policy.state_dict().items() if "common_mode" not in key}
        result = compare(policy.observation_space, policy.action_space, seen, state, **settings)
        print(f"| {name}, trained: T = {settings['num_steps']}, slope {settings['slope']} | {result} |", flush=True)


if __name__ == "__main__":
    main()
