"""What an agent saw, what fired and what it did, decision by decision: in memory and as a file (docs/look.md)."""

import io
import json
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from sb3_spiking.errors import AgentError
from sb3_spiking.files import replace_file

# Of the layout of a file
_VERSION = 2


def pack(spikes: np.ndarray) -> np.ndarray:
    """
    :param spikes: 0 or 1, shape (T, \\*neurons)
    :return: a bit for each, the first in the lowest, shape (T, ceil(neurons / 8))
    """
    return np.packbits(spikes.reshape(len(spikes), -1) != 0, axis=1, bitorder="little")


def unpack(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """
    :param bits: of :func:`pack`, shape (\\*, ceil(neurons / 8))
    :param shape: of the layer
    :return: spikes as booleans, shape (\\*, \\*shape)
    """
    flat = np.unpackbits(bits, axis=-1, count=int(np.prod(shape)), bitorder="little")
    return flat.reshape(*bits.shape[:-1], *shape).astype(bool)


@dataclass
class Layer:
    """
    A layer over D decisions.

    :param name: of the layer in the network, as in ``layers.csv``
    :param kind: ``"spikes"``, ``"activations"`` or ``"membranes"``, see :class:`~sb3_spiking.look.recorder.Seen`
    :param shape: of the layer: (units,), or (channels, height, width) of a convolution
    :param steps: simulation steps of a decision
    :param source: number of the layer whose output comes in, None where it is ``inputs``
    :param delay: whether it sees its input one step later
    :param convolution: ``stride``, ``padding`` and ``dilation`` along rows and columns, and ``groups``; None of a linear layer
    :param input_shape: of what comes in at a step
    :param neuron: settings of its neurons: ``beta``, ``threshold``, ``input_scale``, ``reset_mechanism``, ``reset_delay``;
        None for activations
    :param arrays: by name

        * ``bits`` (D, T, bytes), ``activations`` (D, \\*shape), or ``membranes`` (D, T, \\*shape), which may stand beside bits
        * ``inputs`` (D, T or 1, \\*), or ``input_bits`` (D, T, bytes) where they are spikes
        * ``weight`` and ``bias`` of its connection, ``picojoules`` (D,)
        * of a normalisation ``statistics`` (D, T or 1, 2), ``scale`` and ``shift``
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    steps: int
    source: int | None
    delay: bool
    convolution: dict[str, Any] | None
    input_shape: tuple[int, ...]
    neuron: dict[str, Any] | None
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def spikes(self) -> np.ndarray:
        """Spikes as booleans, shape (D, T, \\*shape)."""
        return unpack(self.arrays["bits"], self.shape)

    @property
    def membranes(self) -> np.ndarray:
        """Membranes after each step, before a delayed reset and after an immediate one, shape (D, T, \\*shape)."""
        return self.arrays["membranes"]

    @property
    def activations(self) -> np.ndarray:
        """Of a layer that does not spike, shape (D, \\*shape)."""
        return self.arrays["activations"]

    @property
    def neurons(self) -> int:
        """How many there are."""
        return int(np.prod(self.shape))

    def rates(self) -> np.ndarray:
        """Spikes a neuron and step; the share of units that are not 0 in a layer that does not spike; shape (D,)."""
        if self.kind == "spikes":
            return np.bitwise_count(self.arrays["bits"]).sum(axis=(1, 2)) / (self.steps * self.neurons)
        return (self.arrays[self.kind] != 0).reshape(len(self.arrays[self.kind]), -1).mean(axis=1)


@dataclass
class Recording:
    """
    An episode of an agent, or a part of one: D decisions.

    :param agent: its name
    :param env: id of its environment
    :param action_names: what the actions are called
    :param observations: as the agent sees them, by key, "" where they are no Dict; shape (D, \\*)
    :param frames: what the game shows at each decision, shape (D, H, W, 3), uint8; None without
    :param actions: taken, shape (D, \\*)
    :param explored: whether an action is random, shape (D,)
    :param rewards: that followed, shape (D,)
    :param lives: left after it, -1 where the game says nothing, shape (D,)
    :param picojoules: of everything that a decision takes, shape (D,)
    :param q_values: as learned, shape (D, A); (D, 0) for a policy without
    :param layers: from the input to the output
    :param over: whether the episode ended
    :param readout: ``weight`` (A, units) and ``bias`` (A,) by which the last layer's rates or activations are Q-values, and
        ``delay``, whether the spikes of its last step come too late for them; empty where they are not, or it is not recorded
    """

    agent: str
    env: str
    action_names: list[str]
    observations: dict[str, np.ndarray]
    frames: np.ndarray | None
    actions: np.ndarray
    explored: np.ndarray
    rewards: np.ndarray
    lives: np.ndarray
    picojoules: np.ndarray
    q_values: np.ndarray
    layers: list[Layer]
    over: bool
    readout: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def decisions(self) -> int:
        """How many there are."""
        return len(self.actions)

    def layer(self, name: str) -> Layer:
        """
        :param name: of a layer
        :raises ValueError: if there is none
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise ValueError(f"there is no layer {name!r}; expected one of {', '.join(each.name for each in self.layers)}")

    def save(self, path: str | Path) -> None:
        """
        :param path: of the file, ``.npz``
        """
        arrays: dict[str, np.ndarray] = {
            name: getattr(self, name) for name in ("actions", "explored", "rewards", "lives", "picojoules", "q_values")
        }
        if self.frames is not None:
            arrays["frames"] = self.frames
        for key, observations in self.observations.items():
            arrays[f"observations/{key}".rstrip("/")] = observations
        arrays |= {f"readout/{name}": array for name, array in self.readout.items()}
        layers = []
        for layer in self.layers:
            arrays |= {f"{layer.name}/{name}": array for name, array in layer.arrays.items()}
            names = ("name", "kind", "shape", "steps", "source", "delay", "convolution", "input_shape", "neuron")
            layers.append({name: getattr(layer, name) for name in names})
        about = {
            **{"version": _VERSION, "agent": self.agent, "env": self.env, "over": self.over},
            **{"action_names": self.action_names, "layers": layers},
        }
        content = io.BytesIO()
        np.savez_compressed(content, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
        replace_file(Path(path), content.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """
        :param path: of a file that :meth:`Recording.save` wrote
        :raises AgentError: if it is another file
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            about = json.loads(str(arrays.pop("about")))
            if about["version"] != _VERSION:
                raise ValueError(f"version {about['version']}, expected {_VERSION}: record the agent again")
            layers = [
                Layer(**{**each, "shape": tuple(each["shape"]), "input_shape": tuple(each["input_shape"])})
                for each in about["layers"]
            ]
            for layer in layers:
                layer.arrays = _taken(arrays, layer.name)
            observations, readout = _taken(arrays, "observations"), _taken(arrays, "readout")
            names = ("agent", "env", "action_names", "over")
            given = {name: about[name] for name in names}
            return cls(
                **given, observations=observations, frames=arrays.pop("frames", None), layers=layers, readout=readout, **arrays
            )
        except (ValueError, KeyError, TypeError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise AgentError(f"{path}: not a recording of sb3_spiking: {type(error).__name__}: {error}") from error


def _taken(arrays: dict[str, np.ndarray], folder: str) -> dict[str, np.ndarray]:
    """The arrays of a folder, which leave the others; "" is the name of the one that is the folder itself."""
    names = [name for name in arrays if name == folder or name.startswith(f"{folder}/")]
    return {name[len(folder) + 1 :]: arrays.pop(name) for name in names}
