"""The command, videos, stills, and looking while a network learns."""

import dataclasses
import shutil
from pathlib import Path

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
import pytest
import torch as th
from PIL import Image
from small_agents import ENVIRONMENTS, TRAINING, make_model
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_trained_agents import FOLDER, RELU

import sb3_spiking.minatar  # noqa: F401  (registers its games)
from sb3_spiking import LookCallback, Recording, SpikeMonitor, SpikingMLP, SpikingPolicy, record
from sb3_spiking.evaluation.agents import load_agent
from sb3_spiking.evaluation.episodes import PROTOCOLS, run_episodes
from sb3_spiking.evaluation.operations import ENERGIES
from sb3_spiking.look.still import write_still
from sb3_spiking.look.video import write_gif, write_video
from sb3_spiking.training.figures import spike_figure


def test_one_agent(in_process, tmp_path):
    arguments = f"--env MinAtar/Breakout-v1 --gym-packages sb3_spiking.minatar -f {FOLDER} -n 12 --seed 3 --gif --still 2"
    out, _ = in_process("look", f"{arguments} -o there --membranes features_extractor.conv.0", tmp_path)
    folder = tmp_path / "there"
    names = {"page.html", "recording.npz", "still.png", "video.mp4", "video.gif"}
    assert {path.name for path in folder.iterdir()} == names
    assert all(name in out for name in names)
    assert "MinAtar/Breakout-v1, rl-trained-agents/1: score " in out
    assert "after 12 decisions, the episode goes on" in out
    recording = Recording.load(folder / "recording.npz")
    assert recording.decisions == 12
    assert recording.frames.shape == (12, 10, 10, 3)
    assert recording.action_names == ["no-op", "left", "right"]
    assert ["membranes" in layer.arrays for layer in recording.layers] == [True, False]
    # A picture for each decision
    film = iio.imread(folder / "video.mp4")
    assert film.shape == (12, 560, 1280, 3)
    assert np.abs(film[0].astype(int) - film[-1].astype(int)).max() > 100
    with Image.open(folder / "video.gif") as gif:
        assert (gif.n_frames, gif.info["duration"]) == (12, 100)
    # The same seed, the same everything
    before = {name: (folder / name).read_bytes() for name in names - {"video.mp4"}}
    in_process("look", f"{arguments} -o again --membranes features_extractor.conv.0", tmp_path)
    for name, content in before.items():
        assert (tmp_path / "again" / name).read_bytes() == content, name
    np.testing.assert_array_equal(iio.imread(tmp_path / "again/video.mp4"), film)


def test_the_episode_is_the_first_of_an_evaluation(in_process, tmp_path):
    arguments = f"--env MinAtar/Breakout-v1 --gym-packages sb3_spiking.minatar -f {FOLDER} -n 18000 --seed 3 --no-video"
    in_process("look", f"{arguments} -o there", tmp_path)
    recording = Recording.load(tmp_path / "there/recording.npz")
    agent = load_agent(FOLDER, "dqn", "MinAtar/Breakout-v1")
    (episode,) = run_episodes(agent, PROTOCOLS["paper"], [0], seed=3, energy=ENERGIES["45nm-float32"])
    assert recording.over
    assert (recording.rewards.sum(), recording.decisions) == (episode.score, episode.steps)
    assert episode.counted == (~recording.explored).sum() < episode.steps
    for layer in recording.layers:
        greedy = layer.arrays["picojoules"][~recording.explored].sum()
        assert greedy == pytest.approx(episode.operations[layer.name].picojoules)
    total = sum(layer.picojoules for layer in episode.operations.values())
    assert recording.picojoules[~recording.explored].sum() == pytest.approx(total)
    assert recording.q_values.max() == pytest.approx(episode.max_q)


def test_agents_side_by_side(in_process, tmp_path):
    in_process("look", f"--env CartPole-v1 -f {RELU} {FOLDER} -n 5 --epsilon 0 --still", tmp_path)
    names = ["relu-agents-1", "rl-trained-agents-1"]
    expected = {"page.html", "video.mp4"}
    expected |= {
        f"{kind}-CartPole-v1-{name}.{end}" for name in names for kind, end in (("recording", "npz"), ("still", "png"))
    }
    assert {path.name for path in (tmp_path / "look").iterdir()} == expected
    recordings = [Recording.load(tmp_path / f"look/recording-CartPole-v1-{name}.npz") for name in names]
    assert not any(recording.explored.any() for recording in recordings)
    # The same game
    first, second = (recording.observations[""][0] for recording in recordings)
    np.testing.assert_array_equal(first, second)
    assert iio.improps(tmp_path / "look/video.mp4").shape[1:] == (800, 1280, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-f nowhere", "no dqn agent for CartPole-v1 in nowhere"),
        ("-f relu --env Nothing-v0", "there is no such environment"),
        ("-f relu -n 0", "-n/--decisions: 0: expected a whole number of at least 1"),
        ("-f relu -n 5 --still 5", "--still 5: expected less than --decisions, 5"),
        ("-f relu --epsilon 2", "--epsilon: 2: expected 0 to 1"),
        ("-f relu --fps 0", "--fps: 0: expected a whole number of at least 1"),
        ("-f damaged", "CartPole-v1.zip"),
        ("-f sac --algo sac --env Pendulum-v1", "random actions"),
        ("-f relu -o relu/dqn/CartPole-v1_1/CartPole-v1.zip", "expected a folder, there is a file"),
    ],
)
def test_bad_input_takes_one_line_and_leaves_nothing(fails, relu_run, arguments, message):
    assert message in fails("look", f"-o nothing {arguments}")
    assert not (relu_run / "nothing").exists()


class Blind(gym.Env):
    """CartPole's spaces, without pictures."""

    observation_space = gym.make("CartPole-v1").observation_space
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(4, np.float32), {}

    def step(self, action):
        return np.zeros(4, np.float32), 0.0, False, False, {}


class Broken(Blind):
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def render(self):
        raise RuntimeError("no display,\nno picture")


@pytest.fixture
def blind(relu_run):
    """An agent for environments that cannot be drawn."""
    for kind in (Blind, Broken):
        if f"{kind.__name__}-v0" not in gym.registry:
            gym.register(f"{kind.__name__}-v0", kind)
        run = relu_run / f"blind/dqn/{kind.__name__}-v0_1"
        run.mkdir(parents=True, exist_ok=True)
        DQN("MlpPolicy", kind(), buffer_size=1).save(run / f"{kind.__name__}-v0.zip")


def test_a_layer_that_the_network_does_not_have(relu_run, in_process, capsys):
    with pytest.raises(SystemExit):
        in_process("look", "-o nothing --env CartPole-v1 -f relu --membranes nolayer", relu_run)
    *_, said = capsys.readouterr().err.splitlines()  # behind the progress
    assert said == "error: membranes: the network has no layer 'nolayer'; it has q_net.0, q_net.2"
    assert not (relu_run / "nothing").exists()


def test_environments_that_cannot_be_drawn(fails, relu_run, blind):
    assert "Blind-v0 cannot be drawn: " in fails("look", "-f blind --env Blind-v0")
    assert "Broken-v0 cannot be drawn: no display, no picture" in fails("look", "-f blind --env Broken-v0")
    assert not (relu_run / "look").exists()


def test_an_episode_shorter_than_the_still(in_process, relu_run, capsys):
    with pytest.raises(SystemExit):
        in_process("look", "-f relu --epsilon 1 -n 400 --still 300 -o nothing", relu_run)
    said = capsys.readouterr().err.split("\r")[-1]  # after the progress
    assert said == "error: --still 300: the episode of relu/1 has 18 decisions\n"
    assert not (relu_run / "nothing").exists()


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_stills_and_films_of_any_agent(kind, tmp_path):
    make, settings = ENVIRONMENTS[kind]
    model = make_model((make, {"num_steps": 3, **settings}))
    recording = record(model, make(), 4)
    write_still(recording, tmp_path / "still.png", first=1)
    write_gif([recording], tmp_path / "film.gif", fps=5)
    write_video([recording], tmp_path / "film.mp4", fps=5)
    with Image.open(tmp_path / "still.png") as still:
        assert still.width > 300
        assert np.asarray(still).std() > 10
    with Image.open(tmp_path / "film.gif") as gif:
        assert (gif.n_frames, gif.info["duration"]) == (4, 200)
    assert len(iio.imread(tmp_path / "film.mp4")) == 4
    assert {path.name for path in tmp_path.iterdir()} == {"still.png", "film.gif", "film.mp4"}


def test_membranes_below_zero_are_drawn(tmp_path):
    model = make_model(("CartPole-v1", {"net_arch": [8], "num_steps": 3, "readout": "max_membrane"}))
    with th.no_grad():
        model.q_net.q_net[-1].bias.fill_(-3.0)
    recording = record(model, gym.make("CartPole-v1"), 3)
    assert max(layer.arrays["membranes"].max() for layer in recording.layers if layer.kind == "membranes") < 0
    write_gif([recording], tmp_path / "film.gif", fps=5)
    with Image.open(tmp_path / "film.gif") as gif:
        assert gif.n_frames == 3


def test_a_still_begins_within_the_recording(tmp_path):
    recording = record(make_model(("CartPole-v1", {"net_arch": [8]})), gym.make("CartPole-v1"), 3)
    with pytest.raises(ValueError, match="first=3: the recording has 3 decisions"):
        write_still(recording, tmp_path / "still.png", first=3)


def test_other_algorithms_have_stills(tmp_path):
    kwargs = {"features_extractor_class": SpikingMLP, "net_arch": []}
    recording = record(PPO("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, n_steps=8, batch_size=8), "CartPole-v1", 3)
    write_still(recording, tmp_path / "still.png")
    assert (tmp_path / "still.png").stat().st_size > 3000


def test_the_callback_records_what_the_training_does(tmp_path):
    env = make_vec_env("CartPole-v1", seed=0, env_kwargs={"render_mode": "rgb_array"})
    model = DQN(SpikingPolicy, env, policy_kwargs={"net_arch": [8], "num_steps": 3}, seed=0, **TRAINING)
    callback = LookCallback(every=40, decisions=6, outputs=["page", "video", "recording"], folder=tmp_path)
    model.learn(100, callback=callback)
    begins = [1, 41, 81]
    names = {f"look-{begin}.{end}" for begin in begins for end in ("html", "mp4", "npz")}
    assert {path.name for path in tmp_path.iterdir()} == names
    replay = model.replay_buffer
    for begin in begins:
        recording = Recording.load(tmp_path / f"look-{begin}.npz")
        count = recording.decisions
        assert count == 6 or recording.over
        # What the replay has of these steps
        rows = [(begin + each) % replay.buffer_size for each in range(count)]
        np.testing.assert_array_equal(recording.observations[""], replay.observations[rows, 0])
        np.testing.assert_array_equal(recording.actions, replay.actions[rows, 0, 0])
        np.testing.assert_array_equal(recording.rewards, replay.rewards[rows, 0])
        assert (recording.explored == (recording.actions != recording.q_values.argmax(axis=1))).all()
        assert recording.frames.shape == (count, 213, 320, 3)
        assert recording.agent == f"after {begin} steps"
        # Weights and spikes belong together, whatever was learned meanwhile
        rates = recording.layers[-1].spikes.mean(axis=1)
        values = rates @ recording.readout["weight"].T + recording.readout["bias"]
        np.testing.assert_allclose(recording.q_values, values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoding", ["direct", "poisson"])
def test_looking_does_not_change_the_training(small, encoding, tmp_path):
    make, settings = small
    parameters = []
    looking = [LookCallback(every=20, decisions=10, folder=tmp_path), SpikeMonitor(log_freq=5, figure_freq=10)]
    for callback in (None, looking):
        env = make_vec_env(make, n_envs=2, seed=0)
        model = DQN(SpikingPolicy, env, policy_kwargs={**settings, "encoding": encoding}, seed=0, **TRAINING)
        parameters.append(list(model.learn(120, callback=callback).q_net.parameters()))
    assert all(th.equal(*pair) for pair in zip(*parameters, strict=True))
    assert len(list(tmp_path.glob("look-*.html"))) >= 2


def test_a_callback_in_ppo(tmp_path):
    kwargs = {"features_extractor_class": SpikingMLP, "net_arch": []}
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, n_steps=32, batch_size=32, seed=0)
    model.learn(64, callback=LookCallback(every=30, decisions=5, outputs=["recording"], folder=tmp_path))
    recording = Recording.load(tmp_path / "look-1.npz")
    assert recording.decisions == 5
    assert recording.explored.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every=0: expected a whole number of at least 1"),
        ({"decisions": 1.5}, "decisions=1.5: expected a whole number of at least 1"),
        ({"outputs": "page"}, "outputs='page': expected a list of 'page', 'video', 'recording'"),
        ({"outputs": ["film"]}, "expected a list of 'page', 'video', 'recording'"),
    ],
)
def test_callbacks_with_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        LookCallback(**arguments)


def test_callbacks_of_other_trainings():
    with pytest.raises(ValueError, match="LookCallback: expected discrete actions"):
        SAC("MlpPolicy", "Pendulum-v1", buffer_size=10).learn(1, callback=LookCallback())
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"net_arch": [4]}, **TRAINING)
    with pytest.raises(ValueError, match="LookCallback: folder=None takes the folder of the monitor files"):
        model.learn(1, callback=LookCallback())


def test_figures_of_the_monitor_are_in_tensorboard(tmp_path):
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"net_arch": [6, 5]}, seed=0, **TRAINING)
    model.set_logger(configure(str(tmp_path), ["tensorboard", "stdout", "csv", "json"]))
    model.learn(200, callback=SpikeMonitor(log_freq=20, figure_freq=60), log_interval=1)
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["spikes/layer_1", "spikes/layer_2"]
    assert 1 <= len(events.Images("spikes/layer_1")) <= 3


def test_a_figure_shows_each_spike_and_rate():
    window = np.zeros((2, 3, 4), np.float32)
    window[1, 2, 3] = 1
    raster, histogram = spike_figure(window, np.array([0.0, 0.5, 1.0, 1.0]), "layer_1").axes
    shown = np.asarray(raster.images[0].get_array())
    assert np.argwhere(shown).tolist() == [[3, 5]]  # neuron 3, the second step of the third observation
    heights = [bar.get_height() for bar in histogram.patches]
    assert (heights[0], heights[12], heights[-1]) == (1, 1, 2)
    assert sum(heights) == 4


def test_no_figures_without_being_asked():
    class Keeps(SpikeMonitor):
        figures = 0

        def _draw(self, *_):
            self.figures += 1

    monitor = Keeps(log_freq=5)
    DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"net_arch": [4]}, **TRAINING).learn(40, callback=monitor)
    assert monitor.figures == 0
    with pytest.raises(ValueError, match="figure_freq=0: expected a whole number of at least 1"):
        SpikeMonitor(figure_freq=0)


def test_a_page_that_cannot_be_written_does_not_end_the_training(tmp_path):
    (tmp_path / "look").write_text("no folder")
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"net_arch": [4], "num_steps": 2}, buffer_size=50)
    with pytest.warns(UserWarning, match="cannot be written, the training goes on"):
        model.learn(60, callback=LookCallback(every=20, decisions=5, outputs=["recording"], folder=tmp_path / "look"))
    assert model.num_timesteps == 60


def test_names_of_files_that_would_be_the_same(in_process, relu_run, tmp_path):
    for name in ("my.agents", "my-agents"):
        shutil.copytree(relu_run / "relu", tmp_path / name)
    in_process("look", "--env CartPole-v1 -f my.agents my-agents -n 10 --no-video -o there", tmp_path)
    names = {"recording-CartPole-v1-my-agents-1.npz", "recording-CartPole-v1-my-agents-1-2.npz", "page.html"}
    assert {path.name for path in (tmp_path / "there").iterdir()} == names
    assert {Recording.load(path).agent for path in (tmp_path / "there").glob("*.npz")} == {"my.agents/1", "my-agents/1"}


def test_lives_are_not_episodes(in_process, tmp_path):
    folder = Path(FOLDER).resolve()
    in_process("look", f"--env BreakoutNoFrameskip-v4 -f {folder} --protocol zoo -n 600 --no-video -o there", tmp_path)
    recording = Recording.load(tmp_path / "there/recording.npz")
    agent = load_agent(folder, "dqn", "BreakoutNoFrameskip-v4")
    (episode,) = run_episodes(agent, dataclasses.replace(PROTOCOLS["zoo"], max_steps=600), [0])
    assert (recording.rewards.sum(), recording.decisions) == (episode.score, episode.steps)
    assert len(set(recording.lives)) > 1
