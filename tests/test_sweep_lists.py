"""benchmarks/training.py: jobs that are finished stay, ratios by hand."""

import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import yaml

from sb3_spiking.evaluation.agents import load_agent

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def training():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import training

    yield training
    sys.path.remove(str(ROOT / "benchmarks"))


LIST = {
    "environments": ["CartPole-v1"],
    "seeds": [3],
    "steps": 1500,
    "arguments": "--eval-freq 500 --eval-episodes 2",
    "env_kwargs": {"max_episode_steps": 50},
    "reference": "relu",
    "methods": {
        "relu": {"hyperparams": {"policy_kwargs": "dict(net_arch=[8])", "learning_starts": 100}},
        "spiking": {"arguments": "-conf sb3_spiking", "hyperparams": {"policy_kwargs": "dict(net_arch=[8], num_steps=3)"}},
    },
}


def test_a_list_runs_and_what_is_finished_stays(training, tmp_path, monkeypatch, capsys):
    (tmp_path / "small.yml").write_text(yaml.safe_dump(LIST))
    arguments = ["training.py", "small.yml", "--results", "results", "--logs", "logs"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", arguments)
    training.main()
    table = capsys.readouterr().out
    results = tmp_path / "results"
    files = ("scores.csv", "evaluations.csv", "spikes.csv", "jobs.yml", "random.csv", "learning_curves.png", "profile.png")
    assert {path.name for path in results.iterdir()} == set(files)
    records = training.Records(results)
    for job in ("relu", "spiking"):
        assert records.of(f"CartPole-v1_{job}_3", "evaluations")["timesteps"].tolist() == [500, 1000, 1500]
        score = records.of(f"CartPole-v1_{job}_3", "scores").iloc[0]
        assert 5 < score["mean"] <= score["max"] <= 50
        assert 5 < score["last_mean"] <= 50
        assert f"| {job} | {score['mean']:.2f} ({score['mean']:.2f}) |" in table
    spikes = records.of("CartPole-v1_spiking_3", "spikes").set_index("timesteps")
    assert set(spikes) == {f"{name}/layer_1" for name in ("firing_rate", "silent_neurons", "saturated_neurons")}
    assert spikes.index.is_monotonic_increasing
    assert spikes.to_numpy().min() >= 0
    assert 0 < spikes["firing_rate/layer_1"].mean() < 1
    assert records.of("CartPole-v1_relu_3", "spikes").empty
    kept = records.jobs()
    assert "settings" not in kept["CartPole-v1_relu_3"]
    assert kept["CartPole-v1_relu_3"]["config"]["policy_kwargs"] == "dict(net_arch=[8])"
    assert kept["CartPole-v1_spiking_3"]["command"].startswith(
        "python -m rl_zoo3.train --algo dqn --env CartPole-v1 --seed 3 "
    )
    settings = kept["CartPole-v1_spiking_3"]["settings"]
    assert (settings["num_steps"], settings["net_arch"], settings["beta"]) == (3, [8], 1.0)

    # Finished jobs are not run again, whether in a folder or in the files of the list
    before = (results / "jobs.yml").read_text()
    folder = results / "CartPole-v1_relu_3"
    folder.mkdir()
    (folder / "score.csv").write_text("mean,std,max,train_seconds\n40.0,0.0,40.0,1\n")
    (folder / "evaluations.csv").write_text("timesteps,mean,std\n500,40.0,0.0\n")
    (folder / "command.txt").write_text("python\nmachine\n")
    (folder / "config.yml").write_text(
        "!!python/object/apply:collections.OrderedDict\n- - - net_arch\n    - !!python/tuple [8]\n"
    )
    monkeypatch.setattr(sys, "argv", [*arguments, "--logs", "others"])
    training.main()
    assert not (tmp_path / "others").exists()
    assert "| relu | 40.00 (40.00) | 100.0%" in capsys.readouterr().out
    assert not folder.exists()
    assert records.jobs()["CartPole-v1_relu_3"] == {"command": "python", "machine": "machine", "config": {"net_arch": [8]}}
    assert records.of("CartPole-v1_relu_3", "evaluations")["timesteps"].tolist() == [500]
    assert records.of("CartPole-v1_spiking_3", "spikes").set_index("timesteps").equals(spikes)
    assert (results / "jobs.yml").read_text() != before

    # The agent of a finished job, in RL Zoo's layout
    import agents

    jobs = training.TrainingList(Path("small.yml"), Path("results"))
    (kept,) = agents.keep(jobs, "spiking", Path("logs/small"), tmp_path / "kept")
    agents.keep(jobs, "relu", Path("logs/small"), tmp_path / "relu")
    assert kept == tmp_path / "kept/dqn/CartPole-v1_1"
    agent = load_agent(tmp_path / "kept", "dqn", "CartPole-v1")
    assert agent.env_kwargs == {"max_episode_steps": 50}
    assert agent.model.policy.settings.net_arch == (8,)
    curve = np.load(kept / "evaluations.npz")
    assert agent.model.num_timesteps == curve["timesteps"][curve["results"].mean(axis=1).argmax()]
    assert str(tmp_path) not in (kept / "CartPole-v1/args.yml").read_text()
    monkeypatch.setattr(sys, "argv", ["agents.py", "keep", "small.yml", "--method", "spiking", "--only", "Pong"])
    with pytest.raises(SystemExit):
        agents.main()
    assert "no finished job of small.yml in an environment with 'Pong' in its name" in capsys.readouterr().err
    table = agents.play([tmp_path / "kept", tmp_path / "relu"], tmp_path / "played", n_envs=8).splitlines()
    assert len(table) == 4
    assert table[2].startswith("| dqn  | CartPole-v1 | spiking |")
    assert table[3].startswith("| dqn  | CartPole-v1 |    ReLU |")
    assert pd.read_csv(tmp_path / "played/episodes.csv")["score"].between(5, 50).sum() == 60


def test_a_job_that_was_killed_goes_on_from_its_checkpoint(training, tmp_path, monkeypatch):
    checkpointed = {"callback": ["sb3_spiking.SpikeMonitor", {"sb3_spiking.Checkpoint": {"save_freq": 500}}]}
    monkeypatch.setattr(training, "SCORE_EPISODES", 5)
    (tmp_path / "small.yml").write_text(yaml.safe_dump({**LIST, "steps": 3000, "hyperparams": checkpointed}))
    jobs = training.TrainingList(tmp_path / "small.yml", tmp_path / "results")
    job = next(job for job in jobs.jobs if job.method == "spiking")

    def killed(*args, **kwargs):
        process = subprocess.Popen(*args, **kwargs)
        while process.poll() is None and not list(tmp_path.rglob("checkpoint/checkpoint.json")):
            time.sleep(0.01)
        process.kill()
        return subprocess.CompletedProcess([], process.wait())

    with monkeypatch.context() as patched:
        patched.setattr(training.subprocess, "run", killed)
        with pytest.raises(RuntimeError, match="spiking_3 failed"):
            jobs.run(job, tmp_path / "logs")
    jobs.run(job, tmp_path / "logs")
    assert "of 3000 steps are done" in (tmp_path / "logs" / job.name / "train.log").read_text()
    result = tmp_path / "results" / job.name
    assert pd.read_csv(result / "evaluations.csv")["timesteps"].tolist() == list(range(500, 3001, 500))
    assert pd.read_csv(result / "spikes.csv")["timesteps"].is_monotonic_increasing
    assert pd.read_csv(result / "score.csv")["train_seconds"].isna().all()


def test_jobs_that_end_together_are_scored_one_by_one(training, tmp_path, monkeypatch):
    (tmp_path / "small.yml").write_text(yaml.safe_dump({**LIST, "seeds": [3, 4]}))
    jobs = training.TrainingList(tmp_path / "small.yml", tmp_path / "results")
    meeting = threading.Barrier(2)

    def play(*args):
        with pytest.raises(threading.BrokenBarrierError):  # nobody else comes
            meeting.wait(timeout=1)
        return [1.0, 3.0]

    monkeypatch.setattr(training.TrainingList, "play", play)
    first, second = (job for job in jobs.jobs if job.method == "relu")
    jobs.run(first, tmp_path / "logs")
    shutil.rmtree(jobs.results)
    shutil.copytree(tmp_path / "logs" / first.name, tmp_path / "logs" / second.name)
    meeting.reset()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda job: jobs.record(job, tmp_path / "logs" / job.name, 1), (first, second)))
    assert jobs.scores()["mean"].tolist() == [2.0, 2.0]


def test_scores_are_those_of_greedy_actions(training, tmp_path, monkeypatch):
    (tmp_path / "small.yml").write_text(yaml.safe_dump(LIST))
    (tmp_path / "config.yml").write_text("{}")
    monkeypatch.setattr(training, "SCORE_EPISODES", 2)

    def left(self, observations, *args, deterministic, **kwargs):
        assert deterministic
        return np.zeros(len(observations), int), None

    monkeypatch.setattr(training._Random, "predict", left)
    player = training._Random(gym.make("CartPole-v1").action_space)
    scores = training.TrainingList(tmp_path / "small.yml").play("CartPole-v1", player, tmp_path)
    assert all(7 < score < 12 for score in scores)  # how long a pole stands that is always pushed to the left


def test_a_list_chooses_its_curves(training, tmp_path, monkeypatch):
    (tmp_path / "small.yml").write_text(yaml.safe_dump({**LIST, "curves": ["spiking"]}))
    jobs = training.TrainingList(tmp_path / "small.yml", tmp_path)
    for number, method in enumerate(LIST["methods"]):
        folder = tmp_path / f"CartPole-v1_{method}_3"
        folder.mkdir()
        (folder / "evaluations.csv").write_text(f"timesteps,mean,std\n500,{number},0\n1000,10,0\n")
        (folder / "command.txt").write_text("python\n")
        (folder / "config.yml").write_text("{}")
    drawn, curve = [], training._curve
    monkeypatch.setattr(training, "_curve", lambda rows: drawn.append(curve(rows)) or drawn[-1])
    training.plot(jobs, tmp_path / "curves.png")
    assert [each.to_dict() for each in drawn] == [{0.5: 1, 1.0: 10}]


def test_a_method_may_have_seeds_of_its_own(training, tmp_path):
    methods = {"relu": {}, "spiking": {"seeds": [0, 7]}}
    (tmp_path / "small.yml").write_text(yaml.safe_dump({**LIST, "seeds": [0, 1], "methods": methods}))
    jobs = [(job.method, job.seed) for job in training.TrainingList(tmp_path / "small.yml").jobs]
    assert jobs == [("relu", 0), ("spiking", 0), ("relu", 1), ("spiking", 7)]


def test_silent_neurons_by_hand(training, tmp_path):
    (tmp_path / "small.yml").write_text(yaml.safe_dump({**LIST, "seeds": [3, 4]}))
    jobs = training.TrainingList(tmp_path / "small.yml", tmp_path)
    for seed, early, late in ((3, 0.2, 0.4), (4, 0.4, 0.8)):
        folder = tmp_path / f"CartPole-v1_spiking_{seed}"
        folder.mkdir()
        silent = [0.9, early - 0.1, early + 0.1, *[0.9] * 14, late, late - 0.05, late + 0.05]
        columns = {"firing_rate/layer_2": 0.5, "silent_neurons/layer_1": 1.0, "silent_neurons/layer_2": silent}
        pd.DataFrame(columns, index=pd.RangeIndex(50, 1001, 50, name="timesteps")).to_csv(folder / "spikes.csv")
        (folder / "command.txt").write_text("python\n")
        (folder / "config.yml").write_text("{}")
    (tmp_path / "CartPole-v1_spiking_5").mkdir()
    (tmp_path / "CartPole-v1_spiking_5/readme").write_text("not a job")
    assert training.silence(jobs).splitlines() == ["| | CartPole-v1 |", "|---|--:|", "| spiking | 30% to 60% |"]


def test_a_job_that_fails_says_where_to_look(training, tmp_path):
    wrong = {**LIST, "methods": {"relu": {"hyperparams": {"policy": "NoPolicy"}}}}
    (tmp_path / "wrong.yml").write_text(yaml.safe_dump(wrong))
    jobs = training.TrainingList(tmp_path / "wrong.yml", tmp_path / "results")
    with pytest.raises(RuntimeError, match=r"CartPole-v1_relu_3 failed, see .*train\.log"):
        jobs.run(jobs.jobs[0], tmp_path / "logs")
    assert jobs.finished() == []


def test_random_actions_play_whole_games_in_the_environment_of_a_job(training, tmp_path, monkeypatch):
    content = {**LIST, "environments": ["PongNoFrameskip-v4"], "env_kwargs": {"max_num_frames_per_episode": 900}}
    (tmp_path / "pong.yml").write_text(yaml.safe_dump(content))
    jobs = training.TrainingList(tmp_path / "pong.yml", tmp_path)
    job = tmp_path / "PongNoFrameskip-v4_relu_3"
    job.mkdir()
    wrapper = {"stable_baselines3.common.atari_wrappers.AtariWrapper": {"screen_size": 36}}
    (job / "config.yml").write_text(yaml.safe_dump({"env_wrapper": [wrapper], "frame_stack": 4}))
    (job / "command.txt").write_text("python\n")
    (job / "score.csv").write_text("mean\n1\n")
    monkeypatch.setattr(training, "SCORE_EPISODES", 2)
    shapes = set()

    def stay(self, observations, *args, deterministic, **kwargs):
        assert not deterministic
        shapes.add(observations.shape)
        return np.zeros(len(observations), int), None

    monkeypatch.setattr(training._Random, "predict", stay)
    score = jobs.random_score("PongNoFrameskip-v4")
    assert score < 0  # who never moves loses points
    assert shapes == {(2, 36, 36, 4)}
    assert pd.read_csv(tmp_path / "random.csv")["mean"].tolist() == [score]


def test_performance_ratios_by_hand(training):
    rows = [
        ("A", "relu", 11.0),
        ("A", "relu", 9.0),
        ("B", "relu", 102.0),
        ("A", "new", 7.0),
        ("B", "new", 52.0),
        ("B", "new", 52.0),
    ]
    scores = pd.DataFrame(rows, columns=["env", "method", "mean"])
    random = {"A": 0.0, "B": 2.0}
    mean, environments = training.ratio(scores, random, "new", "relu")
    assert mean == pytest.approx((7 / 10 + 50 / 100) / 2)
    assert environments == 2
    assert training.ratio(scores, random, "relu", "relu") == (1.0, 2)
    assert training.ratio(scores, random, "none", "relu") is None


def test_a_list_that_is_not_finished_has_nothing_to_compare(training, tmp_path):
    (tmp_path / "small.yml").write_text(yaml.safe_dump(LIST))
    pd.DataFrame({"mean": {"CartPole-v1": 20.0}}).rename_axis("environment").to_csv(tmp_path / "random.csv")
    jobs = training.TrainingList(tmp_path / "small.yml", tmp_path)
    for methods, text in (
        (["spiking"], "Nothing to compare with the runs of relu yet"),
        (["relu", "spiking"], "| spiking | 1 | "),
    ):
        scores = pd.DataFrame({"env": "CartPole-v1", "method": methods, "seed": 3, "mean": 30.0})
        assert text in training.over_seeds(jobs, scores)
        training.plot_profile(jobs, scores, tmp_path / "profile.png")
        assert (tmp_path / "profile.png").exists() == (len(methods) > 1)
