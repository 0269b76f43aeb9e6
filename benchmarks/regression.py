"""Networks that learn by regression, without reinforcement learning: for value_fit.py and position_fit.py."""

from typing import Any

import torch as th
from torch.nn import functional as F
from tqdm import trange


def learn(policy: Any, inputs: th.Tensor, targets: th.Tensor, updates: int, batch_size: int, seed: int) -> None:
    """
    Fit the values of a policy of SB3's DQN to targets, with its own optimizer, DQN's loss and its clipping of gradients.

    :param policy: changed in place
    :param inputs: observations, shape (N, \\*)
    :param targets: shape (N, A)
    :param updates: batches to learn from
    :param batch_size: rows in each, drawn with replacement
    :param seed: of the draws
    """
    generator = th.Generator().manual_seed(seed)
    for _ in trange(updates, leave=False):
        batch = th.randint(len(inputs), (batch_size,), generator=generator)
        loss = F.smooth_l1_loss(policy.q_net(inputs[batch]), targets[batch])
        policy.optimizer.zero_grad()
        loss.backward()
        th.nn.utils.clip_grad_norm_(policy.q_net.parameters(), 10)
        policy.optimizer.step()
