"""An agent plays, and everything in it is recorded."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_spiking.evaluation.decisions import Decider
from sb3_spiking.evaluation.operations import ENERGIES, Energy
from sb3_spiking.evaluation.returns import Returns
from sb3_spiking.look import screen
from sb3_spiking.look.notes import ALL, Notes, Watch
from sb3_spiking.look.recording import Recording


def record(
    model: BaseAlgorithm,
    env: gym.Env | VecEnv | str,
    decisions: int = 300,
    *,
    seed: int = 0,
    epsilon: float = 0.0,
    layers: Sequence[str] | str = ALL,
    membranes: Sequence[str] | str = (),
    energy: Energy = ENERGIES["45nm-float32"],
    agent: str = "agent",
) -> Recording:
    """
    Let an agent play, until the episode ends or after a number of decisions. The same seed records the same, whatever the
    state of torch's random generator, which stays as it is. A VecNormalize around the environment keeps its statistics, and
    rewards are those of the game.

    :param model: of any algorithm of SB3; Q-values are recorded of DQN
    :param env: Gymnasium environment, a VecEnv of one, or an id; with ``render_mode="rgb_array"`` the recording has pictures
    :param decisions: at most
    :param seed: of the environment, of random actions and of random spikes
    :param epsilon: probability of a random action
    :param layers: names of those that are kept, or ``"all"``
    :param membranes: names of the layers whose membranes are kept, or ``"all"``: 4 bytes for each neuron and step
    :param energy: of the operations
    :param agent: its name
    :return: the recording
    :raises ValueError: for wrong numbers, names of layers that the network does not have, or an environment that is not the
        agent's
    """
    if decisions < 1:
        raise ValueError(f"decisions={decisions}: expected a whole number of at least 1")
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon={epsilon}: expected 0 to 1")
    if epsilon and not isinstance(model.action_space, gym.spaces.Discrete):
        raise ValueError(f"epsilon={epsilon}: random actions are discrete; those of the agent are {model.action_space}")
    made = isinstance(env, str)
    if isinstance(env, str):
        env = gym.make(env)
    venv = model._wrap_env(env, verbose=0, monitor_wrapper=False)
    decide = Decider(model.policy)
    normalized: VecNormalize | None = None
    try:
        if venv.num_envs != 1:
            raise ValueError(f"an environment of {venv.num_envs} in parallel: expected one")
        for name in ("observation_space", "action_space"):
            here, agents = getattr(venv, name), getattr(model, name)
            if here != agents:
                raise ValueError(f"{name} of the environment is {here}, that of the agent {agents}")
        training = model.get_vec_normalize_env()
        if training is not None and training.norm_obs and unwrap_vec_normalize(venv) is None:
            raise ValueError("the agent sees normalised observations: expected its own VecNormalize around the environment")
        venv.seed(seed)
        normalized = unwrap_vec_normalize(venv)
        if normalized is not None:  # its statistics stay, and rewards are those of the game
            before = normalized.training, normalized.norm_reward
            normalized.training = normalized.norm_reward = False
        return play(
            decide,
            venv,
            decisions,
            seed=seed,
            random_actions=np.random.default_rng(seed),
            epsilon=epsilon,
            notes=Notes(agent, venv, decide.network, layers, membranes, energy),
        )
    finally:
        if normalized is not None:
            normalized.training, normalized.norm_reward = before
        if made:
            venv.close()


def play(
    decide: Decider,
    env: VecEnv,
    decisions: int,
    *,
    seed: int,
    random_actions: np.random.Generator,
    epsilon: float,
    notes: Notes,
    on_step: Callable[[], Any] | None = None,
    lives: bool = False,
) -> Recording:
    """
    :param decide: the agent
    :param env: of one environment, seeded
    :param decisions: at most
    :param seed: of random spikes
    :param random_actions: what they are drawn from
    :param epsilon: probability of one
    :param notes: without anything yet
    :param on_step: called after each decision
    :param lives: whether the environment's episodes are lives: the recording goes on until the game ends
    :return: the recording; rewards are those of the environment itself where :class:`~sb3_spiking.evaluation.returns.Returns`
        says them
    """
    total = 0.0
    drawn, over = screen.is_drawn(env), False
    device = decide.policy.device
    with Watch(decide.network, notes.energy) as watch, th.random.fork_rng([device] if device.type == "cuda" else []):
        th.manual_seed(seed)
        observation: Any = env.reset()
        while not over and len(notes) < decisions:
            watch.clear()
            actions, values = decide(observation)
            notes.decided(observation, screen.frame(env) if drawn else None, values, watch)
            explored = random_actions.random() < epsilon
            if explored:
                actions[0] = random_actions.integers(env.action_space.n)  # type: ignore[attr-defined]
            observation, rewards, dones, infos = env.step(actions)
            before, total = total, infos[0].get(Returns.NAME, total + float(rewards[0]))
            notes.acted(actions[0], explored, total - before, infos[0].get("lives", -1))
            over = "episode" in infos[0] if lives else bool(dones[0])
            if on_step is not None:
                on_step()
    return notes.recording(over)
