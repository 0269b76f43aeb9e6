"""SB3 callbacks: what spikes and what does not, a surrogate and a learning rate that change while the network learns."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import FloatSchedule, obs_as_tensor
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_spiking.snn.neurons import Leaky
from sb3_spiking.snn.surrogates import Surrogate

_OBSERVATIONS_IN_A_FIGURE = 8


@dataclass(frozen=True)
class SpikeCounts:
    """
    Spikes of one layer over a batch. A window is what a neuron does for one observation.

    :param counts: spikes of each neuron over the batch and the window, shape of the layer
    :param steps: simulation steps that these are out of: observations times steps of the window
    :param firing_windows: windows with a spike
    :param full_windows: windows with a spike at every step
    """

    counts: th.Tensor
    steps: int
    firing_windows: int
    full_windows: int

    @property
    def firing_rate(self) -> float:
        """Mean spikes per neuron and step, in [0, 1]."""
        return self.counts.mean().item() / self.steps

    @property
    def silent_neurons(self) -> float:
        """Share of the neurons without any spike."""
        return (self.counts == 0).float().mean().item()

    @property
    def saturated_neurons(self) -> float:
        """Share of the neurons with a spike at every step."""
        return (self.counts == self.steps).float().mean().item()

    @property
    def saturated_windows(self) -> float:
        """Of the windows with a spike, the share with a spike at every step; 0 where nothing fires."""
        return self.full_windows / max(1, self.firing_windows)


def spike_counts(policy: BasePolicy, observations: PyTorchObs) -> list[SpikeCounts]:
    """
    :param policy: a policy with spiking layers
    :param observations: a batch as the policy takes it, shape (B, \\*)
    :return: the spikes of each layer that fires in choosing an action, from the input to the output
    """
    layers: dict[Leaky, SpikeCounts] = {}

    def count(neuron: Leaky, spikes: th.Tensor) -> None:
        # A layer may see the batch in parts
        earlier = layers.get(neuron, SpikeCounts(th.zeros((), device=spikes.device), 0, 0, 0))
        windows = spikes.sum(dim=0)
        layers[neuron] = SpikeCounts(
            earlier.counts + windows.sum(dim=0),
            earlier.steps + spikes.shape[:2].numel(),
            earlier.firing_windows + int((windows > 0).sum()),
            earlier.full_windows + int((windows == len(spikes)).sum()),
        )

    _decide(policy, observations, count)
    return list(layers.values())


def spike_windows(policy: BasePolicy, observations: PyTorchObs) -> list[th.Tensor]:
    """
    :param policy: a policy with spiking layers
    :param observations: a few, shape (B, \\*)
    :return: the spikes of each layer that fires in choosing an action, shapes (T, B, neurons)
    """
    layers: dict[Leaky, th.Tensor] = {}

    def keep(neuron: Leaky, spikes: th.Tensor) -> None:
        parts = [layers[neuron]] if neuron in layers else []
        layers[neuron] = th.cat([*parts, spikes.flatten(2)], dim=1)

    _decide(policy, observations, keep)
    return list(layers.values())


def _decide(policy: BasePolicy, observations: PyTorchObs, see: Callable[[Leaky, th.Tensor], None]) -> None:
    """Choose actions while someone sees what neurons fire, and leave the random generators as they are."""
    neurons = [module for module in policy.modules() if isinstance(module, Leaky)]
    hooks = [neuron.register_forward_hook(lambda neuron, _, spikes: see(neuron, spikes)) for neuron in neurons]
    devices = [policy.device] if policy.device.type == "cuda" else []
    try:
        with th.no_grad(), th.random.fork_rng(devices):
            if hasattr(policy, "lstm_actor"):  # sb3-contrib's recurrent policies decide with a state of their own
                policy.extract_features(observations)  # type: ignore[call-arg]
            else:
                policy._predict(observations, deterministic=True)
    finally:
        for hook in hooks:
            hook.remove()


class SpikeMonitor(BaseCallback):
    """
    Logs for each spiking layer, over a batch of stored observations and a whole window:

    * ``firing_rate/layer_i``: mean spikes per neuron and step, in [0, 1];
    * ``silent_neurons/layer_i``: share of the neurons without any spike;
    * ``saturated_neurons/layer_i``: share of the neurons with a spike at every step;
    * ``saturated_windows/layer_i``: of the windows with a spike, one for each neuron and observation, the share with a spike
      at every step. Near 1 the layer's neurons say yes or no, whatever the number of steps, and gradients hardly reach them.

    With ``figure_freq`` it also logs figures, which TensorBoard and wandb show: ``spikes/layer_i``, a raster of a few of the
    observations beside a histogram of the neurons' firing rates over the batch.

    A layer that is silent for ``patience`` batches in a row gets one warning, after the updates that a network may take to
    wake up: that of Liu et al. 2022 is silent before the first one. The batch is drawn without touching the random
    generators of the training, so that a run is the same with and without this callback.

    :param log_freq: calls of ``env.step()`` between two batches, at least
    :param batch_size: observations in a batch
    :param patience: batches without any spike before the warning
    :param min_updates: updates of an off-policy algorithm before a batch counts
    :param figure_freq: calls of ``env.step()`` between two batches with figures, at least; None for no figures
    :param verbose: as of every callback
    """

    def __init__(
        self,
        log_freq: int = 1000,
        batch_size: int = 32,
        patience: int = 10,
        min_updates: int = 5000,
        verbose: int = 0,
        figure_freq: int | None = None,
    ) -> None:
        super().__init__(verbose)
        counts = {"log_freq": log_freq, "batch_size": batch_size, "patience": patience, "figure_freq": figure_freq}
        for name, value in counts.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: expected a whole number of at least 1")
        self.log_freq = log_freq
        self.batch_size = batch_size
        self.patience = patience
        self.min_updates = min_updates
        self.figure_freq = figure_freq

    def _init_callback(self) -> None:
        if not any(isinstance(module, Leaky) for module in self.model.policy.modules()):
            raise ValueError(f"SpikeMonitor: there is no spiking layer in {type(self.model.policy).__name__}")
        self._last_logged = self._last_drawn = 0
        self._silent_batches: dict[str, int] = {}

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.n_calls - self._last_logged >= self.log_freq and self._has_observations():
            self._last_logged = self.n_calls
            observations = self._observations()
            layers = spike_counts(self.model.policy, observations)
            self._log(layers)
            if self.figure_freq is not None and self.n_calls - self._last_drawn >= self.figure_freq:
                self._last_drawn = self.n_calls
                self._draw(layers, observations)

    def _has_observations(self) -> bool:
        # HER knows an episode when it has ended, which learning_starts waits for
        her = isinstance(getattr(self.model, "replay_buffer", None), HerReplayBuffer)
        return not her or self.model.num_timesteps > getattr(self.model, "learning_starts", 0)

    def _observations(self) -> PyTorchObs:
        """A batch of stored observations, shape (B, \\*)."""
        if isinstance(self.model, OffPolicyAlgorithm):
            assert self.model.replay_buffer is not None
            state = np.random.get_state()
            samples = self.model.replay_buffer.sample(self.batch_size, env=self.model.get_vec_normalize_env())
            np.random.set_state(state)
            return samples.observations
        assert isinstance(self.model, OnPolicyAlgorithm)
        stored = self.model.rollout_buffer.observations  # (steps, environments, *)
        steps, environments = self.model.rollout_buffer.buffer_size, self.model.rollout_buffer.n_envs
        rows = np.random.default_rng(self.n_calls).integers((steps, environments), size=(self.batch_size, 2)).T
        if isinstance(stored, dict):
            return obs_as_tensor({key: array[tuple(rows)] for key, array in stored.items()}, self.model.device)
        return obs_as_tensor(stored[tuple(rows)], self.model.device)

    def _log(self, layers: list[SpikeCounts]) -> None:
        early = isinstance(self.model, OffPolicyAlgorithm) and self.model._n_updates < self.min_updates
        for number, layer in enumerate(layers, start=1):
            name = f"layer_{number}"
            for value in ("firing_rate", "silent_neurons", "saturated_neurons", "saturated_windows"):
                self.logger.record(f"{value}/{name}", getattr(layer, value))
            self._silent_batches[name] = 0 if layer.counts.any() or early else self._silent_batches.get(name, 0) + 1
            if self._silent_batches[name] == self.patience:
                self.logger.warn(
                    f"{name} of the spiking network has not fired once in {self.patience} batches in a row: what lies "
                    "behind it sees nothing of the input. Larger currents (policy_kwargs: input_scale), "
                    "normalization='potential' or a shallower surrogate (slope) wake it up."
                )

    def _draw(self, layers: list[SpikeCounts], observations: PyTorchObs) -> None:
        from sb3_spiking.training.figures import spike_figure  # brings matplotlib

        few = slice(_OBSERVATIONS_IN_A_FIGURE)
        some = {key: part[few] for key, part in observations.items()} if isinstance(observations, dict) else observations[few]
        windows = spike_windows(self.model.policy, some)
        for number, (layer, window) in enumerate(zip(layers, windows, strict=True), start=1):
            name = f"layer_{number}"
            figure = spike_figure(window.cpu().numpy(), layer.counts.flatten().cpu().numpy() / layer.steps, name)
            # The terminal and tables have no place for it
            self.logger.record(f"spikes/{name}", Figure(figure, close=True), exclude=("stdout", "log", "json", "csv"))


class SlopeSchedule(BaseCallback):
    """
    Changes the steepness of the surrogate gradients while a network learns, geometrically from one value to another, and logs
    it as ``train/slope``. Shallow surrogates reach neurons far below the threshold, steep ones come closer to the true step:
    Van den Berghe et al. 2025 (arXiv 2510.24461) start shallow. Spikes and values do not depend on it, and at the end of the
    training the slope of the settings is back. A training that is interrupted leaves its slope in the agent, until a next one
    with this callback ends, or the agent is saved and loaded.

    :param initial: steepness at the start, above 0
    :param final: steepness at the end, above 0
    :param fraction: of the training over which it changes, in (0, 1]
    :param verbose: as of every callback
    :raises ValueError: for other numbers, or a policy without a surrogate that has a steepness
    """

    # Attribute of a neuron: the surrogate of its settings, which it gets back; it outlives interrupted trainings and is copied
    _OF_SETTINGS = "spike_grad_of_settings"

    def __init__(self, initial: float, final: float, fraction: float = 1.0, verbose: int = 0) -> None:
        super().__init__(verbose)
        for name, value in (("initial", initial), ("final", final), ("fraction", fraction)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise ValueError(f"{name}={value!r}: expected a number above 0")
        if fraction > 1:
            raise ValueError(f"fraction={fraction}: expected a share of the training, at most 1")
        self.initial, self.final, self.fraction = initial, final, fraction

    def _init_callback(self) -> None:
        leaky = [module for module in self.model.policy.modules() if isinstance(module, Leaky)]
        self._neurons = [neuron for neuron in leaky if neuron.spike_grad.slope is not None]
        for neuron in self._neurons:
            neuron.__dict__.setdefault(self._OF_SETTINGS, neuron.spike_grad)
        if not self._neurons:
            raise ValueError(f"SlopeSchedule: no surrogate in {type(self.model.policy).__name__} has a steepness")

    def _on_rollout_start(self) -> None:
        # As SB3's schedules see it, whose own number an earlier training may have left
        done = min(1.0, self.model.num_timesteps / self.model._total_timesteps / self.fraction)
        slope = float(self.initial * (self.final / self.initial) ** done)
        for neuron in self._neurons:
            neuron.spike_grad = Surrogate(neuron.spike_grad.name, slope)
        self.logger.record("train/slope", slope)

    def _on_training_end(self) -> None:
        for neuron in self._neurons:
            neuron.spike_grad = neuron.__dict__.pop(self._OF_SETTINGS, neuron.spike_grad)

    def _on_step(self) -> bool:
        return True


class _Cooling:
    """A schedule that falls to 0 at the end; a class, so that it is saved with a model."""

    def __init__(self, schedule: FloatSchedule, fraction: float) -> None:
        self.schedule, self.fraction = schedule, fraction
        self.left, self.over = 1.0, False

    def __call__(self, progress_remaining: float) -> float:
        left = max(0.0, progress_remaining)  # the last rollout may go beyond the end
        # Where more is left than before, it is another training: this one was interrupted
        self.over, self.left = self.over or left > self.left, left
        return self.schedule(left) * (1.0 if self.over else min(1.0, left / self.fraction))


class Cooldown(BaseCallback):
    """
    Lets the learning rate fall linearly to 0 at the end of a training, and leaves it as it is before: as much is learned as
    with a constant one, and the last agent is as good as the best ones (Hägele et al. 2024, arXiv 2405.18392).

    :param fraction: of the training over which it falls, in (0, 1]
    :param verbose: as of every callback
    :raises ValueError: for another number
    """

    def __init__(self, fraction: float = 0.4, verbose: int = 0) -> None:
        super().__init__(verbose)
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
            raise ValueError(f"fraction={fraction!r}: expected a share of the training, above 0 and at most 1")
        self.fraction = fraction

    def _on_training_start(self) -> None:
        # From the setting, not from what an earlier training has left
        self.model.lr_schedule = _Cooling(FloatSchedule(self.model.learning_rate), self.fraction)

    def _on_training_end(self) -> None:
        self.model.lr_schedule = FloatSchedule(self.model.learning_rate)

    def _on_step(self) -> bool:
        return True
