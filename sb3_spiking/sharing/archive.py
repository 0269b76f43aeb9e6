"""
Reads what is in an agent's files without running any of it.

SB3's zip holds ``data``, JSON with pickles in it, whose text is never decoded here, and tensors in PyTorch's format, which
PyTorch reads in its mode for weights alone. Our folder holds JSON and safetensors. Sizes are checked before anything is read.
"""

import io
import itertools
import json
import mmap
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch as th
from safetensors.torch import load_file

from sb3_spiking.errors import AgentError, one_line
from sb3_spiking.sharing.pickles import check_weights_pickle

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"

_DATA = "data"
_POLICY = "policy.pth"
_POLICY_OPTIMIZER = "policy.optimizer.pth"

# Bytes. The text of a replay's last frames in ``data`` is the largest that agents have.
MAX_JSON = 16 * 2**20
MAX_TENSORS = 512 * 2**20
# The list of names and shapes at the start of a safetensors file
_MAX_HEADER = 2**20
# Files in a zip, those in the zips of PyTorch within it among them
_MAX_MEMBERS = 10_000


class AgentRecord(NamedTuple):
    """
    What is in an agent's files.

    :param path: of the zip or folder
    :param data: the JSON
    :param parameters: tensors of the policy by name, and its settings under names that end with ``_extra_state``
    :param optimizer: state of the policy's optimizer, None if there is none
    """

    path: Path
    data: dict[str, Any]
    parameters: dict[str, Any]
    optimizer: dict[str, Any] | None


def read_agent(path: str | Path, max_tensors: int | None = None) -> AgentRecord:
    """
    :param path: a zip that SB3 or RL Zoo wrote, or a folder with ``config.json``
    :param max_tensors: bytes of weights, and of the optimizer, that are read from a zip, None for :data:`MAX_TENSORS`
    :return: what is in it
    :raises AgentError: if it is not there, damaged, too large or no agent
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise AgentError(f"{path}: there is no such file or folder")
    return _read_zip(path, MAX_TENSORS if max_tensors is None else max_tensors)


def read_json(file: Path, source: str | None = None) -> dict[str, Any]:
    """
    :param file: of JSON
    :param source: its name in the message, None for its path
    :return: the object
    :raises AgentError: if it is too large, which is found before it is read, cannot be read, or is damaged or no object
    """
    source = source or str(file)
    try:
        if (size := file.stat().st_size) > MAX_JSON:
            raise AgentError(f"{source}: {size} bytes of JSON, expected at most {MAX_JSON}")
        return _parsed(file.read_bytes(), source)
    except OSError as error:
        raise AgentError(f"{source}: it cannot be read: {one_line(error)}") from error


def _parsed(text: str | bytes, source: str) -> dict[str, Any]:
    if len(text) > MAX_JSON:
        raise AgentError(f"{source}: {len(text)} bytes of JSON, expected at most {MAX_JSON}")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AgentError(f"{source}: damaged JSON: {str(error)[:200]}") from error
    if not isinstance(content, dict):
        raise AgentError(f"{source}: expected a JSON object, not {type(content).__name__}")
    return content


def _read_folder(folder: Path) -> AgentRecord:
    config, weights = folder / CONFIG, folder / WEIGHTS
    for file in (config, weights):
        if not file.is_file():
            raise AgentError(f"{folder}: no agent, there is no {file.name} in it{_zips_in(folder)}")
    data = read_json(config)
    optimizer = folder / OPTIMIZER
    state = _unflattened(_read_tensors(optimizer), str(optimizer)) if optimizer.is_file() else None
    return AgentRecord(folder, data, _read_tensors(weights), state)


def _zips_in(folder: Path) -> str:
    """What to load in place of a folder of RL Zoo's."""
    zips = sorted(itertools.islice(folder.glob("*.zip"), 100))
    if not zips:
        return ""
    best = [path for path in zips if path.name == "best_model.zip"]
    names = [path.name for path in zips if path not in best][:3] + [path.name for path in best]
    return f"; a run of RL Zoo is loaded by a zip in it, here {' or '.join(names)}"


def _check_size(file: Path, limit: int) -> None:
    """
    :raises AgentError: for a larger file
    """
    if (size := file.stat().st_size) > limit:
        raise AgentError(f"{file}: {size} bytes, expected at most {limit}")


def _read_tensors(file: Path) -> dict[str, Any]:
    try:
        _check_size(file, MAX_TENSORS)
        with file.open("rb") as content:
            header = int.from_bytes(content.read(8), "little")
        if header > _MAX_HEADER:
            raise AgentError(f"{file}: {header} bytes of names and shapes, expected at most {_MAX_HEADER}")
        return load_file(file)
    except AgentError:
        raise
    except Exception as error:  # files that cannot be read, and what safetensors says of damage
        raise AgentError(f"{file}: damaged safetensors: {one_line(error)}") from error


def flattened(state: dict[str, Any]) -> dict[str, th.Tensor]:
    """The tensors of an optimizer's state, by number of the parameter and name: ``0.exp_avg``."""
    return {
        f"{number}.{name}": tensor.contiguous()
        for number, entries in state["state"].items()
        for name, tensor in entries.items()
        if isinstance(tensor, th.Tensor)
    }


def _unflattened(tensors: dict[str, th.Tensor], source: str) -> dict[str, Any]:
    state: dict[int, dict[str, th.Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        if not number.isdecimal() or len(number) > 6:
            raise AgentError(f"{source}: a tensor of no parameter, {key[:100]!r}")
        state.setdefault(int(number), {})[name] = tensor
    return {"state": state}


def _read_zip(path: Path, max_tensors: int) -> AgentRecord:
    try:
        _check_size(path, 4 * max_tensors)  # weights and an optimizer
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _check_members(content)
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if len(set(names)) < len(names):
                raise AgentError(f"{path}: a zip with two files of one name")
            missing = [name for name in (_DATA, _POLICY) if name not in names]
            if missing:
                raise AgentError(f"{path}: damaged, or no agent of SB3: there is no {' and no '.join(missing)} in the zip")
            data = _parsed(_member(archive, _DATA, MAX_JSON, path), f"{path}: data")
            parameters = _tensors(_member(archive, _POLICY, max_tensors, path), f"{path}: {_POLICY}")
            optimizer = None
            if _POLICY_OPTIMIZER in names:
                optimizer = _tensors(_member(archive, _POLICY_OPTIMIZER, max_tensors, path), f"{path}: {_POLICY_OPTIMIZER}")
    except AgentError:
        raise
    except Exception as error:  # the readers of zips fail in many ways
        raise AgentError(f"{path}: a damaged zip: {one_line(error)}") from error
    return AgentRecord(path, data, parameters, optimizer)


def _member(archive: zipfile.ZipFile, name: str, limit: int, path: Path) -> bytes:
    """A file of a zip; more than it announces is not read."""
    info = archive.getinfo(name)
    size = info.file_size
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others are not read in bounded pieces
        raise AgentError(f"{path}: {name} is compressed in a way that SB3 does not use")
    if size > limit:
        raise AgentError(f"{path}: {name} has {size} bytes, expected at most {limit}")
    with archive.open(name) as file:
        return file.read(limit)


def _check_members(content: bytes | mmap.mmap) -> None:
    """
    :raises ValueError: for a zip that lists so many files that reading the list would take long
    """
    entries = re.finditer(b"PK\x01\x02", content)
    if sum(1 for _ in itertools.islice(entries, _MAX_MEMBERS + 1)) > _MAX_MEMBERS:
        raise ValueError(f"more than {_MAX_MEMBERS} files")


def _tensors(content: bytes, source: str) -> dict[str, Any]:
    try:
        # A zip in the zip, whose files PyTorch stores as they are
        _check_members(content)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            plain = io.BytesIO()
            compressed = [member.filename for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
            if compressed or sum(member.file_size for member in archive.infolist()) > len(content):
                raise AgentError(f"{source}: compressed tensors, which PyTorch does not write")
            # PyTorch looks names up without their case
            if len({name.lower() for name in archive.namelist()}) < len(archive.namelist()):
                raise AgentError(f"{source}: two files of one name")
            # PyTorch reads what was checked, whatever else is in the file
            with zipfile.ZipFile(plain, "w") as copy:
                for member in archive.infolist():
                    part = archive.read(member)
                    if member.filename.lower().endswith("data.pkl"):
                        check_weights_pickle(part)
                    copy.writestr(member.filename, part)
        plain.seek(0)
        state = th.load(plain, map_location="cpu", weights_only=True)
    except AgentError:
        raise
    except Exception as error:  # PyTorch's reader fails in many ways
        raise AgentError(f"{source}: damaged: {one_line(error)}") from error
    if not isinstance(state, dict):
        raise AgentError(f"{source}: expected named tensors, not {type(state).__name__}")
    return dict(state)
