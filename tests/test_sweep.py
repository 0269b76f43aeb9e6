"""sb3-spiking sweep on this machine: kills, two sweeps of one list, failures, wrong input."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pandas as pd
import pytest
from processes import environment, finished, python
from small_lists import RELU, STEPS, complete, log_of, wait, write_list

from sb3_spiking import commands
from sb3_spiking.errors import AgentError
from sb3_spiking.sweep.engines import Outcome, Resources, outcome
from sb3_spiking.sweep.engines.local import Local
from sb3_spiking.sweep.estimate import Speed, measure
from sb3_spiking.sweep.job import train
from sb3_spiking.sweep.lists import TrainingList
from sb3_spiking.sweep.logs import last_line, trained_steps
from sb3_spiking.sweep.process import Process
from sb3_spiking.sweep.runner import Sweep
from sb3_spiking.sweep.state import State
from sb3_spiking.sweep.zoo_command import read_options
from sb3_spiking.training.manifest import FOLDER, MANIFEST


def start(folder, *options):
    """A sweep in a process of its own."""
    command = [sys.executable, "-m", "sb3_spiking", "sweep", "small.yml", *options]
    return subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_a_job_that_is_killed_goes_on_and_so_does_a_sweep(tmp_path, in_process):
    write_list(tmp_path)
    job = "CartPole-v1_relu_0"
    sweep = start(tmp_path, "--jobs", "1")
    try:
        wait(lambda: list(tmp_path.glob("logs/training/small/*/*/*/checkpoint/checkpoint.json")))
        (process,) = children(sweep.pid)
        os.kill(process, signal.SIGKILL)
        # The sweep starts it again, and it ends with the sweep
        (process,) = wait(lambda: [child for child in children(sweep.pid) if child != process])
        wait(lambda: f"of {STEPS} steps are done" in log_of(tmp_path, job))
        state = State(tmp_path / "results/small")
        assert state.is_locked(job)
    finally:
        sweep.kill()
        sweep.communicate()
    wait(lambda: not state.is_locked(job), 20)
    assert not (tmp_path / "results/small/scores.csv").exists()
    out, _ = in_process("sweep", "small.yml --status", tmp_path)
    assert out.startswith("small.yml: 1 stopped, of 1 jobs\n")
    assert re.search(rf"stopped: {job}, [\d,]+ of 3,000 steps", out)

    out, _ = in_process("sweep", "small.yml", tmp_path)
    assert f"{job}: done; 1 of 1 jobs done" in out
    complete(tmp_path, [job])
    log = log_of(tmp_path, job)
    assert log.count("rl_zoo3.train") == 1
    done = [int(steps) for steps in re.findall(rf"^(\d+) of {STEPS} steps are done", log, re.MULTILINE)]
    assert len(done) == 2
    assert 0 < done[0] <= done[1]
    assert pd.read_csv(tmp_path / "results/small/scores.csv")["train_seconds"].isna().all()
    out, _ = in_process("sweep", "small.yml --status", tmp_path)
    assert out.startswith("small.yml: 1 done, of 1 jobs\n")
    assert "| relu | " in out
    # RL Zoo's plots
    plots = f"-m rl_zoo3.plots.all_plots -a dqn -e CartPole-v1 -f logs/training/small/{job} --no-display".split()
    assert re.search(r"\|CartPole-v1 +\|\d+ \+/- \d+ +\|", finished(python(*plots, folder=tmp_path, MPLBACKEND="agg")))


@pytest.mark.slow
def test_two_sweeps_share_the_jobs_of_a_list(tmp_path, in_process):
    convert = {"convert": "relu", "arguments": "--num-steps 8 --frames 50 --decisions 20 --episodes 2 --max-steps 50"}
    write_list(tmp_path, steps=500, methods={"relu": RELU, "converted": convert}, seeds=[0, 1])
    sweeps = [start(tmp_path, "--jobs", "1") for _ in range(2)]
    outputs = [sweep.communicate(timeout=300)[0] for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0], outputs
    jobs = [f"CartPole-v1_{method}_{seed}" for method in ("relu", "converted") for seed in (0, 1)]
    runs = pd.read_csv(tmp_path / "results/small/runs.csv")
    assert sorted(zip(runs["method"], runs["seed"], strict=True)) == [(m, s) for m in ("converted", "relu") for s in (0, 1)]
    assert runs.set_index(["method", "seed"])["num_steps"].to_dict()["converted", 0] == 8
    for job in jobs:
        logs = log_of(tmp_path, job)
        assert logs.count(" python -m ") == 1, logs
        assert logs.count(f"{job} is done") == 1, logs
    assert {path.name for path in (tmp_path / "results/small").glob("CartPole*")} == set()
    # What a conversion says of its agent is that agent's
    assert in_process("sweep", "small.yml --status", tmp_path)[1] == ""
    agent = next(tmp_path.glob("logs/training/small/CartPole-v1_relu_0/*/*/best_model.zip"))
    agent.write_bytes(b"another")
    assert "CartPole-v1_converted_0: small.yml, or the agent" in in_process("sweep", "small.yml --status", tmp_path)[1]


def test_failed_jobs_are_listed_with_a_command_to_repeat_them(tmp_path, monkeypatch, capsys):
    wrong = {"hyperparams": {**RELU["hyperparams"], "policy": "NoPolicy"}}
    file = write_list(tmp_path, steps=300, methods={"wrong": wrong, "converted": {"convert": "wrong"}}, reference="wrong")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        commands.main(["sweep", str(file), "--jobs", "1", "--memory", "0.5"])
    assert end.value.code == 1
    title, *lines, again = capsys.readouterr().err.strip().splitlines()
    assert title == "failed, 2 of 2 jobs:"
    assert re.search("CartPole-v1_wrong_0: ValueError: Policy NoPolicy unknown", lines[0])
    assert Path(lines[1].strip()).read_text().strip().splitlines()[-1].startswith("ValueError: Policy NoPolicy")
    assert "CartPole-v1_converted_0: CartPole-v1_wrong_0 has failed, whose agent it converts" in lines[2]
    names = "CartPole-v1_wrong_0 CartPole-v1_converted_0"
    assert again == f"again: sb3-spiking sweep {file} --jobs 1 --memory 0.5 --only {names}"
    commands.main(["sweep", str(file), "--status"])
    assert "failed: CartPole-v1_wrong_0, ValueError: Policy NoPolicy unknown" in capsys.readouterr().out
    assert not (tmp_path / "results/small/scores.csv").exists()


def test_a_command_that_ends_without_an_agent_has_failed(tmp_path):
    write_list(tmp_path)
    sweep = Sweep(TrainingList(tmp_path / "small.yml", tmp_path / "results"), tmp_path / "logs")
    (job, *_) = sweep.jobs.jobs
    sweep.log(job).parent.mkdir(parents=True)
    sweep.state.folder.mkdir(parents=True)
    task = sweep.state.write(dataclasses.replace(sweep.task(job), command=["-m", "rl_zoo3.train", "--help"]))
    result = python("-m", "sb3_spiking.sweep.job", str(task), folder=tmp_path)
    assert result.returncode == 1
    assert f"{job.name}: the command ended without an agent" in result.stdout
    assert sweep.state.failed(job.name)


@pytest.mark.slow
def test_the_speed_of_a_job(tmp_path):
    jobs = TrainingList(write_list(tmp_path))
    assert 20 < measure(jobs, jobs.jobs[0], seconds=1, warm_up=0).steps < 20_000


def test_a_dry_run_says_what_a_list_costs(tmp_path, monkeypatch, in_process):
    write_list(tmp_path, seeds=[0, 1], steps=36_000)
    monkeypatch.setattr("sb3_spiking.sweep.estimate.measure", lambda jobs, job: Speed(10.0, "measured now"))
    out, _ = in_process("sweep", "small.yml --dry-run --jobs 2", tmp_path)
    assert "| relu   |    2 | 72,000 |      10 |     2 | measured now |" in out
    assert "\n2 hours of jobs, threads of each: 1, 1 hours with 2 jobs at a time.\n" in out
    # Finished jobs say it, and are not counted
    (tmp_path / "results/small").mkdir(parents=True)
    (tmp_path / "results/small/scores.csv").write_text("job,mean,train_seconds\nCartPole-v1_relu_0,1.0,7200\n")
    out, _ = in_process("sweep", "small.yml --dry-run", tmp_path)
    assert "small.yml: 2 jobs, 1 done" in out
    assert "| relu   |    1 | 36,000 |       5 |     2 | finished jobs |" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results", "small.yml"]


METHODS = {"relu": RELU, "spiking": {"arguments": "-conf sb3_spiking"}}


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"references": "relu"}, "", "small.yml: the list: 'references': perhaps reference"),
        ({"hyperparams": {"learning_rate": "1e-4"}}, "", "the list: hyperparams: learning_rate: 1e-4 is a text in YAML"),
        ({"reference": "rleu"}, "", "small.yml: 'rleu' is none of its methods, perhaps relu"),
        ({"methods": {"relu": "adam"}, "reference": "relu"}, "", "small.yml: method relu: expected names and values"),
        ({"curves": ["leaky"]}, "", "small.yml: 'leaky' is none of its methods, expected relu, spiking"),
        ({"seeds": [0, 0]}, "", "small.yml: method relu: seeds: [0, 0]: expected whole numbers, each once"),
        ({"steps": "many"}, "", "small.yml: the list: steps: many: not a value that it can have"),
        ({"methods": {"relu": {"argument": "-P"}}}, "", "small.yml: method relu: 'argument': perhaps arguments"),
        ({"methods": {"a/b": {}}, "reference": "a/b"}, "", "small.yml: method 'a/b': expected a name that a folder can have"),
        ({"methods": {"relu": {"convert": "relu"}}}, "", "small.yml: method relu: convert: 'relu' is no method that trains"),
        (
            {"environments": ["CartPole-v7"]},
            "",
            "method relu on CartPole-v7: there is no such environment, perhaps CartPole-v1",
        ),
        ({"methods": {"relu": {"algo": "dqnn"}}}, "", "method relu on CartPole-v1: algo 'dqnn': perhaps dqn"),
        (
            {"arguments": "-conf no.yml"},
            "",
            "on CartPole-v1: no hyperparameters of dqn for CartPole-v1 in -conf no.yml: FileNotFound",
        ),
        (
            {"arguments": "-conf sb3_spiking.liu2022"},
            "",
            "no hyperparameters of dqn for CartPole-v1 in -conf sb3_spiking.liu2022",
        ),
        ({"arguments": "--gym-packages no_games"}, "", "--gym-packages no_games: No module named 'no_games'"),
        ({"environments": {"CartPole-v1": 3}}, "", "small.yml: environments: CartPole-v1: 3: not a value that it can have"),
        ({"arguments": "-conf it's"}, "", "small.yml: arguments: -conf it's: No closing quotation"),
        ({"hyperparams": {"normalize": True}}, "", "normalize: a training of a list has a Checkpoint, which holds no"),
        ({"arguments": "--vec-env subproc"}, "", "--vec-env subproc: a training of a list has a Checkpoint, which needs"),
        ({"arguments": "--seed 7"}, "", "--seed 7 among the arguments: a list says it as algo, environments, seeds"),
        ({"arguments": "-f elsewhere"}, "", "-f elsewhere among the arguments"),
        ({"methods": {"relu": {"arguments": "--algo ppo"}}}, "", "--algo ppo among the arguments"),
        ({"arguments": "-optimize"}, "", "--optimize-hyperparameters among the arguments: a job trains one new agent"),
        ({"arguments": "--help"}, "", "--help among the arguments: a job trains one new agent"),
        ({"environments": ["CartPole-v1", 5]}, "", "small.yml: environments: 5: expected a name"),
        (
            {"methods": {"relu": {}, "c": {"convert": "relu", "hyperparams": {"gamma": 0.9}}}},
            "",
            "small.yml: method c: hyperparams: a conversion has those of relu; leave it out",
        ),
        (
            {"methods": {"relu": {"algo": "ppo"}, "c": {"convert": "relu"}}},
            "",
            "method c on CartPole-v1: conversion takes agents of dqn, not of ppo",
        ),
        ({}, "--only relu_1", "--only relu_1: in no job's name, expected CartPole-v1_relu_0, CartPole-v1_spiking_0"),
        ({}, "--partition gpu", "--partition: goes with --on slurm"),
        ({}, "--address auto", "--address: goes with --on ray"),
        ({}, "--threads 1000", "--threads 1000: this machine has "),
        ({}, "--memory 1e6", "--memory 1e+06: this machine has "),
        ({}, "--gpus 0", "--gpus: 0: expected a number above 0"),
        ({}, "--on slurm --slurm account=", "--slurm: account=: expected NAME=VALUE, such as account=abc"),
    ],
)
def test_wrong_input_takes_one_line_before_anything_starts(changes, options, message, tmp_path, in_process, capsys):
    write_list(tmp_path, **{"methods": METHODS, **changes})
    with pytest.raises(SystemExit) as end:
        in_process("sweep", f"small.yml {options}", tmp_path)
    output = capsys.readouterr()
    assert (end.value.code, output.out) == (2, "")
    assert output.err.count("\n") == 1
    assert message in output.err
    assert [path.name for path in tmp_path.iterdir()] == ["small.yml"]


def test_no_list_and_no_yaml(tmp_path, in_process, capsys):
    (tmp_path / "broken.yml").write_text("methods: [")
    for name, message in (("none.yml", "none.yml: there is no such list"), ("broken.yml", "broken.yml: no YAML: ")):
        with pytest.raises(SystemExit):
            in_process("sweep", name, tmp_path)
        assert message in capsys.readouterr().err


def test_two_lists_do_not_write_to_one_folder(tmp_path, in_process, capsys):
    file = write_list(tmp_path)
    State(tmp_path / "results/small").claim(tmp_path / "logs/training/small", file)
    (tmp_path / "other").mkdir()
    shutil.copy(file, tmp_path / "other")
    for options, folder in (("", "logs/training/small"), ("--logs others --results results/small", "results/small")):
        with pytest.raises(SystemExit):
            in_process("sweep", f"other/small.yml {options}", tmp_path)
        error = capsys.readouterr().err
        assert "other/small.yml: " in error
        assert f"{folder} belongs to another list, {file}; expected one of its own" in error
    # The same list by another name, and one whose other place is gone
    (tmp_path / "link").symlink_to(tmp_path)
    State(tmp_path / "results/small").check_owner(tmp_path / "logs/training/small", tmp_path / "link/small.yml")
    file.unlink()
    State(tmp_path / "results/small").check_owner(tmp_path / "logs/training/small", tmp_path / "other/small.yml")


def test_the_logs_of_a_list_belong_to_its_results(tmp_path, in_process, capsys):
    file = write_list(tmp_path)
    State(tmp_path / "results/small").claim(tmp_path / "logs/training/small", file)
    with pytest.raises(SystemExit):
        in_process("sweep", "small.yml --results others", tmp_path)
    assert f"what was trained here has its results in {tmp_path / 'results/small'}, not in" in capsys.readouterr().err
    # The same folder by another name
    (tmp_path / "link").symlink_to(tmp_path)
    State(tmp_path / "link/results/small").check_owner(tmp_path / "logs/training/small", file)


def test_arguments_are_those_of_a_shell_and_add_up(tmp_path):
    arguments = '-params gamma:0.5 policy_kwargs:"dict(net_arch=[8, 8], num_steps=2)" --env-kwargs max_episode_steps:20'
    environments = {"CartPole-v1": None, "Acrobot-v1": "--env-kwargs max_episode_steps:10"}
    more = {"arguments": "-params batch_size:7 --env-kwargs sutton_barto_reward:True", "hyperparams": {"gamma": 0.7}}
    methods = {"relu": RELU, "spiking": more}
    content = {"arguments": arguments, "environments": environments, "methods": methods, "env_kwargs": {"render_mode": None}}
    jobs = TrainingList(write_list(tmp_path, **content))
    for job, gamma, steps in zip(jobs.jobs, (0.5, 0.5, 0.7, 0.7), (20, 10, 20, 10), strict=True):
        options = read_options(jobs.command(job, tmp_path))
        assert options.hyperparams["gamma"] == jobs.hyperparams_of(job)["gamma"] == gamma
        more = {} if job.method == "relu" else {"sutton_barto_reward": True}
        assert options.env_kwargs == jobs.env_kwargs_of(job) == {"max_episode_steps": steps, "render_mode": None, **more}
        if job.method == "spiking":
            assert options.hyperparams["policy_kwargs"] == {"net_arch": [8, 8], "num_steps": 2}
            assert options.hyperparams["batch_size"] == 7


class Nothing(gym.Wrapper):
    """Of the user's own."""


def test_scores_are_of_the_environment_of_the_training(tmp_path, in_process, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    environments = {"CartPole-v1": "--env-kwargs max_episode_steps:3"}
    relu = {"hyperparams": {**RELU["hyperparams"], "env_wrapper": "test_sweep.Nothing"}}
    write_list(tmp_path, steps=300, environments=environments, env_kwargs={}, methods={"relu": relu})
    in_process("sweep", "small.yml", tmp_path)
    assert pd.read_csv(tmp_path / "results/small/scores.csv")["mean"].tolist() == [3]
    assert pd.read_csv(tmp_path / "results/small/random.csv")["mean"].tolist() == [3]


def test_episodes_that_end_outside_of_monitor_are_no_scores(tmp_path, monkeypatch, capsys):
    limit = {"gymnasium.wrappers.TimeLimit": {"max_episode_steps": 3}}
    relu = {"hyperparams": {**RELU["hyperparams"], "env_wrapper": [limit]}}
    write_list(tmp_path, steps=300, arguments="--eval-freq -1", methods={"relu": relu})  # RL Zoo's evaluations would wait
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        commands.main(["sweep", "small.yml"])
    assert "AgentError: CartPole-v1: an episode ended that Monitor saw no end of" in capsys.readouterr().err


def test_a_training_that_was_stopped_does_not_go_on_with_another_list(tmp_path, monkeypatch):
    def task(threads=1, **changes):
        sweep = Sweep(TrainingList(write_list(tmp_path, **changes), tmp_path / "results", threads), tmp_path / "logs")
        return sweep.task(sweep.jobs.jobs[0])

    ran = []
    monkeypatch.setattr("runpy.run_module", lambda module, **_: ran.append((module, sys.argv)))
    monkeypatch.setattr("sys.argv", sys.argv)
    monkeypatch.setattr("sys.orig_argv", sys.orig_argv)
    began = task()
    Path(began.logs).mkdir(parents=True)
    manifest = train(began) / FOLDER / MANIFEST
    assert ran.pop()[0] == "rl_zoo3.train"
    manifest.parent.mkdir(parents=True)
    manifest.touch()
    with pytest.raises(AgentError, match="the training began with other settings than the list has now"):
        train(task(hyperparams={"gamma": 0.5}))
    assert manifest.exists()
    assert ran == []
    # The order of the hyperparameters may change, and how many threads it has
    changed = task(threads=3, methods={"relu": {"hyperparams": dict(reversed(RELU["hyperparams"].items()))}})
    assert changed.shown != began.shown
    run = train(changed)
    assert ran == [("sb3_spiking", ["sb3_spiking", "resume", str(run), "--num-threads", "3"])]


def test_results_of_a_list_that_has_changed_are_named(tmp_path, in_process):
    def said(arguments="small.yml --status"):
        return in_process("sweep", arguments, tmp_path)[1]

    sweep = Sweep(TrainingList(write_list(tmp_path), tmp_path / "results/small"), tmp_path / "logs")
    (job,) = sweep.jobs.jobs
    result = tmp_path / "results/small" / job.name
    result.mkdir(parents=True)
    (result / "score.csv").write_text("mean,std,max,train_seconds\n40.0,0.0,40.0,1\n")
    (result / "evaluations.csv").write_text("timesteps,mean,std\n500,40.0,0.0\n")
    (result / "command.txt").write_text(f"{sweep.task(job).shown}\nmachine\n")
    (result / "config.yml").write_text("policy: MlpPolicy\n")
    assert "has changed" not in said("small.yml")
    assert "has changed" not in said("small.yml --threads 2")
    write_list(tmp_path, seeds=[0, 1], hyperparams={"gamma": 0.5})
    for arguments in ("small.yml --only relu_0", "small.yml --status"):
        assert f"{job.name}: small.yml, or the agent that is converted, has changed since; the results stay" in said(arguments)
    scores = tmp_path / "results/small/scores.csv"
    scores.write_text(scores.read_text().splitlines()[0] + "\n")  # the job's record stays in jobs.yml
    assert "has changed" not in said()


@pytest.mark.parametrize("changed", ["", "conversion", "training", "agent"])
def test_conversions_of_an_agent_that_was_trained_again_are_named(tmp_path, changed):
    def sweep(conversion="--num-steps 8", gamma=0.9):
        methods = {"relu": {**RELU, "hyperparams": {**RELU["hyperparams"], "gamma": gamma}}}
        methods["converted"] = {"convert": "relu", "arguments": conversion}
        return Sweep(TrainingList(write_list(tmp_path, methods=methods)), tmp_path / "logs")

    before = sweep()
    relu, converted = before.jobs.jobs
    agent = before.logs / relu.name / "dqn/CartPole-v1_1/best_model.zip"
    record = before.logs / converted.name / "dqn/CartPole-v1_1/conversion.json"
    for job, file in ((relu, agent), (converted, record)):
        result = before.jobs.results / job.name
        result.mkdir(parents=True)
        (result / "score.csv").write_text("mean,std,max,train_seconds\n40.0,0.0,40.0,1\n")
        (result / "command.txt").write_text(f"{before.task(job).shown}\nmachine\n")
        (result / "config.yml").write_text("policy: MlpPolicy\n")
        file.parent.mkdir(parents=True)
    agent.write_bytes(b"an agent")
    record.write_text(json.dumps({"digest": hashlib.sha256(b"an agent").hexdigest()}))
    if changed == "agent":
        agent.write_bytes(b"another agent")
    after = sweep("--num-steps 9" if changed == "conversion" else "--num-steps 8", 0.5 if changed == "training" else 0.9)
    expected = {"": [], "training": [relu, converted]}.get(changed, [converted])
    assert after.outdated([relu, converted]) == expected
    shutil.rmtree(record.parent)  # logs of another machine
    assert after.outdated([converted]) == ([] if changed == "agent" else expected[-1:])


def test_every_training_has_a_checkpoint(tmp_path):
    own = {"hyperparams": {"callback": [{"sb3_spiking.Checkpoint": {"save_freq": 7}}]}}
    methods = {
        "relu": {"hyperparams": {"callback": None}},
        "spiking": METHODS["spiking"],
        "own": own,
        "long": {"arguments": "-n 9000000"},
        "sb3": {"hyperparams": {"callback": {"stable_baselines3.common.callbacks.CheckpointCallback": {"save_freq": 5}}}},
    }
    jobs = TrainingList(write_list(tmp_path, methods=methods))
    for job, before, save_freq in zip(
        jobs.jobs[:4], ([], ["sb3_spiking.SpikeMonitor"], [], []), (150, 150, 7, 50_000), strict=True
    ):
        expected = [*before, {"sb3_spiking.Checkpoint": {"save_freq": save_freq}}]
        assert f"callback:{expected!r}" in jobs.command(job, tmp_path)
    assert "sb3_spiking.Checkpoint" in str(jobs.command(jobs.jobs[4], tmp_path))
    assert [jobs.training_steps(job) for job in jobs.jobs] == [STEPS, STEPS, STEPS, 9_000_000, STEPS]


def test_a_job_that_is_always_killed_fails(tmp_path, monkeypatch):
    sweep = Sweep(TrainingList(write_list(tmp_path)), tmp_path / "logs")
    (job,) = sweep.jobs.jobs
    suicide = "import os, signal; print('begins', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    process = Process(("-c", suicide), str(sweep.log(job)), str(tmp_path), {})
    monkeypatch.setattr(Sweep, "process", lambda sweep, job: process)
    steps = iter([0, 100, 100, 200, 200, 200])  # of the checkpoint, after each kill
    monkeypatch.setattr(Sweep, "checkpointed", lambda sweep, job: next(steps))
    assert sweep.run([job], Local(Resources()), lambda sweep, conditions: None) == [job]
    assert sweep.log(job).read_text().count("begins") == 6
    assert last_line(sweep.log(job)).startswith("killed 3 times without a checkpoint between")
    assert sweep.condition(job) == "failed"


def test_outcomes_by_exit_status():
    statuses = {
        0: Outcome.DONE,
        1: Outcome.FAILED,
        2: Outcome.FAILED,
        75: Outcome.TAKEN,
        -9: Outcome.KILLED,
        137: Outcome.KILLED,
    }
    assert {status: outcome(status) for status in statuses} == statuses


def test_slots_by_threads_memory_and_gpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": int(32e9 / 4096)}.get)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for resources, slots in (
        (Resources(), 8),
        (Resources(threads=3), 2),
        (Resources(memory=10), 3),
        (Resources(gpus=1), 2),
        (Resources(gpus=0.5), 4),
    ):
        assert Local(resources).slots == slots


def test_each_slot_has_gpus_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for gpus, expected in ((0, ["", ""]), (0.5, ["0", "0", "1", "1"]), (1, ["0", "1"]), (2, ["0,1"])):
        engine = Local(Resources(gpus=gpus))
        script = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(60)"
        logs = [tmp_path / f"{gpus}-{number}.log" for number in range(len(expected))]
        for log in logs:
            engine.start("job", Process(("-u", "-c", script), str(log), str(tmp_path), {}))
        wait(lambda logs=logs: all(log.read_text() for log in logs))
        engine.close()
        assert [log.read_text().strip() for log in logs] == expected
    # Of those that one was given
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    engine, log = Local(Resources(gpus=2)), tmp_path / "given.log"
    engine.start("job", Process(("-u", "-c", script), str(log), str(tmp_path), {}))
    wait(lambda: log.read_text())
    engine.start("job", Process(("-u", "-c", script), str(tmp_path / "more.log"), str(tmp_path), {}))
    wait(lambda: (tmp_path / "more.log").read_text())
    engine.close()
    assert log.read_text().strip() == (tmp_path / "more.log").read_text().strip() == "3,5"


def test_what_a_log_says(tmp_path):
    log = tmp_path / "train.log"
    assert trained_steps(log) == 0
    assert last_line(log) == f"nothing was written to {log}"
    log.write_text("|    total_timesteps  | 1024     |\nEval num_timesteps=2000, episode_reward=9\n\n")
    assert (trained_steps(log), last_line(log)) == (2000, "Eval num_timesteps=2000, episode_reward=9")
    with log.open("a") as file:
        file.write("1500 of 3000 steps are done, 1500 to go\n" + "x" * 40_000 + "\n|    total_timesteps | 1501 |\n")
    assert trained_steps(log) == 1501


def test_the_lists_of_this_repository(tmp_path):
    files = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.yml"))
    assert len(files) > 10
    for file in files:
        jobs = TrainingList(file, tmp_path)
        jobs.check(jobs.jobs)
        assert all(jobs.command(job, tmp_path) for job in jobs.jobs)
