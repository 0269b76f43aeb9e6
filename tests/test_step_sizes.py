"""benchmarks/step_sizes.py: sizes by hand, and those of an agent from its file."""

import pytest
import torch as th
from stable_baselines3 import DQN

from sb3_spiking import SpikingPolicy

GRADIENT = (0.001 * 2.0**2) ** 0.5  # after one gradient of 2; Adam's second beta is 0.999
STEP = 0.01 * GRADIENT / (GRADIENT + 0.3)


@pytest.fixture
def agent():
    kwargs = dict(net_arch=[4], num_steps=2, common_mode=True, optimizer_kwargs=dict(eps=0.3))
    agent = DQN(SpikingPolicy, "CartPole-v1", 0.01, buffer_size=1, policy_kwargs=kwargs, seed=0, device="cpu")
    for parameter in agent.policy.q_net.parameters():
        parameter.grad = th.full_like(parameter, 2.0)
    agent.policy.optimizer.step()
    return agent


def test_sizes_by_hand(agent, import_benchmark):
    sizes = import_benchmark("step_sizes").step_sizes(agent.policy)
    assert len(sizes) == 2  # the body's layer and the output, not the common mode network's
    for size in sizes.values():
        assert size == pytest.approx((GRADIENT, STEP))


def test_an_agent_from_its_file(agent, tmp_path, import_benchmark, monkeypatch, capsys):
    run = tmp_path / "dqn" / "CartPole-v1_1"
    (run / "CartPole-v1").mkdir(parents=True)
    agent.save(run / "CartPole-v1")
    monkeypatch.setattr("sys.argv", ["step_sizes.py", "--env", "CartPole-v1", "-f", str(tmp_path)])
    import_benchmark("step_sizes").main()
    cells = [f"{GRADIENT:.1e}"] * 2 + [f"{STEP:.1e}"] * 2
    assert capsys.readouterr().out.endswith(f"| {' | '.join(cells)} |\n")
