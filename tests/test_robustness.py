"""Perturbations, and the command that plays with them."""

import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from gymnasium import spaces
from processes import environment

from sb3_spiking.evaluation.agents import load_agent
from sb3_spiking.evaluation.perturbations import MaskedPixels, OcclusionBar, quantised


class Frames(gym.Env):
    """White images, or a vector of ones."""

    action_space = spaces.Discrete(2)

    def __init__(self, shape):
        image = len(shape) == 3
        self.observation_space = spaces.Box(0, 255 if image else 2, shape, np.uint8 if image else np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action):
        return self._observation(), 0.0, False, False, {}

    def _observation(self):
        space = self.observation_space
        return np.full(space.shape, space.high.max(), space.dtype)


@pytest.mark.parametrize("shape", [(84, 84, 1), (4, 84, 84)])
def test_the_bar(shape):
    env = OcclusionBar(Frames(shape), top=10)
    for observation in (env.reset()[0], env.step(0)[0]):
        lines = observation.reshape(84, 84) if shape[-1] == 1 else observation[2]
        assert (lines[10:13] == 0).all()
        assert (lines[:10] == 255).all()
        assert (lines[13:] == 255).all()
    assert OcclusionBar(Frames(shape), top=81).reset()[0].min() == 0
    with pytest.raises(ValueError, match="top=82"):
        OcclusionBar(Frames(shape), top=82)
    with pytest.raises(ValueError, match="takes images"):
        OcclusionBar(Frames((4,)), top=0)


def test_masked_pixels():
    env = MaskedPixels(Frames((4, 36, 36)), share=0.25)
    first, _ = env.reset(seed=5)
    assert (first[0] == 0).sum() == 36 * 36 // 4
    assert all(np.array_equal(first[0], channel) for channel in first)
    assert np.array_equal(env.step(0)[0], first)
    assert first.dtype == np.uint8
    second, _ = env.reset()
    assert not np.array_equal(second, first)
    assert np.array_equal(env.reset(seed=5)[0], first)
    assert MaskedPixels(Frames((10,)), share=1.0).reset()[0].sum() == 0
    assert MaskedPixels(Frames((10,)), share=0.3).reset()[0].tolist().count(0.0) == 3
    with pytest.raises(ValueError, match=r"share=1\.5"):
        MaskedPixels(Frames((10,)), share=1.5)


def test_quantised_weights(relu_run):
    model = load_agent(relu_run / "relu", "dqn", "CartPole-v1").model
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    other = quantised(model, 4)
    for name, value in other.policy.state_dict().items():
        if not name.endswith("weight"):
            assert value.equal(before[name])
            continue
        step = before[name].abs().max() / 7
        assert (value - before[name]).abs().max() <= step / 2 * 1.0001
        assert len(value.unique()) <= 15
        assert not value.equal(before[name])
    assert other.q_net is other.policy.q_net
    for name, value in model.policy.state_dict().items():
        assert value.equal(before[name])


def test_robustness_command_survives_a_kill(relu_run, in_process):
    arguments = (
        "--env CartPole-v1 -f relu --perturbations mask --levels 0 50 100 --episodes 4 --max-steps 200 --n-envs 1 -o rob"
    )
    full = [sys.executable, "-m", "sb3_spiking", "robustness", *arguments.split()]
    process = subprocess.Popen(full, cwd=relu_run, env=environment(), stderr=subprocess.DEVNULL)
    rows = relu_run / "rob/episodes.csv"
    while not (rows.exists() and rows.read_text().count("\n") > 2):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = rows.read_text()
    in_process("robustness", arguments, relu_run)
    assert rows.read_text().startswith(before[: before.rfind("\n") + 1])
    table = pd.read_csv(relu_run / "rob/robustness.csv")
    assert list(table["level"]) == [0, 50, 100]
    assert (table["episodes"] == 4).all()
    assert (relu_run / "rob/robustness.png").stat().st_size > 10_000
