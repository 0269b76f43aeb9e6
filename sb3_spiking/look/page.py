"""One HTML file that plays recordings: no server, no network; its scripts are in ``web/``."""

import base64
import html
import io
import json
import zlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sb3_spiking.files import replace_file
from sb3_spiking.look.recording import Layer, Recording, unpack

# uPlot, https://github.com/leeoniya/uPlot, draws the charts; then ours, in the order in which they need each other
_SCRIPTS = (
    *("uPlot.iife.min.js", "data.js", "network.js", "drawing.js", "charts.js", "inspector.js", "agent.js", "timeline.js"),
    "player.js",
)
_STYLES = ("uPlot.min.css", "page.css")

# Bytes of a chunk of decisions before it is packed: what a browser unpacks within a frame
_CHUNK = 1 << 20
# Bits of an activation
_LEVELS = 65535


def write_page(recordings: Sequence[Recording], path: str | Path) -> None:
    """
    :param recordings: side by side, on one time line
    :param path: of the page, which is there as a whole or not at all
    """
    replace_file(Path(path), page(recordings).encode())


def page(recordings: Sequence[Recording]) -> str:
    """
    :param recordings: side by side, on one time line
    :return: the page
    """
    blobs = _Blobs()
    agents = [_agent(recording, blobs) for recording in recordings]
    title = " and ".join(dict.fromkeys(recording.env for recording in recordings))
    data = json.dumps(agents, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "<!-- title -->": html.escape(title),
        "<!-- styles -->": "".join(f"<style>{_asset(name)}</style>\n" for name in _STYLES),
        "<!-- data -->": f'<script type="application/json" id="agents-data">{data}</script>\n{blobs.tags()}',
        "<!-- scripts -->": "".join(f"<script>{_asset(name)}</script>\n" for name in _SCRIPTS),
    }
    text = _asset("page.html")
    for place, content in parts.items():
        text = text.replace(place, content)
    return text


def _asset(name: str) -> str:
    return resources.files("sb3_spiking.look").joinpath("web", name).read_text(encoding="utf-8")


class _Blobs:
    """Packed bytes, each in a tag of its own that the page reads when it needs them."""

    def __init__(self) -> None:
        self._tags: list[str] = []

    def add(self, content: bytes, packed: bool = True) -> str:
        """The id of the tag."""
        name = f"b{len(self._tags)}"
        text = base64.b64encode(zlib.compress(content, 9) if packed else content).decode()
        self._tags.append(f'<script type="text/plain" id="{name}">{text}</script>\n')
        return name

    def tags(self) -> str:
        return "".join(self._tags)


def _numbers(values: np.ndarray, digits: int = 6) -> list[Any]:
    """As JSON, which has no NaN."""
    rounded = [None if not np.isfinite(each) else float(f"{each:.{digits}g}") for each in values.ravel().tolist()]
    return np.array(rounded, dtype=object).reshape(values.shape).tolist()


def _agent(recording: Recording, blobs: _Blobs) -> dict[str, Any]:
    layers = [_layer(recording, number, blobs) for number in range(len(recording.layers))]
    discrete = recording.actions.ndim == 1
    readout: dict[str, Any] | None = None
    if recording.readout and recording.layers:
        readout = {name: _numbers(recording.readout[name]) for name in ("weight", "bias")}
        readout["delay"] = bool(recording.readout["delay"])
    return {
        "name": recording.agent,
        "env": recording.env,
        "decisions": recording.decisions,
        "over": recording.over,
        "actionNames": recording.action_names,
        "actions": recording.actions.tolist() if discrete else _numbers(recording.actions),
        "explored": recording.explored.astype(int).tolist(),
        "rewards": _numbers(recording.rewards),
        "lives": recording.lives.tolist(),
        "qValues": _numbers(recording.q_values),
        "picojoules": _numbers(recording.picojoules),
        "frames": None if recording.frames is None else _frames(recording.frames, blobs),
        "layers": layers,
        "readout": readout,
    }


def _frames(frames: np.ndarray, blobs: _Blobs) -> dict[str, Any]:
    names, last = [], b""
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "webp", lossless=True, method=3)
        if file.getvalue() != last:
            last = file.getvalue()
            names.append(blobs.add(last, packed=False))
        else:
            names.append(names[-1])
    return {"height": frames.shape[1], "width": frames.shape[2], "blobs": names}


def _layer(recording: Recording, number: int, blobs: _Blobs) -> dict[str, Any]:
    layer = recording.layers[number]
    arrays = layer.arrays
    about: dict[str, Any] = {
        "name": layer.name,
        "kind": layer.kind,
        "shape": layer.shape,
        "inputShape": layer.input_shape,
        "steps": layer.steps,
        "source": layer.source,
        "delay": layer.delay,
        "convolution": layer.convolution,
        "kernel": list(arrays["weight"].shape[2:]) or None,
        "neuron": layer.neuron,
        "field": _field(recording, number),
        **_busy(layer),
        "rates": _numbers(layer.rates(), 4),
        "picojoules": _numbers(arrays["picojoules"]),
        "outputs": _outputs(layer, blobs),
        "weight": _exact(arrays["weight"], blobs),
        "bias": None if "bias" not in arrays else _exact(arrays["bias"], blobs),
        "normalized": None,
        "inputs": None,
    }
    if "input_bits" in arrays:
        about["inputs"] = _bits(arrays["input_bits"], layer.input_shape, blobs)
    elif "inputs" in arrays:
        about["inputs"] = _values(arrays["inputs"], blobs, exact=True)
    if "statistics" in arrays:
        about["normalized"] = {name: _exact(arrays[name], blobs) for name in ("statistics", "scale", "shift")}
    return about


def _field(recording: Recording, number: int) -> dict[str, int] | None:
    """
    What a neuron of a convolution sees of the image: ``size`` pixels, from ``start`` plus ``jump`` times its place on;
    ``root`` is the number of the layer that the image comes into. None for other layers, and where rows and columns differ.
    """
    layer = recording.layers[number]
    if layer.convolution is None:
        return None
    sides = [layer.arrays["weight"].shape[2:], *(layer.convolution[name] for name in ("stride", "padding", "dilation"))]
    if any(rows != columns for rows, columns in sides):
        return None
    kernel, stride, padding, dilation = (rows for rows, _ in sides)
    pixel = {"size": 1, "jump": 1, "start": 0, "root": number}
    before = pixel if layer.source is None else _field(recording, layer.source)
    if before is None:
        return None
    return {
        "size": before["size"] + (kernel - 1) * dilation * before["jump"],
        "jump": before["jump"] * stride,
        "start": before["start"] - padding * before["jump"],
        "root": before["root"],
    }


def _outputs(layer: Layer, blobs: _Blobs) -> dict[str, Any]:
    if layer.kind == "spikes":
        return _bits(layer.arrays["bits"], layer.shape, blobs)
    return _values(layer.arrays[layer.kind], blobs, exact=False)


def _busy(layer: Layer) -> dict[str, int]:
    """How many neurons never did anything over the recording, and how many did at every step."""
    if layer.kind == "spikes":
        always, ever = (
            np.bitwise_and.reduce(layer.arrays["bits"], axis=(0, 1)),
            np.bitwise_or.reduce(layer.arrays["bits"], axis=(0, 1)),
        )
        all_on, some_on = (int(np.bitwise_count(bits).sum()) for bits in (always, ever))
    else:
        on = layer.arrays[layer.kind].reshape(-1, layer.neurons) != 0
        all_on, some_on = int(on.all(axis=0).sum()), int(on.any(axis=0).sum())
    return {"silent": layer.neurons - some_on, "always": all_on}


def _bits(bits: np.ndarray, shape: tuple[int, ...], blobs: _Blobs) -> dict[str, Any]:
    """
    Spikes in chunks of decisions. The steps of a neuron lie side by side, a bit each, from the lowest on; a decision after the
    first of its chunk holds what is different from the one before: what repeats packs well.
    """
    decisions, steps, neurons = *bits.shape[:2], int(np.prod(shape))
    together = max(1, min(decisions, 64, _CHUNK // (neurons * -(-steps // 8))))
    names = []
    for first in range(0, decisions, together):
        spikes = unpack(bits[first : first + together], shape).reshape(-1, steps, neurons)
        packed = np.packbits(spikes.transpose(0, 2, 1), axis=2, bitorder="little")
        packed[1:] ^= packed[:-1].copy()
        names.append(blobs.add(packed.tobytes()))
    return {"type": "bits", "steps": steps, "together": together, "blobs": names}


def _values(values: np.ndarray, blobs: _Blobs, exact: bool) -> dict[str, Any]:
    """
    Numbers in chunks of decisions, shape (D, T, \\*) or (D, \\*): in 8 bits where they are whole steps (images, planes), else
    in 32 bits, or in 16 from the lowest to the highest where that is exact enough.
    """
    flat = values.reshape(len(values), -1).astype(np.float32)
    finite = flat[np.isfinite(flat)]
    highest = float(f"{finite.max():.6g}") if finite.size else 0.0
    exact |= finite.size < flat.size  # 16 bits have no NaN
    whole, scale, offset = flat.astype("<f4"), 1.0, 0.0
    for size in (1.0, 1 / 255) if finite.size == flat.size else ():
        levels = flat / size
        if levels.min() >= 0 and levels.max() <= 255 and np.abs(levels - np.round(levels)).max() < 1e-4:
            whole, scale = np.round(levels).astype(np.uint8), size
            break
    else:
        if not exact:
            offset = float(flat.min())
            scale = (float(flat.max()) - offset) / _LEVELS or 1.0
            whole = np.round((flat - offset) / scale).astype("<u2")
    together = max(1, min(len(flat), 64, _CHUNK // (flat.shape[1] * whole.itemsize)))
    names = [blobs.add(whole[first : first + together].tobytes()) for first in range(0, len(flat), together)]
    return {
        **{"type": {1: "u8", 2: "u16", 4: "f32"}[whole.itemsize], "scale": scale, "offset": offset},
        **{"count": flat.shape[1], "together": together, "blobs": names, "highest": highest},
    }


def _exact(values: np.ndarray, blobs: _Blobs) -> str:
    """Numbers of 32 bits in one blob."""
    return blobs.add(values.astype("<f4").tobytes())
