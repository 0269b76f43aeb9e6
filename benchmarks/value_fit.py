"""
What a spiking network finds hard to learn, without the noise of reinforcement learning: networks learn by regression the
Q-values that a trained ReLU agent gives to the states of its own games, and are then asked about other games. The advantage of
an action is its Q-value less the mean over actions: what the choice of an action depends on.

    python benchmarks/value_fit.py --seeds 1
"""

import argparse
import statistics
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from machine import describe
from regression import learn
from stable_baselines3 import DQN
from tqdm import trange

import sb3_spiking.minatar  # noqa: F401  (registers its games)
from sb3_spiking import ReluExtractor, SpikingPolicy
from sb3_spiking.evaluation.agents import Agent, load_agent
from sb3_spiking.training.callbacks import spike_counts

SHAPE: dict[str, Any] = {"conv_layers": [(16, 3, 1)], "layout": "hwc", "features_dim": 128}
LEAKY: dict[str, Any] = {"gradients": "exact", "beta": 0.5, "reset_mechanism": "zero", "input_scale": 4, "slope": 5}
INTEGRATOR: dict[str, Any] = {"beta": 1.0, "reset_mechanism": "subtract", "input_scale": 2}
COMPENSATED = "common-mode compensation, no leak, reset by subtraction"
#: policy_kwargs on top of the shape and LEAKY, None for the ReLU network
NETWORKS: dict[str, dict[str, Any] | None] = {
    "ReLU": None,
    "spiking": {},
    "spiking, T = 16": {"num_steps": 16},
    "spiking, slope 25": {"slope": 25},
    "spiking, no leak, reset by subtraction": INTEGRATOR,
    "spiking, potential normalisation": {"normalization": "potential"},
    "common-mode compensation": {"common_mode": True},
    COMPENSATED: INTEGRATOR | {"common_mode": True},
    f"{COMPENSATED}, slope 2": INTEGRATOR | {"common_mode": True, "slope": 2},
    f"{COMPENSATED}, slope 0.5": INTEGRATOR | {"common_mode": True, "slope": 0.5},
    f"{COMPENSATED}, T = 2": INTEGRATOR | {"common_mode": True, "num_steps": 2},
    f"{COMPENSATED}, T = 2, input_scale 4": INTEGRATOR | {"common_mode": True, "num_steps": 2, "input_scale": 4},
    f"{COMPENSATED}, T = 2, slope 2": INTEGRATOR | {"common_mode": True, "num_steps": 2, "slope": 2},
    f"{COMPENSATED}, T = 2, slope 0.5": INTEGRATOR | {"common_mode": True, "num_steps": 2, "slope": 0.5},
    f"{COMPENSATED}, T = 1, input_scale 4, slope 2": INTEGRATOR
    | {"common_mode": True, "num_steps": 1, "input_scale": 4, "slope": 2},
    f"{COMPENSATED}, T = 1, input_scale 4, slope 0.5": INTEGRATOR
    | {"common_mode": True, "num_steps": 1, "input_scale": 4, "slope": 0.5},
    f"{COMPENSATED}, T = 8, slope 2": INTEGRATOR | {"common_mode": True, "num_steps": 8, "slope": 2},
    f"{COMPENSATED}, T = 8, slope 0.5": INTEGRATOR | {"common_mode": True, "num_steps": 8, "slope": 0.5},
}
LEARNING_RATE = 1e-3
BATCH_SIZE = 256


def played(agent: Agent, count: int, epsilon: float = 0.1, n_envs: int = 16) -> tuple[th.Tensor, th.Tensor]:
    """
    :param agent: a DQN
    :param count: of states
    :param epsilon: probability of a random action
    :param n_envs: environments in parallel
    :return: states in the order of time, shape (count, \\*), and the agent's Q-values, shape (count, A)
    """
    env, generator = agent.make_env(n_envs, seed=0), np.random.default_rng(0)
    policy: Any = agent.model.policy
    states, values = [], []
    observations = env.reset()
    for _ in trange(-(-count // n_envs), desc="states", leave=False):
        assert isinstance(observations, np.ndarray)
        with th.no_grad():
            q_values = policy.q_net(policy.obs_to_tensor(observations)[0])
        states.append(th.as_tensor(observations.copy()))
        values.append(q_values)
        actions = q_values.argmax(dim=1).numpy()
        explored = generator.random(n_envs) < epsilon
        actions[explored] = generator.integers(q_values.shape[1], size=explored.sum())
        observations, *_ = env.step(actions)
    return th.cat(states)[:count], th.cat(values)[:count]


def make(env: gym.Env, network: dict[str, Any] | None, seed: int, epsilon: float = 1e-8) -> Any:
    """A policy of SB3's DQN, whose Adam has this epsilon."""
    kwargs: dict[str, Any] = {"optimizer_kwargs": {"fused": True, "eps": epsilon}}
    if network is None:
        kwargs |= {"features_extractor_class": ReluExtractor, "features_extractor_kwargs": SHAPE, "net_arch": []}
    else:
        kwargs |= {**SHAPE, **LEAKY, "num_steps": 4, **network}
    policy = "MlpPolicy" if network is None else SpikingPolicy
    return DQN(policy, env, LEARNING_RATE, buffer_size=1, policy_kwargs=kwargs, seed=seed, device="cpu").policy


def unexplained(predicted: th.Tensor, values: th.Tensor) -> float:
    """Share of the variance of values that a prediction leaves."""
    return float(((predicted - values) ** 2).mean() / ((values - values.mean(dim=0)) ** 2).mean())


def gradient(policy: Any) -> float:
    """Root mean square, as Adam keeps it, of the gradients of a weight of the body's dense layer: the median of all."""
    named = policy.q_net.features_extractor.named_parameters()
    weight = next(parameter for name, parameter in named if name.endswith("dense.0.connection.weight"))
    return float(policy.optimizer.state[weight]["exp_avg_sq"].sqrt().median())


def fit(policy: Any, states: th.Tensor, values: th.Tensor, updates: int, seed: int) -> dict[str, Any]:
    """Learn the first four fifths, and measure on the rest."""
    learned = len(states) * 4 // 5
    learn(policy, states[:learned], values[:learned], updates, BATCH_SIZE, seed)
    states, values = states[learned:], values[learned:]
    with th.no_grad():
        predicted = th.cat([policy.q_net(part) for part in states.split(1000)])
    advantages, predicted_advantages = (each - each.mean(dim=1, keepdim=True) for each in (values, predicted))
    layers = spike_counts(policy, states[:1000])
    return {
        "values": unexplained(predicted, values),
        "advantages": unexplained(predicted_advantages, advantages),
        "same": float((predicted.argmax(dim=1) == values.argmax(dim=1)).float().mean()),
        "gradient": gradient(policy),
        "rates": [layer.firing_rate for layer in layers],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="MinAtar/Asterix-v1", help="a game of MinAtar")
    parser.add_argument("-f", "--folder", default="relu-agents", help="RL Zoo's log folder of a ReLU DQN")
    parser.add_argument("--states", type=int, default=24_000)
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epsilon", type=float, default=1e-8, help="Adam's; 3.125e-4 in hyperparams/dqn.yml")
    parser.add_argument("--network", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--num-threads", type=int, default=1)
    args = parser.parse_args()

    th.set_num_threads(args.num_threads)
    states, values = played(load_agent(args.folder, "dqn", args.env, device="cpu"), args.states)
    lines = []
    for name in args.network:
        env = gym.make(args.env)
        policies = [make(env, NETWORKS[name], seed, args.epsilon) for seed in range(args.seeds)]
        runs = [fit(policy, states, values, args.updates, seed) for seed, policy in enumerate(policies)]
        cells = [f"{statistics.mean(run[key] for run in runs):.1%}" for key in ("values", "advantages", "same")]
        cells.append(f"{statistics.mean(run['gradient'] for run in runs):.1e}")
        rates = np.mean([run["rates"] for run in runs], axis=0)
        lines.append(f"| {name} | {' | '.join(cells)} | {', '.join(f'{rate:.1%}' for rate in rates)} |")
        print(lines[-1], flush=True)
    spread = float(values.std(dim=1).mean())
    print(f"\n{describe()}\nQ-values: std {values.std():.3g} over states, {spread:.3g} over actions\n")
    print("| | unexplained: values | advantages | same action | gradient | firing rates |\n|---|--:|--:|--:|--:|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
