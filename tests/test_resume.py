"""RL Zoo's trainings are killed and resumed."""

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch as th
from processes import environment
from small_agents import change_manifest
from stable_baselines3.common.monitor import load_results

import sb3_spiking
from sb3_spiking.training.manifest import MANIFEST


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
        lambda run: change_manifest(run / "checkpoint", lambda manifest: manifest.update(monitors="x")),
        "monitors: 'x'",
    ),
    "another callback of that name": (
        rewritten("config.yml", "sb3_spiking.Checkpoint", "stable_baselines3.common.callbacks.CheckpointCallback"),
        "config.yml: there is no sb3_spiking.Checkpoint",
    ),
    "a damaged model": (
        lambda run: [file.write_bytes(file.read_bytes() + b"x") for file in (run / "checkpoint").glob("model-*.zip")],
        "damaged, or of another checkpoint",
    ),
    "no callbacks": (
        lambda run: change_manifest(run / "checkpoint", lambda manifest: manifest.pop("callbacks")),
        "callbacks: 'nothing'",
    ),
}


@pytest.fixture(scope="module")
def run_of_rl_zoo(tmp_path_factory, train_with_rl_zoo):
    folder = tmp_path_factory.mktemp("zoo")
    train_with_rl_zoo(TRAIN.removeprefix("rl_zoo3.train ").replace("-n 2000", "-n 300"), folder)
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


@pytest.mark.parametrize(("options", "threads"), [("", 1), ("--num-threads 3", 3)])
def test_as_many_threads_as_it_began_with_or_as_the_command_says(run_of_rl_zoo, in_process, tmp_path, options, threads):
    run = shutil.copytree(run_of_rl_zoo, tmp_path / "CartPole-v1_1")
    before = th.get_num_threads()
    try:
        th.set_num_threads(2)
        in_process("resume", f"{run} {options}", tmp_path)
        assert th.get_num_threads() == threads
    finally:
        th.set_num_threads(before)


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
