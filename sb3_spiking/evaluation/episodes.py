"""Episodes of a trained agent under a protocol, in parallel environments."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_spiking.errors import AgentError
from sb3_spiking.evaluation.agents import Agent
from sb3_spiking.evaluation.decisions import Decider
from sb3_spiking.evaluation.operations import Energy, LayerOperations, OperationCounter
from sb3_spiking.evaluation.returns import Returns


@dataclass(frozen=True)
class Protocol:
    """
    How an agent is evaluated.

    :param name: key in :data:`PROTOCOLS`
    :param episodes: number of episodes
    :param epsilon: probability of a random action; None acts as RL Zoo does: greedily, but in Atari and MiniGrid games with
        the exploration of the model
    :param max_steps: decisions after which an episode ends, None for the environment's own limit
    :param whole_games: in Atari, an episode is a whole game and rewards are not clipped
    """

    name: str
    episodes: int
    epsilon: float | None
    max_steps: int | None
    whole_games: bool


#: ``paper``: Liu et al. 2022 (arXiv 2201.07211), with the up to 30 no-ops of SB3's AtariWrapper. ``zoo``: as RL Zoo evaluates.
PROTOCOLS = {
    "paper": Protocol("paper", 30, 0.05, 18_000, True),
    "zoo": Protocol("zoo", 5, None, None, False),
}


# Seeds share no game up to this number of episodes
_EPISODES_OF_A_SEED = 1_000_000


def seed_of(seed: int, number: int) -> int:
    """The seed of an episode's environment."""
    return _EPISODES_OF_A_SEED * seed + number


def exploration_of(seed: int, number: int) -> np.random.Generator:
    """What an episode's random actions are drawn from."""
    return np.random.default_rng([seed, number])


@dataclass
class Operations:
    """
    Sums over decisions of a layer's :class:`~sb3_spiking.evaluation.operations.LayerOperations`.

    :param neurons: of the layer
    :param steps: of its window
    :param parameters: of the layer
    :param multiply_accumulates: in all decisions, like the following
    :param accumulates: synaptic operations
    :param updates: of neurons
    :param spikes: that it emitted
    :param picojoules: of everything
    """

    neurons: int
    steps: int
    parameters: int
    multiply_accumulates: float = 0.0
    accumulates: float = 0.0
    updates: float = 0.0
    spikes: float = 0.0
    picojoules: float = 0.0


@dataclass
class Episode:
    """
    What an episode came to.

    :param number: of the episode
    :param score: sum of the rewards as the environment gives them inside of its wrappers, of a whole game of Atari
    :param steps: decisions
    :param max_q: highest Q-value, NaN without Q-values, like the next
    :param q_spread: mean over decisions of the standard deviation of Q over actions
    :param counted: greedy decisions, over which operations are counted
    :param operations: sums over these by layer
    """

    number: int
    score: float = 0.0
    steps: int = 0
    max_q: float = -math.inf
    q_spread: float = 0.0
    counted: int = 0
    operations: dict[str, Operations] = field(default_factory=dict)


def decider(agent: Agent, protocol: Protocol) -> Decider:
    """
    :return: greedy decisions of the agent. Where RL Zoo evaluates with random actions, policies other than DQN's draw them
        from their distribution
    """
    return Decider(agent.model.policy, deterministic=protocol.epsilon is not None or not agent.is_stochastic)


def exploration(agent: Agent, protocol: Protocol) -> float:
    """
    :return: probability of a random action
    :raises AgentError: if the protocol's random actions are not discrete ones of the agent
    """
    if protocol.epsilon is None:
        return float(getattr(agent.model, "exploration_rate", 0.0)) if agent.is_stochastic else 0.0
    if protocol.epsilon and not isinstance(agent.model.action_space, spaces.Discrete):
        raise AgentError(
            f"{agent.path}: the protocol {protocol.name!r} takes random actions with probability {protocol.epsilon}, which "
            f"are defined for discrete actions, not for {agent.model.action_space}; use --epsilon 0 or --protocol zoo"
        )
    return protocol.epsilon


def run_episodes(
    agent: Agent,
    protocol: Protocol,
    numbers: Iterable[int],
    *,
    seed: int = 0,
    n_envs: int = 8,
    energy: Energy | None = None,
    subprocesses: bool = False,
    on_step: Callable[[], Any] | None = None,
) -> Iterator[Episode]:
    """
    An episode is the same whatever others run beside it: its environment and its random actions have seeds of their own.

    :param agent: who plays
    :param protocol: how
    :param numbers: of the episodes to play
    :param seed: of the games: episode ``n`` has the seed ``1,000,000 seed + n``
    :param n_envs: environments in parallel
    :param energy: count operations, with these costs
    :param subprocesses: one process for each environment
    :param on_step: called after each step of the environments
    :return: the episodes, each as it ends
    """
    left = sorted(numbers)
    epsilon = exploration(agent, protocol)
    decide = decider(agent, protocol)
    while left:
        first = left[0]
        wanted = {number for number in left if number < first + n_envs}
        count = max(wanted) - first + 1
        together = subprocesses and count > 1
        env = agent.make_env(count, seed_of(seed, first), whole_games=protocol.whole_games, subprocesses=together)
        try:
            episodes = range(first, first + count)
            yield from _play(agent, protocol, epsilon, decide, env, episodes, wanted, seed, energy, on_step)
        finally:
            env.close()
        left = [number for number in left if number not in wanted]


def _play(
    agent: Agent,
    protocol: Protocol,
    epsilon: float,
    decide: Decider,
    env: VecEnv,
    numbers: range,
    wanted: set[int],
    seed: int,
    energy: Energy | None,
    on_step: Callable[[], Any] | None,
) -> Iterator[Episode]:
    """One episode in each environment."""
    generators = [exploration_of(seed, number) for number in numbers]
    playing = {place: Episode(number) for place, number in enumerate(numbers) if number in wanted}
    action_space: Any = agent.model.action_space
    observations = env.reset()
    counter = OperationCounter(decide.network, energy is not None and energy.boolean_spikes)
    with counter if energy is not None else contextlib.nullcontext():
        while playing:
            counter.clear()
            actions, values = decide(observations)
            explored = np.array([generator.random() < epsilon for generator in generators])
            for place, generator in enumerate(generators):
                if explored[place]:
                    actions[place] = generator.integers(action_space.n)
            for place, episode in playing.items():
                _note(episode, values, place, None if explored[place] else counter.layers, energy)
            observations, rewards, dones, infos = env.step(actions)
            if on_step is not None:
                on_step()
            for place, episode in list(playing.items()):
                # Wrappers may change rewards; one that passes no info on has the last word
                episode.score = infos[place].get(Returns.NAME, episode.score + float(rewards[place]))
                episode.steps += 1
                # Where a life of Atari is an episode, Monitor, which sits inside of that, knows the end of a game
                is_life = agent.is_atari and not protocol.whole_games
                over = "episode" in infos[place] if is_life else bool(dones[place])
                if over or episode.steps == protocol.max_steps:
                    del playing[place]
                    episode.q_spread /= episode.steps
                    if values is None:
                        episode.max_q = episode.q_spread = math.nan
                    yield episode


def _note(
    episode: Episode, values: np.ndarray | None, place: int, layers: list[LayerOperations] | None, energy: Energy | None
) -> None:
    if values is not None:
        episode.max_q = float(np.maximum(episode.max_q, values[place].max()))  # NaN stays
        episode.q_spread += float(values[place].std())
    if layers is None or energy is None:
        return
    episode.counted += 1
    for layer in layers:
        total = episode.operations.setdefault(layer.name, Operations(layer.neurons, layer.steps, layer.parameters))
        for name in ("multiply_accumulates", "accumulates", "updates", "spikes"):
            setattr(total, name, getattr(total, name) + float(getattr(layer, name)[place]))
        total.picojoules += float(layer.picojoules(energy)[place])
