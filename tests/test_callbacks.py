import copy

import numpy as np
import pytest
import torch as th
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.logger import HumanOutputFormat, Logger
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_spiking import Cooldown, SlopeSchedule, SpikeMonitor, SpikingMLP, SpikingPolicy
from sb3_spiking.snn import Leaky
from sb3_spiking.snn.surrogates import Surrogate
from sb3_spiking.training.callbacks import spike_counts

TRAINING = {"learning_starts": 50, "buffer_size": 1000, "train_freq": 4, "batch_size": 4}


class Recorder(Logger):
    """Keeps every record and warning."""

    def __init__(self):
        super().__init__(folder=None, output_formats=[])
        self.records, self.warnings = {}, []

    def record(self, key, value, exclude=None):
        self.records.setdefault(key, []).append(value)

    def warn(self, *args):
        self.warnings.append(" ".join(args))


def monitored(policy_kwargs, steps=400, **kwargs):
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs=policy_kwargs, seed=0, **TRAINING)
    model.set_logger(Recorder())
    model.learn(steps, callback=SpikeMonitor(log_freq=20, **kwargs))
    return model


def with_bias(model, layer, bias):
    connection = model.q_net.features_extractor.dense[layer].connection
    with th.no_grad():
        connection.weight.zero_()
        connection.bias.copy_(th.tensor(bias))


def test_counts_by_hand():
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"num_steps": 4, "net_arch": [3, 2]})
    # currents are doubled: 2 fires at every step, 0.8 makes 0.8, 1.6, 1.4, 1.2, and fires at steps 2 to 4
    with_bias(model, 0, [1.0, 0.0, 0.4])
    with_bias(model, 1, [-1.0, 5.0])
    layers = spike_counts(model.policy, th.zeros(6, 4))
    # of 6 observations times 4 steps
    assert [(layer.counts.tolist(), layer.steps) for layer in layers] == [([24, 0, 18], 24), ([0, 24], 24)]
    # of the neurons that fire, one of two and the only one do so at every step
    assert [(layer.firing_windows, layer.full_windows) for layer in layers] == [(12, 6), (6, 6)]
    assert [layer.saturated_windows for layer in layers] == [0.5, 1.0]
    with_bias(model, 1, [-1.0, -1.0])
    assert [layer.saturated_windows for layer in spike_counts(model.policy, th.zeros(6, 4))] == [0.5, 0.0]


def test_saturated_windows_are_those_of_single_decisions():
    """A neuron that fires at every step for one observation of two and never for the other is not saturated, its window is."""
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"num_steps": 4, "net_arch": [1]})
    with th.no_grad():
        model.q_net.features_extractor.dense[0].connection.weight.fill_(1.0)
        model.q_net.features_extractor.dense[0].connection.bias.zero_()
    observations = th.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]])
    (layer,) = spike_counts(model.policy, observations)
    assert (layer.counts.tolist(), layer.steps) == ([4], 8)
    assert (layer.saturated_windows, layer.saturated_neurons) == (1.0, 0.0)


def test_growth_of_weights(import_benchmark):
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"net_arch": [256, 256]})
    with th.no_grad():
        model.q_net.features_extractor.dense[1].connection.weight.mul_(-3)
    assert import_benchmark("saturation").growth(model) == pytest.approx([1.0, 3.0], rel=0.05)


def test_logs_rate_silence_and_saturation():
    settings = {"num_steps": 4, "net_arch": [3, 2]}
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs=settings, learning_starts=900, buffer_size=1000)
    with_bias(model, 0, [1.0, 0.0, 0.4])  # as above
    with_bias(model, 1, [-1.0, 5.0])
    model.set_logger(Recorder())
    model.learn(60, callback=SpikeMonitor(log_freq=20))
    records = model.logger.records
    assert records["firing_rate/layer_1"] == pytest.approx([42 / 72] * 3)
    assert records["silent_neurons/layer_1"] == pytest.approx([1 / 3] * 3)
    assert records["saturated_neurons/layer_1"] == pytest.approx([1 / 3] * 3)
    assert records["firing_rate/layer_2"] == pytest.approx([0.5] * 3)
    assert records["silent_neurons/layer_2"] == records["saturated_neurons/layer_2"] == pytest.approx([0.5] * 3)
    assert records["saturated_windows/layer_1"] == pytest.approx([1 / 2] * 3)
    assert records["saturated_windows/layer_2"] == pytest.approx([1.0] * 3)
    assert not model.logger.warnings


def test_a_silent_layer_gets_one_warning():
    settings = {"net_arch": [8, 8], "threshold": [1.0, 1e6]}
    logger = monitored(settings, patience=5, min_updates=60).logger
    assert logger.records["firing_rate/layer_2"] == [0.0] * 20
    (warning,) = logger.warnings
    assert warning.startswith("layer_2 of the spiking network has not fired once in 5 batches in a row")
    # 400 steps are 87 updates, in the last 6 batches 60 or more: not enough, or too early to judge
    assert not monitored(settings, patience=7, min_updates=60).logger.warnings
    assert not monitored(settings, patience=5).logger.warnings


def test_output_neurons_count_only_where_they_fire():
    assert "firing_rate/layer_3" in monitored({"net_arch": [8, 8], "readout": "spike"}, 100).logger.records
    assert "firing_rate/layer_3" not in monitored({"net_arch": [8, 8], "readout": "last_membrane"}, 100).logger.records


@pytest.mark.parametrize("encoding", ["direct", "poisson"])
def test_does_not_change_the_training(small, encoding):
    make, settings = small
    parameters = []
    for callback in (None, SpikeMonitor(log_freq=5)):
        env = make_vec_env(make, n_envs=2, seed=0)
        model = DQN(SpikingPolicy, env, policy_kwargs={**settings, "encoding": encoding}, seed=0, **TRAINING)
        parameters.append(list(model.learn(120, callback=callback).q_net.parameters()))
    assert all(th.equal(*pair) for pair in zip(*parameters, strict=True))


def test_serves_other_algorithms(capsys):
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, policy_kwargs={"features_extractor_class": SpikingMLP})
    model.set_logger(Logger(None, [HumanOutputFormat(__import__("sys").stdout)]))
    model.learn(64, callback=SpikeMonitor(log_freq=10))
    assert "firing_rate/" in capsys.readouterr().out


@pytest.mark.parametrize("setting", ["log_freq", "batch_size", "patience"])
def test_wrong_settings(setting):
    with pytest.raises(ValueError, match=f"{setting}=0: expected a whole number of at least 1"):
        SpikeMonitor(**{setting: 0})


def test_a_policy_without_spikes():
    with pytest.raises(ValueError, match="there is no spiking layer in DQNPolicy"):
        DQN("MlpPolicy", "CartPole-v1").learn(10, callback=SpikeMonitor())


def test_observations_come_from_the_replay():
    model = monitored({"net_arch": [8]}, 100)
    monitor = SpikeMonitor(batch_size=16)
    monitor.init_callback(model)
    state = np.random.get_state()[1].copy()
    batch = monitor._observations()
    assert (np.random.get_state()[1] == state).all()
    stored = model.replay_buffer.observations[:100, 0]
    assert all((row.numpy() == stored).all(axis=1).any() for row in batch)


def test_a_slope_schedule_changes_gradients_and_not_spikes():
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"num_steps": 3, "net_arch": [8]}, seed=0, **TRAINING)
    model.set_logger(Recorder())
    observations = th.rand(16, 4)
    before = model.q_net(observations).detach()
    model.learning_rate, model.lr_schedule = 0.0, lambda _: 0.0
    model.learn(200, callback=SlopeSchedule(2.0, 32.0, fraction=0.5))
    slopes = model.logger.records["train/slope"]
    # A rollout is four steps: after 0, 4, 8, ... of 200, a factor of 16 over the first 100
    assert slopes[0] == 2.0
    assert slopes[5] == pytest.approx(2 * 16 ** (20 / 100))
    assert slopes[-1] == 32.0
    assert len(slopes) == 50
    assert th.equal(model.q_net(observations), before)
    # The next training, and an agent that is loaded, has the slope of the settings again
    layer = model.q_net.features_extractor.dense[0]
    assert layer.neuron.spike_grad.slope == model.policy.settings.slope == 2.0
    gradient = th.autograd.grad(model.q_net(observations).sum(), layer.connection.weight)[0]
    layer.neuron.spike_grad = Surrogate("fast_sigmoid", 32.0)
    other = th.autograd.grad(model.q_net(observations).sum(), layer.connection.weight)[0]
    assert not th.allclose(gradient, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial": 0, "final": 2.0}, "initial=0: expected a number above 0"),
        ({"initial": 1.0, "final": "25"}, "final='25': expected a number above 0"),
        ({"initial": 1.0, "final": 2.0, "fraction": 2}, "fraction=2: expected a share"),
    ],
)
def test_slope_schedules_of_wrong_numbers(arguments, message):
    with pytest.raises(ValueError, match=message):
        SlopeSchedule(**arguments)


def test_a_slope_schedule_needs_a_slope():
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"spike_grad": "triangular"}, **TRAINING)
    with pytest.raises(ValueError, match="no surrogate in SpikingPolicy has a steepness"):
        model.learn(10, callback=SlopeSchedule(2.0, 25.0))


@pytest.mark.parametrize(
    ("learning_rate", "at"),
    [
        (0.01, {100: 0.01, 120: 0.01, 140: 0.0075, 180: 0.0025, 200: 0.0}),
        (lambda left: 0.01 * left, {100: 0.005, 180: 0.00025}),
    ],
)
def test_a_learning_rate_that_cools_down(learning_rate, at, tmp_path):
    training = {**TRAINING, "learning_rate": learning_rate}
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"num_steps": 3, "net_arch": [8]}, seed=0, **training)
    model.set_logger(Recorder())
    model.learn(200, callback=Cooldown(0.4))
    rates = model.logger.records["train/learning_rate"]
    updates_before = 50 - len(rates)  # an update for each 4 steps, from learning_starts on
    for step, rate in at.items():
        assert rates[step // 4 - 1 - updates_before] == pytest.approx(rate), step
    model.save(tmp_path / "agent")
    # A later training has its own: the update before the last, at 4 of 100 steps left
    left = (learning_rate(0.04) if callable(learning_rate) else learning_rate) * 0.04
    loaded = DQN.load(tmp_path / "agent", env=model.env)
    loaded.set_logger(Recorder())
    loaded.learn(100, callback=Cooldown(1.0))
    assert loaded.logger.records["train/learning_rate"][-2] == pytest.approx(left)


@pytest.mark.parametrize("learning_rate", [0.01, lambda left: 0.01 * left])
def test_a_rollout_beyond_the_end_learns_nothing_more(learning_rate):
    training = {**TRAINING, "learning_rate": learning_rate, "train_freq": 32}
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"num_steps": 3, "net_arch": [8]}, seed=0, **training)
    model.set_logger(Recorder())
    model.learn(100, callback=Cooldown())
    assert model.num_timesteps == 128
    assert model.logger.records["train/learning_rate"][-1] == 0
    # A training without it has the rate that was set
    model.learn(96)  # updates after 64 and 96
    expected = 0.01 if isinstance(learning_rate, float) else 0.01 / 3
    assert model.logger.records["train/learning_rate"][-2] == pytest.approx(expected)


def test_a_second_training_begins_at_the_first_slope():
    kwargs = {"features_extractor_class": SpikingMLP, "features_extractor_kwargs": {"net_arch": [8], "num_steps": 2}}
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, n_epochs=1, policy_kwargs={**kwargs, "net_arch": []})
    for _ in range(2):
        model.set_logger(Recorder())
        model.learn(128, callback=SlopeSchedule(1.0, 16.0))
        assert model.logger.records["train/slope"] == pytest.approx([1, 2, 4, 8])


class Interrupt(BaseCallback):
    def _on_step(self):
        if self.num_timesteps == 60:
            raise KeyboardInterrupt
        return True


def test_what_a_training_that_is_interrupted_leaves_behind():
    model = DQN(SpikingPolicy, "CartPole-v1", policy_kwargs={"num_steps": 3, "net_arch": [8]}, seed=0, **TRAINING)
    with pytest.raises(KeyboardInterrupt):
        model.learn(100, callback=[Cooldown(0.9), SlopeSchedule(0.5, 5.0), Interrupt()])
    assert model.policy.optimizer.param_groups[0]["lr"] < model.learning_rate
    model.learn(100)
    assert model.policy.optimizer.param_groups[0]["lr"] == model.learning_rate
    model.learn(100, callback=SlopeSchedule(0.5, 5.0))
    assert {neuron.spike_grad.slope for neuron in model.policy.modules() if isinstance(neuron, Leaky)} == {2.0}


def test_a_copy_gets_the_slope_of_the_settings_back_too():
    model = DQN("SpikingPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}, buffer_size=100)
    with pytest.raises(KeyboardInterrupt):
        model.learn(200, callback=[SlopeSchedule(0.5, 20), Interrupt()])
    other = DQN("SpikingPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}, buffer_size=100)
    other.policy = copy.deepcopy(model.policy)
    other.learn(50, callback=SlopeSchedule(0.5, 20))
    assert {neuron.spike_grad.slope for neuron in other.policy.modules() if isinstance(neuron, Leaky)} == {2.0}


def test_hindsight_replay_waits_for_an_episode():
    env = BitFlippingEnv(n_bits=4, max_steps=300, continuous=False)
    model = DQN(
        "SpikingPolicy", env, replay_buffer_class=HerReplayBuffer, policy_kwargs={"net_arch": [8], "num_steps": 2},
        learning_starts=350, train_freq=1, buffer_size=1000, batch_size=4, seed=0,
    )  # fmt: skip
    model.set_logger(Recorder())
    model.learn(400, callback=SpikeMonitor(log_freq=20))
    assert 1 <= len(model.logger.records["firing_rate/layer_1"]) <= 3


@pytest.mark.parametrize("fraction", [0, 1.1, "0.4", True, float("nan")])
def test_cooldowns_of_wrong_numbers(fraction):
    with pytest.raises(ValueError, match=f"fraction={fraction!r}: expected a share of the training"):
        Cooldown(fraction)


def test_recurrent_policies_are_watched():
    body = {"features_extractor_class": SpikingMLP, "features_extractor_kwargs": {"net_arch": [8]}}
    model = RecurrentPPO(
        "MlpLstmPolicy", "CartPole-v1", n_steps=16, batch_size=16, n_epochs=1, policy_kwargs=body, device="cpu"
    )
    model.learn(32, callback=SpikeMonitor(log_freq=16))
    (layer,) = spike_counts(model.policy, th.ones(5, 4))
    assert (layer.counts.shape, layer.steps) == ((8,), 20)
