"""benchmarks/value_fit.py: shares of variance by hand, and a function that can be learned."""

import gymnasium as gym
import pytest
import torch as th

import sb3_spiking.minatar  # noqa: F401  (registers its games)


@pytest.fixture
def value_fit(import_benchmark):
    return import_benchmark("value_fit")


def test_unexplained_variance_by_hand(value_fit):
    values = th.tensor([[0.0, 4.0], [2.0, 8.0]])  # variances 1 and 4
    assert value_fit.unexplained(values, values) == 0
    assert value_fit.unexplained(values.mean(dim=0).expand(2, 2), values) == 1
    assert value_fit.unexplained(values + 1, values) == pytest.approx(1 / 2.5)


@pytest.mark.parametrize("network", ["ReLU", "common-mode compensation"])
def test_a_network_learns_what_depends_on_one_cell(value_fit, network):
    states = th.zeros(1000, 10, 10, 4, dtype=th.bool)
    states[:, 5, 5, 1] = True
    states[:, 4, 4, 0] = th.arange(1000) % 2 == 0
    advantages = th.tensor([1.0, -1.0, 0.0])
    values = 2 + th.where(states[:, 4, 4, 0, None], advantages, -advantages)
    policy = value_fit.make(gym.make("MinAtar/Breakout-v1"), value_fit.NETWORKS[network], seed=0)
    measured = value_fit.fit(policy, states, values, updates=120, seed=0)
    assert measured["values"] < 0.2
    assert measured["advantages"] < 0.2
    assert measured["same"] > 0.95
    assert len(measured["rates"]) == (0 if network == "ReLU" else 2)
    assert all(0 < rate < 1 for rate in measured["rates"])


@pytest.mark.parametrize("network", ["ReLU", "common-mode compensation"])
def test_gradient_is_what_adam_keeps(value_fit, network):
    policy = value_fit.make(gym.make("MinAtar/Breakout-v1"), value_fit.NETWORKS[network], seed=0)
    for parameter in policy.q_net.parameters():
        parameter.grad = th.full_like(parameter, 0.5)
    policy.optimizer.step()
    assert value_fit.gradient(policy) == pytest.approx((0.001 * 0.5**2) ** 0.5)  # Adam's second beta is 0.999
