"""Nothing that is in an agent's files runs, and what is wrong gets one kind of error."""

import contextlib
import io
import json
import random
import resource
import shutil
from pathlib import Path

import gymnasium as gym
import hostile
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_agents import ENVIRONMENTS
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env

import sb3_spiking
from sb3_spiking import AgentError, SpikingMLP, SpikingPolicy
from sb3_spiking.evaluation.agents import load_agent
from sb3_spiking.sharing.archive import read_agent
from sb3_spiking.sharing.loading import _BoundedAllocations, build
from sb3_spiking.sharing.zoo_files import read_environment

#: Memory that a refusal may take, bytes
MEMORY = 600 * 2**20


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agent")
    kwargs = {"net_arch": [16], "num_steps": 3}
    model = DQN("SpikingPolicy", "CartPole-v1", policy_kwargs=kwargs, learning_starts=20, buffer_size=100, seed=0).learn(60)
    model.save(folder / "agent.zip")
    sb3_spiking.save(model, folder / "folder")
    return model, folder


@pytest.fixture(autouse=True)
def nothing_happens(tmp_path, monkeypatch):
    """Payloads leave no marker, and no file appears where the test runs."""
    Path(hostile.MARKER).unlink(missing_ok=True)
    workplace = tmp_path / "workplace"
    workplace.mkdir()
    monkeypatch.chdir(workplace)
    yield
    assert not Path(hostile.MARKER).exists()
    assert not list(workplace.iterdir())
    assert not list(tmp_path.rglob("escaped"))


def refused(load, path):
    """The message of the error that names the file, on one line, after little memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(AgentError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 2000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY
    return message


def test_a_payload_does_what_it_should(agent, tmp_path):
    """Plain SB3 runs it, so that the tests below mean something."""
    _, folder = agent
    ((_, path),) = hostile.zips(
        folder / "agent.zip", tmp_path / "zips", {"extra": hostile.HARMLESS["a payload in an unknown key"]}
    )
    DQN.load(path, buffer_size=1)
    assert Path(hostile.MARKER).exists()
    Path(hostile.MARKER).unlink()


def test_pickles_are_left_alone(agent, tmp_path):
    model, folder = agent
    for name, path in hostile.zips(folder / "agent.zip", tmp_path / "zips", hostile.HARMLESS):
        loaded = sb3_spiking.load(path)
        for ours, theirs in zip(model.policy.parameters(), loaded.policy.parameters(), strict=True):
            assert th.equal(ours, theirs), name


def test_zips(agent, tmp_path):
    _, folder = agent
    zips = hostile.zips(folder / "agent.zip", tmp_path / "zips", hostile.HOSTILE)
    for name, path in (*zips, *hostile.damaged_zips(folder / "agent.zip", tmp_path / "damaged")):
        print(name, "->", refused(sb3_spiking.load, path))


def test_folders(agent, tmp_path):
    _, folder = agent
    for name, path in hostile.folders(folder / "folder", tmp_path):
        print(name, "->", refused(sb3_spiking.load, path))
    (tmp_path / "empty").mkdir()
    assert "no agent, there is no config.json in it" in refused(sb3_spiking.load, tmp_path / "empty")


def zoo_folder(folder, archive, config="policy: sb3_spiking.SpikingPolicy"):
    run = folder / "dqn/CartPole-v1_1"
    (run / "CartPole-v1").mkdir(parents=True)
    shutil.copy(archive, run / "CartPole-v1.zip")
    (run / "CartPole-v1/config.yml").write_text(config)
    return run


def test_command_lines(agent, tmp_path):
    """What evaluate, robustness and convert load agents by."""
    _, folder = agent
    zips = hostile.zips(folder / "agent.zip", tmp_path / "zips", hostile.HOSTILE)
    for number, (_, archive) in enumerate(zips):
        run = zoo_folder(tmp_path / f"logs{number}", archive)
        with pytest.raises(AgentError, match=str(run)):
            load_agent(tmp_path / f"logs{number}", "dqn", "CartPole-v1")
    for _, archive in hostile.zips(folder / "agent.zip", tmp_path / "harmless", hostile.HARMLESS):
        shutil.rmtree(tmp_path / "logs", ignore_errors=True)
        zoo_folder(tmp_path / "logs", archive)
        load_agent(tmp_path / "logs", "dqn", "CartPole-v1").make_env().reset()


@pytest.mark.parametrize("name", hostile.CONFIGS)
def test_what_rl_zoo_wrote(agent, tmp_path, name):
    _, folder = agent
    run = zoo_folder(tmp_path / "logs", folder / "agent.zip", hostile.CONFIGS[name])
    (run / "CartPole-v1/vecnormalize.pkl").write_bytes(hostile.pickle.dumps(hostile.Payload()))
    with pytest.raises(AgentError, match=str(run)):
        load_agent(tmp_path / "logs", "dqn", "CartPole-v1")
    if "vec_env" not in hostile.CONFIGS[name]:
        (run / "CartPole-v1/config.yml").write_text("")
        (run / "CartPole-v1/args.yml").write_text(f"env_kwargs: {{a: {hostile.CONFIGS['a tag that runs a command']}}}")
        with pytest.raises(AgentError, match=str(run)):
            load_agent(tmp_path / "logs", "dqn", "CartPole-v1")


def test_wrappers_with_wrong_arguments(agent, tmp_path):
    _, folder = agent
    run = zoo_folder(tmp_path / "logs", folder / "agent.zip", "env_wrapper: [gymnasium.wrappers.TimeLimit: {foo: 1}]")
    loaded = load_agent(tmp_path / "logs", "dqn", "CartPole-v1")
    with pytest.raises(AgentError, match=f"{run}.*no environment CartPole-v1 as it says: .*foo"):
        loaded.make_env()


def test_what_may_be_wrapped(tmp_path):
    (tmp_path / "config.yml").write_text(
        "!!python/object/apply:collections.OrderedDict\n- - - env_wrapper\n"
        "    - - rl_zoo3.wrappers.HistoryWrapper: {horizon: 3}\n"
        "      - stable_baselines3.common.atari_wrappers.AtariWrapper\n  - - frame_stack\n    - 4\n"
    )
    hyperparams, kwargs = read_environment(tmp_path)
    assert hyperparams["frame_stack"] == 4
    assert hyperparams["env_wrapper"][0] == {"rl_zoo3.wrappers.HistoryWrapper": {"horizon": 3}}
    assert kwargs == {}


def test_a_window_too_large(tmp_path, monkeypatch):
    settings = {"conv_layers": [(4, 3, 1)], "layout": "hwc", "features_dim": 8, "num_steps": 3}
    model = DQN("SpikingPolicy", ENVIRONMENTS["grid"][0](), policy_kwargs=settings, buffer_size=1)
    model.save(tmp_path / "agent")
    sb3_spiking.load(tmp_path / "agent.zip")
    monkeypatch.setattr("sb3_spiking.sharing.loading.MAX_WINDOW", 3 * 4 * 8 * 8 - 1)
    assert "a layer whose window has more than 767 numbers" in refused(sb3_spiking.load, tmp_path / "agent.zip")


def test_a_window_of_units_too_large(agent, monkeypatch):
    _, folder = agent
    monkeypatch.setattr("sb3_spiking.sharing.loading.MAX_WINDOW", 3 * 16)
    sb3_spiking.load(folder / "agent.zip")
    monkeypatch.setattr("sb3_spiking.sharing.loading.MAX_WINDOW", 3 * 16 - 1)
    assert "a layer whose window has more than 47 numbers" in refused(sb3_spiking.load, folder / "agent.zip")


@pytest.mark.parametrize(
    ("settings", "largest"),
    [
        ({"net_arch": [1]}, 3 * 2),  # two actions
        ({"net_arch": [1], "encoding": "poisson"}, 3 * 2 * 4),  # ON and OFF of four numbers
    ],
)
def test_a_window_of_actions_or_inputs_too_large(settings, largest, tmp_path, monkeypatch):
    model = DQN("SpikingPolicy", "CartPole-v1", policy_kwargs={"num_steps": 3, **settings}, buffer_size=1)
    sb3_spiking.save(model, tmp_path / "agent")
    monkeypatch.setattr("sb3_spiking.sharing.loading.MAX_WINDOW", largest)
    sb3_spiking.load(tmp_path / "agent")
    monkeypatch.setattr("sb3_spiking.sharing.loading.MAX_WINDOW", largest - 1)
    assert f"a layer whose window has more than {largest - 1} numbers" in refused(sb3_spiking.load, tmp_path / "agent")


def test_a_window_of_another_algorithms_inputs_too_large(tmp_path, monkeypatch):
    body = {"features_extractor_class": SpikingMLP, "features_extractor_kwargs": {"net_arch": [1], "encoding": "poisson"}}
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, policy_kwargs={**body, "net_arch": []}).save(tmp_path / "ppo.zip")
    steps = SpikingMLP.resolve(gym.make("CartPole-v1").observation_space, False).num_steps
    build(PPO, read_agent(tmp_path / "ppo.zip"))
    monkeypatch.setattr("sb3_spiking.sharing.loading.MAX_WINDOW", steps * 2 * 4 - 1)
    assert "a layer whose window has more than" in refused(lambda path: build(PPO, read_agent(path)), tmp_path / "ppo.zip")


def test_more_relu_layers_than_a_thousand(tmp_path):
    """However many names there are in the weights."""
    DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]}, buffer_size=1).save(tmp_path / "relu.zip")
    sb3_spiking.load(tmp_path / "relu.zip")
    files = hostile.members(tmp_path / "relu.zip")
    data = json.loads(files["data"])
    state = th.load(io.BytesIO(files["policy.pth"]), weights_only=True)
    state |= {f"other{number}": th.zeros(()) for number in range(2000)}
    data["policy_kwargs"]["net_arch"] = [1] * 1001
    changed = {**files, "data": json.dumps(data).encode(), "policy.pth": hostile.tensors(state)}
    hostile.write_zip(tmp_path / "relu.zip", changed)
    assert "policy_kwargs with a list of more than 1000 entries" in refused(sb3_spiking.load, tmp_path / "relu.zip")


def test_a_folder_of_rl_zoo_says_what_to_load(agent, tmp_path):
    _, folder = agent
    run = zoo_folder(tmp_path / "logs", folder / "agent.zip")
    shutil.copy(folder / "agent.zip", run / "best_model.zip")
    message = refused(sb3_spiking.load, run)
    assert "a run of RL Zoo is loaded by a zip in it, here CartPole-v1.zip or best_model.zip" in message


def test_another_algorithm(tmp_path):
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).save(tmp_path / "ppo.zip")
    assert "a policy 'stable_baselines3.common.policies.ActorCriticPolicy'; expected one of" in refused(
        sb3_spiking.load, tmp_path / "ppo.zip"
    )


def test_bounds_that_a_zip_prints_in_part(tmp_path):
    class Wide(gym.Env):
        observation_space = spaces.Box(np.arange(-2000, 0, dtype=np.float32), np.arange(1, 2001, dtype=np.float32))
        action_space = spaces.Discrete(2)

    env = Wide()
    model = DQN(SpikingPolicy, env, buffer_size=10, policy_kwargs={"net_arch": [4]})
    model.save(tmp_path / "agent.zip")
    with pytest.raises(AgentError, match=r"in part: load a zip that you trust by DQN\.load\(path, env=env\)"):
        sb3_spiking.load(tmp_path / "agent.zip", env=env, train_freq=4)
    sb3_spiking.save(model, tmp_path / "folder")
    assert sb3_spiking.load(tmp_path / "folder", env=env).observation_space == env.observation_space


def test_to_go_on_learning_needs_what_is_pickled(agent):
    _, folder = agent
    env = make_vec_env("CartPole-v1")
    with pytest.raises(AgentError, match="train_freq is there as a pickle alone, give it"):
        sb3_spiking.load(folder / "agent.zip", env=env)
    with pytest.raises(AgentError, match="Observation spaces do not match"):
        sb3_spiking.load(folder / "agent.zip", env=make_vec_env("Acrobot-v1"), train_freq=4)
    with pytest.raises(AgentError, match="load\\(\\) takes no learning"):
        sb3_spiking.load(folder / "agent.zip", env=env, train_freq=4, learning=3)
    model = sb3_spiking.load(folder / "agent.zip", env=env, train_freq=4)
    model.learn(40, reset_num_timesteps=False)


# Anything that JSON can say, sizes included
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["inf", "<class 'os.system'>"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def try_to_load(path):
    """An agent or an AgentError, nothing else."""
    with contextlib.suppress(AgentError):
        sb3_spiking.load(path)


def fuzz(agent, tmp_path, examples):
    """Bad inputs of three kinds, generated."""
    _, folder = agent
    files = hostile.members(folder / "agent.zip")
    data = json.loads(files["data"])
    config = json.loads((folder / "folder/config.json").read_text())
    state = th.load(io.BytesIO(files["policy.pth"]), weights_only=True)
    record = state["q_net.features_extractor._extra_state"]
    shutil.copytree(folder / "folder", tmp_path / "fuzz")
    chosen = settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
    )

    @chosen
    @given(st.sampled_from(sorted(data)), VALUES, st.sampled_from(sorted(record)), VALUES)
    def zips(name, value, setting, other):
        changed = {**files, "data": json.dumps({**data, name: value}).encode()}
        hostile.write_zip(tmp_path / "fuzz.zip", changed)
        try_to_load(tmp_path / "fuzz.zip")
        written = {**state, "q_net.features_extractor._extra_state": {**record, setting: other}}
        hostile.write_zip(tmp_path / "fuzz.zip", {**files, "policy.pth": hostile.tensors(written)})
        try_to_load(tmp_path / "fuzz.zip")

    @chosen
    @given(st.sampled_from(sorted(config)), VALUES, st.sampled_from(sorted(config["settings"])), VALUES)
    def configs(name, value, setting, other):
        for change in ({name: value}, {"settings": {**config["settings"], setting: other}}):
            (tmp_path / "fuzz/config.json").write_text(json.dumps({**config, **change}))
            try_to_load(tmp_path / "fuzz")

    @chosen
    @given(st.sampled_from(["agent.zip", "folder/model.safetensors", "policy.pth"]), st.integers(0, 2**32), st.integers(1, 8))
    def bytes_(name, seed, count):
        generator = random.Random(seed)
        content = bytearray(files[name] if name in files else (folder / name).read_bytes())
        for _ in range(count):
            content[generator.randrange(len(content))] = generator.randrange(256)
        if generator.random() < 0.3:
            del content[generator.randrange(len(content)) :]
        if name == "agent.zip":
            (tmp_path / "fuzz.zip").write_bytes(content)
            try_to_load(tmp_path / "fuzz.zip")
        elif name in files:
            hostile.write_zip(tmp_path / "fuzz.zip", {**files, name: bytes(content)})
            try_to_load(tmp_path / "fuzz.zip")
        else:
            (tmp_path / "fuzz/config.json").write_text(json.dumps(config))
            (tmp_path / "fuzz/model.safetensors").write_bytes(content)
            try_to_load(tmp_path / "fuzz")

    zips()
    configs()
    bytes_()


def test_generated(agent, tmp_path):
    fuzz(agent, tmp_path, 60)


@pytest.mark.slow
def test_ten_thousand_generated(agent, tmp_path):
    fuzz(agent, tmp_path, 2500)


def test_numbers_that_many_tensors_share_count_once():
    shared = th.zeros(1000)
    views = {str(number): shared[number % 1000 :] for number in range(10_000)}
    with _BoundedAllocations(views):
        th.empty(9_000_000)
    with pytest.raises(ValueError, match="a network larger than its weights"), _BoundedAllocations(views):
        th.empty(11_000_000)
