"""Agents as files: what is loaded is what was saved."""

import json
import time
from collections import OrderedDict
from pathlib import Path

import hostile
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from rl_zoo3.utils import linear_schedule
from small_agents import DictEnv, make_model, observation_of, q_values
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.save_util import data_to_json
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

import sb3_spiking
from sb3_spiking import AgentError, FrameStackReplayBuffer, ReluExtractor, SpikingMLP, SpikingPolicy
from sb3_spiking.sharing.spaces import space_from_json, space_from_sb3, space_to_json

SPACES = [
    spaces.Box(0, 255, (4, 84, 84), np.uint8),
    spaces.Box(-np.inf, np.inf, (3,), np.float32),
    spaces.Box(np.array([-1.0, -np.inf], np.float32), np.array([0.1, 7.0], np.float32)),
    spaces.Box(0, 1, (10, 10, 4), bool),
    spaces.Box(0, np.iinfo(np.int64).max, (2,), np.int64),
    spaces.Box(np.iinfo(np.int64).min, -3, (2,), np.int64),
    spaces.Box(0, np.iinfo(np.uint64).max, (2,), np.uint64),
    spaces.Box(np.array([-128, 5], np.int8), np.array([-1, 127], np.int8), dtype=np.int8),
    spaces.Discrete(5, start=2),
    spaces.MultiDiscrete([2, 5]),
    spaces.MultiDiscrete([2, 5], dtype=np.int32, start=[-1, 3]),
    spaces.MultiBinary(4),
    spaces.MultiBinary([2, 3]),
    spaces.Dict({"image": spaces.Box(0, 255, (1, 36, 36), np.uint8), "mode": spaces.Discrete(3)}),
    spaces.Dict(OrderedDict(speed=spaces.Box(0, 1, (2,)), angle=spaces.Box(-1, 1, (3,)))),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces(space):
    written = json.loads(json.dumps(space_to_json(space), allow_nan=False))
    assert space_from_json(written) == space
    if isinstance(space, spaces.Dict):
        assert list(space_from_json(written)) == list(space)


@pytest.mark.parametrize("quote", ["'", '"'])
def test_text_that_begins_quotes_again_and_again_takes_no_longer(quote):
    # Each of these is an escaped quote in a text that never ends: seconds, where every one of them began a search
    begin = time.perf_counter()
    with pytest.raises(ValueError, match="cannot be read from its text"):
        space_from_sb3({":type:": "<class 'gymnasium.spaces.dict.Dict'>", "spaces": "{" + f"{quote}\\" * 49_000})
    assert time.perf_counter() - begin < 1


def test_a_dict_space_in_sb3s_words():
    text = """{"it's 1 2": Box([-1. -2.], [1. 2.], (2,), float32), 'a 3 4': MultiBinary([2, 3])}"""
    space = space_from_sb3({":type:": "<class 'gymnasium.spaces.dict.Dict'>", "spaces": text})
    assert list(space) == ["it's 1 2", "a 3 4"]
    assert space["it's 1 2"].low.tolist() == [-1, -2]
    assert space["a 3 4"].shape == (2, 3)


def test_multi_discrete_in_sb3s_words():
    space = spaces.MultiDiscrete([2, 15], dtype=np.int32, start=[-1, 3])
    written = json.loads(data_to_json({"space": space}))["space"]
    assert space_from_sb3(written) == space


def test_many_sensors():
    space = spaces.Dict({f"sensor {number}": spaces.Box(0, 1, (2,)) for number in range(40)})
    assert space_from_json(space_to_json(space)) == space
    assert space_from_sb3(json.loads(data_to_json({"space": space}))["space"]) == space


def saved(model, tmp_path, folder):
    """As our folder or as SB3's zip; the path."""
    path = tmp_path / ("agent" if folder else "agent.zip")
    if folder:
        sb3_spiking.save(model, path)
    else:
        model.save(path)
    return path


@pytest.mark.parametrize("folder", [True, False])
def test_numbers_as_sb3_takes_them(folder, tmp_path):
    settings = {"net_arch": [4], "num_steps": 2}
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs=settings, learning_starts=2e1, buffer_size=100, seed=0)
    if folder:  # SB3 pickles NumPy numbers
        model.gamma = np.float32(0.5)
    model.learn(1e2)
    path = saved(model, tmp_path, folder)
    loaded = sb3_spiking.load(path, env=model.get_env(), **({} if folder else {"train_freq": 4}))
    numbers = [loaded.learning_starts, loaded._total_timesteps, loaded.gamma]
    assert numbers == [20, 100, 0.5 if folder else 0.99]
    assert [type(each) for each in numbers] == [int, int, float]


@pytest.mark.parametrize("folder", [True, False])
def test_goes_on_in_an_environment_that_normalises(folder, tmp_path):
    def normalized():
        return VecNormalize(make_vec_env("CartPole-v1", seed=0))

    settings = {"net_arch": [4], "num_steps": 2}
    model = DQN(SpikingPolicy, normalized(), policy_kwargs=settings, learning_starts=20, buffer_size=200, seed=0).learn(60)
    model.save(tmp_path / "sb3")
    ours = sb3_spiking.load(saved(model, tmp_path, folder), env=normalized(), **({} if folder else {"train_freq": 4}))
    theirs = DQN.load(tmp_path / "sb3", env=normalized())
    for agent in (ours, theirs):
        agent.learning_starts = 0
        th.manual_seed(1)
        np.random.seed(1)
        agent.action_space.seed(1)
        agent.learn(60)
    assert (ours.replay_buffer.rewards[:60] == 1).all()
    for mine, other in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert th.equal(mine, other)


class UnsortedEnv(DictEnv):
    """The parts are not in the order of their names, and the bounds of one are many numbers."""

    observation_space = spaces.Dict(
        OrderedDict(
            [
                ("speed 1 2", spaces.Box(np.array([-1, -np.inf, 0], np.float32), np.array([0.5, np.inf, 7], np.float32))),
                ("map", spaces.Box(np.arange(9).reshape(3, 3), np.arange(9, 18).reshape(3, 3), dtype=np.int64)),
                ("angle", spaces.Box(-1, 1, (2,))),
                ("long", spaces.Box(np.zeros(2000, np.float32), np.arange(1, 2001, dtype=np.float32))),
            ]
        )
    )


@pytest.mark.parametrize("policy", ["SpikingPolicy", "MultiInputPolicy"])
@pytest.mark.parametrize("folder", [True, False])
def test_the_parts_of_an_observation_keep_their_order(folder, policy, tmp_path):
    kwargs = {"net_arch": [8], **({"num_steps": 3} if policy == "SpikingPolicy" else {})}
    model = DQN(policy, UnsortedEnv(), policy_kwargs=kwargs, buffer_size=1, seed=0)
    path = tmp_path / ("agent" if folder else "agent.zip")
    (sb3_spiking.save if folder else DQN.save)(model, path)
    loaded = sb3_spiking.load(path)
    assert list(loaded.observation_space) == ["speed 1 2", "map", "angle", "long"]
    for name in ("speed 1 2", "map", "angle"):
        assert loaded.observation_space[name] == model.observation_space[name]
    if folder:
        assert loaded.observation_space == model.observation_space
    else:  # NumPy prints but the ends of a long array
        assert loaded.observation_space["long"].shape == (2000,)
    model.observation_space.seed(0)
    for _ in range(20):
        observation = model.observation_space.sample()
        inputs, _ = model.policy.obs_to_tensor(observation)
        assert th.equal(loaded.q_net(inputs), model.q_net(inputs))


@pytest.mark.parametrize("folder", [True, False])
def test_every_kind_of_agent(small, folder, tmp_path):
    model = make_model(small, settings={"common_mode": True, "beta": 0.7}).learn(40)
    path = saved(model, tmp_path, folder)
    loaded = sb3_spiking.load(path)
    assert (loaded.observation_space, loaded.action_space) == (model.observation_space, model.action_space)
    assert loaded.policy.settings == model.policy.settings
    assert (loaded.buffer_size, loaded.learning_rate, loaded.gamma) == (model.buffer_size, model.learning_rate, model.gamma)
    assert (loaded.num_timesteps, loaded.exploration_rate) == (model.num_timesteps, model.exploration_rate)
    observation = observation_of(model)
    assert th.equal(q_values(loaded, observation), q_values(model, observation))
    assert th.equal(
        loaded.q_net_target(loaded.policy.obs_to_tensor(observation)[0]),
        model.q_net_target(model.policy.obs_to_tensor(observation)[0]),
    )


def test_classes_among_the_arguments_of_arguments_are_pickles(tmp_path):
    kwargs = {"features_extractor_class": ReluExtractor, "features_extractor_kwargs": {"like": SpikingMLP}, "net_arch": []}
    DQN("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs).save(tmp_path / "agent.zip")
    with pytest.raises(AgentError, match=r"policy_kwargs\['features_extractor_kwargs'\] holds an object"):
        sb3_spiking.load(tmp_path / "agent.zip")


def test_an_agent_that_was_loaded_to_act_is_saved_as_it_was(tmp_path):
    settings = {"policy_kwargs": {"net_arch": [16], "num_steps": 3}, "learning_starts": 10, "batch_size": 4}
    model = DQN(SpikingPolicy, "CartPole-v1", learning_rate=lambda left: 1e-3 * left, train_freq=16, **settings).learn(60)
    model.save(tmp_path / "agent.zip")
    sb3_spiking.save(sb3_spiking.load(tmp_path / "agent.zip"), tmp_path / "agent")
    assert (tmp_path / "agent/optimizer.safetensors").is_file()
    # What the zip has as pickles alone is asked for, and not made up
    with pytest.raises(AgentError, match="learning_rate is there as a pickle alone"):
        sb3_spiking.load(tmp_path / "agent", env=model.get_env())
    with pytest.raises(AgentError, match="train_freq is there as a pickle alone"):
        sb3_spiking.load(tmp_path / "agent", env=model.get_env(), learning_rate=1e-3)
    sb3_spiking.save(sb3_spiking.load(tmp_path / "agent"), tmp_path / "agent")  # once more
    other = sb3_spiking.load(tmp_path / "agent", env=model.get_env(), learning_rate=1e-3, train_freq=16)
    states = [agent.policy.optimizer.state_dict()["state"] for agent in (other, model)]
    assert all(th.equal(states[0][number]["exp_avg"], state["exp_avg"]) for number, state in states[1].items())


LINEAR = {"start": 1e-3, "end": 0.0, "end_fraction": 1.0}


@pytest.mark.parametrize(
    ("rate", "in_config"),
    [
        (LinearSchedule(3e-3, 1e-4, 0.5), {"start": 3e-3, "end": 1e-4, "end_fraction": 0.5}),
        (linear_schedule("1e-3"), LINEAR),  # RL Zoo's lin_1e-3
        (ConstantSchedule(0.25), 0.25),
        (FloatSchedule(LinearSchedule(1e-3, 0, 1)), LINEAR),
        (1, 1.0),
    ],
)
def test_learning_rates_that_fall_stay(tmp_path, rate, in_config):
    settings = {"policy_kwargs": {"net_arch": [4], "num_steps": 2}, "learning_starts": 10, "batch_size": 4}
    model = DQN(SpikingPolicy, "CartPole-v1", learning_rate=rate, **settings).learn(20)
    model.save(tmp_path / "agent.zip")
    sb3_spiking.save(model, tmp_path / "agent")
    zips = [] if isinstance(rate, FloatSchedule) else [tmp_path / "agent.zip"]  # whose text does not say what is within
    for number, path in enumerate([tmp_path / "agent", *zips]):
        acting = sb3_spiking.save(sb3_spiking.load(path), tmp_path / f"again{number}")
        for each in (path, acting):
            loaded = sb3_spiking.load(each, env=model.get_env(), **({} if each == tmp_path / "agent" else {"train_freq": 4}))
            for left in (1, 0.8, 0.3, 0):
                assert loaded.lr_schedule(left) == pytest.approx(model.lr_schedule(left))
    assert json.loads((tmp_path / "agent/config.json").read_text())["learning_rate"] == in_config
    loaded.learn(10)


@pytest.mark.parametrize(
    "rate", [{}, {**LINEAR, "more": 1}, {**LINEAR, "start": -1}, {**LINEAR, "end": "0"}, {**LINEAR, "end_fraction": 0}, [1]]
)
def test_learning_rates_that_cannot_be(tmp_path, rate):
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"net_arch": [4], "num_steps": 2})
    file = sb3_spiking.save(model, tmp_path / "agent") / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "learning_rate": rate}))
    with pytest.raises(AgentError, match="is no learning_rate"):
        sb3_spiking.load(tmp_path / "agent", env=model.get_env())


def test_an_agent_that_was_loaded_to_act_says_how_to_go_on(tmp_path):
    settings = {"policy_kwargs": {"net_arch": [16], "num_steps": 3}, "learning_starts": 10, "batch_size": 4}
    model = DQN(SpikingPolicy, "CartPole-v1", learning_rate=2e-3, **settings).learn(60)
    model.save_replay_buffer(tmp_path / "replay.pkl")
    loaded = sb3_spiking.load(sb3_spiking.save(model, tmp_path / "agent"))
    loaded.set_env(model.get_env())
    with pytest.raises(ValueError, match=r"the agent was loaded to act: to go on learning, load\(..., env=env\)"):
        loaded.learn(20)
    with pytest.raises(AgentError, match="gamma: hyperparameters are for learning, expected env="):
        sb3_spiking.load(tmp_path / "agent", gamma=0.5)
    # SB3's own way, with the replay
    loaded.load_replay_buffer(tmp_path / "replay.pkl")
    loaded.learn(40, reset_num_timesteps=False)
    assert loaded.policy.optimizer.param_groups[0]["lr"] == 2e-3
    pairs = zip(loaded.q_net.parameters(), model.q_net.parameters(), strict=True)
    assert not all(th.equal(ours, theirs) for ours, theirs in pairs)


def test_numbers_of_numpy_are_numbers(tmp_path):
    settings = {
        **{"net_arch": [np.int64(8)], "num_steps": np.int64(3), "beta": [np.float64(0.9)], "learn_beta": np.bool_(True)},
        **{"input_scale": np.float32(4), "reset_mechanism": np.str_("zero")},
    }
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs=settings)
    assert model.policy.settings.as_dict()["beta"] == (0.9,)
    assert {type(value) for value in model.policy.settings.as_dict().values()} <= {int, float, bool, str, tuple, type(None)}
    model.save(tmp_path / "agent.zip")
    observation = observation_of(model)
    for loaded in (DQN.load(tmp_path / "agent.zip"), sb3_spiking.load(tmp_path / "agent.zip")):
        assert th.equal(q_values(loaded, observation), q_values(model, observation))


def test_more_to_say_does_not_replace_the_agents_own(tmp_path):
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"net_arch": [8]})
    with pytest.raises(ValueError, match=r"gamma, settings: config.json has the agent's own"):
        sb3_spiking.save(model, tmp_path / "agent", gamma=0.5, settings="mine", note="fine")
    assert not (tmp_path / "agent").exists()


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"net_arch": [8]})
    sb3_spiking.save(model, tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    for number in range(2):
        sb3_spiking.save(model, tmp_path / "link", number=number)
        assert json.loads((tmp_path / "real/config.json").read_text())["number"] == number
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("folder", [True, False])
def test_goes_on_like_the_one_that_was_saved(folder, tmp_path):
    model = make_model(("CartPole-v1", {"net_arch": [16], "num_steps": 3})).learn(60)
    path = saved(model, tmp_path, folder)
    loaded = sb3_spiking.load(path, env=model.get_env(), **({} if folder else {"train_freq": 4}))
    loaded.replay_buffer = model.replay_buffer
    for agent in (model, loaded):
        agent.set_logger(model.logger)
        np.random.seed(3)
        agent.train(gradient_steps=3, batch_size=4)
    for ours, theirs in zip(loaded.policy.parameters(), model.policy.parameters(), strict=True):
        assert th.equal(ours, theirs)
    for name in (
        "learning_rate",
        "train_freq",
        "gamma",
        "learning_starts",
        "batch_size",
        "target_update_interval",
        "buffer_size",
    ):
        assert getattr(loaded, name) == getattr(model, name), name


def test_relu_agents_and_classes_that_are_known(tmp_path):
    kwargs = {"features_extractor_class": ReluExtractor, "features_extractor_kwargs": {"net_arch": [7]}, "net_arch": []}
    model = DQN("MlpPolicy", "CartPole-v1", policy_kwargs={**kwargs, "optimizer_class": th.optim.AdamW}, buffer_size=10)
    model.save(tmp_path / "agent")
    sb3_spiking.save(model, tmp_path / "folder")
    for path in (tmp_path / "agent.zip", tmp_path / "folder"):
        loaded = sb3_spiking.load(path)
        assert th.equal(q_values(loaded, observation_of(model)), q_values(model, observation_of(model)))
        assert type(loaded.policy.optimizer) is th.optim.AdamW


def test_saving_replaces_an_agent_and_nothing_else(tmp_path):
    model = make_model(("CartPole-v1", {"net_arch": [4]}))
    sb3_spiking.save(model, tmp_path / "agent")
    other = make_model(("CartPole-v1", {"net_arch": [5]}))
    sb3_spiking.save(other, tmp_path / "agent", note="the second")
    assert sb3_spiking.load(tmp_path / "agent").policy.settings.net_arch == (5,)
    assert json.loads((tmp_path / "agent/config.json").read_text())["note"] == "the second"
    (tmp_path / "other").mkdir()
    with pytest.raises(FileExistsError, match="is there and holds no agent"):
        sb3_spiking.save(other, tmp_path / "other")
    (tmp_path / "other/config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="is there and holds no agent"):
        sb3_spiking.save(other, tmp_path / "other")
    (tmp_path / "agent/thesis.txt").write_text("years")
    with pytest.raises(FileExistsError, match=r"holds more than an agent, thesis\.txt, which would be lost"):
        sb3_spiking.save(model, tmp_path / "agent")
    assert sb3_spiking.load(tmp_path / "agent").policy.settings.net_arch == (5,)
    with pytest.raises(ValueError, match="an agent of PPO: expected a DQN"):
        sb3_spiking.save(PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8), tmp_path / "ppo")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent", "other"]


def test_agents_that_rl_zoo_published_in_2021(tmp_path):
    """Their spaces are the old gym's, and spell ``shape`` without the underscore."""
    model = DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]})
    model.save(tmp_path / "agent.zip")
    files = hostile.members(tmp_path / "agent.zip")
    data = json.loads(files["data"])
    for name in ("observation_space", "action_space"):
        space = data[name]
        space["shape"] = space.pop("_shape")
        space[":type:"] = space[":type:"].replace("gymnasium.", "gym.")
    files["data"] = json.dumps(data).encode()
    loaded = sb3_spiking.load(hostile.write_zip(tmp_path / "old.zip", files))
    assert loaded.observation_space.shape == (4,)
    observations = th.rand(5, 4)
    assert th.equal(loaded.q_net(observations), model.q_net(observations))


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    model = make_model(("CartPole-v1", {"net_arch": [4]}))
    sb3_spiking.save(model, tmp_path / "agent")
    rename = Path.rename

    def fails(self, target):
        if self.name.endswith(".draft"):
            raise OSError("no space left")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="no space left"):
        sb3_spiking.save(make_model(("CartPole-v1", {"net_arch": [5]})), tmp_path / "agent")
    assert sb3_spiking.load(tmp_path / "agent").policy.settings.net_arch == (4,)
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize(
    ("settings", "given", "expected", "kwargs"),
    [
        ({}, {}, ReplayBuffer, {}),
        ({}, {"n_steps": 3}, NStepReplayBuffer, {"n_steps": 3, "gamma": 0.9}),  # DQN's choice stays its own
        ({"n_steps": 3}, {}, NStepReplayBuffer, {"n_steps": 3, "gamma": 0.9}),
        ({"n_steps": 3}, {"n_steps": 5, "gamma": 0.5}, NStepReplayBuffer, {"n_steps": 5, "gamma": 0.5}),
        (
            {"replay_buffer_class": NStepReplayBuffer, "replay_buffer_kwargs": {"n_steps": 4, "gamma": 0.8}},
            {},
            NStepReplayBuffer,
            {"n_steps": 4, "gamma": 0.8},
        ),
        (
            {"replay_buffer_class": NStepReplayBuffer, "replay_buffer_kwargs": {"n_steps": 4, "gamma": 0.9}},
            {"gamma": 0.5},
            NStepReplayBuffer,
            {"n_steps": 4, "gamma": 0.5},
        ),
        (
            {"replay_buffer_class": FrameStackReplayBuffer, "replay_buffer_kwargs": {"n_stack": 2}},
            {},
            FrameStackReplayBuffer,
            {"n_stack": 2},
        ),
        (
            {"replay_buffer_class": FrameStackReplayBuffer, "replay_buffer_kwargs": {"n_stack": 2}},
            {"replay_buffer_class": ReplayBuffer},
            ReplayBuffer,
            {},
        ),
        (
            {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}},
            {},
            ReplayBuffer,
            {"handle_timeout_termination": False},
        ),
    ],
)
def test_the_replay_stays_what_it_was(folder, settings, given, expected, kwargs, tmp_path):
    env = VecFrameStack(make_vec_env("CartPole-v1"), 2)
    small = {"policy_kwargs": {"net_arch": [8], "num_steps": 2}, "gamma": 0.9, "buffer_size": 50, "learning_starts": 10}
    model = DQN(SpikingPolicy, env, train_freq=4, **small, **settings)
    path = tmp_path / ("agent" if folder else "agent.zip")
    if folder:
        sb3_spiking.save(model, path)
        sb3_spiking.save(sb3_spiking.load(path), path)  # as an agent to act, too
    else:
        model.save(path)
        sb3_spiking.load(path).save(path)
    loaded = sb3_spiking.load(path, env=env, **given, **({} if folder else {"train_freq": 4}))
    assert type(loaded.replay_buffer) is expected
    assert loaded.replay_buffer_kwargs == kwargs
    assert loaded.replay_buffer.optimize_memory_usage == model.replay_buffer.optimize_memory_usage
    loaded.learn(30)


def test_another_replay_than_the_smaller_variant(tmp_path):
    env = VecFrameStack(make_vec_env("CartPole-v1"), 2)
    smaller = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    model = DQN(SpikingPolicy, env, policy_kwargs={"net_arch": [8]}, buffer_size=50, **smaller)
    sb3_spiking.save(model, tmp_path / "agent")
    replay = {"replay_buffer_class": FrameStackReplayBuffer, "replay_buffer_kwargs": {"n_stack": 2}}
    loaded = sb3_spiking.load(tmp_path / "agent", env=env, optimize_memory_usage=False, **replay)
    assert type(loaded.replay_buffer) is FrameStackReplayBuffer


def test_arguments_of_the_replay_that_are_pickled(tmp_path):
    kwargs = {"n_steps": 4, "gamma": np.float32(0.5)}
    replay = {"replay_buffer_class": NStepReplayBuffer, "replay_buffer_kwargs": kwargs, "buffer_size": 50}
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"net_arch": [8]}, **replay)
    model.save(tmp_path / "agent.zip")
    sb3_spiking.load(tmp_path / "agent.zip")
    training = {"env": model.get_env(), "train_freq": 4}
    with pytest.raises(AgentError, match="replay_buffer_kwargs are there as a pickle alone"):
        sb3_spiking.load(tmp_path / "agent.zip", **training)
    loaded = sb3_spiking.load(tmp_path / "agent.zip", **training, replay_buffer_kwargs={"n_steps": 3})
    assert (type(loaded.replay_buffer), loaded.replay_buffer.n_steps) == (NStepReplayBuffer, 3)


class OtherReplay(ReplayBuffer):
    pass


@pytest.mark.parametrize("folder", [True, False])
def test_a_replay_of_ones_own_is_asked_for(folder, tmp_path):
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"net_arch": [8]}, replay_buffer_class=OtherReplay, buffer_size=50)
    path = saved(model, tmp_path, folder)
    training = {"env": model.get_env(), "train_freq": 4}
    sb3_spiking.save(sb3_spiking.load(path), tmp_path / "again")  # to act it is not needed
    for each in (path, tmp_path / "again"):
        with pytest.raises(AgentError, match=r"a replay class of [\w.]*test_sharing[\w.]*, which is not in the files"):
            sb3_spiking.load(each, **training)
        assert type(sb3_spiking.load(each, **training, replay_buffer_class=OtherReplay).replay_buffer) is OtherReplay


@pytest.mark.parametrize(
    "change",
    [
        {"optimize_memory_usage": "yes"},
        {"replay_buffer_kwargs": []},
        {"replay_buffer_kwargs": {"n_steps": 10**9}},
        {"replay_buffer_kwargs": {"other": 1}},
        {"replay_buffer_kwargs": {"handle_timeout_termination": 3}},
    ],
)
def test_replays_that_nobody_wrote(change, tmp_path):
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"net_arch": [8]}, n_steps=2, buffer_size=50)
    sb3_spiking.save(model, tmp_path / "agent")
    config = json.loads((tmp_path / "agent/config.json").read_text())
    (tmp_path / "agent/config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(AgentError, match=next(iter(change))):
        sb3_spiking.load(tmp_path / "agent", env=model.get_env())


class OtherPolicy(SpikingPolicy):
    pass


def test_what_would_not_be_loaded_is_not_saved(tmp_path):
    model = DQN(OtherPolicy, "CartPole-v1", policy_kwargs={"net_arch": [8]}, buffer_size=50)
    with pytest.raises(ValueError, match=r"a policy '[\w.]*OtherPolicy'; expected one of .*SpikingPolicy"):
        sb3_spiking.save(model, tmp_path / "agent")
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"net_arch": [8], "optimizer_class": th.optim.Adagrad})
    with pytest.raises(ValueError, match=r"a class 'torch.optim.adagrad.Adagrad' in policy_kwargs"):
        sb3_spiking.save(model, tmp_path / "agent")
    assert not (tmp_path / "agent").exists()


def test_a_space_that_is_printed_in_part_is_not_guessed():
    space = spaces.MultiDiscrete([2] * 1200)
    record = {":type:": "<class 'gymnasium.spaces.multi_discrete.MultiDiscrete'>", "nvec": str(space.nvec), "start": "[0]"}
    with pytest.raises(ValueError, match="prints in part"):
        space_from_sb3(record)


def test_counters_of_numpy_are_left_alone(tmp_path):
    model = DQN("MlpPolicy", "CartPole-v1", buffer_size=100)
    model.learn(np.int64(20))
    model.save(tmp_path / "agent.zip")
    agent = sb3_spiking.load(tmp_path / "agent.zip")
    assert agent.num_timesteps == 20
