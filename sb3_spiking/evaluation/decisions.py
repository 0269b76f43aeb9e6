"""What a policy decides, and what that is based on."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import BaseModel, BasePolicy
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_spiking.policies import SpikingQNetwork


class Decider:
    """
    Greedy actions of a policy and what they are based on.

    :param policy: of any algorithm; it is put into evaluation mode
    :param deterministic: whether policies other than DQN's take their most likely action, or draw one
    """

    def __init__(self, policy: BasePolicy, deterministic: bool = True) -> None:
        self.policy: Any = policy
        self.deterministic = deterministic
        policy.set_training_mode(False)
        #: what decides: the Q-network, or the whole policy
        self.network: BaseModel = policy.q_net if isinstance(policy, DQNPolicy) else policy

    def __call__(self, observations: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Greedy actions (B, \\*) and Q-values (B, A), None for a policy without."""
        if not isinstance(self.policy, DQNPolicy):
            return self.policy.predict(observations, deterministic=self.deterministic)[0], None
        inputs, _ = self.policy.obs_to_tensor(observations)
        with th.no_grad():
            if isinstance(self.network, SpikingQNetwork):
                values = self.network.spiking_values(inputs)
                actions, values = values.argmax(dim=1), self.network.compensated(values, inputs)
            else:
                values = self.network(inputs)
                actions = values.argmax(dim=1)
        return actions.cpu().numpy(), values.cpu().numpy()
