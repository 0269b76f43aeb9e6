"""Episodes under a protocol, results that survive an interruption, and what the commands refuse."""

import dataclasses
import math
import re
import shutil

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from gymnasium import spaces
from sb3_contrib import TQC
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.atari_wrappers import ClipRewardEnv, EpisodicLifeEnv, NoopResetEnv
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from sb3_spiking import SpikingPolicy
from sb3_spiking.errors import AgentError
from sb3_spiking.evaluation.agents import Agent, load_agent
from sb3_spiking.evaluation.comparison import evaluate, plot, summarise
from sb3_spiking.evaluation.episodes import PROTOCOLS, Episode, _note, run_episodes
from sb3_spiking.evaluation.operations import ENERGIES
from sb3_spiking.evaluation.results import Rows, interval, read_evaluations
from sb3_spiking.evaluation.scores import reference_scores, score_limits
from sb3_spiking.evaluation.table import markdown

SHORT = dataclasses.replace(PROTOCOLS["paper"], episodes=5, max_steps=30)


@pytest.fixture
def agent(relu_run):
    return load_agent(relu_run / "relu", "dqn", "CartPole-v1")


@pytest.fixture(scope="module")
def atari(tmp_path_factory):
    """An untrained spiking agent on Pong in RL Zoo's layout."""
    folder = tmp_path_factory.mktemp("atari")
    run = folder / "logs/dqn/PongNoFrameskip-v4_1"
    (run / "PongNoFrameskip-v4").mkdir(parents=True)
    wrapper = "stable_baselines3.common.atari_wrappers.AtariWrapper"
    (run / "PongNoFrameskip-v4/config.yml").write_text(f"env_wrapper: [{wrapper}]\nframe_stack: 4\npolicy: CnnPolicy\n")
    policy = {"num_steps": 2, "conv_layers": [[4, 8, 4], [4, 4, 4]], "features_dim": 16, "threshold": 0.02}
    model = DQN(SpikingPolicy, ImagesEnv(), buffer_size=1, policy_kwargs=policy, seed=0)
    model.save(run / "PongNoFrameskip-v4.zip")
    return folder


class ImagesEnv(gym.Env):
    observation_space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = spaces.Discrete(6)


def test_an_episode_is_the_same_whatever_runs_beside_it(agent):
    alone = [episode for number in range(5) for episode in run_episodes(agent, SHORT, [number], seed=3, n_envs=1)]
    together = sorted(run_episodes(agent, SHORT, range(5), seed=3, n_envs=4), key=lambda episode: episode.number)
    for one, other in zip(alone, together, strict=True):
        assert (one.number, one.score, one.steps) == (other.number, other.score, other.steps)
        assert one.max_q == pytest.approx(other.max_q, rel=1e-5)
    assert len({episode.max_q for episode in alone}) == 5
    # CartPole gives 1 for each step
    assert all(episode.score == episode.steps <= 30 for episode in alone)


def test_measures_of_an_episode_by_hand(agent):
    greedy = dataclasses.replace(SHORT, epsilon=0.0, max_steps=4)
    (episode,) = run_episodes(agent, greedy, [2], seed=7, n_envs=1, energy=ENERGIES["45nm-float32"])
    env = gym.make("CartPole-v1")
    observation, _ = env.reset(seed=7_000_002)
    values = []
    for _ in range(4):
        inputs, _ = agent.model.policy.obs_to_tensor(observation)
        values.append(agent.model.q_net(inputs).detach().numpy()[0])
        observation, *_ = env.step(values[-1].argmax())
    assert episode.steps == episode.counted == 4
    assert episode.max_q == pytest.approx(np.max(values))
    assert episode.q_spread == pytest.approx(np.std(values, axis=1).mean())
    assert [each.multiply_accumulates for each in episode.operations.values()] == [4 * 4 * 32, 4 * 32 * 32, 4 * 32 * 2]


def test_random_actions_are_not_counted(agent):
    (episode,) = run_episodes(agent, dataclasses.replace(SHORT, epsilon=1.0), [0], energy=ENERGIES["45nm-float32"])
    assert episode.counted == 0
    assert episode.operations == {}


def test_results_go_on_where_they_stopped(agent, tmp_path):
    first = evaluate([agent], dataclasses.replace(SHORT, episodes=2), tmp_path, seeds=[0])
    text = (tmp_path / "episodes.csv").read_text()
    (tmp_path / "episodes.csv").write_text(text + text.splitlines()[-1][:40])  # killed in the middle of a line
    rows = evaluate([agent], SHORT, tmp_path, seeds=[0])
    assert (tmp_path / "episodes.csv").read_text().startswith(text)
    assert list(rows["episode"]) == list(range(5))
    assert len(pd.read_csv(tmp_path / "episodes.csv")) == 5
    pd.testing.assert_frame_equal(rows.iloc[:2], first)
    whole = evaluate([agent], SHORT, tmp_path / "at once", seeds=[0])
    pd.testing.assert_frame_equal(rows, whole)
    # Another seed or protocol is another evaluation
    evaluate([agent], dataclasses.replace(SHORT, epsilon=0.5, episodes=1), tmp_path, seeds=[1])
    assert len(pd.read_csv(tmp_path / "episodes.csv")) == 6


def test_damaged_hyperparameters_are_named(tmp_path, relu_run):
    shutil.copytree(relu_run / "relu", tmp_path / "logs")
    (tmp_path / "logs/dqn/CartPole-v1_1/CartPole-v1/config.yml").write_text("a: [1, \n}")
    with pytest.raises(AgentError, match=r"config\.yml: damaged"):
        load_agent(tmp_path / "logs", "dqn", "CartPole-v1")


def test_a_file_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    with pytest.raises(AgentError, match="holds something else"):
        Rows(tmp_path / "rows.csv", ["a", "c"])
    assert (tmp_path / "rows.csv").read_text() == "a,b\n1,2\n"


def test_summary(agent, tmp_path):
    rows = evaluate([agent], SHORT, tmp_path, seeds=[0, 10])
    assert len(rows) == 10
    summary, layers = summarise([agent], rows, {"CartPole-v1": [rows["score"].mean(), 10.0]}, {"CartPole-v1": 10.0})
    (row,) = summary.to_dict("records")
    assert row["score"] == pytest.approx(rows["score"].mean())
    assert row["relative"] == pytest.approx(200.0)  # 100% is half as far above random play
    assert row["nanojoules"] == pytest.approx(4.6 * (4 * 32 + 32 * 32 + 32 * 2) / 1000)
    assert math.isnan(row["spikes"])
    assert list(layers["weight_bytes"]) == pytest.approx([640, 4224, 264])


@pytest.mark.parametrize("one_by_one", [False, True])
def test_whole_games_of_atari_are_neither_cut_into_lives_nor_clipped(atari, one_by_one):
    agent = load_agent(atari / "logs", "dqn", "PongNoFrameskip-v4")
    if one_by_one:
        names = ("NoopResetEnv", "EpisodicLifeEnv", {"WarpFrame": {"width": 84}}, "ClipRewardEnv")
        module = "stable_baselines3.common.atari_wrappers"
        agent.hyperparams["env_wrapper"] = [
            f"{module}.{name}" if isinstance(name, str) else {f"{module}.{key}": value for key, value in name.items()}
            for name in names
        ]
    layers = {}
    for whole_games in (False, True):
        env = agent.make_env(1, whole_games=whole_games)
        assert env.observation_space.shape == (84, 84, 4)
        inner, layers[whole_games] = env.unwrapped.envs[0], set()
        while isinstance(inner, gym.Wrapper):
            layers[whole_games].add(type(inner))
            inner = inner.env
        env.close()
    assert {EpisodicLifeEnv, ClipRewardEnv} <= layers[False]
    assert layers[False] - layers[True] == {EpisodicLifeEnv, ClipRewardEnv}
    assert NoopResetEnv in layers[True]


def test_atari_decisions_cost_what_they_fire(atari):
    agent = load_agent(atari / "logs", "dqn", "PongNoFrameskip-v4")
    protocol = dataclasses.replace(SHORT, max_steps=3, epsilon=0.0)
    episodes = list(run_episodes(agent, protocol, range(2), n_envs=2, energy=ENERGIES["45nm-float32"]))
    assert {episode.steps for episode in episodes} == {3}
    first, second, dense, readout = episodes[0].operations.values()
    assert first.multiply_accumulates == 3 * 20 * 20 * 4 * 256
    assert first.updates == 3 * 2 * 1600
    assert 0 < second.accumulates <= first.spikes * 4 * 1
    assert dense.accumulates == second.spikes * 16
    assert readout.accumulates == dense.spikes * 6


def test_a_limit_of_time_outside_of_monitor_ends_an_episode(agent):
    wrapper = {"gymnasium.wrappers.TimeLimit": {"max_episode_steps": 5}}
    limited = dataclasses.replace(agent, hyperparams={**agent.hyperparams, "env_wrapper": [wrapper]})
    for protocol in PROTOCOLS.values():
        short = dataclasses.replace(protocol, epsilon=0.0)
        episodes = list(run_episodes(limited, short, range(3)))
        assert [(episode.score, episode.steps) for episode in episodes] == [(5.0, 5)] * 3


@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize("max_steps", [None, 3])
@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_scores_are_those_of_the_environment_whatever_wrappers_make_of_rewards(agent, protocol, max_steps, limit):
    wrappers = [{"gymnasium.wrappers.ClipReward": {"max_reward": 0.5}}]
    wrappers += [{"gymnasium.wrappers.TimeLimit": {"max_episode_steps": limit}}] if limit else []
    wrapped = dataclasses.replace(agent, hyperparams={**agent.hyperparams, "env_wrapper": wrappers})
    episodes = list(run_episodes(wrapped, dataclasses.replace(protocol, epsilon=0.0, max_steps=max_steps), range(2)))
    assert all(episode.score == episode.steps for episode in episodes)
    assert {episode.steps for episode in episodes} == {max_steps or limit} or not (max_steps or limit)


def test_random_play_is_that_of_the_reference(relu_run, tmp_path, in_process):
    for folder, limit in (("short", 10), ("long", 500)):
        shutil.copytree(relu_run / "relu/dqn/CartPole-v1_1", tmp_path / folder / "dqn/CartPole-v1_1")
        (tmp_path / folder / "dqn/CartPole-v1_1/CartPole-v1/config.yml").write_text(
            f"env_kwargs: {{max_episode_steps: {limit}}}\n"
        )
    relative = []
    for folders in ("short long", "long short"):
        in_process("evaluate", f"--env CartPole-v1 -f {folders} --episodes 3 --relative-to long -o {folders[0]}", tmp_path)
        table = pd.read_csv(tmp_path / folders[0] / "summary.csv").set_index("agent")
        relative.append(table["relative"].sort_index().tolist())
    assert relative[0] == relative[1]


def test_numbers_take_the_bits_that_their_energy_has(agent, tmp_path):
    rows = evaluate([agent], SHORT, tmp_path, seeds=[0], energy="45nm-int8-memory")
    _, layers = summarise([agent], rows, {}, {})
    assert list(layers["weight_bytes"]) == [160, 1056, 66]


@pytest.mark.parametrize("readout", ["spike", "max_membrane"])
def test_neurons_that_are_read_have_no_firing_rate(tmp_path, readout):
    run = tmp_path / "logs/dqn/CartPole-v1_1/CartPole-v1"
    run.mkdir(parents=True)
    (run / "config.yml").write_text("policy: MlpPolicy\n")
    settings = {"net_arch": [8], "num_steps": 4, "readout": readout, "input_scale": 8.0}
    DQN(SpikingPolicy, "CartPole-v1", policy_kwargs=settings, seed=0).save(run.with_name("CartPole-v1.zip"))
    agent = load_agent(tmp_path / "logs", "dqn", "CartPole-v1")
    summary, layers = summarise([agent], evaluate([agent], SHORT, tmp_path / "out", seeds=[0]), {}, {})
    hidden, output = layers["firing_rate"]
    assert hidden > 0
    expected = hidden if readout == "max_membrane" else (8 * hidden + 2 * output) / 10
    assert summary["firing_rate"].item() == pytest.approx(expected)
    assert math.isnan(output) == (readout == "max_membrane")


def test_intervals_by_hand():
    # t of 0.975 with two degrees of freedom is 4.302653
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert interval([1.0, 2.0, 3.0], limits=(1.5, 2.5)) == (1.0, 3.0)  # what was seen is possible
    assert interval([1.0, 2.0, 3.0], limits=(0.0, 4.0)) == (0.0, 4.0)
    assert interval([1.0, 2.0, 3.0], limits=(-math.inf, 4.0)) == pytest.approx((2 - 4.302653 / 3**0.5, 4.0))
    assert interval([5.0, 5.0]) == (5.0, 5.0)
    assert all(math.isnan(end) for end in interval([1.0]))


def test_what_an_episode_can_give():
    assert score_limits("CartPole-v1") == (0, 500)
    assert score_limits("PongNoFrameskip-v4") == score_limits("ALE/Pong-v5") == (-21, 21)
    assert score_limits("BreakoutNoFrameskip-v4") == score_limits("LunarLander-v3") == (-math.inf, math.inf)
    assert score_limits("CartPole-v1", {"max_episode_steps": 1000}) == (-math.inf, math.inf)


def test_published_scores():
    for env_id in ("PongNoFrameskip-v4", "ALE/Pong-v5", "PongDeterministic-v4", "Pong-v4"):
        assert reference_scores(env_id) == (-20.7, 14.6)
    assert reference_scores("CartPole-v1") is None


def test_another_environment_with_the_name_of_a_game():
    gym.register("Boxing-v7", "gymnasium.envs.classic_control:CartPoleEnv")
    try:
        assert reference_scores("Boxing-v7") is None
        assert score_limits("Boxing-v7") == (-math.inf, math.inf)
    finally:
        gym.registry.pop("Boxing-v7")


def test_tables():
    assert (
        markdown(["", "x"], [("a", 1234.6), ("bcd", math.nan)])
        == "|     |     x |\n| --- | ----: |\n| a   | 1,235 |\n| bcd |       |"
    )
    # A rule needs a hyphen
    assert markdown(["", "T"], [("a", 4)]) == "|    |  T |\n| -- | -: |\n| a  |  4 |"


def test_other_agents_are_evaluated_too(relu_run, tmp_path):
    agent = load_agent(relu_run / "sac", "sac", "Pendulum-v1")
    with pytest.raises(AgentError, match="defined for discrete actions"):
        evaluate([agent], SHORT, tmp_path, seeds=[0])
    rows = evaluate([agent], dataclasses.replace(PROTOCOLS["zoo"], episodes=1, max_steps=5), tmp_path, seeds=[0])
    assert rows["max_q"].isna().all()
    # Actions as predict gives them, scaled to the space
    env, score = gym.make("Pendulum-v1"), 0.0
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        observation, reward, *_ = env.step(agent.model.predict(observation, deterministic=True)[0])
        score += reward
    assert rows["score"].item() == pytest.approx(score, rel=1e-5)


def test_a_game_of_atari_that_is_cut_off_has_its_raw_score(atari):
    agent = load_agent(atari / "logs", "dqn", "PongNoFrameskip-v4")
    ((zoo,), (paper,)) = (
        run_episodes(agent, dataclasses.replace(protocol, epsilon=0.0, max_steps=120), [0]) for protocol in PROTOCOLS.values()
    )
    assert (zoo.score, zoo.steps) == (paper.score, paper.steps)
    assert zoo.score < 0


def test_evaluate_command(relu_run, in_process):
    arguments = "--algo dqn --env CartPole-v1 -f relu --episodes 3 --max-steps 40 --relative-to relu -o results"
    said, _ = in_process("evaluate", arguments, relu_run)
    for name in ("episodes.csv", "summary.csv", "layers.csv", "scores.png"):
        assert (relu_run / "results" / name).stat().st_size > 0
    (row,) = pd.read_csv(relu_run / "results/summary.csv").to_dict("records")
    assert (row["episodes"], row["relative"]) == (3, pytest.approx(100.0))
    assert "nJ a decision" in said


def test_evaluate_compares_the_runs_of_folders(relu_run, tmp_path, in_process):
    for folder, runs in (("relu", (1, 2)), ("other", (1, 2))):
        for run in runs:
            shutil.copytree(relu_run / "relu/dqn/CartPole-v1_1", tmp_path / folder / f"dqn/CartPole-v1_{run}")
    arguments = "--env CartPole-v1 -f relu other --exp-id 1 2 --episodes 2 --max-steps 20 --relative-to relu"
    said, _ = in_process("evaluate", arguments, tmp_path)
    assert "0% is random play, 100% the mean of relu" in said
    (row,) = [line for line in said.splitlines() if line.startswith("| other")]
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["other", "2", "100%", "50%"]  # the same agents: ties
    assert pd.read_csv(tmp_path / "evaluation/summary.csv")["relative"].tolist() == pytest.approx([100] * 4)


def test_the_reference_is_a_folder_and_not_what_lies_in_it(relu_run, tmp_path, in_process):
    shutil.copytree(relu_run / "relu/dqn/CartPole-v1_1", tmp_path / "2024/dqn/CartPole-v1_1")
    other = tmp_path / "2024/other/dqn/CartPole-v1_1"
    other.mkdir(parents=True)
    DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [2]}, buffer_size=1, seed=3).save(other / "CartPole-v1.zip")
    arguments = "--env CartPole-v1 -f 2024 2024/other --episodes 3 --max-steps 60 --epsilon 0 --relative-to 2024"
    in_process("evaluate", arguments, tmp_path)
    reference, lower = pd.read_csv(tmp_path / "evaluation/summary.csv")["relative"]
    assert reference == pytest.approx(100)
    assert lower < 100


@pytest.mark.parametrize("name", ["2024", "null"])
def test_names_that_look_like_numbers(relu_run, tmp_path, in_process, name):
    shutil.copytree(relu_run / "relu/dqn/CartPole-v1_1", tmp_path / name / "dqn")
    for _ in range(2):
        in_process("evaluate", f"--env CartPole-v1 -f {name} --exp-id -1 --episodes 2 --max-steps 20", tmp_path)
        (row,) = pd.read_csv(tmp_path / "evaluation/summary.csv").to_dict("records")
        assert row["episodes"] == 2
    assert len(pd.read_csv(tmp_path / "evaluation/episodes.csv")) == 2


def test_another_environment_is_another_evaluation(relu_run, tmp_path):
    shutil.copytree(relu_run / "relu", tmp_path / "logs")
    config = tmp_path / "logs/dqn/CartPole-v1_1/CartPole-v1/config.yml"
    for text, steps in (
        ("policy: MlpPolicy\n", 5),
        ("env_wrapper: [{gymnasium.wrappers.TimeLimit: {max_episode_steps: 1}}]\n", 1),
    ):
        config.write_text(text)
        short = dataclasses.replace(SHORT, episodes=2, max_steps=5)
        rows = evaluate([load_agent(tmp_path / "logs", "dqn", "CartPole-v1")], short, tmp_path, seeds=[0])
        assert rows["steps"].tolist() == [steps] * 2


def test_scores_that_are_all_the_same_fraction(agent, tmp_path):
    rows = evaluate([agent], dataclasses.replace(SHORT, episodes=10, max_steps=3), tmp_path, seeds=[0])
    rows["score"] = 0.3  # whose mean over ten is below by rounding
    assert rows["score"].mean() != 0.3
    plot([agent], [None], rows, tmp_path / "scores.png")
    assert (tmp_path / "scores.png").stat().st_size > 10_000


def test_without_greedy_decisions_there_is_no_energy(agent, tmp_path):
    rows = evaluate([agent], dataclasses.replace(SHORT, epsilon=1.0, episodes=2), tmp_path, seeds=[0])
    summary, layers = summarise([agent], rows, {}, {})
    assert math.isnan(summary["nanojoules"].item())
    assert layers.empty


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("evaluate", "-f nowhere", "There is no such folder."),
        ("evaluate", "-f damaged", "damaged, or no agent of SB3"),
        ("evaluate", "-f relu --algo nonsense", "--algo nonsense: expected one of"),
        ("evaluate", "-f relu --relative-to other", "--relative-to other: expected one of the folders"),
        ("evaluate", "-f relu --epsilon 2", "--epsilon: 2: expected 0 to 1"),
        ("evaluate", "-f relu --gym-packages nothing_there", "--gym-packages nothing_there"),
        ("robustness", "-f relu --perturbations fog", "--perturbations: invalid choice: 'fog'"),
        ("robustness", "-f relu --perturbations occlusion", "occlusion: made for images"),
        ("robustness", "-f relu --perturbations quantisation --levels 32 1", "--levels 1: quantisation takes 2 to 24 bits"),
        ("robustness", "-f relu --perturbations mask --levels 150", "--levels 150: mask takes a percentage"),
        ("robustness", "-f relu --perturbations mask --levels 8 8", "--levels 8 8: each level once"),
        (
            "robustness",
            "-f relu --perturbations mask --levels 33.33333 33.333334",
            "--levels 33.3333 33.3333: each level once",
        ),
        ("robustness", "-f relu --perturbations mask mask", "--perturbations mask mask: each once"),
        ("evaluate", "-f relu relu", "is named twice"),
        ("evaluate", "-f relu --seed 1 1", "each seed once"),
        ("evaluate", "-f relu --seed -1", "--seed: -1: expected 0 to"),
        ("evaluate", "-f sac --algo sac --env Pendulum-v1 --relative-to sac --epsilon 0", "takes discrete actions"),
        ("robustness", "-f relu --levels 3", "Name one with --perturbations"),
    ],
)
def test_wrong_input_gets_one_line(relu_run, fails, module, arguments, message):
    assert message in fails(module, f"{'' if '--env' in arguments else '--env CartPole-v1 '}{arguments} -o never")
    assert not (relu_run / "never").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("frame_stack: 4", r"Unexpected observation shape \(1, 16\)"),
        ("env_wrapper: gymnasium.wrappers.TimeAwareObservation", r"Unexpected observation shape \(1, 5\)"),
        ("env_wrapper: [{rl_zoo3.wrappers.FrameSkip: {skip: 0}}]", "local variable 'obs'"),
        ('env_kwargs: {"a\\u001b[31mb": 3}', r"unexpected keyword argument 'a\?\[31mb'"),
    ],
)
def test_environments_that_do_not_work_take_one_line(relu_run, fails, config, message):
    shutil.rmtree(relu_run / "other", ignore_errors=True)
    shutil.copytree(relu_run / "relu", relu_run / "other")
    (folder,) = (relu_run / "other").glob("dqn/CartPole-v1_1/CartPole-v1")
    (folder / "args.yml").unlink()
    (folder / "config.yml").write_text(config)
    line = fails("evaluate", "--env CartPole-v1 -f other -o never")
    assert re.search(message, line)
    assert line.strip().isprintable()


@pytest.mark.parametrize("module", ["evaluate", "robustness", "convert"])
def test_an_agent_of_another_environment_takes_one_line(relu_run, fails, module):
    shutil.rmtree(relu_run / "other", ignore_errors=True)
    (relu_run / "other/dqn/Acrobot-v1_1").mkdir(parents=True)
    shutil.copy(relu_run / "relu/dqn/CartPole-v1_1/CartPole-v1.zip", relu_run / "other/dqn/Acrobot-v1_1/Acrobot-v1.zip")
    line = fails(module, "--env Acrobot-v1 -f other -o never")
    assert "does not play Acrobot-v1" in line
    assert "its actions are Discrete(3), those of the agent Discrete(2)" in line
    assert "there is no such environment" in fails(module, "--env os:CartPole-v1 -f relu -o never")


def test_an_environment_of_an_older_version(relu_run, in_process, capsys):
    run = relu_run / "older/dqn/LunarLander-v2_1"
    run.mkdir(parents=True)
    DQN("MlpPolicy", "LunarLander-v3", policy_kwargs={"net_arch": [8]}).save(run / "LunarLander-v2.zip")
    _, said = in_process("evaluate", "--env LunarLander-v2 -f older -o new --episodes 2 --max-steps 5", relu_run)
    assert "Gymnasium has no LunarLander-v2 any more: its agent plays LunarLander-v3\n" in said
    assert set(pd.read_csv(relu_run / "new/summary.csv")["env"]) == {"LunarLander-v3"}


def test_damaged_learning_curves_are_said_before_the_episodes(relu_run, in_process):
    shutil.rmtree(relu_run / "other", ignore_errors=True)
    shutil.copytree(relu_run / "relu", relu_run / "other")
    (relu_run / "other/dqn/CartPole-v1_1/evaluations.npz").write_bytes(b"PK damaged")
    _, said = in_process("evaluate", "--env CartPole-v1 -f other -o curves --episodes 2 --max-steps 5", relu_run)
    assert said.index("its learning curve is left out") < said.index("episode/s")
    assert (relu_run / "curves/scores.png").stat().st_size > 10_000


@pytest.mark.parametrize("content", ["somebody else's note", "a,b,c", "x\na,c\n1,2"])
def test_a_foreign_file_is_not_touched(tmp_path, content):
    (tmp_path / "rows.csv").write_text(content)
    with pytest.raises(AgentError, match="holds something else"):
        Rows(tmp_path / "rows.csv", ["a", "c"])
    assert (tmp_path / "rows.csv").read_text() == content


@pytest.mark.parametrize("content", ["", "a,", "a,c", "a,c\r", "a,c\r\n1,2\r\n3"])
def test_a_file_that_was_cut_off_goes_on(tmp_path, content):
    (tmp_path / "rows.csv").write_bytes(content.encode())
    Rows(tmp_path / "rows.csv", ["a", "c"]).add({"a": 5, "c": 6})
    kept = [[1, 2]] if "1,2" in content else []
    assert Rows(tmp_path / "rows.csv", ["a", "c"]).read().to_numpy().tolist() == [*kept, [5, 6]]


def test_learning_curves_that_can_be_read(tmp_path):
    np.savez(tmp_path / "evaluations.npz", timesteps=[100, 200], results=[[1, 3], [5, 5]], ep_lengths=[[1, 1], [1, 1]])
    assert [each.tolist() for each in read_evaluations(tmp_path / "evaluations.npz")] == [[100, 200], [2.0, 5.0], [1.0, 0.0]]


def test_learning_curves_that_cannot(tmp_path):
    file = tmp_path / "evaluations.npz"
    damages = {
        "not a zip": lambda: file.write_bytes(b"PK damaged"),
        "KeyError|not a file|results": lambda: np.savez(file, timesteps=[1]),
        "steps of shape": lambda: np.savez(file, timesteps=[1, 2], results=[[1.0]]),
        "Object arrays|allow_pickle": lambda: np.savez(file, timesteps=np.array([{}]), results=[[1.0]]),
        "expected at most": lambda: np.savez_compressed(file, timesteps=[1], results=np.zeros((1, 2**24))),
    }
    for message, damage in damages.items():
        damage()
        with pytest.raises(AgentError, match=message):
            read_evaluations(file)


def test_other_statistics_of_normalisation_are_another_evaluation(agent, tmp_path):
    normalised = dataclasses.replace(agent, hyperparams={"normalize": True}, stats_path=str(tmp_path))
    keys = set()
    for content in (b"a", b"b", b"a"):
        (tmp_path / "vecnormalize.pkl").write_bytes(content)
        keys.add(normalised.environment)
    assert len(keys) == 2
    assert agent.environment == "{}"


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_a_wrapper_that_begins_a_new_game_after_a_life(tmp_path, protocol):
    wrapper = {
        "gymnasium.wrappers.AtariPreprocessing": {"noop_max": 0, "terminal_on_life_loss": True, "grayscale_newaxis": True}
    }
    config = {"env_wrapper": [wrapper], "frame_stack": 4, "normalize": False}
    model = DQN("CnnPolicy", ImagesOfBreakout(), buffer_size=1, policy_kwargs={"net_arch": []})
    breakout = Agent("a", "dqn", "BreakoutNoFrameskip-v4", model, tmp_path / "a.zip", config, str(tmp_path), {"frameskip": 1})
    (episode,) = run_episodes(breakout, dataclasses.replace(protocol, epsilon=1.0, max_steps=2000), [0])
    env = breakout.make_env(1, 0, whole_games=protocol.whole_games)
    env.reset()
    lives = [env.step([1 + step % 3])[3][0]["lives"] for step in range(episode.steps)]
    assert episode.steps > 100
    assert min(lives) <= 1  # not 4


class ImagesOfBreakout(gym.Env):
    observation_space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = spaces.Discrete(4)


def test_q_values_that_are_not_numbers_are_not_hidden():
    episode = Episode(0)
    for values in ([1.0, 2.0], [math.nan, 0.0], [5.0, 0.0]):
        _note(episode, np.array([values]), 0, None, None)
    assert math.isnan(episode.max_q)


def test_bytes_of_weights_without_memory(agent, tmp_path):
    rows = evaluate([agent], SHORT, tmp_path, seeds=[0], energy="45nm-int8")
    _, layers = summarise([agent], rows, {}, {})
    assert list(layers["weight_bytes"]) == [160, 1056, 66]


def test_the_folder_that_one_is_in_has_a_name(relu_run, monkeypatch):
    monkeypatch.chdir(relu_run / "relu")
    assert load_agent(".", "dqn", "CartPole-v1").name == "relu/1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--env-kwargs render_mode:rgb_array", "--env-kwargs render_mode:rgb_array: .*text in quotes"),
        ("--gym-packages breaks", "--gym-packages breaks: .*on purpose"),
    ],
)
def test_arguments_that_break(relu_run, in_process, capsys, monkeypatch, arguments, message):
    (relu_run / "breaks.py").write_text("raise ValueError('on purpose')")
    monkeypatch.syspath_prepend(str(relu_run))
    with pytest.raises(SystemExit):
        in_process("evaluate", f"--env CartPole-v1 -f relu {arguments}", relu_run)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert re.search(message, said)


@pytest.mark.parametrize("name", ["ppo", "a2c", "tqc"])
def test_what_rl_zoo_trains_is_loaded_without_trust(tmp_path, name):
    env = "Pendulum-v1"
    if name == "ppo":
        model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, use_sde=True, policy_kwargs={"log_std_init": -2})
    elif name == "a2c":
        model = A2C("MlpPolicy", env, policy_kwargs={"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": 1e-5}})
    else:
        model = TQC("MlpPolicy", env, buffer_size=1)
    run = tmp_path / name / f"{env}_1"
    run.mkdir(parents=True)
    model.save(run / f"{env}.zip")
    agent = load_agent(tmp_path, name, env)
    observation = np.array([[0.5, 0.5, 1.0]], np.float32)
    before, _ = model.predict(observation, deterministic=True)
    np.testing.assert_allclose(agent.model.predict(observation, deterministic=True)[0], before, rtol=1e-5)
