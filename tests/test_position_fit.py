"""benchmarks/position_fit.py: shares of variance by hand, a dot that can be found, and what the memory says of the ball."""

import ale_py
import gymnasium as gym
import pytest
import torch as th


@pytest.fixture
def position_fit(import_benchmark):
    return import_benchmark("position_fit")


def test_explained_variance_by_hand(position_fit):
    values = th.tensor([[0.0, 4.0], [2.0, 8.0]])  # variances 1 and 4
    assert position_fit.explained(values, values).tolist() == [1, 1]
    assert position_fit.explained(values.mean(dim=0).expand(2, 2), values).tolist() == [0, 0]
    assert position_fit.explained(values + 1, values).tolist() == pytest.approx([0, 0.75])


@pytest.mark.parametrize("network", ["ReLU", "no leak, reset by subtraction, slope 2"])
def test_a_network_learns_where_a_dot_is(position_fit, network):
    rows = th.arange(2000) % 36
    frames = th.full((2000, 4, 42, 42), 87, dtype=th.uint8)
    for part in range(6):
        frames[th.arange(2000), :, rows + part, 20:26] = 236
    position = ((rows - rows.float().mean()) / rows.float().std())[:, None].expand(-1, 3)
    _, shape = position_fit.SHAPES["small"]
    chosen = position_fit.NETWORKS[network]
    policy = position_fit.make((4, 42, 42), chosen and {**chosen, "num_steps": 4}, shape, seed=0, rate=1e-3)
    shares, rates = position_fit.fit(policy, frames, position, updates=100, seed=0)
    assert min(shares) > 0.8
    assert len(rates) == (0 if network == "ReLU" else 3)


def test_frames_and_positions_belong_together(position_fit):
    gym.register_envs(ale_py)
    frames, positions = position_fit.played(2000, 84)
    assert frames.shape[1:] == (4, 84, 84)
    assert positions.shape == (len(frames), 3)
    assert positions.mean(dim=0).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    # The agent's paddle, in the columns on the right, is the brightest thing there
    paddle = frames[:, -1, 14:78, 73:77].float().mean(dim=2)
    seen = (paddle - paddle.amin(dim=1, keepdim=True)).clamp(min=0)
    centre = (seen * th.arange(seen.shape[1])).sum(dim=1) / seen.sum(dim=1).clamp(min=1e-6)
    assert th.corrcoef(th.stack([centre, positions[:, 2]]))[0, 1] > 0.9
