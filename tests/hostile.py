"""Agents that somebody has prepared: one corpus for every way in."""

import base64
import io
import json
import pickle
import shutil
import struct
import tempfile
import zipfile
from pathlib import Path

import torch as th

MARKER = str(Path(tempfile.gettempdir()) / "sb3_spiking_hostile_marker")


class Payload:
    """Whoever unpickles it writes a file."""

    def __reduce__(self):
        return Path.touch, (Path(MARKER),)


PICKLE = base64.b64encode(pickle.dumps(Payload())).decode()


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(path, files, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tensors(state):
    buffer = io.BytesIO()
    th.save(state, buffer)
    return buffer.getvalue()


def _data(**changes):
    def change(files):
        data = json.loads(files["data"])
        for name, value in changes.items():
            data[name] = value(data[name]) if callable(value) else value
        files["data"] = json.dumps(data).encode()

    return change


def _everywhere(files):
    """A payload in the place of each pickle."""
    data = json.loads(files["data"])
    for value in data.values():
        if isinstance(value, dict) and ":serialized:" in value:
            value[":serialized:"] = PICKLE
    files["data"] = json.dumps(data).encode()


def _file(name, content):
    def change(files):
        files[name] = content(files[name]) if callable(content) else content

    return change


def _weights(change):
    def run(files):
        state = th.load(io.BytesIO(files["policy.pth"]), weights_only=True)
        change(state)
        files["policy.pth"] = tensors(state)

    return run


def _settings(**changes):
    return _weights(lambda state: state["q_net.features_extractor._extra_state"].update(changes))


def _pth_with_bomb(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) if "data/" not in name else bytes(3_000_000))
    return buffer.getvalue()


def _pth_with(pickled, spelled="data.pkl"):
    """Weights whose list of names and shapes is this pickle; PyTorch finds it in capital letters too."""

    def change(content):
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
            for name in old.namelist():
                is_list = name.endswith("/data.pkl")
                new.writestr(name.replace("data.pkl", spelled), pickled if is_list else old.read(name))
        return buffer.getvalue()

    return _file("policy.pth", change)


class _Memory:
    def __reduce__(self):
        return bytearray, (3 << 30,)


def _nested(make):
    value = make(())
    for _ in range(30):
        value = make((value, value))
    return value


def _pth_with_many_files(content):
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive:
        for number in range(11_000):
            archive.writestr(f"x/{number}", b"")
    return buffer.getvalue()


def _legacy_weights_before(content):
    buffer = io.BytesIO()
    th.save({"x": Payload()}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue() + content


def _views(state):
    state["other"] = th.zeros(1).expand(2**40)
    state["q_net.features_extractor._extra_state"]["net_arch"] = (20_000, 20_000)


def _pickled(value):
    return {":type:": "<class 'x'>", ":serialized:": PICKLE, **value}


BIAS = "q_net.q_net.0.bias"
DICT = {":type:": "<class 'gymnasium.spaces.dict.Dict'>", ":serialized:": PICKLE}
DISCRETE = {":type:": "<class 'gymnasium.spaces.discrete.Discrete'>", ":serialized:": PICKLE}
SPACE = {":type:": "<class 'gymnasium.spaces.box.Box'>", ":serialized:": PICKLE, "dtype": "float32", "low": "0", "high": "1"}

#: Agents that load all the same, since nobody looks at their pickles
HARMLESS = {
    "payloads in every pickled key": _everywhere,
    "a payload in an unknown key": _data(extra=_pickled({})),
    "a payload under another type": _data(gamma=0.99, seed=_pickled({"n": 3})),
    "a payload in a file that nobody needs": _file("pytorch_variables.pth", pickle.dumps(Payload())),
    "weights in front of the weights": _file("policy.pth", _legacy_weights_before),
    "paths out of the folder": _file("../../escaped", b"x"),
    "an absolute path": _file(MARKER, b"x"),
}

#: Changes of a zip's files that make it no agent
HOSTILE = {
    "weights that are a pickle": _file("policy.pth", pickle.dumps(Payload())),
    "weights with a payload": _file("policy.pth", tensors({"x": Payload()})),
    "weights that are empty": _file("policy.pth", b""),
    "weights that are cut off": _file("policy.pth", lambda content: content[: len(content) // 2]),
    "weights that are a list": _file("policy.pth", tensors([th.zeros(2)])),
    "weights that are compressed": _file("policy.pth", _pth_with_bomb),
    "weights that take memory": _pth_with(pickle.dumps(_Memory(), 2)),
    "weights that take memory, in capital letters": _pth_with(pickle.dumps(_Memory(), 2), "DATA.PKL"),
    "weights with lists in lists": _pth_with(pickle.dumps(_nested(list), 2)),
    # {_nested(tuple): 1}, whose name takes 2**30 steps to hash
    "weights with tuples as names": _pth_with(b"\x80\x02}" + pickle.dumps(_nested(tuple), 2)[2:-1] + b"K\x01s."),
    "weights with many names": _pth_with(pickle.dumps([{} for _ in range(200_000)], 2)),
    "weights with many files": _file("policy.pth", _pth_with_many_files),
    "a network with weights that are views": _weights(_views),
    "an optimizer with a payload": _file("policy.optimizer.pth", tensors({"state": Payload()})),
    "weights of another shape": _weights(lambda state: state.update({BIAS: th.zeros(3)})),
    "weights of another type": _weights(lambda state: state.update({BIAS: th.zeros(2, dtype=th.float64)})),
    "weights that are no numbers": _weights(lambda state: state.update({BIAS: th.tensor([0.0, th.nan])})),
    "weights without end": _weights(lambda state: state.update({BIAS: th.tensor([0.0, th.inf])})),
    "weights that are sparse": _weights(lambda state: state.update({BIAS: th.zeros(2).to_sparse()})),
    "weights that are text": _weights(lambda state: state.update({BIAS: "text"})),
    "weights that are missing": _weights(lambda state: state.pop(BIAS)),
    "weights that nobody knows": _weights(lambda state: state.update({"other": th.zeros(2)})),
    "settings that are text": _weights(lambda state: state.update({"q_net.features_extractor._extra_state": "x"})),
    "settings that nobody knows": _settings(other=1),
    "a window without end": _settings(num_steps=10**9),
    "a decay that is no number": _settings(beta=float("nan")),
    "a network too large": _settings(net_arch=(2**40,)),
    "a network too large for its weights": _settings(net_arch=(30_000, 30_000)),
    "more layers than a thousand": _settings(net_arch=(1,) * 1001),
    "decays without end": _settings(beta=(0.5,) * 1_000_000),
    "layers without end": _settings(net_arch=(1,) * 100_000),
    "no settings": _weights(lambda state: state.pop("q_net.features_extractor._extra_state")),
    "data that is no JSON": _file("data", b"\xff\xfe{"),
    "data that is a list": _file("data", b"[]"),
    "data of absurd depth": _file("data", b'{"a":' * 200_000),
    "data of absurd size": _file("data", b'{"a":"' + b"a" * 20_000_000 + b'"}'),
    "a number of absurd length": _file("data", b'{"num_timesteps":' + b"9" * 10_000 + b"}"),
    "another policy": _data(policy_class=_pickled({"__module__": "os", "__init__": "<function system.__init__ at 0x1>"})),
    "no policy": _data(policy_class=None),
    "a class that nobody knows": _data(policy_kwargs=_pickled({"features_extractor_class": "<class 'os.system'>"})),
    "arguments of no policy": _data(policy_kwargs={"lr_schedule": 1}),
    "arguments that are a list": _data(policy_kwargs=[1]),
    "no space": _data(observation_space=None),
    "a space that is a payload alone": _data(observation_space=_pickled({})),
    "a space of absurd size": _data(observation_space={**SPACE, "_shape": [2**40]}),
    "a space of many dimensions": _data(observation_space={**SPACE, "_shape": [1] * 10_000}),
    "a space of objects": _data(observation_space={**SPACE, "_shape": [4], "dtype": "object"}),
    "a space that is code": _data(
        observation_space={
            ":type:": "<class 'gymnasium.spaces.dict.Dict'>",
            "spaces": f"{{'a': open({MARKER!r}, 'w')}}",
            ":serialized:": PICKLE,
        }
    ),
    "a space of many parts": _data(
        observation_space={**DICT, "spaces": "{" + ", ".join(f"'{n}': Discrete(3)" for n in range(1000)) + "}"}
    ),
    "a space of large parts": _data(
        observation_space={**DICT, "spaces": "{" + ", ".join(f"'{n}': Box(0, 1, (16777216,), uint8)" for n in range(9)) + "}"}
    ),
    "arguments of no optimizer": _data(policy_kwargs={"optimizer_kwargs": {"betas": [0.9]}}),
    "actions without end": _data(action_space={**DISCRETE, "n": str(2**62), "start": "0"}),
    "counters that are text": _data(num_timesteps="many"),
    "counters below zero": _data(num_timesteps=-1),
    "an exploration rate above one": _data(exploration_rate=1e9),
}


def zips(agent, folder, changes):
    """Each change as a zip: (name, path)."""
    folder.mkdir(exist_ok=True)
    for number, (name, change) in enumerate(changes.items()):
        files = members(agent)
        change(files)
        yield name, write_zip(folder / f"{number}.zip", files)


def damaged_zips(agent, folder):
    """Files that are no whole zips: (name, path)."""
    folder.mkdir(exist_ok=True)
    content = agent.read_bytes()
    files = members(agent)
    twice = folder / "twice.zip"
    with zipfile.ZipFile(twice, "w") as archive:
        for name, part in (*files.items(), ("data", b"{}")):
            archive.writestr(name, part)
    for kind in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        small = folder / f"compressed{kind}.zip"
        announced = bytearray(write_zip(small, {**files, "data": bytes(20_000_000)}, kind).read_bytes())
        (place,) = struct.unpack_from("<I", announced, announced.rindex(b"PK\x05\x06") + 16)
        announced[place + 24 : place + 28] = struct.pack("<I", 100)
        small.write_bytes(announced)
        yield f"a bomb of kind {kind} that says it is small", small
    bomb = write_zip(folder / "bomb.zip", {**files, "data": b'{"a":"' + bytes(20_000_000)}, zipfile.ZIP_DEFLATED)
    lie, encrypted = (bytearray(write_zip(folder / "whole.zip", files).read_bytes()) for _ in range(2))
    (entry,) = struct.unpack_from("<I", lie, lie.rindex(b"PK\x05\x06") + 16)  # of data in the zip's list of files
    lie[entry + 24 : entry + 28] = struct.pack("<I", 2**31)
    encrypted[entry + 8] |= 1
    many = write_zip(folder / "many.zip", {**files, **{f"{number}": b"" for number in range(11_000)}})
    zeros, sparse = folder / "zeros.zip", folder / "sparse.zip"
    with zipfile.ZipFile(zeros, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, part in files.items():
            with archive.open(name, "w") as member:
                for chunk in [bytes(2**20)] * 600 if name == "policy.pth" else [part]:
                    member.write(chunk)
    with sparse.open("wb") as file:
        file.write(content)
        file.truncate(200 * 2**30)
    whole = {
        "cut off": content[: len(content) // 2],
        "cut off at the end": content[:-30],
        "empty": b"",
        "noise": bytes(range(256)) * 40,
        "a size that is a lie": bytes(lie),
        "encrypted": bytes(encrypted),
        "a pickle": pickle.dumps(Payload()),
    }
    for name, part in whole.items():
        path = folder / f"{name}.zip"
        path.write_bytes(part)
        yield name, path
    yield from (
        ("weights that unpack to much", zeros),
        ("mostly nothing", sparse),
        ("one name twice", twice),
        ("a bomb", bomb),
        ("many files", many),
        ("nothing there", folder / "none.zip"),
    )


def folders(agent_folder, folder):
    """Our own folders with one thing wrong: (name, path)."""
    config = json.loads((agent_folder / "config.json").read_text())
    weights = (agent_folder / "model.safetensors").read_bytes()
    texts = {
        "no JSON": b"{",
        "JSON of absurd depth": b'{"a":' * 200_000,
        "JSON of absurd size": b'{"a":"' + b"a" * 20_000_000 + b'"}',
        "a space of absurd size": {
            "observation_space": {**config["observation_space"], "shape": [2**40], "low": 0, "high": 1}
        },
        "a bound that is no number": {"observation_space": {**config["observation_space"], "low": "nan"}},
        "a space in itself": {"observation_space": {"type": "Dict", "spaces": {"a": {"type": "Dict", "spaces": {}}}}},
        "another policy": {"policy_class": "os.system"},
        "a class that nobody knows": {"policy_kwargs": {"optimizer_class": "<class 'subprocess.Popen'>"}},
        "a window without end": {"settings": {**config["settings"], "num_steps": 10**12}},
        "settings that nobody knows": {"settings": {**config["settings"], "other": 1}},
        "no settings": {"settings": None},
        "weights of another network": {"settings": {**config["settings"], "net_arch": [17]}},
    }
    for number, (name, change) in enumerate(texts.items()):
        path = folder / f"folder{number}"
        shutil.copytree(agent_folder, path)
        text = change if isinstance(change, bytes) else json.dumps({**config, **change}).encode()
        (path / "config.json").write_bytes(text)
        yield name, path
    names = (
        b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[],"data_offsets":[0,0]}' % number for number in range(40_000)) + b"}"
    )
    many_names = struct.pack("<Q", len(names)) + names
    damages = (weights[:50], struct.pack("<Q", 2**60) + weights[8:], b"", pickle.dumps(Payload()), many_names)
    for file in ("model", "optimizer"):
        for number, content in enumerate(damages):
            path = folder / f"{file}{number}"
            shutil.copytree(agent_folder, path)
            (path / f"{file}.safetensors").write_bytes(content)
            yield f"damaged {file} {number}", path
        path = folder / f"{file}sparse"
        shutil.copytree(agent_folder, path)
        with (path / f"{file}.safetensors").open("ab") as content:
            content.truncate(200 * 2**30)
        yield f"a {file} that is mostly nothing", path


#: config.yml of RL Zoo, with one thing wrong
CONFIGS = {
    "a tag that runs a command": f"!!python/object/apply:os.system ['touch {MARKER}']",
    "a tag in a value": f"frame_stack: !!python/object/apply:os.system ['touch {MARKER}']",
    "a tag that names a class": "policy: !!python/name:os.system",
    "a tag that imports": "policy: !!python/module:antigravity",
    "an OrderedDict of something else": "!!python/object/apply:collections.OrderedDict {kwds: {a: 1}}",
    "merges without end": "a: &a {k: 1}\nb: &b {<<: [*a, *a]}\nc: {<<: [*b, *b]}",
    "absurd depth": "a: " + "[" * 20_000,
    "absurd size": "a: '" + "a" * 1_000_000 + "'",
    "a wrapper that is a command": "env_wrapper: os.system",
    "a wrapper that is a process": "env_wrapper: [subprocess.Popen: {shell: true}]",
    "a wrapper that is a function of ours": "env_wrapper: sb3_spiking.commands.main",
    "a wrapper that is a path": "env_wrapper: gymnasium.wrappers.../../x",
    "a wrapper that writes": f"env_wrapper: [stable_baselines3.common.monitor.Monitor: {{filename: {MARKER}}}]",
    "a wrapper that makes videos": f"env_wrapper: [gymnasium.wrappers.RecordVideo: {{video_folder: {MARKER}}}]",
    "a wrapper that takes memory": "env_wrapper: [gymnasium.wrappers.FrameStackObservation: {stack_size: 30000000}]",
    "wrappers that take memory together": "env_wrapper: ["
    + ", ".join(["gymnasium.wrappers.FrameStackObservation: {stack_size: 1000}"] * 3)
    + "]",
    "images that take memory": "env_wrapper: [gymnasium.wrappers.ResizeObservation: {shape: [1000, 1000]}]\nframe_stack: 100",
    "a number of nothing": "a: !!int ''",
    "a number of absurd length": "frame_stack: 0x" + "F" * 6000,
    "aliases without end": "a: &a0 [1]\n" + "".join(f"b{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 30)),
    "wrappers that are numbers": "env_wrapper: [1, 2]",
    "two wrappers in one": "env_wrapper: [{a: {}, b: {}}]",
    "a wrapper around all environments": "vec_env_wrapper: os.system",
    "statistics that are a pickle": "normalize: true",
    "stacks without end": "frame_stack: 1000000000",
    "arguments that are a list": "env_kwargs: [1]",
    "no YAML": "a: [1, \n}",
    "a list": "- 1",
}
