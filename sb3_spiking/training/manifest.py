"""``checkpoint.json``: what it says, and whether the files beside it are those that it was written with."""

import hashlib
import itertools
import math
from pathlib import Path
from typing import Any

from sb3_spiking.errors import AgentError
from sb3_spiking.sharing.archive import read_json

#: Folder of the checkpoint in a run, and the file that says what belongs to it
FOLDER = "checkpoint"
MANIFEST = "checkpoint.json"
FORMAT = 2

# Numbers of a training that the model's zip says as well
NUMBERS = (
    *("num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_episode_num", "_n_updates", "_n_calls"),
    *("_current_progress_remaining", "exploration_rate"),
)
_ENTRIES: dict[str, type | tuple[type, ...]] = {
    **{"model": str, "digest": str, "numbers": dict, "episodes": list, "random": dict, "callbacks": list, "monitors": dict},
    **{"observations": (str, type(None)), "replay": (dict, type(None))},
}


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def seal(draft: Path) -> tuple[str, str]:
    """
    Give a whole file the name that it keeps. It has a part of the digest in it: no other file can take the place of one that a
    manifest names.

    :param draft: the file, its name beginning with a dot
    :return: its new name and its digest
    """
    whole = digest(draft)
    kept = draft.with_name(f"{draft.stem[1:]}-{whole[:8]}{draft.suffix}")
    draft.replace(kept)
    return kept.name, whole


def read_manifest(folder: Path) -> dict[str, Any]:
    """
    :param folder: of a checkpoint
    :return: what its manifest says, each entry of the type that it should have
    :raises AgentError: if there is none, or it is damaged
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise AgentError(f"{folder}: there is no checkpoint, no {MANIFEST} in it")
    manifest = read_json(file)
    try:
        _check(manifest)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise AgentError(f"{file}: damaged, or not written by this version: {error}") from error
    return manifest


def _check(manifest: dict[str, Any]) -> None:
    if manifest.get("format") != FORMAT:
        raise ValueError(f"format {manifest.get('format')!r}, expected {FORMAT}")
    for name, kind in _ENTRIES.items():
        if name not in manifest or not isinstance(manifest[name], kind):
            raise ValueError(f"{name}: {_short(manifest.get(name, 'nothing'))}")
    _check_name(manifest["model"])
    for name, number in manifest["numbers"].items():
        # Environments side by side end a little behind the last step, where the progress that remains is below 0
        low = -1 if name == "_current_progress_remaining" else 0
        if name not in NUMBERS or not _is_number(number) or number < low:
            raise ValueError(f"numbers: {_short(name)}: {_short(number)}")
    for episode in manifest["episodes"]:
        numbers = isinstance(episode["r"], (int, float)) and all(_is_number(episode[name]) for name in "lt")
        if not numbers or not all(isinstance(name, str) for name in episode):  # a return may be infinite
            raise ValueError(f"episodes: {_short(episode)}")
    successes = manifest.get("successes", [])  # earlier checkpoints do not say
    if not isinstance(successes, list) or not all(isinstance(success, bool) for success in successes):
        raise ValueError(f"successes: {_short(successes)}")
    for callback in manifest["callbacks"]:
        rewards = [callback[name] for name in ("best_mean_reward", "last_mean_reward") if name in callback]
        plain = isinstance(callback["type"], str) and all(isinstance(reward, (int, float)) for reward in rewards)
        if not plain or not _is_count(callback["n_calls"]):
            raise ValueError(f"callbacks: {_short(callback)}")
    for name, size in manifest["monitors"].items():
        _check_name(name)
        if not name.endswith(".monitor.csv") or not _is_count(size):
            raise ValueError(f"monitors: {_short(name)}: {_short(size)}")
    if manifest["replay"] is not None:
        _check_replay(manifest["replay"])


def _check_replay(replay: dict[str, Any]) -> None:
    """Parts that follow on each other, up to the last row; a part begins with the last row of the one before."""
    if not _is_count(replay["count"]) or not isinstance(replay["parts"], list):
        raise ValueError(f"replay: {_short(replay)}")
    for part in replay["parts"]:
        _check_name(part["file"])
        if not isinstance(part["digest"], str) or not _is_count(part["first"]) or not _is_count(part["count"]):
            raise ValueError(f"replay: {_short(part)}")
    ends = [(part["first"], part["count"]) for part in replay["parts"]]
    whole = all(after[0] in (max(before[1] - 1, 0), before[1]) for before, after in itertools.pairwise(ends))
    if not whole or any(first > count for first, count in ends) or (ends[-1][1] if ends else 0) != replay["count"]:
        raise ValueError(f"replay: parts of rows {_short(ends)} of {replay['count']}")


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """
    :param folder: of the checkpoint
    :param manifest: of :func:`read_manifest`
    :raises AgentError: if a file is missing, damaged or that of another checkpoint
    """
    parts = [] if manifest["replay"] is None else manifest["replay"]["parts"]
    for name, expected in ((manifest["model"], manifest["digest"]), *((part["file"], part["digest"]) for part in parts)):
        file = folder / name
        if not file.is_file():
            raise AgentError(f"{file}: it belongs to the checkpoint and is not there")
        if digest(file) != expected:
            raise AgentError(f"{file}: damaged, or of another checkpoint than {folder / MANIFEST}")


def check_numbers(manifest: dict[str, Any], written: dict[str, Any], source: str) -> None:
    """
    :param manifest: of :func:`read_manifest`
    :param written: what the model's zip says of itself
    :param source: the zip, for the message
    :raises ValueError: if they do not agree
    """
    for name, number in manifest["numbers"].items():
        if name in written and written[name] != number:
            raise ValueError(f"{name} is {number}, and {_short(written[name])} in {source}")


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or Path(name).name != name:
        raise ValueError(f"a file in another folder, {_short(name)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _short(value: Any) -> str:
    return repr(value)[:100]
