"""A replay buffer that stores each frame of stacked observations once."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer, psutil
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_spiking.sharing.training import REPLAYS


class FrameStackReplayBuffer(NStepReplayBuffer):
    """
    Replay buffer of DQN for stacked frames (``VecFrameStack``, RL Zoo's ``frame_stack``). Of the two stacks of a transition it
    stores the one frame that is new, and puts the stacks together again when they are sampled: 7.1 GB for a million
    transitions of Atari in place of SB3's 56 GB. Samples are those of SB3's buffers for the same stream and seed, those of
    ``NStepReplayBuffer`` for ``n_steps`` above 1.

    What belongs together is told from the frames themselves: an observation continues its episode if it is the next
    observation of the transition before. Where it does not, at the end of an episode or where ``learn`` starts again, the last
    frame is stored apart.

    :param buffer_size: Max number of element in the buffer
    :param observation_space: Observation space, stacked along the dimension that ``VecFrameStack`` stacks: the channels of
        images, the last dimension of everything else; the newest frame comes last
    :param action_space: Action space
    :param device: PyTorch device
    :param n_envs: Number of parallel environments
    :param optimize_memory_usage: Must stay False: this is a memory efficient variant, without the limits of SB3's
    :param handle_timeout_termination: Handle timeout termination (due to timelimit) separately and treat the task as
        infinite horizon task
    :param n_stack: Frames of a stack
    :param n_steps: Number of steps to accumulate rewards for n-step returns
    :param gamma: Discount factor for future rewards, of n-step returns
    :raises ValueError: for observations that are not stacks of ``n_stack`` frames
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        n_stack: int = 4,
        n_steps: int = 1,
        gamma: float = 0.99,
    ) -> None:
        if optimize_memory_usage:
            raise ValueError(
                "optimize_memory_usage=True: FrameStackReplayBuffer stores each frame once in any case, and needs less "
                "memory; expected False"
            )
        if not isinstance(observation_space, spaces.Box):
            raise ValueError(
                f"FrameStackReplayBuffer takes stacked frames, a Box; the observation space is {observation_space}"
            )
        shape = observation_space.shape
        channels_first = is_image_space(observation_space) and is_image_space_channels_first(observation_space)
        axis = 0 if channels_first else len(shape) - 1
        if n_stack < 2 or not shape or shape[axis] % n_stack:
            raise ValueError(
                f"n_stack={n_stack}: dimension {axis} of an observation space of shape {shape} cannot hold so many frames; "
                "expected the n_stack of VecFrameStack (frame_stack in RL Zoo's hyperparameters)"
            )
        # SB3's buffer without its observations
        nothing = spaces.Box(0, 0, (0,), observation_space.dtype.type)
        arguments = (buffer_size, nothing, action_space, device, n_envs, False, handle_timeout_termination)
        super().__init__(*arguments, n_steps=n_steps, gamma=gamma)
        self.observation_space, self.obs_shape = observation_space, shape
        self.frames = StackedFrames(self.buffer_size, n_envs, shape, axis, n_stack, np.dtype(observation_space.dtype))
        if psutil is not None and self.frames.nbytes > (available := psutil.virtual_memory().available):
            warnings.warn(
                "This system does not have apparently enough memory to store the complete replay buffer "
                f"{self.frames.nbytes / 1e9:.2f}GB > {available / 1e9:.2f}GB",
                stacklevel=2,
            )
        self._set_views()

    def _set_views(self) -> None:
        # In the places of SB3's arrays, so that its own code samples
        self.observations = _Stacks(self.frames.observations)  # type: ignore[assignment]
        self.next_observations = _Stacks(self.frames.next_observations)  # type: ignore[assignment]

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        self.frames.add(obs, next_obs)
        # The views take no writes: they have the observations already
        super().add(obs, next_obs, action, reward, done, infos)

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        sampler = NStepReplayBuffer if self.n_steps > 1 else ReplayBuffer
        return sampler._get_samples(self, batch_inds, env)

    def reset(self) -> None:
        super().reset()
        self.frames.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("observations", "next_observations")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._set_views()


REPLAYS[FrameStackReplayBuffer.__name__] = FrameStackReplayBuffer


class _Stacks:
    """What SB3's buffers read like an array of observations, (buffer size, environments, ...), and write to in vain."""

    def __init__(self, stacks: Any) -> None:
        self._stacks = stacks

    def __getitem__(self, index: Any) -> np.ndarray:
        slots, envs, *rest = index
        return self._stacks(slots, envs)[(slice(None), *rest)]

    def __setitem__(self, slot: Any, stacks: np.ndarray) -> None:
        pass


class StackedFrames:
    """
    The last transitions' stacks of frames. A transition's number counts from the first one; the newest frame of its
    observation lies in row ``number % rows``, that of its next observation in the row after it, where the next transition
    expects it.

    :param size: transitions to remember
    :param n_envs: environments
    :param shape: shape of a stack
    :param axis: dimension along which the frames are stacked
    :param n_stack: frames of a stack
    :param dtype: of the frames
    """

    def __init__(self, size: int, n_envs: int, shape: tuple[int, ...], axis: int, n_stack: int, dtype: np.dtype) -> None:
        self.size, self.shape, self.axis, self.n_stack = size, shape, axis, n_stack
        self.depth = shape[axis] // n_stack
        frame = (*shape[:axis], self.depth, *shape[axis + 1 :])
        # The oldest stack reaches back over n_stack - 1 rows, and the newest next observation is one ahead
        self.rows = size + n_stack
        self._frames = np.zeros((self.rows, n_envs, *frame), dtype)
        # How many frames before this one belong to its stack; the others are zero, or among _histories
        self._ages = np.zeros((self.rows, n_envs), np.uint8 if n_stack < 256 else np.int64)
        # Whether the next observation is not in the row after this one but among _ends
        self._ended = np.zeros((self.rows, n_envs), bool)
        self._warned = False
        self.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of everything but what is stored apart."""
        return self._frames.nbytes + self._ages.nbytes + self._ended.nbytes

    def clear(self) -> None:
        """Forget everything."""
        self.count = 0
        self._ended[:] = False
        # By number of the transition and environment: the newest frame of its next observation, or all of it
        self._ends: dict[tuple[int, int], np.ndarray] = {}
        # By number of an episode's first transition and environment: the older frames of its observation, one by one
        self._histories: dict[tuple[int, int], np.ndarray] = {}
        self._last: np.ndarray | None = None
        self._sampled: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def rows_of(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """
        :param numbers: of transitions, one after another up to the newest
        :return: everything that belongs to them, to be given to :meth:`set_rows` of frames without them
        """
        with_next = np.append(numbers, numbers[-1] + 1) if len(numbers) else numbers
        first = int(numbers[0]) if len(numbers) else 0
        rows = with_next % self.rows
        arrays = {"frames": self._frames[rows], "ages": self._ages[rows], "ended": self._ended[rows]}
        for name, stored in (("ends", self._ends), ("histories", self._histories)):
            keys = [key for key in stored if key[0] >= first]
            arrays[name] = np.array(keys, np.int64).reshape(-1, 2)
            arrays |= {f"{name}-{number}-{env}": stored[number, env] for number, env in keys}
        if self._last is not None:
            arrays["last"] = self._last
        return arrays

    def set_rows(self, numbers: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
        """
        :param numbers: of transitions
        :param arrays: what :meth:`rows_of` made of them
        """
        rows = (np.append(numbers, numbers[-1] + 1) if len(numbers) else numbers) % self.rows
        self._frames[rows], self._ages[rows], self._ended[rows] = (arrays[name] for name in ("frames", "ages", "ended"))
        for name, stored in (("ends", self._ends), ("histories", self._histories)):
            for number, env in arrays[name].tolist():
                stored[number, env] = arrays[f"{name}-{number}-{env}"]
        self._warned |= any(end.shape == self.shape for end in self._ends.values())
        self._last = arrays["last"] if "last" in arrays else None
        self._sampled = None

    def go_on_at(self, count: int) -> None:
        """
        :param count: number of the next transition, when those before it were set
        """
        self.count = count
        for stored, oldest in ((self._ends, count - self.size), (self._histories, count - self.size - self.n_stack)):
            for key in [key for key in stored if key[0] < oldest]:
                del stored[key]

    def add(self, obs: np.ndarray, next_obs: np.ndarray) -> None:
        """
        :param obs: observations of a transition, shape (environments, ...)
        :param next_obs: its next observations, of the same shape
        """
        row, next_row = self.count % self.rows, (self.count + 1) % self.rows
        for env, (stack, next_stack) in enumerate(zip(obs, next_obs, strict=True)):
            if self._last is None or not self._continues(stack, env):
                self._start(row, env, stack)
            self._ends.pop((self.count - self.size, env), None)
            self._histories.pop((self.count - self.size - self.n_stack, env), None)
            self._ended[row, env] = False
            if np.array_equal(self._part(next_stack, 0, -1), self._part(stack, 1)):
                self._frames[next_row, env] = self._part(next_stack, -1)
                self._ages[next_row, env] = min(self._ages[row, env] + 1, self.n_stack - 1)
            else:
                self._warn()
                self._ends[self.count, env], self._ended[row, env] = next_stack.copy(), True
        self._last = next_obs.copy()
        self._sampled = None
        self.count += 1

    def _continues(self, stack: np.ndarray, env: int) -> bool:
        assert self._last is not None
        before = (self.count - 1) % self.rows
        if not self._ended[before, env]:
            if np.array_equal(stack, self._last[env]):
                return True
            self._ends[self.count - 1, env] = self._part(self._last[env], -1).copy()
            self._ended[before, env] = True
        return False

    def _start(self, row: int, env: int, stack: np.ndarray) -> None:
        self._frames[row, env], self._ages[row, env] = self._part(stack, -1), 0
        history = self._part(stack, 0, -1)
        if history.any():
            parts = np.split(history, self.n_stack - 1, axis=self.axis)
            self._histories[self.count, env] = np.stack(parts)

    def _part(self, stack: np.ndarray, first: int, last: int | None = None) -> np.ndarray:
        """Frames ``first`` to ``last`` of a stack, by default to the newest; a view."""
        start, stop = first % self.n_stack * self.depth, None if last is None else last % self.n_stack * self.depth
        return stack[(slice(None),) * self.axis + (slice(start, stop),)]

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"FrameStackReplayBuffer, n_stack={self.n_stack}: a next observation does not continue its observation by one "
                "frame. Such ones are stored as a whole, which is right but takes memory: is n_stack the number of frames "
                "that are stacked, and stacking the outermost wrapper? After VecNormalize ends of episodes are "
                "stored so, which differ by rounding.",
                stacklevel=5,
            )

    def _numbers(self, slots: np.ndarray) -> np.ndarray:
        """Numbers of the transitions in these slots of SB3's buffer."""
        newest = self.count - 1
        return newest - (newest - slots) % self.size

    def observations(self, slots: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """
        :param slots: places in SB3's buffer, shape (N,)
        :param envs: environments, shape (N,)
        :return: stacks, shape (N, ...), read-only
        """
        return self._stacked(self._windows(slots, envs)[:, :-1])

    def next_observations(self, slots: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """See :meth:`observations`."""
        stacks = self._stacked(self._windows(slots, envs)[:, 1:])
        if self._warned:
            stacks = stacks.copy()
            for sample, number in enumerate(self._numbers(slots)):
                end = self._ends.get((int(number), int(envs[sample])))
                if end is not None and end.shape == self.shape:
                    stacks[sample] = end
        return stacks

    def _stacked(self, frames: np.ndarray) -> np.ndarray:
        if self.axis > 0:
            frames = np.moveaxis(frames, 1, 1 + self.axis)
        return frames.reshape(len(frames), *self.shape)

    def _windows(self, slots: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """The frames of observations and the newest one of the next, shape (N, n_stack + 1, ...)."""
        # SB3 asks for the one, then for the other
        sampled, self._sampled = self._sampled, None
        if sampled and sampled[0] is slots and sampled[1] is envs:
            return sampled[2]
        numbers = self._numbers(slots)
        rows, n_envs, *frame = self._frames.shape
        newest = numbers * n_envs + envs
        flat = self._frames.reshape(rows * n_envs, *frame)
        back = np.arange(self.n_stack - 1, -2, -1)
        windows = flat.take(newest[:, None] - back * n_envs, axis=0, mode="wrap")
        ages = self._ages.reshape(-1).take(newest, mode="wrap")
        if ages.min() < self.n_stack - 1:
            windows[back > ages[:, None]] = 0
        if self._histories:
            for sample in np.flatnonzero(ages < self.n_stack - 1):
                age = int(ages[sample])
                history = self._histories.get((int(numbers[sample]) - age, int(envs[sample])))
                if history is not None:
                    windows[sample, : self.n_stack - 1 - age] = history[age:]
        for sample in np.flatnonzero(self._ended.reshape(-1).take(newest, mode="wrap")):
            end = self._ends[int(numbers[sample]), int(envs[sample])]
            if end.shape != self.shape:
                windows[sample, -1] = end
        windows.flags.writeable = False
        self._sampled = (slots, envs, windows)
        return windows
