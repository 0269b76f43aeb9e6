"""FrameStackReplayBuffer beside SB3's own buffers on the same streams."""

import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize, VecTransposeImage

from sb3_spiking import FrameStackReplayBuffer, SpikingPolicy


class Frames(gym.Env):
    """Random frames; episodes of 1 to 9 steps that end or are truncated."""

    action_space = spaces.Discrete(3)

    def __init__(self, shape, seed, dtype=np.uint8):
        bounds = (0, 255) if dtype == np.uint8 else (-1, 1)
        self.observation_space = spaces.Box(*bounds, shape, dtype)
        self.observation_space.seed(seed)
        self.random = np.random.default_rng(seed)

    def reset(self, *, seed=None, options=None):
        self.left = self.random.integers(1, 10)
        return self.observation_space.sample(), {}

    def step(self, action):
        self.left -= 1
        ends = self.left == 0
        truncated = bool(ends and self.random.random() < 0.5)
        return self.observation_space.sample(), self.random.normal(), ends and not truncated, truncated, {}


def gray(seed):
    return Frames((16, 15, 1), seed)


def color(seed):
    return Frames((16, 15, 3), seed)


def vector(seed):
    return Frames((5,), seed, np.float32)


def stacked_inside(seed):
    # The first frame of an episode repeated: gymnasium's wrapper, stacking along the first dimension
    env = FrameStackObservation(Frames((16, 15), seed), 4)
    return gym.wrappers.TransformObservation(env, np.asarray, spaces.Box(0, 255, (4, 16, 15), np.uint8))


STREAMS = {
    "gray": lambda n: VecTransposeImage(VecFrameStack(DummyVecEnv([lambda i=i: gray(i) for i in range(n)]), 4)),
    "color": lambda n: VecTransposeImage(VecFrameStack(DummyVecEnv([lambda i=i: color(i) for i in range(n)]), 4)),
    "channels last": lambda n: VecFrameStack(DummyVecEnv([lambda i=i: gray(i) for i in range(n)]), 4),
    "vector": lambda n: VecFrameStack(DummyVecEnv([lambda i=i: vector(i) for i in range(n)]), 4),
    "stacked inside": lambda n: DummyVecEnv([lambda i=i: stacked_inside(i) for i in range(n)]),
}


def fill(buffers, env, steps, restart_at=None):
    """Store transitions as SB3's algorithms do."""
    obs = env.reset()
    for step in range(steps):
        if step == restart_at:
            obs = env.reset()
        actions = np.array([env.action_space.sample() for _ in range(env.num_envs)])
        new_obs, rewards, dones, infos = env.step(actions)
        next_obs = new_obs.copy()
        for i, done in enumerate(dones):
            if done:
                next_obs[i] = infos[i]["terminal_observation"]
        for buffer in buffers:
            buffer.add(obs.copy(), next_obs.copy(), actions, rewards, dones, infos)
        obs = new_obs


def make_buffers(env, size, n_steps=1, **kwargs):
    arguments = (size, env.observation_space, env.action_space, "cpu", env.num_envs)
    if n_steps == 1:
        theirs = ReplayBuffer(*arguments, **kwargs)
    else:
        theirs = NStepReplayBuffer(*arguments, n_steps=n_steps, gamma=0.9, **kwargs)
    return FrameStackReplayBuffer(*arguments, n_steps=n_steps, gamma=0.9, **kwargs), theirs


def assert_same(ours, theirs):
    filled = theirs.buffer_size if theirs.full else theirs.pos
    slots, envs = (grid.ravel() for grid in np.mgrid[:filled, : theirs.n_envs])
    assert np.array_equal(ours.observations[slots, envs], theirs.observations[slots, envs])
    assert np.array_equal(ours.next_observations[slots, envs], theirs.next_observations[slots, envs])
    samples = []
    for buffer in (ours, theirs):
        np.random.seed(1)
        samples.append(buffer.sample(64))
    for sample, expected in zip(*samples, strict=True):
        assert (sample is None and expected is None) or (sample.equal(expected) and sample.dtype == expected.dtype)


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("stream", STREAMS)
def test_the_same_samples_as_sb3(stream, n_envs, n_steps):
    env = STREAMS[stream](n_envs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in (n_envs, 5 * n_envs, 40 * n_envs):
            ours, theirs = make_buffers(env, size, n_steps)
            for steps in (1, 2, 17, 60):
                fill((ours, theirs), env, steps)
                assert_same(ours, theirs)


@pytest.mark.parametrize("handle_timeout_termination", [True, False])
def test_a_reset_in_mid_episode(handle_timeout_termination):
    env = STREAMS["gray"](2)
    ours, theirs = make_buffers(env, 60, handle_timeout_termination=handle_timeout_termination)
    for restart_at in range(1, 12):
        fill((ours, theirs), env, 12, restart_at)
        assert_same(ours, theirs)


def test_what_is_no_stack_is_stored_whole_and_says_so_once():
    env = DummyVecEnv([lambda: Frames((4, 16, 15), 0)])
    ours, theirs = make_buffers(env, 20)
    with pytest.warns(UserWarning, match="stored as a whole") as warned:
        fill((ours, theirs), env, 50)
    assert len(warned) == 1
    assert_same(ours, theirs)


def test_what_is_stored_apart_does_not_pile_up():
    for stream in ("gray", "stacked inside"):
        env = STREAMS[stream](2)
        for size in (2, 10, 100):
            ours, _ = make_buffers(env, size)
            fill((ours,), env, 300)
            # at most one end and one history for each transition that is left, and a few that wait
            assert len(ours.frames._ends) <= 2 * ours.buffer_size
            assert len(ours.frames._histories) <= 2 * (ours.buffer_size + 5)


def test_atari_fits_into_8_gb():
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    buffers = [FrameStackReplayBuffer(size, space, spaces.Discrete(4), "cpu") for size in (1_000, 2_000)]
    sizes = [
        sum(array.nbytes for array in (buffer.actions, buffer.rewards, buffer.dones, buffer.timeouts)) + buffer.frames.nbytes
        for buffer in buffers
    ]
    per_transition = (sizes[1] - sizes[0]) / 1_000
    assert per_transition == 84 * 84 + 8 + 3 * 4 + 2
    assert per_transition * 1e6 < 8e9


def test_normalized_observations_and_rewards():
    env = VecNormalize(STREAMS["vector"](1))
    raw = env.venv
    ours, theirs = make_buffers(raw, 30)
    fill((ours, theirs), raw, 40)
    env.reset()
    env.step(np.array([0]))
    samples = []
    for buffer in (ours, theirs):
        np.random.seed(1)
        samples.append(buffer.sample(16, env=env))
    assert samples[0].observations.equal(samples[1].observations)
    assert samples[0].rewards.equal(samples[1].rewards)


def test_reset_forgets():
    env = STREAMS["gray"](1)
    ours, theirs = make_buffers(env, 20)
    fill((ours,), env, 30)
    ours.reset()
    assert ours.size() == 0
    fill((ours, theirs), env, 9)
    assert_same(ours, theirs)


SETTINGS = {"conv_layers": [(8, 3, 2)], "features_dim": 16, "num_steps": 2}


def make_dqn(seed=0, **kwargs):
    arguments = {"learning_starts": 20, "train_freq": 2, "batch_size": 8, "buffer_size": 60, "seed": seed, **kwargs}
    return DQN(SpikingPolicy, STREAMS["gray"](1), policy_kwargs=SETTINGS, **arguments)


def test_dqn_learns_the_same_with_either_buffer(tmp_path):
    models = []
    for replay_buffer_class in (None, FrameStackReplayBuffer):
        model = make_dqn(replay_buffer_class=replay_buffer_class)
        model.learn(150)
        model.learn(50)  # starts with a reset in mid-episode
        models.append(model)
    for parameter, expected in zip(*(model.policy.parameters() for model in models), strict=True):
        assert parameter.equal(expected)

    # Saved and loaded, it goes on with the same samples
    model = models[1]
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = DQN.load(tmp_path / "model", env=model.get_env())
    loaded.load_replay_buffer(tmp_path / "buffer")
    samples = []
    for buffer in (model.replay_buffer, loaded.replay_buffer):
        np.random.seed(2)
        samples.append(buffer.sample(32).next_observations)
    assert samples[0].equal(samples[1])
    loaded.learn(30, reset_num_timesteps=False)
    # As rl_zoo3.enjoy loads an agent
    assert DQN.load(tmp_path / "model", buffer_size=1).replay_buffer.buffer_size == 1


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_stack": 3}, "n_stack=3"),
        ({"n_stack": 1}, "n_stack=1"),
        ({"optimize_memory_usage": True}, "optimize_memory_usage=True"),
        ({"observation_space": spaces.Discrete(3)}, "takes stacked frames"),
    ],
)
def test_wrong_settings_are_refused(kwargs, message):
    arguments = {"observation_space": spaces.Box(0, 255, (4, 36, 36), np.uint8), "action_space": spaces.Discrete(2), **kwargs}
    with pytest.raises(ValueError, match=message):
        FrameStackReplayBuffer(10, **arguments)


@pytest.mark.slow
def test_through_rl_zoo(tmp_path):
    command = "-m rl_zoo3.train --algo dqn --env BreakoutNoFrameskip-v4 -f sb3_spiking -n 120 --num-threads 1 --seed 0"
    settings = "learning_starts:100 buffer_size:1000 policy_kwargs:dict(num_steps=2)"
    command = [sys.executable, *command.split(), "--save-replay-buffer", "-params", *settings.split()]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    run = tmp_path / "sb3_spiking/dqn/BreakoutNoFrameskip-v4_1"
    assert "FrameStackReplayBuffer" in (run / "BreakoutNoFrameskip-v4/config.yml").read_text()
    # A thousand transitions of one frame each; as stacks they would take 56 MB
    assert (run / "replay_buffer.pkl").stat().st_size < 12e6
    command = "-m rl_zoo3.enjoy --algo dqn --env BreakoutNoFrameskip-v4 -f sb3_spiking --no-render -n 20"
    subprocess.run([sys.executable, *command.split()], cwd=tmp_path, check=True, capture_output=True)
