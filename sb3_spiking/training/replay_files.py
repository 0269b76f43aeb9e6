"""A replay on disk, in parts that are written once."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer

from sb3_spiking.training.manifest import seal
from sb3_spiking.training.replay import FrameStackReplayBuffer

#: Replays whose rows are known
BUFFERS = (ReplayBuffer, NStepReplayBuffer, FrameStackReplayBuffer)


class ReplayFiles:
    """
    The replay as files of rows that have come since the file before.

    :param folder: of the checkpoint
    :param buffer: the replay, None for an algorithm without
    """

    def __init__(self, folder: Path, buffer: ReplayBuffer | None) -> None:
        self.folder, self.buffer = folder, buffer
        self.parts: list[dict[str, Any]] = []
        self.count = 0  # rows of the buffer's life that are in files
        self._rows = self._position = 0  # rows that were ever filled, and where the next one goes
        if buffer is not None:
            self._rows, self._position = buffer.pos + (buffer.buffer_size if buffer.full else 0), buffer.pos

    def resume(self, replay: dict[str, Any]) -> None:
        """Go on behind these parts."""
        assert self.buffer is not None
        self.parts, self.count = list(replay["parts"]), replay["count"]
        self._rows, self._position = self.count, self.buffer.pos

    def follow(self) -> None:
        """Count rows, before a whole buffer of them has come."""
        if isinstance(self.buffer, FrameStackReplayBuffer):
            self._rows = self.buffer.frames.count
        elif self.buffer is not None:
            self._rows += (self.buffer.pos - self._position) % self.buffer.buffer_size
            self._position = self.buffer.pos

    def write(self) -> dict[str, Any] | None:
        """Write what is new; what the manifest says of it."""
        if self.buffer is None:
            return None
        self.follow()
        count = self._rows
        oldest = max(0, count - self.buffer.buffer_size - self._reach())
        if count > self.count or not self.parts:
            # One row more than what is new, which FrameStackReplayBuffer completes late
            first = max(self.count - 1, oldest)
            draft = self.folder / f".replay-{first}-{count}.npz"
            with draft.open("wb") as file:
                np.savez(file, **_rows(self.buffer, np.arange(first, count)))  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            name, name_digest = seal(draft)
            self.parts = [*self.parts, {"file": name, "digest": name_digest, "first": first, "count": count}]
            self.count = count
        self.parts = [part for part in self.parts if part["count"] > oldest]
        return {"parts": self.parts, "count": count, "kind": type(self.buffer).__name__}

    def _reach(self) -> int:
        """Rows before the oldest transition that belong to its observation."""
        return self.buffer.frames.n_stack - 1 if isinstance(self.buffer, FrameStackReplayBuffer) else 0

    def read(self, replay: dict[str, Any]) -> None:
        """Fill the buffer."""
        buffer = self.buffer
        assert buffer is not None
        if replay["kind"] != type(buffer).__name__:
            raise ValueError(f"a replay of {replay['kind']}, expected {type(buffer).__name__}")
        parts, count = replay["parts"], replay["count"]
        oldest = max(0, count - buffer.buffer_size - self._reach())
        if parts and parts[0]["first"] > oldest:
            raise ValueError(f"a replay of rows {parts[0]['first']} to {count}, expected those from {oldest} on")
        if any(part["count"] - part["first"] > buffer.buffer_size + self._reach() + 1 for part in parts):
            raise ValueError(f"a part of more rows than the replay has, {buffer.buffer_size}")
        for part in parts:
            with np.load(self.folder / part["file"], allow_pickle=False) as arrays:
                _set_rows(buffer, np.arange(part["first"], part["count"]), arrays)
        buffer.pos, buffer.full = count % buffer.buffer_size, count >= buffer.buffer_size
        if isinstance(buffer, FrameStackReplayBuffer):
            buffer.frames.go_on_at(count)


def _rows(buffer: ReplayBuffer, numbers: np.ndarray) -> dict[str, np.ndarray]:
    slots = numbers % buffer.buffer_size
    arrays = {name: getattr(buffer, name)[slots] for name in ("actions", "rewards", "dones", "timeouts")}
    if isinstance(buffer, FrameStackReplayBuffer):
        return arrays | buffer.frames.rows_of(numbers)
    return arrays | {name: getattr(buffer, name)[slots] for name in ("observations", "next_observations")}


def _set_rows(buffer: ReplayBuffer, numbers: np.ndarray, arrays: Any) -> None:
    slots = numbers % buffer.buffer_size
    for name in ("actions", "rewards", "dones", "timeouts"):
        getattr(buffer, name)[slots] = arrays[name]
    if isinstance(buffer, FrameStackReplayBuffer):
        buffer.frames.set_rows(numbers, arrays)
    else:
        for name in ("observations", "next_observations"):
            getattr(buffer, name)[slots] = arrays[name]
