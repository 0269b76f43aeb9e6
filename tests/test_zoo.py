"""RL Zoo by its command line, as a user runs it."""

import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import rl_zoo3.hyperparams_opt
from processes import finished, python
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import sb3_spiking
import sb3_spiking.chip
import sb3_spiking.liu2022
from custom_envs import algorithm_asked_for
from sb3_spiking import SpikingPolicy
from sb3_spiking.zoo.hyperparams import load_hyperparams
from sb3_spiking.zoo.search import SEARCH_SPACE, convert_dqn_params, sample_dqn_params

LIU2022_GAMES = (
    "Atlantis BeamRider Boxing Breakout CrazyClimber Gopher Jamesbond Kangaroo Krull NameThisGame Pong RoadRunner "
    "SpaceInvaders StarGunner Tennis Tutankham VideoPinball"
).split()


def zoo(module, arguments, folder, check=True):
    """Run ``python -m rl_zoo3.module`` in a folder; the output, errors included."""
    process = python("-m", f"rl_zoo3.{module}", *arguments, folder=folder)
    return finished(process) if check else process.stdout + process.stderr


def train(arguments, folder, env="CartPole-v1", check=True):
    common = f"--algo dqn --env {env} --num-threads 1 --eval-freq -1"
    return zoo("train", [*common.split(), *arguments.split()], folder, check)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which the user's command ran."""
    folder = tmp_path_factory.mktemp("runs")
    # With a seed: SB3 logs after episodes, of which some must end behind the 1,000 steps of SpikeMonitor
    command = "-f sb3_spiking -n 1200 --seed 0 --save-replay-buffer --tensorboard-log tb -P"
    (folder / "first.txt").write_text(train(command, folder))
    return folder


def test_log_folder_alone_trains_a_spiking_agent(trained):
    output = (trained / "first.txt").read_text()
    assert "sb3_spiking: training a spiking agent (-conf sb3_spiking added), hyperparameters from" in output
    assert "Loading hyperparameters from: sb3_spiking" in output
    model = DQN.load(trained / "sb3_spiking/dqn/CartPole-v1_1/CartPole-v1.zip")
    assert type(model.policy) is SpikingPolicy
    assert model.num_timesteps >= 1200
    # what RL Zoo saves can be read without running code: no class among the settings
    assert "python/name" not in (trained / "sb3_spiking/dqn/CartPole-v1_1/CartPole-v1/config.yml").read_text()


@pytest.mark.slow
def test_second_run_in_the_same_folder_with_other_settings(trained):
    train("-f sb3_spiking -n 200 -params policy_kwargs:dict(num_steps=2)", trained)
    model = DQN.load(trained / "sb3_spiking/dqn/CartPole-v1_2/CartPole-v1.zip")
    assert type(model.policy) is SpikingPolicy
    assert model.policy.settings.num_steps == 2


def test_firing_rates_reach_tensorboard(trained):
    (events,) = (trained / "tb").rglob("events*")
    accumulator = EventAccumulator(str(events)).Reload()
    for name in ("firing_rate/layer_1", "silent_neurons/layer_2", "saturated_neurons/layer_2"):
        assert name in accumulator.Tags()["scalars"]


def test_enjoy(trained):
    output = zoo("enjoy", "--algo dqn --env CartPole-v1 -f sb3_spiking --no-render -n 100".split(), trained)
    assert "Mean reward" in output


@pytest.mark.slow
def test_continue(trained):
    agent = "sb3_spiking/dqn/CartPole-v1_1/CartPole-v1.zip"
    output = train(f"-f continued -conf sb3_spiking -i {agent} -n 200", trained)
    assert "Loading pretrained agent" in output
    assert "Loading replay buffer" in output
    assert type(DQN.load(trained / "continued/dqn/CartPole-v1_1/CartPole-v1.zip").policy) is SpikingPolicy


@pytest.mark.slow
def test_record_video(trained):
    zoo("record_video", "--algo dqn --env CartPole-v1 -f sb3_spiking -n 30".split(), trained)
    (video,) = (trained / "sb3_spiking/dqn").glob("CartPole-v1_*/videos/*.mp4")
    assert video.stat().st_size > 1000


@pytest.mark.slow
def test_other_folders_stay_plain_rl_zoo(tmp_path):
    output = train("-f logs -n 200", tmp_path)
    assert "sb3_spiking" not in output
    model = DQN.load(tmp_path / "logs/dqn/CartPole-v1_1/CartPole-v1.zip")
    assert "ReLU" in str(model.policy)


def test_a_package_that_cannot_be_imported_stops(tmp_path):
    (tmp_path / "snntorch.py").write_text("raise ImportError('no snntorch here')")
    output = train("-f sb3_spiking -n 200", tmp_path, check=False)
    assert "the package sb3_spiking cannot be imported: no snntorch here" in output
    assert not (tmp_path / "sb3_spiking").exists()


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_optimize_searches_and_keeps_settings(tmp_path, jobs):
    policy_kwargs = "dict(encoding='poisson',net_arch=[9,8,7],beta=[0.5,0.6,0.7])"
    search = f"-optimize --n-trials 2 --n-jobs {jobs} --sampler random --no-optim-plots --n-evaluations 1 --eval-episodes 1"
    train(f"-f sb3_spiking -n 150 {search} --optimization-log-path best -params policy_kwargs:{policy_kwargs}", tmp_path)
    (file,) = (tmp_path / "sb3_spiking/dqn").glob("report*.pkl")
    trials = pickle.loads(file.read_bytes()).trials
    assert len(trials) == 2
    for trial in trials:
        model = DQN.load(tmp_path / f"best/trial_{trial.number}/best_model.zip")
        settings = model.policy.settings
        assert settings.encoding == "poisson"
        assert (settings.net_arch, settings.beta) == ((9, 8, 7), (0.5, 0.6, 0.7))
        assert model.gamma == trial.user_attrs["gamma"] == model.replay_buffer_kwargs["gamma"]
        assert model.replay_buffer_kwargs["n_steps"] == 5
        for name in set(SEARCH_SPACE) - {"beta"}:
            assert getattr(settings, name) == trial.params[name]
        assert convert_dqn_params(trial.params)["policy_kwargs"]["num_steps"] == settings.num_steps


def study(policy, policy_kwargs):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.set_user_attr("policy", str(policy))
    study.set_user_attr("policy_kwargs", str(policy_kwargs))
    return study


ADDITIONAL = {"using_her_replay_buffer": False, "her_kwargs": {}}


def test_search_leaves_other_policies_alone():
    ours, theirs = study("MlpPolicy", {"net_arch": [64]}).ask(), study("MlpPolicy", {"net_arch": [64]}).ask()
    assert sample_dqn_params(ours, 1, 1, dict(ADDITIONAL)) == rl_zoo3.hyperparams_opt.sample_dqn_params(
        theirs, 1, 1, dict(ADDITIONAL)
    )
    assert ours.params == theirs.params
    assert convert_dqn_params(ours.params) == rl_zoo3.hyperparams_opt.convert_offpolicy_params(theirs.params)


def test_a_trial_says_by_itself_which_network_it_was():
    trial = study(SpikingPolicy, {"preset": "liu2022", "spike_grad": "heaviside"}).ask()
    sampled = sample_dqn_params(trial, 1, 1, dict(ADDITIONAL))
    assert sampled["policy_kwargs"]["preset"] == "liu2022"
    assert "slope" not in sampled["policy_kwargs"]  # that surrogate has none
    converted = convert_dqn_params(trial.params)
    assert converted == {name: value for name, value in sampled.items()}


def test_settings_for_each_layer_keep_the_layers():
    base = {"conv_layers": [[4, 3, 3]], "features_dim": 8, "beta": [0.5, 0.6]}
    sampled = sample_dqn_params(study(SpikingPolicy, base).ask(), 1, 1, dict(ADDITIONAL))
    assert "net_arch" not in sampled["policy_kwargs"]
    assert sampled["policy_kwargs"]["beta"] == [0.5, 0.6]


def test_windows_with_delays_stay_long_enough():
    base = {"net_arch": [8, 8, 8, 8], "layer_delay": True, "num_steps": 5}
    for seed in range(5):
        trials = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        trials.set_user_attr("policy", str(SpikingPolicy))
        trials.set_user_attr("policy_kwargs", str(base))
        settings = sample_dqn_params(trials.ask(), 1, 1, dict(ADDITIONAL))["policy_kwargs"]
        assert (settings["net_arch"], settings["num_steps"]) == ([8, 8, 8, 8], 5)
        DQN(SpikingPolicy, "CartPole-v1", policy_kwargs=settings)


def test_search_refuses_what_it_cannot_read_back():
    trial = study(SpikingPolicy, {"features_extractor_class": DQN}).ask()
    with pytest.raises(ValueError, match="policy_kwargs made of numbers, strings, lists and dicts only"):
        sample_dqn_params(trial, 1, 1, dict(ADDITIONAL))


@pytest.mark.parametrize(
    ("command", "spiking"),
    [
        ("python -m rl_zoo3.train --algo dqn --env CartPole-v1 -f sb3_spiking", True),
        ("python -u -m rl_zoo3.train -f sb3_spiking --algo dqn", True),
        ("python -m rl_zoo3.train --algo=dqn --log-folder=./sb3_spiking/", True),
        ("python /site-packages/rl_zoo3/train.py --algo dqn -f /elsewhere/sb3_spiking", True),
        ("/bin/python /bin/rl_zoo3 train --algo dqn -f sb3_spiking", True),
        ("python -m rl_zoo3.train --algo dqn -f sb3_spiking -optimize --n-trials 3", True),
        ("python -m rl_zoo3.train --algo dqn -f sb3_spiking -params batch_size:16 gamma:0.9", True),
        ("python -m rl_zoo3.train --algo dqn -f sb3_spiking -conf other.yml", False),
        ("python -m rl_zoo3.train --algo dqn -f sb3_spiking --conf-file other.yml", False),
        ("python -m rl_zoo3.train --algo dqn -f logs", False),
        ("python -m rl_zoo3.train --algo dqn", False),
        ("python -m rl_zoo3.train --algo ppo -f sb3_spiking", False),
        ("python -m rl_zoo3.train -f sb3_spiking", False),  # RL Zoo's default algorithm is PPO
        ("python -m rl_zoo3.enjoy --algo dqn -f sb3_spiking", False),
        ("python train.py --algo dqn -f sb3_spiking", False),
        ("python -m rl_zoo3.train --algo dqn -f", False),
    ],
)
def test_which_commands_train_a_spiking_agent(command, spiking):
    assert (algorithm_asked_for(command.split()) == "dqn") is spiking


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "lines"), [("sb3_spiking", 1), ("logs", 0)])
def test_another_algorithm_says_that_it_is_not_spiking(tmp_path, folder, lines):
    said = zoo("train", f"--algo ppo --env CartPole-v1 -n 1 --eval-freq -1 -f {folder}".split(), tmp_path)
    assert said.count("sb3_spiking: --algo ppo trains RL Zoo's ReLU network") == lines


def test_hyperparameters_are_new_at_every_call():
    first = sb3_spiking.hyperparams
    first["CartPole-v1"].clear()
    assert sb3_spiking.hyperparams["CartPole-v1"]["policy"] == "sb3_spiking.SpikingPolicy"
    assert set(first) >= {"default", "atari", "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "LunarLander-v3"}


@pytest.mark.parametrize("module", ["sb3_spiking", "sb3_spiking.liu2022", "sb3_spiking.chip"])
def test_every_entry_names_what_exists_and_builds(module):
    for env, entry in importlib.import_module(module).hyperparams.items():
        assert entry["policy"] == "sb3_spiking.SpikingPolicy", env
        callbacks = entry["callback"] if isinstance(entry["callback"], list) else [entry["callback"]]
        assert callbacks[0] == "sb3_spiking.SpikeMonitor", env
        assert all(hasattr(sb3_spiking, callback.removeprefix("sb3_spiking.")) for callback in callbacks), env
        kwargs = eval(entry.get("policy_kwargs", "dict()"))
        for argument in ("optimizer_kwargs", "common_mode"):  # the policy's own
            kwargs.pop(argument, None)
        settings = sb3_spiking.SpikingSettings.resolve(**kwargs)
        if module == "sb3_spiking.liu2022":
            expected = sb3_spiking.PRESETS["liu2022"]
            assert {name: getattr(settings, name) for name in expected} == expected


def test_the_papers_games():
    hyperparams = sb3_spiking.liu2022.hyperparams
    assert set(hyperparams) == {"atari", *(f"{game}NoFrameskip-v4" for game in LIU2022_GAMES)}
    paper = {"n_timesteps": 5e7, "buffer_size": 10**6, "learning_starts": 50_000, "target_update_interval": 10_000}
    for entry in hyperparams.values():
        assert {name: entry[name] for name in paper} == paper
        assert entry["n_timesteps"] * entry["exploration_fraction"] == pytest.approx(1e6)


def test_unknown_attributes_stay_unknown():
    for module in (sb3_spiking, sb3_spiking.liu2022, sb3_spiking.chip):
        with pytest.raises(AttributeError, match="no attribute 'hyperparam'"):
            module.hyperparam  # noqa: B018


@pytest.mark.slow
def test_minatar_by_its_module(tmp_path):
    command = "-f sb3_spiking -n 60 --gym-packages sb3_spiking.minatar -params learning_starts:40"
    output = train(command, tmp_path, "MinAtar/Seaquest-v1")
    assert "MinAtar/Seaquest-v1" in output
    model: BaseAlgorithm = DQN.load(tmp_path / "sb3_spiking/dqn/MinAtar-Seaquest-v1_1/MinAtar-Seaquest-v1.zip")
    assert [tuple(p.shape) for p in model.q_net.parameters()][:4] == [(16, 10, 3, 3), (16,), (128, 1024), (128,)]


def test_atari_by_the_users_command(tmp_path):
    settings = "policy_kwargs:dict(preset='liu2022',num_steps=4) learning_starts:40 buffer_size:100"
    train(f"-f sb3_spiking -n 60 -params {settings}", tmp_path, "BreakoutNoFrameskip-v4")
    model = DQN.load(tmp_path / "sb3_spiking/dqn/BreakoutNoFrameskip-v4_1/BreakoutNoFrameskip-v4.zip")
    assert model.policy.settings.num_steps == 4
    assert model.q_net.features_extractor.conv[0].connection.weight.shape == (32, 4, 8, 8)


def test_yaml_files_load():
    assert load_hyperparams() == sb3_spiking.hyperparams


def test_minatar_that_is_missing_says_how_to_get_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "sb3_spiking.minatar", raising=False)
    monkeypatch.setitem(sys.modules, "minatar.gym", None)
    with pytest.raises(ModuleNotFoundError, match="pip install minatar"):
        importlib.import_module("sb3_spiking.minatar")


def test_an_installed_package_has_its_hyperparameters(tmp_path):
    build = [
        sys.executable,
        "setup.py",
        "-q",
        "build",
        "--build-base",
        str(tmp_path / "base"),
        "--build-lib",
        str(tmp_path / "lib"),
    ]
    subprocess.run(build, cwd=Path(__file__).parents[1], check=True, capture_output=True)
    program = "import sb3_spiking, sb3_spiking.liu2022 as liu2022; print(sb3_spiking.__file__); "
    program += "print('atari' in sb3_spiking.hyperparams, 'atari' in liu2022.hyperparams)"
    result = python("-c", program, folder=tmp_path, PYTHONPATH=str(tmp_path / "lib"))
    assert result.stdout.split() == [str(tmp_path / "lib/sb3_spiking/__init__.py"), "True", "True"], result.stderr
