"""Pages and videos of a network that learns."""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_spiking.errors import one_line
from sb3_spiking.evaluation.decisions import Decider
from sb3_spiking.look import screen
from sb3_spiking.look.notes import Notes, Watch
from sb3_spiking.look.recording import Recording
from sb3_spiking.training.checkpoint import run_folder

_OUTPUTS = ("page", "video", "recording")


class LookCallback(BaseCallback):
    """
    Looks over the shoulder of an agent while it learns: every so many steps it keeps the network as it is, and records what
    that makes of the training's next decisions in the first environment. Actions and rewards are the training's, which is
    the same with and without it; those that the network would not choose count as random. The game is in it where the
    environment gives pictures (``render_mode="rgb_array"``).

    :param every: environment steps between the beginnings of two recordings, at least
    :param decisions: of a recording; the end of an episode ends it
    :param outputs: of ``"page"``, ``"video"`` and ``"recording"``
    :param folder: of the files, ``look-STEPS.html`` and the like; None makes a folder ``look`` beside the monitor files, in RL
        Zoo's run
    :param verbose: as of every callback; 1 says when one is written. One that cannot be written is a warning
    :raises ValueError: for wrong numbers, or an algorithm without discrete actions
    """

    def __init__(
        self,
        every: int = 50_000,
        decisions: int = 200,
        outputs: Sequence[str] = ("page",),
        folder: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        for name, value in (("every", every), ("decisions", decisions)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r}: expected a whole number of at least 1")
        if isinstance(outputs, str) or not outputs or not set(outputs) <= set(_OUTPUTS):
            raise ValueError(f"outputs={outputs!r}: expected a list of {', '.join(map(repr, _OUTPUTS))}")
        self.every, self.decisions, self.outputs = every, decisions, tuple(outputs)
        self.folder = None if folder is None else Path(folder)

    def _init_callback(self) -> None:
        if not isinstance(self.model.action_space, gym.spaces.Discrete):
            raise ValueError(f"LookCallback: expected discrete actions, the agent's are {self.model.action_space}")
        if self.folder is None:
            self.folder = run_folder(self.training_env, "LookCallback") / "look"
        self._begins = self.model.num_timesteps
        self._notes: Notes | None = None
        self._drawn = screen.is_drawn(self.training_env)
        self._picture: np.ndarray | None = None

    def _on_step(self) -> bool:
        if self._notes is not None:
            self._note(self._notes)
        if self._notes is None and self.num_timesteps >= self._begins:
            self._begins, self._first = self.num_timesteps + self.every, self.num_timesteps
            self._decide = Decider(copy.deepcopy(self.model.policy))
            self._notes = Notes(f"after {self._first} steps", self.training_env, self._decide.network)
        if self._notes is not None and self._drawn:
            self._picture = screen.frame(self.training_env)  # of the next decision
        return True

    def _on_training_end(self) -> None:
        if self._notes is not None and len(self._notes):
            self._write(over=False)

    def _note(self, notes: Notes) -> None:
        """The decision that was just taken, from the observation that it was taken on."""
        seen: Any = self.model._last_obs
        observation = {key: part[:1] for key, part in seen.items()} if isinstance(seen, dict) else seen[:1]
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with Watch(self._decide.network, notes.energy) as watch, th.random.fork_rng(devices):
            actions, values = self._decide(observation)
        notes.decided(observation, self._picture, values, watch)
        action = np.asarray(self.locals["actions"][0])
        info = self.locals["infos"][0]
        notes.acted(action, bool(action != actions[0]), float(self.locals["rewards"][0]), info.get("lives", -1))
        over = bool(self.locals["dones"][0])
        if over or len(notes) == self.decisions:
            self._write(over)

    def _write(self, over: bool) -> None:
        assert self._notes is not None
        assert self.folder is not None
        recording, self._notes = self._notes.recording(over), None
        path = self.folder / f"look-{self._first}"
        try:
            self._write_to(path, recording)
        except OSError as error:
            warnings.warn(f"LookCallback: {path} cannot be written, the training goes on: {one_line(error)}", stacklevel=2)

    def _write_to(self, path: Path, recording: Recording) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if "page" in self.outputs:
            from sb3_spiking.look.page import write_page

            write_page([recording], path.with_suffix(".html"))
        if "video" in self.outputs:
            from sb3_spiking.look.video import write_video

            write_video([recording], path.with_suffix(".mp4"))
        if "recording" in self.outputs:
            recording.save(path.with_suffix(".npz"))
        if self.verbose:
            print(f"{path}: {', '.join(self.outputs)} of {recording.decisions} decisions")
