"""Agents that learned with common-mode compensation, without what they needed to learn alone."""

import copy

from stable_baselines3 import DQN

from sb3_spiking.policies import SpikingPolicy


def without_common_mode(model: DQN) -> DQN:
    """
    :param model: an agent that learned with ``common_mode``
    :return: a copy without the network that it needs to learn alone; takes the same actions, saves and loads as any agent
    :raises ValueError: for another agent
    """
    policy = model.policy
    if not isinstance(policy, SpikingPolicy) or policy.common_mode is False:
        raise ValueError(
            f"{type(policy).__name__} has no common mode network: expected an agent trained with common_mode=True"
        )
    other = copy.copy(model)
    other.policy_kwargs = {name: value for name, value in model.policy_kwargs.items() if name != "common_mode"}
    other.policy = type(policy)(**{**policy._get_constructor_parameters(), "common_mode": False}).to(model.device)
    state = {name: value for name, value in policy.q_net.state_dict().items() if not name.startswith("common_mode.")}
    other.policy.q_net.load_state_dict(state)
    other.policy.q_net_target.load_state_dict(state)
    other._create_aliases()
    return other
