"""
Checkpoints that a training comes back from as if nothing had happened, whenever it was killed.

A checkpoint is a folder: ``checkpoint.json``, which names the files that belong to it, is replaced last and at once, so that
there is a whole checkpoint at every moment. The replay is written in parts, each once: a checkpoint costs the time and the
disk of what is new since the one before. Nothing in it is unpickled: the model's zip, SB3's own,
has pickles that are not looked at.
"""

import hashlib
import json
import os
import random
import re
import sys
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback, EventCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_spiking.errors import AgentError
from sb3_spiking.files import replace_file
from sb3_spiking.sharing.archive import read_agent, read_json
from sb3_spiking.training.manifest import (
    FOLDER,
    FORMAT,
    MANIFEST,
    NUMBERS,
    check_files,
    check_numbers,
    read_manifest,
    seal,
)
from sb3_spiking.training.replay_files import BUFFERS, ReplayFiles

# Names of the files that belong to checkpoints, whole or not
_OURS = re.compile(r"\.?(model-\d+(-\w+)?\.zip|replay-\d+-\d+(-\w+)?\.npz|checkpoint\.json)")

# Of the last step, as large as they are: a training that goes on begins with a reset
_OBSERVATIONS = ("_last_obs", "_last_original_obs")
_EVALUATIONS = ("evaluations_timesteps", "evaluations_results", "evaluations_length", "evaluations_successes")


def is_among(callbacks: Any) -> bool:
    """
    :param callbacks: as RL Zoo's hyperparameters name them, one or a list of them
    :return: whether :class:`Checkpoint`, or a class of that name that is made of it, is among them
    """
    every = callbacks if isinstance(callbacks, list) else [callbacks]
    names = [str(next(iter(each))) if isinstance(each, dict) and each else str(each) for each in every]
    return any(name.endswith("Checkpoint") for name in names)  # SB3's own are other callbacks: CheckpointCallback


class Checkpoint(BaseCallback):
    """
    Writes a checkpoint of the whole training every so many steps, at the end of an episode where one comes in time:
    model, optimizer, replay, counters, exploration, random states and what RL Zoo's evaluations found so far.
    ``sb3-spiking resume RUN`` goes on with a run of RL Zoo; :func:`restore` with any other.

    :param save_freq: environment steps between two checkpoints, at least
    :param folder: of the checkpoint; None makes a folder ``checkpoint`` beside the monitor files, in RL Zoo's run
    :param on_error: ``"warn"`` goes on with the training where a checkpoint cannot be written, ``"raise"`` stops it
    :param verbose: as of every callback; 1 says when one is written
    :raises ValueError: for wrong numbers, or a training that it cannot hold
    """

    def __init__(
        self, save_freq: int = 50_000, folder: str | Path | None = None, on_error: str = "warn", verbose: int = 0
    ) -> None:
        super().__init__(verbose)
        if isinstance(save_freq, bool) or not isinstance(save_freq, int) or save_freq < 1:
            raise ValueError(f"save_freq={save_freq!r}: expected a whole number of steps, at least 1")
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error={on_error!r}: expected 'warn' or 'raise'")
        self.save_freq = save_freq
        self.folder = None if folder is None else Path(folder)
        self.on_error = on_error
        self.restored: dict[str, Any] | None = None
        self._written: dict[str, Any] | None = None  # the last checkpoint of this training

    def _init_callback(self) -> None:
        self._last_saved = self._last_step = self.model.num_timesteps  # RL Zoo ends callbacks that were refused, too
        _check_model(self.model)
        if self.folder is None:
            self.folder = run_folder(self.training_env, "Checkpoint") / FOLDER
        # States of the environments' random generators after the last step and after the one before
        self._env_states = self._earlier_env_states = _env_states(self.training_env)
        self._replay = ReplayFiles(self.folder, getattr(self.model, "replay_buffer", None))

    def _on_training_start(self) -> None:
        assert self.folder is not None
        if self.restored is None:
            if self._written is None and (self.folder / MANIFEST).is_file():
                raise ValueError(
                    f"{self.folder} has a checkpoint of another training: go on with it (sb3-spiking resume, or "
                    "sb3_spiking.restore), or move it away"
                )
            return
        for callback, state in zip(_callbacks(self.locals["callback"]), self.restored["callbacks"], strict=False):
            if state["type"] == type(callback).__name__:
                _set_callback(callback, state)
        if self.restored["replay"] is not None:
            self._replay.resume(self.restored["replay"])
        self._written, self.restored = self.restored, None

    def _on_step(self) -> bool:
        self._replay.follow()
        return True

    def update_locals(self, locals_: dict[str, Any]) -> None:
        super().update_locals(locals_)
        # An environment begins anew within step(): what its random state was before, where a checkpoint is near
        steps = self.model.num_timesteps
        if steps > self._last_step and steps + 2 * self.training_env.num_envs - self._last_saved >= self.save_freq:
            self._earlier_env_states, self._env_states = self._env_states, _env_states(self.training_env)
        self._last_step = steps

    def _on_rollout_start(self) -> None:
        # Between learning and acting everything belongs together
        steps, at_an_end = self.model.num_timesteps - self._last_saved, self._at_an_end()
        patience = 1 if at_an_end or not self._ends_soon() else 2
        if steps >= patience * self.save_freq:
            self.save(at_an_end)

    def _on_training_end(self) -> None:
        if self.model.num_timesteps > self._last_saved:
            # A callback that ends the training does so before SB3 has taken notice of the step
            self.save(self._at_an_end() and self.model.num_timesteps >= self.model._total_timesteps)

    def _ends_soon(self) -> bool:
        """
        Whether an episode is likely to end between acting and learning within ``save_freq`` steps: several environments do not
        end at once, and of updates that are n steps apart one of n, about, falls on an end.
        """
        model = self.model
        apart = getattr(model, "n_steps", 1)  # PPO's and A2C's
        if isinstance(model, OffPolicyAlgorithm):
            assert isinstance(model.train_freq, TrainFreq)
            apart = 1 if model.train_freq.unit == TrainFrequencyUnit.EPISODE else model.train_freq.frequency
        lengths = [episode["l"] for episode in model.ep_info_buffer or ()]
        return self.training_env.num_envs == 1 and (
            apart == 1 or not lengths or apart * sum(lengths) <= len(lengths) * self.save_freq
        )

    def _at_an_end(self) -> bool:
        starts = self.locals.get("dones")
        return starts is not None and len(starts) == 1 and bool(starts[0])

    def save(self, at_an_end: bool = False) -> None:
        """Write a checkpoint now; the one before stays until this one is whole."""
        assert self.folder is not None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(at_an_end)
        except OSError as error:
            self._clean()
            message = f"the checkpoint in {self.folder} was not written: {error}. The one before is still there."
            if self.on_error == "raise":
                raise OSError(error.errno, message) from error
            warnings.warn(f"{message} The training goes on.", stacklevel=2)
        self._last_saved = self.model.num_timesteps

    def _write(self, at_an_end: bool) -> None:
        assert self.folder is not None
        model, steps = self.model, self.model.num_timesteps
        replay = self._replay.write()
        for name in NUMBERS:  # of NumPy, from learn(np.int64(1000)), they would be pickles in the zip
            if isinstance(number := getattr(model, name, None), np.generic):
                setattr(model, name, number.item())
        draft = self.folder / f".model-{steps}.zip"
        with draft.open("wb") as file:
            model.save(file, exclude=_OBSERVATIONS)
            file.flush()
            os.fsync(file.fileno())
        archive, archive_digest = seal(draft)
        manifest = {
            "format": FORMAT,
            "model": archive,
            "digest": archive_digest,
            "numbers": {name: getattr(model, name) for name in NUMBERS if hasattr(model, name)},
            # What SB3 reads of them; Monitor's info_keywords may be anything
            "episodes": [{name: episode[name] for name in "rlt"} for episode in model.ep_info_buffer or ()],
            "successes": [bool(success) for success in model.ep_success_buffer or ()],
            "random": {
                "python": random.getstate(),
                "numpy": _generator_state(np.random.get_state(legacy=False)),
                "torch": th.get_rng_state().tolist(),
                "cuda": [state.tolist() for state in th.cuda.get_rng_state_all()] if th.cuda.is_available() else [],
                "actions": _space_states(model.action_space),
                "environments": self._earlier_env_states if at_an_end else _env_states(self.training_env),
            },
            "observations": _digest(model._last_obs) if at_an_end else None,
            "callbacks": [_callback_state(callback) for callback in _callbacks(self.locals["callback"])],
            "replay": replay,
            "monitors": {file.name: file.stat().st_size for file in self.folder.parent.glob("*.monitor.csv")},
        }
        replace_file(self.folder / MANIFEST, json.dumps(manifest, default=_plain).encode())
        self._written = manifest
        self._clean()
        if self.verbose:
            print(f"checkpoint after {steps} steps: {self.folder}")

    def _clean(self) -> None:
        """Remove what belongs to earlier checkpoints, and what was left by a kill or a failure."""
        assert self.folder is not None
        kept = {part["file"] for part in self._replay.parts}
        # What the manifest on disk says, whatever happened since: it may be the new one although writing it ended in an error
        manifest = self.folder / MANIFEST
        try:
            if manifest.is_file():
                written = read_json(manifest)
                replay = written["replay"] or {"parts": []}
                kept |= {MANIFEST, written["model"], *(part["file"] for part in replay["parts"])}
        except (OSError, AgentError, KeyError, TypeError):
            return  # what is needed cannot be known now
        for path in self.folder.glob("*") if self.folder.is_dir() else ():
            if path.name not in kept and _OURS.fullmatch(path.name):
                path.unlink(missing_ok=True)


def _check_model(model: BaseAlgorithm) -> None:
    """
    :raises ValueError: for a training that a checkpoint cannot hold
    """
    if model.get_vec_normalize_env() is not None:
        raise ValueError("Checkpoint: the statistics of VecNormalize are not saved; expected an environment without it")
    assert model.env is not None
    if all(model.env.env_is_wrapped(Monitor)) and not all(model.env.get_attr("allow_early_resets")):
        raise ValueError(
            "Checkpoint: Monitor(allow_early_resets=False): a training that goes on leaves the episode that it was in; "
            "expected allow_early_resets=True"
        )
    if model._get_torch_save_params() != (["policy", "policy.optimizer"], []):
        raise ValueError(
            f"Checkpoint: {type(model).__name__} has more to save than a policy and its optimizer; expected DQN, PPO or A2C"
        )
    buffer = getattr(model, "replay_buffer", None)
    if buffer is not None and (type(buffer) not in BUFFERS or buffer.optimize_memory_usage):
        raise ValueError(
            f"Checkpoint: {type(buffer).__name__}, optimize_memory_usage={buffer.optimize_memory_usage}: expected "
            f"{', '.join(each.__name__ for each in BUFFERS)}, without optimize_memory_usage"
        )


def restore(model: BaseAlgorithm, folder: str | Path, checkpoint: Checkpoint) -> int:
    """
    Put a model where a checkpoint left it. It must have been made as the one that was saved, with its environment::

        checkpoint = Checkpoint(folder="run/checkpoint")
        steps = restore(model, "run/checkpoint", checkpoint)
        model.learn(total_timesteps - steps, reset_num_timesteps=False, callback=checkpoint)

    :param model: with the same arguments as the one that was saved
    :param folder: of the checkpoint
    :param checkpoint: the callback that will go on with it
    :return: steps that the training has taken
    :raises AgentError: if there is no checkpoint, it is damaged, or of another training
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    try:
        record = read_agent(folder / manifest["model"], max_tensors=sys.maxsize)  # one's own, whatever its size
        check_numbers(manifest, record.data, manifest["model"])
        saved = len(manifest["random"]["environments"])
        if saved != model.n_envs:
            raise AgentError(f"{folder / MANIFEST}: a training in {saved} environments, expected the model's {model.n_envs}")
        model.policy.load_state_dict(record.parameters)
        if record.optimizer is not None:
            model.policy.optimizer.load_state_dict(record.optimizer)
        for name, value in manifest["numbers"].items():
            if not hasattr(model, name):
                raise ValueError(f"a number {name!r}, which {type(model).__name__} does not have")
            setattr(model, name, value)
        if isinstance(model, OffPolicyAlgorithm):
            ReplayFiles(folder, model.replay_buffer).read(manifest["replay"])
        _restore_environment(model, manifest)
        # What the next learn() leaves alone
        model.ep_info_buffer = deque(manifest["episodes"], maxlen=model._stats_window_size)
        model.ep_success_buffer = deque(manifest.get("successes", ()), maxlen=model._stats_window_size)
        _set_random(model, manifest["random"])
    except AgentError:
        raise
    except Exception as error:  # damage shows in many ways
        raise AgentError(f"{folder / MANIFEST}: damaged, or of another training: {type(error).__name__}: {error}") from error
    checkpoint.folder, checkpoint.restored = folder, manifest
    return model.num_timesteps


def _restore_environment(model: BaseAlgorithm, manifest: dict[str, Any]) -> None:
    """Begin an episode in each environment: the one that was about to begin, where the checkpoint was at an end."""
    assert model.env is not None
    model.env.reset()  # with the seeds that wait for it
    _set_env_states(model.env, manifest["random"]["environments"])
    model._last_obs = model.env.reset()  # type: ignore[assignment]
    model._last_episode_starts = np.ones((model.env.num_envs,), dtype=bool)
    if isinstance(model, OffPolicyAlgorithm):
        model._last_original_obs = model._last_obs
        buffer = model.replay_buffer
        if manifest["observations"] is None and buffer is not None and buffer.size():
            # The episode that was cut off ends here, as by a time limit
            last = (buffer.pos - 1) % buffer.buffer_size
            buffer.timeouts[last] = np.where(buffer.dones[last] == 0, 1, buffer.timeouts[last])
            buffer.dones[last] = 1
    if manifest["observations"] is not None and _digest(model._last_obs) != manifest["observations"]:
        warnings.warn(
            "the environment did not begin the episode that comes after the checkpoint: the training goes on with another one",
            stacklevel=3,
        )


def run_folder(env: Any, what: str) -> Path:
    """
    :param env: of a training
    :param what: wants to know it
    :return: the folder of its monitor files, in RL Zoo the run's
    :raises ValueError: if there is none
    """
    try:
        writers: list[Any] = env.get_attr("results_writer") if isinstance(env.unwrapped, DummyVecEnv) else [None]
        return Path(writers[0].file_handler.name).parent
    except AttributeError as error:
        raise ValueError(
            f"{what}: folder=None takes the folder of the monitor files, and there are none that it can see; "
            "expected folder='...'"
        ) from error


def _callbacks(root: BaseCallback) -> Iterator[BaseCallback]:
    """Callbacks within callbacks, in the same order every time."""
    if isinstance(root, CallbackList):
        for callback in root.callbacks:
            yield from _callbacks(callback)
        return
    yield root
    if isinstance(root, EventCallback) and root.callback is not None:
        yield from _callbacks(root.callback)


def _callback_state(callback: BaseCallback) -> dict[str, Any]:
    state: dict[str, Any] = {"type": type(callback).__name__, "n_calls": callback.n_calls}
    if isinstance(callback, EvalCallback):
        state |= {name: float(getattr(callback, name)) for name in ("best_mean_reward", "last_mean_reward")}
        state |= {name: getattr(callback, name) for name in _EVALUATIONS}
        state["environments"] = _env_states(callback.eval_env)
    return state


def _set_callback(callback: BaseCallback, state: dict[str, Any]) -> None:
    callback.n_calls = int(state["n_calls"])
    if isinstance(callback, EvalCallback):
        callback.best_mean_reward, callback.last_mean_reward = state["best_mean_reward"], state["last_mean_reward"]
        for name in _EVALUATIONS:
            setattr(callback, name, state[name])
        callback.eval_env.reset()  # with the seeds that wait for it
        _set_env_states(callback.eval_env, state["environments"])


def _generator_state(state: Any) -> Any:
    return json.loads(json.dumps(state, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} in a checkpoint")


def _space_states(space: Any) -> Any:
    return None if space._np_random is None else space.np_random.bit_generator.state


def _env_states(env: Any) -> list[Any]:
    """States of the environments' random generators, None for one without, or without a Generator of NumPy."""
    if not isinstance(env.unwrapped, DummyVecEnv):
        return [None] * env.num_envs
    generators = [getattr(each.unwrapped, "_np_random", None) for each in env.unwrapped.envs]
    # Older environments have NumPy's RandomState there
    return [each.bit_generator.state if isinstance(each, np.random.Generator) else None for each in generators]


def _set_env_states(env: Any, states: list[Any]) -> None:
    if isinstance(env.unwrapped, DummyVecEnv):
        for each, state in zip(env.unwrapped.envs, states, strict=True):
            if state is not None:
                each.unwrapped.np_random.bit_generator.state = state


def _set_random(model: BaseAlgorithm, states: dict[str, Any]) -> None:
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    numpy_state = states["numpy"]
    numpy_state["state"]["key"] = np.array(numpy_state["state"]["key"], np.uint32)
    np.random.set_state(numpy_state)
    th.set_rng_state(th.tensor(states["torch"], dtype=th.uint8))
    if states["cuda"] and th.cuda.is_available():
        th.cuda.set_rng_state_all([th.tensor(state, dtype=th.uint8) for state in states["cuda"]])
    if states["actions"] is not None:
        model.action_space.np_random.bit_generator.state = states["actions"]


def _digest(observations: Any) -> str:
    arrays = observations.values() if isinstance(observations, dict) else [observations]
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
