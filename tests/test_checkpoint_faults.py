"""Checkpoints that cannot be written, and those that are damaged or of another training."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from small_agents import DictEnv, change_manifest, make_agent
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import sb3_spiking
from sb3_spiking import AgentError, Checkpoint, restore
from sb3_spiking.training.checkpoint import replace_file
from sb3_spiking.training.manifest import MANIFEST


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


def test_a_failure_at_a_step_that_was_saved_before_costs_no_checkpoint(tmp_path, monkeypatch):
    """A second training with the same callback begins to count anew: its files have other names than those that count."""
    checkpoint, agent = Checkpoint(10**6, tmp_path), make_agent()
    agent.learn(200, callback=checkpoint)
    saved = {name: value.clone() for name, value in agent.policy.state_dict().items() if isinstance(value, th.Tensor)}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sb3_spiking.training.checkpoint.replace_file", full)
    with pytest.warns(UserWarning, match="The one before is still there"):
        agent.learn(200, callback=checkpoint)
    other = make_agent()
    assert restore(other, tmp_path, Checkpoint(50, tmp_path)) == 200
    state = other.policy.state_dict()
    assert all(th.equal(state[name], value) for name, value in saved.items())


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
    strict = make_vec_env("CartPole-v1", monitor_kwargs={"allow_early_resets": False})
    with pytest.raises(ValueError, match=r"Monitor\(allow_early_resets=False\)"):
        DQN("MlpPolicy", strict).learn(10, callback=Checkpoint(folder=tmp_path / "e"))
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
    "successes in words": (lambda manifest: manifest.update(successes="x"), "successes: 'x'"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_manifest_that_does_not_fit_its_files(tmp_path, name):
    make_agent().learn(200, callback=Checkpoint(50, tmp_path / "c"))
    assert len(json.loads((tmp_path / "c" / MANIFEST).read_text())["replay"]["parts"]) >= 3
    change, message = CHANGES[name]
    change_manifest(tmp_path / "c", change)
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


class WideEnv(DictEnv):
    """Large observations."""

    observation_space = spaces.Box(-1, 1, (60_000,))


def test_large_observations_do_not_make_it_unreadable(tmp_path, monkeypatch):
    monkeypatch.setattr("sb3_spiking.sharing.archive.MAX_JSON", 1_000_000)  # less than those of eight environments as text
    env = make_vec_env(WideEnv, n_envs=8)
    agents = [DQN("MlpPolicy", env, policy_kwargs={"net_arch": [2]}, buffer_size=64, seed=0) for _ in range(2)]
    agents[0].learn(32, callback=Checkpoint(8, tmp_path / "checkpoint"))
    steps = restore(agents[1], tmp_path / "checkpoint", Checkpoint(8, tmp_path / "checkpoint"))
    assert agents[1].learn(32, reset_num_timesteps=False).num_timesteps == steps + 32
