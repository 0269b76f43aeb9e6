"""A training that is killed goes on as if nothing had happened."""

import itertools
import json

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from small_agents import make_agent
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import CallbackList, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecFrameStack

from sb3_spiking import AgentError, Checkpoint, Cooldown, FrameStackReplayBuffer, restore
from sb3_spiking.sharing.archive import read_agent
from sb3_spiking.training.manifest import MANIFEST


class StopAt(Checkpoint):
    """Ends the training with the first checkpoint after a number of steps, as a kill would."""

    def __init__(self, folder, save_freq, steps):
        super().__init__(save_freq, folder)
        self.steps = steps

    def save(self, at_an_end=False):
        super().save(at_an_end)
        if self.num_timesteps >= self.steps:
            self.at_an_end = at_an_end
            raise InterruptedError


def equal_state(ours, theirs):
    for (name, tensor), other in zip(ours.policy.state_dict().items(), theirs.policy.state_dict().values(), strict=True):
        if isinstance(tensor, th.Tensor):
            assert th.equal(tensor, other), name
    state, other_state = (agent.policy.optimizer.state_dict()["state"] for agent in (ours, theirs))
    for number in other_state:
        for name, tensor in other_state[number].items():
            assert th.equal(tensor, state[number][name]), (number, name)
    assert (ours.num_timesteps, ours._n_updates, ours._n_calls) == (theirs.num_timesteps, theirs._n_updates, theirs._n_calls)
    assert (ours.exploration_rate, ours._episode_num) == (theirs.exploration_rate, theirs._episode_num)
    assert [episode["r"] for episode in ours.ep_info_buffer] == [episode["r"] for episode in theirs.ep_info_buffer]
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts", "pos", "full"):
        assert np.array_equal(getattr(ours.replay_buffer, name), getattr(theirs.replay_buffer, name)), name


# The buffer has gone round twice at 400 steps
@pytest.mark.parametrize(("train_freq", "stop"), [(1, 60), (1, 400), ((1, "episode"), 250)])
def test_bit_for_bit(tmp_path, train_freq, stop):
    def agent():
        return make_agent(train_freq, buffer_size=180)

    whole = agent().learn(500, callback=Checkpoint(35, tmp_path / "whole"))
    with pytest.raises(InterruptedError):
        agent().learn(500, callback=(cut := StopAt(tmp_path / "cut", 35, stop)))
    assert cut.at_an_end
    th.manual_seed(99)
    np.random.seed(99)
    ours, checkpoint = agent(), Checkpoint(35, tmp_path / "cut")
    done = restore(ours, tmp_path / "cut", checkpoint)
    assert stop <= done < 500
    ours.learn(500 - done, reset_num_timesteps=False, callback=checkpoint)
    equal_state(ours, whole)
    assert ours._total_timesteps == 500


@pytest.mark.parametrize("stop", [150, 400])  # before the rate falls, and while it does
def test_a_learning_rate_goes_on_falling(tmp_path, stop):
    whole = make_agent().learn(500, callback=[Cooldown(0.5), Checkpoint(35, tmp_path / "whole")])
    with pytest.raises(InterruptedError):
        make_agent().learn(500, callback=[Cooldown(0.5), StopAt(tmp_path / "cut", 35, stop)])
    agent, checkpoint = make_agent(), Checkpoint(35, tmp_path / "cut")
    done = restore(agent, tmp_path / "cut", checkpoint)
    agent.learn(500 - done, reset_num_timesteps=False, callback=[Cooldown(0.5), checkpoint])
    equal_state(agent, whole)
    assert agent.policy.optimizer.param_groups[0]["lr"] == whole.policy.optimizer.param_groups[0]["lr"] < 1e-5


def test_evaluations_go_on(tmp_path):
    def callbacks(folder, checkpoint):
        return CallbackList(
            [EvalCallback(make_vec_env("CartPole-v1"), eval_freq=100, n_eval_episodes=1, log_path=folder), checkpoint]
        )

    with pytest.raises(InterruptedError):
        make_agent().learn(600, callback=callbacks(tmp_path, StopAt(tmp_path / "cut", 100, 300)))
    before = np.load(tmp_path / "evaluations.npz")["timesteps"].tolist()
    agent, checkpoint = make_agent(), Checkpoint(100, tmp_path / "cut")
    done = restore(agent, tmp_path / "cut", checkpoint)
    root = callbacks(tmp_path, checkpoint)
    agent.learn(600 - done, reset_num_timesteps=False, callback=root)
    logged = np.load(tmp_path / "evaluations.npz")
    assert logged["timesteps"].tolist() == [100, 200, 300, 400, 500, 600]
    assert before == [step for step in logged["timesteps"].tolist() if step <= before[-1]]
    assert root.callbacks[0].best_mean_reward == logged["results"].max()


def test_the_cost_is_what_is_new(tmp_path):
    agent = make_agent(buffer_size=10_000)
    checkpoint = Checkpoint(200, tmp_path / "checkpoint")
    agent.learn(1200, callback=checkpoint)
    parts = json.loads((tmp_path / "checkpoint" / MANIFEST).read_text())["replay"]["parts"]
    assert len(parts) >= 4
    assert parts[0]["first"] == 0
    assert all(later["first"] == earlier["count"] - 1 for earlier, later in itertools.pairwise(parts))
    assert parts[-1]["count"] == 1200
    files = {path.name for path in (tmp_path / "checkpoint").iterdir()}
    manifest = json.loads((tmp_path / "checkpoint" / MANIFEST).read_text())
    assert manifest["model"].startswith("model-1200-")
    assert files == {MANIFEST, manifest["model"], *(part["file"] for part in parts)}


def test_in_mid_episode_the_transition_ends(tmp_path):
    with pytest.raises(InterruptedError):
        make_agent(n_envs=2).learn(600, callback=(cut := StopAt(tmp_path / "cut", 100, 200)))
    assert not cut.at_an_end
    agent = make_agent(n_envs=2)
    done = restore(agent, tmp_path / "cut", Checkpoint(100, tmp_path / "cut"))
    buffer = agent.replay_buffer
    last = (buffer.pos - 1) % buffer.buffer_size
    assert buffer.dones[last].tolist() == buffer.timeouts[last].tolist() == [1.0, 1.0]
    assert buffer.pos == done // 2
    samples = buffer._get_samples(np.array([last]))
    assert samples.dones.item() == 0.0


class FramesEnv(gym.Env):
    """Frames of noise, episodes of 7 steps."""

    observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.frame(), {}

    def frame(self):
        return self.np_random.integers(0, 256, (1, 36, 36), np.uint8)

    def step(self, action):
        self.count += 1
        return self.frame(), 1.0, self.count == 7, False, {}


def frames_agent(buffer_class=FrameStackReplayBuffer, **replay_buffer_kwargs):
    env = VecFrameStack(make_vec_env(FramesEnv, n_envs=2, seed=0), 4, channels_order="first")
    settings = {"buffer_size": 100, "learning_starts": 1000, "seed": 0, "replay_buffer_class": buffer_class}
    return DQN(
        "SpikingPolicy",
        env,
        policy_kwargs={"features_dim": 8, "num_steps": 2},
        replay_buffer_kwargs=replay_buffer_kwargs,
        **settings,
    )


def same_transitions(ours, theirs):
    assert (ours.pos, ours.full) == (theirs.pos, theirs.full)
    slots = np.arange(theirs.buffer_size if theirs.full else theirs.pos)
    for env in range(2):
        where = (slots, np.full(len(slots), env))
        for name in ("observations", "next_observations"):
            assert np.array_equal(getattr(ours, name)[where], getattr(theirs, name)[where]), (name, env)
    for name in ("actions", "rewards"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))


# Parts that overlap by much, and parts of which the oldest is gone but for the frames that stacks reach back to
@pytest.mark.parametrize("buffer_class", [FrameStackReplayBuffer, ReplayBuffer])
@pytest.mark.parametrize(("save_freq", "stop"), [(26, 40), (26, 130), (102, 200), (204, 400)])
def test_frames(tmp_path, buffer_class, save_freq, stop):
    stopped = frames_agent(buffer_class)
    with pytest.raises(InterruptedError):
        stopped.learn(900, callback=StopAt(tmp_path / "cut", save_freq, stop))
    agent = frames_agent(buffer_class)
    restore(agent, tmp_path / "cut", Checkpoint(26, tmp_path / "cut"))
    same_transitions(agent.replay_buffer, stopped.replay_buffer)
    agent.learn(50, reset_num_timesteps=False)


@pytest.mark.filterwarnings("ignore:FrameStackReplayBuffer")
def test_stacks_that_are_stored_as_a_whole(tmp_path):
    stopped, agent = frames_agent(n_stack=2), frames_agent(n_stack=2)
    with pytest.raises(InterruptedError):
        stopped.learn(900, callback=StopAt(tmp_path / "cut", 50, 100))
    restore(agent, tmp_path / "cut", Checkpoint(50, tmp_path / "cut"))
    same_transitions(agent.replay_buffer, stopped.replay_buffer)


def test_a_training_that_a_callback_ends(tmp_path):
    agent = make_agent()
    agent.learn(2000, callback=[StopTrainingOnMaxEpisodes(5), Checkpoint(50, tmp_path / "c")])
    other = make_agent()
    restore(other, tmp_path / "c", Checkpoint(50, tmp_path / "c"))
    assert other.replay_buffer.pos == agent.replay_buffer.pos
    assert np.array_equal(other.replay_buffer.observations, agent.replay_buffer.observations)


def test_terminals_stay_terminals(tmp_path):
    agent = make_agent(n_envs=2)
    agent.learn(200, callback=(checkpoint := Checkpoint(1000, tmp_path / "c")))
    last = agent.replay_buffer.pos - 1
    agent.replay_buffer.dones[last] = [1, 0]
    agent.replay_buffer.timeouts[last] = [0, 0]
    checkpoint._replay.parts, checkpoint._replay.count = [], 0
    checkpoint.save()
    other = make_agent(n_envs=2)
    restore(other, tmp_path / "c", Checkpoint(50, tmp_path / "c"))
    assert other.replay_buffer.dones[last].tolist() == [1, 1]
    assert other.replay_buffer.timeouts[last].tolist() == [0, 1]


def test_other_files_in_the_folder_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "best_model.zip").write_text("mine")
    agent, checkpoint = make_agent(), Checkpoint(50, tmp_path)
    agent.learn(200, callback=checkpoint)
    agent.learn(100, reset_num_timesteps=False, callback=checkpoint)  # once more with the same callback
    assert {path.name for path in tmp_path.iterdir()} >= {"notes.txt", "best_model.zip", MANIFEST}
    assert [path.name[:10] for path in tmp_path.glob("model*")] == ["model-300-"]


def test_several_environments_are_saved_as_often_as_asked(tmp_path):
    saved = []

    class Noted(Checkpoint):
        def save(self, at_an_end=False):
            saved.append(self.num_timesteps)
            super().save(at_an_end)

    make_agent(n_envs=2).learn(500, callback=Noted(100, tmp_path / "c"))
    assert saved == [100, 200, 300, 400, 500]


def test_evaluations_with_random_actions_go_on_the_same(tmp_path):
    def callbacks(folder, checkpoint):
        env = make_vec_env("CartPole-v1", seed=8)
        evaluation = EvalCallback(env, eval_freq=100, n_eval_episodes=2, deterministic=False, log_path=folder)
        return CallbackList([evaluation, checkpoint])

    whole = make_agent(exploration_final_eps=0.5)
    whole.learn(600, callback=callbacks(tmp_path / "a", Checkpoint(70, tmp_path / "whole")))
    stop = StopAt(tmp_path / "cut", 70, 250)
    with pytest.raises(InterruptedError):
        make_agent(exploration_final_eps=0.5).learn(600, callback=callbacks(tmp_path / "b", stop))
    agent, checkpoint = make_agent(exploration_final_eps=0.5), Checkpoint(70, tmp_path / "cut")
    done = restore(agent, tmp_path / "cut", checkpoint)
    agent.learn(600 - done, reset_num_timesteps=False, callback=callbacks(tmp_path / "b", checkpoint))
    equal_state(agent, whole)
    results = [np.load(tmp_path / name / "evaluations.npz")["results"].tolist() for name in "ab"]
    assert results[0] == results[1]


def test_another_number_of_environments(tmp_path):
    make_agent(n_envs=2).learn(200, callback=Checkpoint(50, tmp_path / "c"))
    other = make_agent(n_envs=4)
    before = {name: value.clone() for name, value in other.policy.state_dict().items() if isinstance(value, th.Tensor)}
    with pytest.raises(AgentError, match="a training in 2 environments, expected the model's 4"):
        restore(other, tmp_path / "c", Checkpoint())
    assert all(th.equal(other.policy.state_dict()[name], value) for name, value in before.items())


def test_a_return_without_end(tmp_path):
    class Endless(gym.RewardWrapper):
        def reward(self, reward):
            return -np.inf

    def agent():
        env = make_vec_env(lambda: Endless(gym.make("CartPole-v1")), seed=0)
        return DQN("SpikingPolicy", env, policy_kwargs={"net_arch": [4], "num_steps": 2}, learning_starts=1000, buffer_size=99)

    agent().learn(100, callback=Checkpoint(50, tmp_path / "c"))
    assert restore(agent(), tmp_path / "c", Checkpoint()) == 100


def test_a_training_that_ends_behind_its_last_step_can_be_restored(tmp_path):
    make_agent(n_envs=3).learn(200, callback=Checkpoint(50, tmp_path / "c"))  # 201 steps
    assert json.loads((tmp_path / "c" / MANIFEST).read_text())["numbers"]["_current_progress_remaining"] < 0
    assert restore(make_agent(n_envs=3), tmp_path / "c", Checkpoint()) == 201


def saved_at(folder, monkeypatch):
    """Steps at which checkpoints are written, and whether an episode has ended there."""
    written, save = [], Checkpoint.save

    def note(self, at_an_end=False):
        written.append((self.num_timesteps, at_an_end))
        save(self, at_an_end)

    monkeypatch.setattr(Checkpoint, "save", note)
    return written


@pytest.mark.parametrize(("train_freq", "ends"), [(1, True), (256, False)])
def test_it_waits_for_an_end_that_is_likely(tmp_path, monkeypatch, train_freq, ends):
    written = saved_at(tmp_path, monkeypatch)
    model = DQN("MlpPolicy", "CartPole-v1", train_freq=train_freq, gradient_steps=1, buffer_size=100, seed=0)
    model.learn(4000, callback=Checkpoint(512, folder=tmp_path))
    *several, _ = written
    assert len(several) >= 5
    assert {at_an_end for _, at_an_end in several} == {ends}
    if not ends:
        assert [steps for steps, _ in several] == list(range(512, 4000, 512))


class Odd(gym.Env):
    """With an older random generator, and ``info`` that is no JSON."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self._np_random = np.random.RandomState(seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, bool(self._np_random.rand() < 0.1), False, {"words": {"a", "b"}}


def test_environments_that_json_does_not_hold(tmp_path):
    def agent():
        return DQN("MlpPolicy", Monitor(Odd(), info_keywords=("words",)), buffer_size=100, learning_starts=20)

    agent().learn(200, callback=Checkpoint(50, folder=tmp_path))
    model = agent()
    assert restore(model, tmp_path, Checkpoint(50)) == 200
    assert set(model.ep_info_buffer[0]) == {"r", "l", "t"}


class Solved(FramesEnv):
    """Every other episode is a success."""

    observation_space = spaces.Box(0, 255, (2,), np.uint8)
    episodes = 0

    def frame(self):
        return self.np_random.integers(0, 256, 2, np.uint8)

    def step(self, action):
        observation, reward, done, truncated, info = super().step(action)
        self.episodes += done
        return observation, reward, done, truncated, {"is_success": np.bool_(self.episodes % 2)} if done else info


def test_successes_go_on(tmp_path):
    DQN("MlpPolicy", Solved(), buffer_size=100).learn(35, callback=Checkpoint(28, folder=tmp_path))
    model = DQN("MlpPolicy", Solved(), buffer_size=100)
    restore(model, tmp_path, Checkpoint(28))
    assert list(model.ep_success_buffer) == [True, False, True, False, True]


@pytest.mark.parametrize("steps", [np.int64(200), np.float32(200)])
def test_numbers_of_numpy(tmp_path, steps):
    DQN("MlpPolicy", "CartPole-v1", buffer_size=100).learn(steps, callback=Checkpoint(50, folder=tmp_path))
    model = DQN("MlpPolicy", "CartPole-v1", buffer_size=100)
    assert restore(model, tmp_path, Checkpoint(50)) == 200
    assert model._total_timesteps == 200


def test_a_network_larger_than_those_that_are_shared(tmp_path, monkeypatch):
    monkeypatch.setattr("sb3_spiking.sharing.archive.MAX_TENSORS", 1000)
    DQN("MlpPolicy", "CartPole-v1", buffer_size=100).learn(60, callback=Checkpoint(50, folder=tmp_path))
    assert restore(DQN("MlpPolicy", "CartPole-v1", buffer_size=100), tmp_path, Checkpoint(50)) == 60
    (zip_file,) = tmp_path.glob("*.zip")
    with pytest.raises(AgentError, match="expected at most"):
        read_agent(zip_file)
