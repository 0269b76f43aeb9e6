"""A training that is killed goes on as if nothing had happened."""

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from processes import environment, finished, python
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import CallbackList, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

import sb3_spiking
from sb3_spiking import AgentError, Checkpoint, FrameStackReplayBuffer, restore
from sb3_spiking.training.checkpoint import replace_file
from sb3_spiking.training.manifest import MANIFEST


def make_agent(train_freq=1, n_envs=1, **kwargs):
    settings = {"learning_starts": 50, "buffer_size": 400, "train_freq": train_freq, "target_update_interval": 40, "seed": 3}
    env = make_vec_env("CartPole-v1", n_envs=n_envs, seed=3)
    return DQN("SpikingPolicy", env, policy_kwargs={"net_arch": [16], "num_steps": 3}, **{**settings, **kwargs})


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


# The buffer of 400 rows has gone round twice at 900 steps
@pytest.mark.parametrize(("train_freq", "stop"), [(1, 100), (1, 900), ((1, "episode"), 500)])
def test_bit_for_bit(tmp_path, train_freq, stop):
    whole = make_agent(train_freq).learn(1000, callback=Checkpoint(70, tmp_path / "whole"))
    with pytest.raises(InterruptedError):
        make_agent(train_freq).learn(1000, callback=(cut := StopAt(tmp_path / "cut", 70, stop)))
    assert cut.at_an_end
    th.manual_seed(99)
    np.random.seed(99)
    agent = make_agent(train_freq)
    checkpoint = Checkpoint(70, tmp_path / "cut")
    done = restore(agent, tmp_path / "cut", checkpoint)
    assert stop <= done < 1000
    agent.learn(1000 - done, reset_num_timesteps=False, callback=checkpoint)
    equal_state(agent, whole)
    assert agent._total_timesteps == 1000


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
    assert files == {MANIFEST, "model-1200.zip", *(part["file"] for part in parts)}


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
    assert {path.name for path in tmp_path.iterdir()} >= {"notes.txt", "best_model.zip", MANIFEST, "model-300.zip"}


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


def test_a_full_disk_and_a_read_only_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match=r"the checkpoint in .* was not written: .*The training goes on"):
        agent = make_agent().learn(300, callback=Checkpoint(50, tmp_path / "file/checkpoint"))
    assert agent.num_timesteps == 300
    with pytest.raises(OSError, match="was not written"):
        make_agent().learn(300, callback=Checkpoint(50, tmp_path / "file/checkpoint", on_error="raise"))

    # A disk that is full for a while: the checkpoint before stays whole, the one after holds everything
    folder = tmp_path / "checkpoint"
    checkpoint = Checkpoint(50, folder)
    writes = []
    savez = np.savez

    def full(file, **arrays):
        writes.append(sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")))
        if len(writes) == 3:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        savez(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        agent = make_agent().learn(500, callback=checkpoint)
    assert writes[3] == writes[2]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    other = make_agent()
    assert restore(other, folder, Checkpoint(50, folder)) == 500
    assert np.array_equal(other.replay_buffer.rewards, agent.replay_buffer.rewards)


def test_wrong_use(tmp_path):
    with pytest.raises(ValueError, match="save_freq=0: expected a whole number"):
        Checkpoint(0)
    with pytest.raises(ValueError, match="on_error='stop'"):
        Checkpoint(on_error="stop")
    with pytest.raises(ValueError, match="folder=None takes the folder of the monitor files"):
        make_agent().learn(10, callback=Checkpoint())
    normalised = VecNormalize(make_vec_env("CartPole-v1"))
    with pytest.raises(ValueError, match="VecNormalize"):
        DQN("MlpPolicy", normalised).learn(10, callback=Checkpoint(folder=tmp_path / "a"))
    optimized = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    with pytest.raises(ValueError, match="optimize_memory_usage"):
        make_agent(**optimized).learn(10, callback=Checkpoint(50, tmp_path / "b"))
    with pytest.raises(ValueError, match="SAC has more to save than a policy"):
        SAC("MlpPolicy", "Pendulum-v1", buffer_size=10).learn(10, callback=Checkpoint(50, tmp_path / "d"))
    make_agent().learn(200, callback=Checkpoint(50, tmp_path / "c"))
    with pytest.raises(ValueError, match="a checkpoint of another training"):
        make_agent().learn(200, callback=Checkpoint(50, tmp_path / "c"))
    with pytest.raises(AgentError, match="there is no checkpoint"):
        restore(make_agent(), tmp_path / "nothing", Checkpoint())


@pytest.mark.parametrize("damage", ["no JSON", "another network", "half a replay", "another folder", "no model"])
def test_damage_is_named(tmp_path, damage):
    make_agent().learn(200, callback=Checkpoint(50, tmp_path / "c"))
    file = tmp_path / "c" / MANIFEST
    manifest = json.loads(file.read_text())
    agent = make_agent()
    if damage == "no JSON":
        file.write_text("{")
    elif damage == "another network":
        agent = DQN("SpikingPolicy", "CartPole-v1", policy_kwargs={"net_arch": [17], "num_steps": 3}, buffer_size=400)
    elif damage == "half a replay":
        part = tmp_path / "c" / manifest["replay"]["parts"][0]["file"]
        part.write_bytes(part.read_bytes()[:200])
    elif damage == "another folder":
        manifest["replay"]["parts"][0]["file"] = "../x.npz"
        file.write_text(json.dumps(manifest))
    else:
        (tmp_path / "c" / manifest["model"]).unlink()
    with pytest.raises(AgentError, match=str(tmp_path / "c")):
        restore(agent, tmp_path / "c", Checkpoint())


def test_a_training_that_ends_behind_its_last_step_can_be_restored(tmp_path):
    make_agent(n_envs=3).learn(200, callback=Checkpoint(50, tmp_path / "c"))  # 201 steps
    assert json.loads((tmp_path / "c" / MANIFEST).read_text())["numbers"]["_current_progress_remaining"] < 0
    assert restore(make_agent(n_envs=3), tmp_path / "c", Checkpoint()) == 201


def changed(path, change):
    manifest = json.loads((path / MANIFEST).read_text())
    change(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


def swap_parts(manifest):
    first, second, *_ = manifest["replay"]["parts"]
    first["file"], second["file"] = second["file"], first["file"]


CHANGES = {
    "parts swapped": (swap_parts, "damaged, or of another checkpoint"),
    "a part left out": (lambda manifest: manifest["replay"]["parts"].pop(1), "replay: parts of rows"),
    "the first part left out": (lambda m: m["replay"]["parts"].pop(0), "a replay of rows .* expected those from 0"),
    "the last part left out": (lambda manifest: manifest["replay"]["parts"].pop(), "replay: parts of rows"),
    "another count": (lambda manifest: manifest["replay"].update(count=7), "replay: parts of rows"),
    "no replay": (lambda manifest: manifest.update(replay=None), "damaged, or of another training"),
    "steps without end": (lambda m: m["numbers"].update(num_timesteps=10**12), "num_timesteps is 1000000000000, and 2.. in"),
    "steps below zero": (lambda m: m["numbers"].update(num_timesteps=-1), "num_timesteps': -1"),
    "steps in words": (lambda m: m["numbers"].update(num_timesteps="many"), "num_timesteps': 'many'"),
    "exploration that is no number": (lambda m: m["numbers"].update(exploration_rate=float("nan")), "exploration_rate': nan"),
    "another format": (lambda manifest: manifest.update(format=1), "format 1, expected 2"),
    "no callbacks": (lambda manifest: manifest.pop("callbacks"), "callbacks: 'nothing'"),
    "callbacks in words": (lambda manifest: manifest.update(callbacks=["x"]), "damaged"),
    "calls in words": (lambda m: m["callbacks"][0].update(n_calls="x"), "callbacks: .*'n_calls': 'x'"),
    "no monitors": (lambda manifest: manifest.pop("monitors"), "monitors: 'nothing'"),
    "monitors in words": (lambda m: m.update(monitors={"0.monitor.csv": "x"}), "monitors: '0.monitor.csv': 'x'"),
    "a monitor elsewhere": (lambda m: m.update(monitors={"../0.monitor.csv": 3}), "a file in another folder"),
    "no random states": (lambda manifest: manifest.update(random={}), "damaged, or of another training"),
    "an episode in words": (lambda manifest: manifest.update(episodes=["x"]), "damaged"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_manifest_that_does_not_fit_its_files(tmp_path, name):
    make_agent().learn(200, callback=Checkpoint(50, tmp_path / "c"))
    assert len(json.loads((tmp_path / "c" / MANIFEST).read_text())["replay"]["parts"]) >= 3
    change, message = CHANGES[name]
    changed(tmp_path / "c", change)
    with pytest.raises(AgentError, match=f"{tmp_path / 'c'}.*{message}"):
        restore(make_agent(), tmp_path / "c", Checkpoint())


def test_files_of_another_run(tmp_path):
    for name, seed in (("c", 3), ("other", 4)):
        make_agent(seed=seed).learn(200, callback=Checkpoint(50, tmp_path / name))
    manifest, other = (json.loads((tmp_path / name / MANIFEST).read_text()) for name in ("c", "other"))
    for file, others in (
        (manifest["model"], other["model"]),
        (manifest["replay"]["parts"][1]["file"], other["replay"]["parts"][1]["file"]),
    ):
        shutil.copytree(tmp_path / "c", tmp_path / "mixed")
        shutil.copy(tmp_path / "other" / others, tmp_path / "mixed" / file)
        with pytest.raises(AgentError, match=f"{file}: damaged, or of another checkpoint"):
            restore(make_agent(), tmp_path / "mixed", Checkpoint())
        shutil.rmtree(tmp_path / "mixed")


def rewritten(name, old=None, new=""):
    """A change of a file of RL Zoo's: one text for another, or for everything."""

    def change(run):
        file = run / "CartPole-v1" / name
        content = file.read_text()
        assert old is None or old in content
        file.write_text(new if old is None else content.replace(old, new))

    return change


RESUMED = {
    "empty arguments": (rewritten("args.yml"), "args.yml: not what RL Zoo writes: .*algo"),
    "no seed": (rewritten("args.yml", "- seed", "- other"), "args.yml: not what RL Zoo writes: .*seed"),
    "a seed in words": (rewritten("args.yml", "\n    - 5\n", "\n    - five\n"), "args.yml: .*"),
    "no Checkpoint": (
        rewritten("config.yml", new="policy: sb3_spiking.SpikingPolicy\nn_timesteps: 50"),
        "config.yml: there is no sb3_spiking.Checkpoint among the callbacks",
    ),
    "no configuration": (rewritten("config.yml"), "config.yml: there is no sb3_spiking.Checkpoint"),
    "a manifest in words": (
        lambda run: changed(run / "checkpoint", lambda manifest: manifest.update(monitors="x")),
        "monitors: 'x'",
    ),
    "no callbacks": (
        lambda run: changed(run / "checkpoint", lambda manifest: manifest.pop("callbacks")),
        "callbacks: 'nothing'",
    ),
}


@pytest.fixture(scope="module")
def run_of_rl_zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    finished(python("-m", *TRAIN.replace("-n 2000", "-n 300").split(), folder=folder))
    return folder / "logs/dqn/CartPole-v1_1"


@pytest.mark.parametrize("name", RESUMED)
def test_runs_that_cannot_go_on_take_one_line(run_of_rl_zoo, in_process, tmp_path, capsys, name):
    run = shutil.copytree(run_of_rl_zoo, tmp_path / "CartPole-v1_1")
    change, message = RESUMED[name]
    change(run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.monitor.csv")}
    with pytest.raises(SystemExit):
        in_process("resume", str(run), tmp_path)
    said = capsys.readouterr().err.splitlines()
    assert re.search(message, said[-1])
    assert said[-1].startswith("error: ")
    assert not any("Traceback" in line for line in said)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.monitor.csv")} == before


TRAIN = (
    "rl_zoo3.train --algo dqn --env CartPole-v1 -n 2000 -f logs --seed 5 --num-threads 1 --eval-freq 500 --eval-episodes 1 "
    "-params callback:[{'sb3_spiking.Checkpoint':dict(save_freq=100)}] policy:'sb3_spiking.SpikingPolicy' "
    "policy_kwargs:dict(net_arch=[32],num_steps=3) learning_starts:200 train_freq:1 gradient_steps:1"
)


def kill_and_resume(folder, kills, seed, longest):
    """Train with RL Zoo, kill it again and again at random moments, and let it finish."""
    generator = random.Random(seed)
    run = folder / "logs/dqn/CartPole-v1_1"
    manifest = run / "checkpoint" / MANIFEST
    steps = []
    for number in range(kills + 1):
        command = TRAIN.split() if not manifest.exists() else ["sb3_spiking", "resume", str(run)]
        if not manifest.exists():
            shutil.rmtree(folder / "logs", ignore_errors=True)
        before = manifest.stat().st_mtime_ns if manifest.exists() else 0
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if number < kills:
            # Once it writes checkpoints, a moment later, which may be while it writes the next one
            while process.poll() is None and (not manifest.exists() or manifest.stat().st_mtime_ns == before):
                time.sleep(0.005)
            time.sleep(generator.uniform(0, longest))
            process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
        if number == kills or process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, output.decode()
        written = json.loads(manifest.read_text())  # whole at every moment
        steps.append(written["numbers"]["num_timesteps"])
        assert all((manifest.parent / part["file"]).is_file() for part in written["replay"]["parts"])
        if process.returncode == 0:
            break
    assert steps == sorted(steps)  # no checkpoint was lost
    return run, steps


def check_complete(run):
    agent = sb3_spiking.load(run / "CartPole-v1.zip")
    assert agent.num_timesteps == 2000
    assert agent._n_updates in (2000 - 200 - 1, 2000 - 200)
    assert agent.exploration_rate == pytest.approx(0.04)
    assert np.load(run / "evaluations.npz")["timesteps"].tolist() == list(range(500, 2001, 500))
    # Episodes that were lost with a kill are not counted twice
    assert 1500 <= load_results(str(run))["l"].sum() <= 2000


def test_killed_and_resumed(tmp_path):
    run, steps = kill_and_resume(tmp_path, 1, 0, 0.4)
    assert len(steps) >= 2
    check_complete(run)


@pytest.mark.slow
def test_killed_fifty_times(tmp_path):
    kills = 0
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        run, steps = kill_and_resume(folder, 12, attempt, 0.25)
        kills += len(steps) - 1
        check_complete(run)
        if kills >= 50:
            break
    assert kills >= 50


def test_a_folder_that_cannot_be_synced_does_not_undo_the_replacement(tmp_path, monkeypatch):
    real = os.open

    def refused(path, *arguments, **keywords):
        if Path(path) == tmp_path:
            raise PermissionError(13, "as on Windows", str(path))
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(os, "open", refused)
    replace_file(tmp_path / "manifest.json", b"new")
    assert (tmp_path / "manifest.json").read_bytes() == b"new"


def test_an_error_after_the_replacement_costs_no_checkpoint(tmp_path, monkeypatch):
    def replace_and_fail(path, content):
        replace_file(path, content)
        raise OSError(5, "after the rename")

    monkeypatch.setattr(sb3_spiking.training.checkpoint, "replace_file", replace_and_fail)
    with pytest.warns(UserWarning, match="after the rename"):
        make_agent().learn(120, callback=Checkpoint(50, tmp_path / "checkpoint"))
    manifest = json.loads((tmp_path / "checkpoint" / MANIFEST).read_text())
    assert (tmp_path / "checkpoint" / manifest["model"]).is_file()
    assert restore(make_agent(), tmp_path / "checkpoint", Checkpoint(50)) == manifest["numbers"]["num_timesteps"] >= 50
