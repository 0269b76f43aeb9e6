"""
Steps per second of DQN.learn, spiking beside ReLU networks of the same shape with the same training: environment, replay,
acting and updates together.

    python benchmarks/learn_speed.py
    python benchmarks/learn_speed.py --policy-kwargs input_scale:10  # the defaults, firing more

CartPole and Breakout have two layers of 256 and the paper's network, an update of 32 samples every 4 steps and as many
simulation steps as ``--num-steps`` says. The paper's network starts out silent (docs/laboratory.md); here its weights are
scaled so that every layer fires in about a tenth of the steps on noise. The others are trained exactly as
``-f sb3_spiking`` trains them. The learning rate is 0, so that all of them go on firing as at the start.
"""

import argparse
import contextlib
import os
import tempfile
import time
from typing import Any

import ale_py
import gymnasium as gym
import peers
import torch as th
from machine import describe
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import StoreDict
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack
from tqdm import tqdm

import sb3_spiking.minatar  # noqa: F401  (registers its games)
from sb3_spiking import FrameStackReplayBuffer, ReluExtractor, SpikingPolicy
from sb3_spiking.relu import SHAPE_SETTINGS
from sb3_spiking.training.callbacks import spike_counts
from sb3_spiking.zoo.hyperparams import HYPERPARAMS_FILE

TRAINING = {"learning_starts": 100, "train_freq": 4, "batch_size": 32, "buffer_size": 10_000, "learning_rate": 0.0}
SIZE = [256, 256]
# What a training has before it learns, shortened
SHORT = {"learning_starts": 100, "buffer_size": 10_000, "learning_rate": 0.0, "callback": None}
DEFAULTS = ("CartPole-v1", "MinAtar/Breakout-v1", "BreakoutNoFrameskip-v4")


def relu_like(settings: Any) -> dict[str, Any]:
    """Arguments of an SB3 policy with the ReLU network of the shape of a spiking one."""
    shape = {name: value for name in SHAPE_SETTINGS if (value := getattr(settings, name)) is not None}
    return {"features_extractor_class": ReluExtractor, "features_extractor_kwargs": shape, "net_arch": []}


def with_steps(game: str, num_steps: int | None, gradients: str, device: str) -> DQN:
    """
    :param game: ``Breakout`` or ``CartPole``
    :param num_steps: simulation steps of a window, None for ReLU
    :param gradients: the setting
    :param device: of the networks
    :return: a DQN
    """
    env: VecEnv | str = "CartPole-v1"
    arguments: dict[str, Any] = {**TRAINING, "device": device, "seed": 0}
    if game == "Breakout":
        env = VecFrameStack(make_atari_env("BreakoutNoFrameskip-v4", seed=0), 4)
        arguments["replay_buffer_class"] = FrameStackReplayBuffer
    if num_steps is None:
        if game == "Breakout":
            return DQN("CnnPolicy", env, **arguments)
        return DQN("MlpPolicy", env, policy_kwargs={"net_arch": SIZE}, **arguments)
    settings: dict[str, Any] = {"preset": "liu2022"} if game == "Breakout" else {"net_arch": SIZE}
    model = DQN(SpikingPolicy, env, policy_kwargs={"num_steps": num_steps, "gradients": gradients, **settings}, **arguments)
    if game == "Breakout":
        model.policy.load_state_dict(peers.spiking_policy(num_steps).state_dict(), strict=False)
    return model


def default(env: str, spiking: bool, device: str, changed: dict[str, Any]) -> DQN:
    """
    :param env: name of the environment
    :param spiking: whether the network spikes
    :param device: of the networks
    :param changed: policy_kwargs of the spiking network that are changed
    :return: a DQN as ``-f sb3_spiking`` trains it
    """

    def manager(hyperparams: dict[str, Any]) -> ExperimentManager:
        arguments = argparse.Namespace(env=env, algo="dqn")
        return ExperimentManager(
            arguments, "dqn", env, folder, n_timesteps=1000, eval_freq=-1, hyperparams={**SHORT, **hyperparams}, verbose=0,
            device=device, config=str(HYPERPARAMS_FILE),
        )  # fmt: skip

    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        experiment = manager({}).setup_experiment()
        assert experiment is not None
        model = experiment[0]
        assert isinstance(model, DQN)
        assert isinstance(model.policy, SpikingPolicy)
        policy_kwargs = {**model.policy_kwargs}
        settings = model.policy.settings
        hyperparams: dict[str, Any] = {}
        if not spiking:
            optimizer = {"optimizer_kwargs": policy_kwargs.get("optimizer_kwargs", {})}
            hyperparams = {"policy": "MlpPolicy", "policy_kwargs": {**relu_like(settings), **optimizer}}
        elif changed:
            hyperparams = {"policy_kwargs": {**policy_kwargs, **changed}}
        if hyperparams:
            experiment = manager(hyperparams).setup_experiment()
            assert experiment is not None
            model = experiment[0]
    assert isinstance(model, DQN)
    return model


def firing_rate(model: DQN) -> str:
    """Mean over the layers of the share of simulation steps in which a neuron fires, on stored observations."""
    if not isinstance(model.policy, SpikingPolicy):
        return ""
    assert model.replay_buffer is not None
    layers = spike_counts(model.policy, model.replay_buffer.sample(32).observations)
    rates = [layer.firing_rate for layer in layers]
    return f"{sum(rates) / len(rates):.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=512, help="steps of a turn")
    parser.add_argument("--repeats", type=int, default=5, help="rounds in which each network has its turn")
    parser.add_argument("--num-steps", type=int, nargs="*", default=[8, 64])
    parser.add_argument("--policy-kwargs", nargs="+", action=StoreDict, default={}, help="what is changed of the defaults")
    parser.add_argument("--games", nargs="+", default=["CartPole", "Breakout", *DEFAULTS], help="which of the five")
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()

    gym.register_envs(ale_py)
    th.set_num_threads(args.num_threads)
    models: dict[tuple[str, str], DQN] = {}
    for game in args.games:
        if game in DEFAULTS:
            for name, spiking in (("ReLU", False), ("`-f sb3_spiking`", True)):
                models[game, name] = default(game, spiking, args.device, args.policy_kwargs)
        else:
            models[game, "ReLU"] = with_steps(game, None, "exact", args.device)
            for num_steps in args.num_steps:
                models[game, f"spiking, T = {num_steps}"] = with_steps(game, num_steps, "exact", args.device)
                models[game, f"spiking, T = {num_steps}, through rates"] = with_steps(game, num_steps, "rates", args.device)
    rates: dict[tuple[str, str], list[float]] = {name: [] for name in models}
    for model in models.values():
        model.learn(400)
    for _ in tqdm(range(args.repeats)):
        for key, model in models.items():
            before, start = model.num_timesteps, time.perf_counter()
            model.learn(args.steps, reset_num_timesteps=False)
            rates[key].append((model.num_timesteps - before) / (time.perf_counter() - start))
    print(f"\n{describe()}; {args.device}, {args.num_threads} threads")
    print(f"medians of {args.repeats} interleaved rounds of {args.steps} steps\n")
    print("| environment | network | fires | steps per second | of ReLU |")
    print("|---|---|--:|--:|--:|")
    for (game, name), each in rates.items():
        median, relu = (sorted(rates[key])[len(each) // 2] for key in ((game, name), (game, "ReLU")))
        print(f"| {game} | {name} | {firing_rate(models[game, name])} | {median:.0f} | {median / relu:.2f} |")


if __name__ == "__main__":
    main()
