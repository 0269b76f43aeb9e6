"""Lists of trainings: jobs that are finished stay, ratios by hand."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import yaml
from small_agents import DictEnv

from sb3_spiking.evaluation.agents import load_agent
from sb3_spiking.sweep import plots, scoring, tables
from sb3_spiking.sweep.estimate import estimate
from sb3_spiking.sweep.lists import TrainingList
from sb3_spiking.sweep.records import Records
from sb3_spiking.sweep.zoo_command import read_options, what_it_trains

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


SPIKES = ("firing_rate", "silent_neurons", "saturated_neurons", "saturated_windows")


def rows_of(records, job, name):
    """The rows of a job in a table, without columns that other jobs alone have."""
    rows = records.table(name)
    return rows[rows["job"] == job].drop(columns="job").dropna(axis=1, how="all")


def test_a_list_runs_and_what_is_finished_stays(tmp_path, monkeypatch, capsys, in_process, import_benchmark):
    (tmp_path / "small.yml").write_text(yaml.safe_dump(LIST))
    table, _ = in_process("sweep", "small.yml --results results", tmp_path)
    results = tmp_path / "results"
    files = ("scores.csv", "evaluations.csv", "spikes.csv", "jobs.yml", "random.csv", "runs.csv")
    assert {path.name for path in results.iterdir()} == {*files, "learning_curves.png", "profile.png", ".sweep"}
    records = Records(results)
    for job in ("relu", "spiking"):
        assert rows_of(records, f"CartPole-v1_{job}_3", "evaluations")["timesteps"].tolist() == [500, 1000, 1500]
        score = rows_of(records, f"CartPole-v1_{job}_3", "scores").iloc[0]
        assert 5 < score["mean"] <= score["max"] <= 50
        assert 5 < score["last_mean"] <= 50
        assert f"| {job} | {score['mean']:.2f} ({score['mean']:.2f}) |" in table
    spikes = rows_of(records, "CartPole-v1_spiking_3", "spikes").set_index("timesteps")
    assert set(spikes) == {f"{name}/layer_1" for name in SPIKES}
    assert spikes.index.is_monotonic_increasing
    assert spikes.to_numpy().min() >= 0
    assert 0 < spikes["firing_rate/layer_1"].mean() < 1
    assert rows_of(records, "CartPole-v1_relu_3", "spikes").empty
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
    table, _ = in_process("sweep", "small.yml --results results --logs others", tmp_path)
    assert not (tmp_path / "others").exists()
    assert "| relu | 40.00 (40.00) | 100.0%" in table
    runs = pd.read_csv(results / "runs.csv").set_index("method")
    assert runs.loc["relu", ["env", "seed", "mean", "ratio", "command"]].tolist() == ["CartPole-v1", 3, 40.0, 1.0, "python"]
    random = pd.read_csv(results / "random.csv")["mean"].item()
    spiking = runs.loc["spiking"]
    assert spiking["ratio"] == pytest.approx((spiking["mean"] - random) / (40 - random), abs=1e-4)
    assert (spiking["steps"], spiking["num_steps"]) == (1500, 3)
    assert not folder.exists()
    assert records.jobs()["CartPole-v1_relu_3"] == {"command": "python", "machine": "machine", "config": {"net_arch": [8]}}
    assert rows_of(records, "CartPole-v1_relu_3", "evaluations")["timesteps"].tolist() == [500]
    assert rows_of(records, "CartPole-v1_spiking_3", "spikes").set_index("timesteps").equals(spikes)
    assert (results / "jobs.yml").read_text() != before

    # The agent of a finished job, in RL Zoo's layout
    agents = import_benchmark("agents")
    jobs = TrainingList(Path("small.yml"), Path("results"))
    (kept,) = agents.keep(jobs, "spiking", Path("logs/training/small"), tmp_path / "kept")
    agents.keep(jobs, "relu", Path("logs/training/small"), tmp_path / "relu")
    assert kept == tmp_path / "kept/dqn/CartPole-v1_1"
    agent = load_agent(tmp_path / "kept", "dqn", "CartPole-v1")
    assert agent.env_kwargs == {"max_episode_steps": 50}
    assert agent.model.policy.settings.net_arch == (8,)
    curve = np.load(kept / "evaluations.npz")
    assert agent.model.num_timesteps == curve["timesteps"][curve["results"].mean(axis=1).argmax()]
    assert str(tmp_path) not in (kept / "CartPole-v1/args.yml").read_text()
    monkeypatch.setattr("sys.argv", ["agents.py", "keep", "small.yml", "--method", "spiking", "--only", "Pong"])
    with pytest.raises(SystemExit):
        agents.main()
    assert "no finished job of small.yml in an environment with 'Pong' in its name" in capsys.readouterr().err
    table = agents.play(agents.agents_of([tmp_path / "kept", tmp_path / "relu"]), tmp_path / "played", n_envs=8).splitlines()
    assert len(table) == 4
    assert table[2].startswith("| dqn  | CartPole-v1 | spiking |")
    assert table[3].startswith("| dqn  | CartPole-v1 |    ReLU |")
    assert pd.read_csv(tmp_path / "played/episodes.csv")["score"].between(5, 50).sum() == 60


def test_random_actions_are_as_many_as_environments():
    player = scoring._Random(DictEnv.action_space)
    for space in (DictEnv.observation_space, gym.make("CartPole-v1").observation_space):
        observations = gym.vector.utils.batch_space(space, 5).sample()
        actions, _ = player.predict(observations)
        assert actions.shape == (5,)


def test_scores_are_those_of_greedy_actions(tmp_path, monkeypatch):
    (tmp_path / "config.yml").write_text("{}")

    def left(self, observations, *args, deterministic, **kwargs):
        assert deterministic
        return np.zeros(len(observations), int), None

    monkeypatch.setattr(scoring._Random, "predict", left)
    player = scoring._Random(gym.make("CartPole-v1").action_space)
    scores = scoring.play("CartPole-v1", player, tmp_path, {}, 2)
    assert all(7 < score < 12 for score in scores)  # how long a pole stands that is always pushed to the left


def test_a_list_chooses_its_curves(tmp_path, monkeypatch):
    (tmp_path / "small.yml").write_text(yaml.safe_dump({**LIST, "curves": ["spiking"]}))
    jobs = TrainingList(tmp_path / "small.yml", tmp_path)
    for number, method in enumerate(LIST["methods"]):
        folder = tmp_path / f"CartPole-v1_{method}_3"
        folder.mkdir()
        (folder / "evaluations.csv").write_text(f"timesteps,mean,std\n500,{number},0\n1000,10,0\n")
        (folder / "score.csv").write_text("mean\n1\n")
        (folder / "command.txt").write_text("python\n")
        (folder / "config.yml").write_text("{}")
    drawn, curve = [], plots._curve
    monkeypatch.setattr(plots, "_curve", lambda rows: drawn.append(curve(rows)) or drawn[-1])
    plots.plot_curves(jobs, tmp_path / "curves.png")
    assert [each.to_dict() for each in drawn] == [{0.5: 1, 1.0: 10}]


def test_a_method_may_have_seeds_of_its_own(tmp_path):
    methods = {"relu": {}, "spiking": {"seeds": [0, 7]}}
    (tmp_path / "small.yml").write_text(yaml.safe_dump({**LIST, "seeds": [0, 1], "methods": methods}))
    jobs = [(job.method, job.seed) for job in TrainingList(tmp_path / "small.yml").jobs]
    assert jobs == [("relu", 0), ("spiking", 0), ("relu", 1), ("spiking", 7)]


def test_silent_neurons_by_hand(tmp_path):
    (tmp_path / "small.yml").write_text(yaml.safe_dump({**LIST, "seeds": [3, 4]}))
    jobs = TrainingList(tmp_path / "small.yml", tmp_path)
    for seed, early, late in ((3, 0.2, 0.4), (4, 0.4, 0.8)):
        folder = tmp_path / f"CartPole-v1_spiking_{seed}"
        folder.mkdir()
        silent = [0.9, early - 0.1, early + 0.1, *[0.9] * 14, late, late - 0.05, late + 0.05]
        columns = {"firing_rate/layer_2": 0.5, "silent_neurons/layer_1": 1.0, "silent_neurons/layer_10": silent}
        columns |= {"silent_neurons/layer_2": 0.7}  # TensorBoard's tags come in the order of the alphabet
        pd.DataFrame(columns, index=pd.RangeIndex(50, 1001, 50, name="timesteps")).to_csv(folder / "spikes.csv")
        (folder / "score.csv").write_text("mean\n1\n")
        (folder / "command.txt").write_text("python\n")
        (folder / "config.yml").write_text("{}")
    (tmp_path / "CartPole-v1_spiking_5").mkdir()
    (tmp_path / "CartPole-v1_spiking_5/readme").write_text("not a job")
    assert tables.silence(jobs).splitlines() == ["| | CartPole-v1 |", "|---|--:|", "| spiking | 30% to 60% |"]


def test_random_actions_play_whole_games_in_the_environment_of_a_job(tmp_path, monkeypatch):
    content = {
        **LIST,
        "environments": ["PongNoFrameskip-v4"],
        "env_kwargs": {"max_num_frames_per_episode": 900},
        "score_episodes": 2,
    }
    (tmp_path / "pong.yml").write_text(yaml.safe_dump(content))
    jobs = TrainingList(tmp_path / "pong.yml", tmp_path)
    job = tmp_path / "PongNoFrameskip-v4_relu_3"
    job.mkdir()
    other = tmp_path / "PongNoFrameskip-v4_spiking_3"
    for folder, size in ((job, 36), (other, 48)):  # the reference's counts, whichever comes first
        folder.mkdir(exist_ok=True)
        wrapper = {"stable_baselines3.common.atari_wrappers.AtariWrapper": {"screen_size": size}}
        (folder / "config.yml").write_text(yaml.safe_dump({"env_wrapper": [wrapper], "frame_stack": 4}))
        (folder / "command.txt").write_text("python\n")
        (folder / "score.csv").write_text("mean\n1\n")
    shapes = set()

    def stay(self, observations, *args, deterministic, **kwargs):
        assert not deterministic
        shapes.add(observations.shape)
        return np.zeros(len(observations), int), None

    monkeypatch.setattr(scoring._Random, "predict", stay)
    (score,) = scoring.random_scores(jobs).values()
    assert score < 0  # who never moves loses points
    assert shapes == {(2, 36, 36, 4)}
    assert pd.read_csv(tmp_path / "random.csv")["mean"].tolist() == [score]


@pytest.mark.parametrize("removed", [[], ["score.csv"], ["score.csv", "command.txt"], ["evaluations.csv", "score.csv"]])
def test_gathering_that_is_stopped_while_folders_go_loses_nothing(tmp_path, monkeypatch, removed):
    (tmp_path / "small.yml").write_text(yaml.safe_dump(LIST))
    jobs, folder = TrainingList(tmp_path / "small.yml", tmp_path), tmp_path / "CartPole-v1_relu_3"
    folder.mkdir()
    for name, text in {
        **{"score.csv": "mean\n7.5\n", "evaluations.csv": "timesteps,mean,std\n500,3,0\n"},
        **{"command.txt": "python\n", "config.yml": "{}"},
    }.items():
        (folder / name).write_text(text)

    def stopped(path):
        for name in removed:
            (path / name).unlink(missing_ok=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sb3_spiking.sweep.records.shutil.rmtree", stopped)
        with pytest.raises(KeyboardInterrupt):
            jobs.records.gather()
    for _ in range(2):
        assert jobs.scores()["mean"].tolist() == [7.5]
        assert rows_of(jobs.records, "CartPole-v1_relu_3", "evaluations")["mean"].tolist() == [3]
        assert set(jobs.records.jobs()) == {"CartPole-v1_relu_3"}
        jobs.records.gather()


def test_a_reference_that_is_no_better_than_random_play_is_no_reference(tmp_path):
    methods = {"relu": {}, "spiking": {}}
    (tmp_path / "small.yml").write_text(yaml.safe_dump({**LIST, "seeds": [0, 1, 2, 3, 4], "methods": methods}))
    jobs = TrainingList(tmp_path / "small.yml", tmp_path)
    for job in jobs.jobs:
        (tmp_path / job.name).mkdir()
        (tmp_path / job.name / "score.csv").write_text("mean\n10\n" if job.method == "relu" else "mean\n40\n")
        (tmp_path / job.name / "command.txt").write_text("python\n")
        (tmp_path / job.name / "config.yml").write_text("{}")
    random = {"CartPole-v1": 20.0}
    assert "ratio" not in tables.all_runs(jobs, jobs.scores(), random)
    assert "nan" not in tables.over_seeds(jobs, jobs.scores(), random)


def test_performance_ratios_by_hand():
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
    assert tables.ratios(scores, random, "new", "relu") == pytest.approx({"A": 7 / 10, "B": 50 / 100})
    assert tables.ratios(scores, random, "relu", "relu") == {"A": 1.0, "B": 1.0}
    assert tables.ratios(scores, random, "none", "relu") == {}


def test_ratios_by_game_by_hand(tmp_path):
    env_ids = ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"]
    methods = {name: {"hyperparams": {}} for name in ("relu", "all", "two", "one")}
    (tmp_path / "games.yml").write_text(yaml.safe_dump({**LIST, "environments": env_ids, "methods": methods}))
    jobs = TrainingList(tmp_path / "games.yml", tmp_path)
    rows = [(env, "relu", 0, 10.0) for env in env_ids]
    rows += [(env, "all", 0, score) for env, score in zip(env_ids, (5.0, 30.0, 9.0), strict=True)]
    rows += [(env, "two", 0, score) for env, score in zip(env_ids, (4.0, 12.0), strict=False)]
    rows += [("CartPole-v1", "one", 0, 8.0)]
    scores = pd.DataFrame(rows, columns=["env", "method", "seed", "mean"])
    found = [
        [cell.strip() for cell in row.split("|")[1:-1]]
        for row in tables.by_game(jobs, scores, dict.fromkeys(env_ids, 0.0)).splitlines()
    ]
    assert found[0] == ["", *env_ids, "mean without the best of them"]
    assert found[2:] == [["all", "50%", "300%", "90%", "70%"], ["two", "40%", "120%", "", "40%"]]
    assert tables.by_game(jobs, scores[scores["env"] == "CartPole-v1"], {"CartPole-v1": 0.0}) == ""


def test_a_list_that_is_not_finished_has_nothing_to_compare(tmp_path):
    (tmp_path / "small.yml").write_text(yaml.safe_dump(LIST))
    jobs = TrainingList(tmp_path / "small.yml", tmp_path)
    for methods, text in (
        (["spiking"], "Nothing to compare with the runs of relu yet"),
        (["relu", "spiking"], "| spiking |           1 |                          100% |"),
    ):
        scores = pd.DataFrame({"env": "CartPole-v1", "method": methods, "seed": 3, "mean": 30.0})
        assert text in tables.over_seeds(jobs, scores, {"CartPole-v1": 20.0})
        plots.plot_profile(jobs, scores, {"CartPole-v1": 20.0}, tmp_path / "profile.png")
        assert (tmp_path / "profile.png").exists() == (len(methods) > 1)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (
            "rl_zoo3.train -f logs --num-threads 1 -params a:1 b:2",
            "rl_zoo3.train -f logs/x --num-threads 4 -params b:2 a:1",
            True,
        ),
        ("rl_zoo3.train -f logs -params a:1", "rl_zoo3.train -f logs -params a:2", False),
        ("rl_zoo3.train -f logs -n 10", "rl_zoo3.train -f logs -n 20", False),
        ("sb3_spiking convert -f logs/relu_0", "sb3_spiking convert -f logs/wide_0", False),  # another agent
    ],
)
def test_commands_that_train_the_same(one, other, same):
    assert (what_it_trains(one) == what_it_trains(other)) is same


def test_random_actions_are_those_of_the_wrapped_environment(tmp_path):
    (tmp_path / "small.yml").write_text(yaml.safe_dump({**LIST, "environments": ["Pendulum-v1"], "score_episodes": 2}))
    jobs = TrainingList(tmp_path / "small.yml", tmp_path)
    job = tmp_path / "Pendulum-v1_relu_3"
    job.mkdir()
    (job / "config.yml").write_text(yaml.safe_dump({"env_wrapper": f"{__name__}.Torques"}))
    (job / "command.txt").write_text("python\n")
    (job / "score.csv").write_text("mean\n1\n")
    (score,) = scoring.random_scores(jobs).values()
    assert score < 0


class Torques(gym.ActionWrapper):
    """Three actions of Pendulum."""

    def __init__(self, env):
        super().__init__(env)
        self.action_space = gym.spaces.Discrete(3)

    def action(self, action):
        return np.array([2.0 * (int(action) - 1)], np.float32)


@pytest.mark.parametrize(
    ("listed", "method", "expected"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"b": 2}, {}, {"b": 2}),
        ({"b": 2}, {"a": 1}, {"a": 1, "b": 2}),
        ({"a": 2}, {"a": 1}, {"a": 1}),
    ],
)
def test_arguments_of_the_environment_that_a_method_has(tmp_path, listed, method, expected):
    methods = {"relu": {"hyperparams": {"policy": "MlpPolicy", "n_timesteps": 100, "env_kwargs": method}}}
    content = {**LIST, "methods": methods, "reference": "relu", "env_kwargs": listed}
    (tmp_path / "small.yml").write_text(yaml.safe_dump(content))
    jobs = TrainingList(tmp_path / "small.yml", tmp_path)
    job = jobs.jobs[0]
    assert jobs.env_kwargs_of(job) == expected
    # What RL Zoo makes of the command
    options = read_options(jobs.command(job, tmp_path)[2:])
    assert (options.env_kwargs or options.hyperparams["env_kwargs"]) == expected


def test_a_dry_run_of_conversions_alone(tmp_path):
    methods = {"relu": {"hyperparams": {"policy": "MlpPolicy"}}, "converted": {"convert": "relu"}}
    (tmp_path / "small.yml").write_text(yaml.safe_dump({**LIST, "methods": methods, "reference": "relu"}))
    jobs = TrainingList(tmp_path / "small.yml", tmp_path)
    table = estimate(jobs, [job for job in jobs.jobs if job.method == "converted"])
    assert table["hours"].sum() == 0
    assert table["jobs"].tolist() == [len([job for job in jobs.jobs if job.method == "converted"])]


def test_a_training_too_short_to_have_an_early_part(tmp_path, monkeypatch):
    (tmp_path / "small.yml").write_text(yaml.safe_dump(LIST))
    jobs = TrainingList(tmp_path / "small.yml", tmp_path)
    job = tmp_path / "CartPole-v1_spiking_3"
    job.mkdir()
    for name, text in {
        **{"score.csv": "mean\n1\n", "command.txt": "python\n", "config.yml": "{}"},
        "spikes.csv": "timesteps,silent_neurons/layer_1\n1024,0.5\n2048,0.4\n3072,0.3\n",
    }.items():
        (job / name).write_text(text)
    assert tables.silence(jobs).splitlines()[-1] == "| spiking | 30% |"
