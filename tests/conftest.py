import contextlib
import importlib
import os
import shutil
from pathlib import Path

# Where there is no GPU, Triton's kernels run in its interpreter, which must be chosen before anything imports Triton
if shutil.which("nvidia-smi") is None:
    os.environ["TRITON_INTERPRET"] = "1"

# One thread in processes that tests start, too: two of them share two cores
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch as th
from small_agents import ENVIRONMENTS
from stable_baselines3 import PPO, SAC

from sb3_spiking import commands

# Their tests start processes and take longest: first, so that no worker is left with one of them at the end
FIRST = ("test_zoo", "test_sweep", "test_hub", "test_resume", "test_learning", "test_sweep_lists", "test_kernel_choice")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in FIRST)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    th.set_num_threads(1)


@pytest.fixture
def import_benchmark(monkeypatch):
    """Imports a module of ``benchmarks`` by name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module


@pytest.fixture(autouse=True)
def seeded():
    th.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(params=ENVIRONMENTS)
def small(request):
    """A function that makes an environment, and settings of a small network for it."""
    make, settings = ENVIRONMENTS[request.param]
    return make, {"num_steps": 3, **settings}


@pytest.fixture(scope="session")
def train_with_rl_zoo():
    """``python -m rl_zoo3.train`` in a folder, without a process of its own and thus without what ``-f sb3_spiking`` adds."""

    def train(arguments, folder):
        import rl_zoo3.train  # takes seconds

        with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
            patch.setattr("sys.argv", ["rl_zoo3.train", *arguments.split()])
            patch.setattr("sys.orig_argv", ["python", "-m", "rl_zoo3.train", *arguments.split()])
            rl_zoo3.train.train()

    return train


@pytest.fixture(scope="session")
def relu_run(tmp_path_factory, train_with_rl_zoo):
    """
    A folder with log folders of RL Zoo: ``relu`` has a DQN that was trained on CartPole briefly, ``damaged`` half of its file,
    ``taken`` a copy, ``ppo`` a PPO, ``sac`` a SAC on Pendulum.
    """
    folder = tmp_path_factory.mktemp("relu_run")
    arguments = "--algo dqn --env CartPole-v1 -f relu -n 3000 --num-threads 1 --eval-freq 1000 --seed 1"
    arguments += " -params policy_kwargs:dict(net_arch=[32,32])"
    train_with_rl_zoo(arguments, folder)
    shutil.copytree(folder / "relu", folder / "damaged")
    (path,) = (folder / "damaged").glob("dqn/*/CartPole-v1.zip")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    shutil.copytree(folder / "relu", folder / "taken")
    (folder / "ppo/ppo/CartPole-v1_1").mkdir(parents=True)
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).save(folder / "ppo/ppo/CartPole-v1_1/CartPole-v1.zip")
    (folder / "sac/sac/Pendulum-v1_1").mkdir(parents=True)
    SAC("MlpPolicy", "Pendulum-v1", buffer_size=1).save(folder / "sac/sac/Pendulum-v1_1/Pendulum-v1.zip")
    return folder


@pytest.fixture
def in_process(monkeypatch, capsys):
    """Runs a command of ours in a folder without a process of its own; what it prints, and what it says of its progress."""

    def run(command, arguments, folder):
        monkeypatch.chdir(folder)
        commands.main([command, *arguments.split()])
        output = capsys.readouterr()
        return output.out, output.err

    return run


@pytest.fixture
def fails(relu_run, in_process, capsys):
    """Runs a command of ours in that folder, which must end with one line; the line."""

    def run(module, arguments):
        with pytest.raises(SystemExit) as end:
            in_process(module, arguments, relu_run)
        output = capsys.readouterr()
        assert end.value.code == 2
        assert output.out == ""
        assert output.err.count("\n") == 1, output.err
        assert output.err.startswith("error: ")
        return output.err

    return run
