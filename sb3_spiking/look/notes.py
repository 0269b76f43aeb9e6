"""A recording as it grows, decision by decision."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.dqn.policies import QNetwork
from torch import nn

from sb3_spiking.errors import AgentError
from sb3_spiking.evaluation.operations import ENERGIES, Energy, LayerOperations, OperationCounter
from sb3_spiking.extractors import SpikingExtractor
from sb3_spiking.look import screen
from sb3_spiking.look.recorder import Recorder, Seen, source
from sb3_spiking.look.recording import Layer, Recording, pack, unpack
from sb3_spiking.policies import SpikingQNetwork

#: in place of names of layers: all of them
ALL = "all"


class Notes:
    """
    Takes down decisions: :meth:`decided` before each action, :meth:`acted` after it, :meth:`recording` at the end.

    :param agent: its name
    :param env: that it plays in
    :param network: of :class:`~sb3_spiking.evaluation.decisions.Decider`
    :param layers: as of :func:`~sb3_spiking.look.record.record`
    :param membranes: as of :func:`~sb3_spiking.look.record.record`
    :param energy: as of :func:`~sb3_spiking.look.record.record`
    """

    def __init__(
        self,
        agent: str,
        env: VecEnv,
        network: nn.Module,
        layers: Sequence[str] | str = ALL,
        membranes: Sequence[str] | str = (),
        energy: Energy = ENERGIES["45nm-float32"],
    ) -> None:
        self._about: dict[str, Any] = {"agent": agent, "env": screen.name_of(env), "action_names": screen.action_names(env)}
        self._readout, self._delays = _readout(network), _delays(network)
        self._wanted, self._membranes, self.energy = layers, membranes, energy
        self._lists: dict[str, list[Any]] = {}
        self._layers: list[Layer] = []
        self._places: list[int] = []  # of the layers that are kept among those that ran
        self._kept_membranes: set[str] = set()
        self._arrays: list[dict[str, list[np.ndarray]]] = []  # of each layer

    def __len__(self) -> int:
        return len(self._lists.get("actions", ()))

    def decided(self, observation: Any, picture: np.ndarray | None, values: np.ndarray | None, watch: "Watch") -> None:
        """
        :param observation: of one environment, shape (1, \\*), or a dict of such
        :param picture: what the game shows
        :param values: Q-values, shape (1, A), or None
        :param watch: what the layers did
        """
        parts = observation if isinstance(observation, dict) else {"": observation}
        for key, part in parts.items():
            self._append(f"observations/{key}", np.array(part[0]))
        if picture is not None:
            self._append("frames", picture)
        self._append("q_values", np.zeros(0, np.float32) if values is None else values[0])
        seen = watch.layers
        if not self._layers:
            self._begin(seen)
        costs = {layer.name: layer.picojoules(self.energy).item() for layer in watch.operations}
        self._append("picojoules", np.array(sum(costs.values())))
        for layer, place, arrays in zip(self._layers, self._places, self._arrays, strict=True):
            moment = seen[place]
            if layer.kind == "spikes":
                arrays["bits"].append(pack(moment.outputs.cpu().numpy()))
            elif layer.kind == "activations":
                arrays["activations"].append(moment.outputs[0].cpu().numpy())
            if layer.kind == "membranes" or layer.name in self._kept_membranes:
                assert moment.membranes is not None
                arrays["membranes"].append(moment.membranes.cpu().numpy())
            if layer.source is None:
                _note_inputs(arrays, moment.inputs.cpu().numpy())
            if moment.statistics is not None:
                arrays["statistics"].append(moment.statistics.cpu().numpy())
            # Of a layer that runs more than once the first has all
            arrays["picojoules"].append(np.array(costs.pop(moment.name, 0.0)))

    def acted(self, action: np.ndarray, explored: bool, reward: float, lives: int) -> None:
        """What the agent did, and what came of it."""
        for name, value in (("actions", action), ("explored", explored), ("rewards", reward), ("lives", lives)):
            self._append(name, np.array(value))

    def recording(self, over: bool) -> Recording:
        """
        :param over: whether the episode ended
        :return: everything so far
        """
        whole: dict[str, np.ndarray] = {name: np.stack(values) for name, values in self._lists.items()}
        for layer, arrays in zip(self._layers, self._arrays, strict=True):
            layer.arrays |= {name: np.stack(values) for name, values in arrays.items() if values}
        keys = [name for name in whole if name.startswith("observations/")]
        observations = {name.partition("/")[2]: whole.pop(name) for name in keys}
        frames = whole.pop("frames", None)
        known: dict[str, Any] = {**self._about, **whole}
        return Recording(
            **known, observations=observations, frames=frames, layers=self._layers, over=over, readout=self._readout
        )

    def _append(self, name: str, value: np.ndarray) -> None:
        self._lists.setdefault(name, []).append(value)

    def _begin(self, seen: list[Seen]) -> None:
        names = _distinct([layer.name for layer in seen])
        for what, wanted in (("layers", self._wanted), ("membranes", self._membranes)):
            for name in () if wanted == ALL else wanted:
                if name not in names:
                    raise AgentError(f"{what}: the network has no layer {name!r}; it has {', '.join(names)}")
                if self._wanted != ALL and name not in self._wanted:
                    raise AgentError(f"{what}: {name!r} is not among the layers that are recorded, {', '.join(self._wanted)}")
        self._places = [place for place, name in enumerate(names) if self._wanted == ALL or name in self._wanted]
        have_some = {name for name, layer in zip(names, seen, strict=True) if layer.neuron is not None}
        self._kept_membranes = have_some if self._membranes == ALL else have_some & {*self._membranes}
        for place in self._places:
            comes_from = source(seen[place].inputs, seen[:place])
            number = self._places.index(comes_from) if comes_from in self._places else None
            self._layers.append(_layer(names[place], seen[place], number))
            self._arrays.append(defaultdict(list))
        last = seen[-1]
        reads_last = self._readout and self._readout["weight"].shape[1] == last.outputs[0].numel()
        if reads_last and len(seen) - 1 in self._places and [layer.name for layer in seen].count(last.name) == 1:
            self._readout["delay"] = np.array(self._delays and last.kind == "spikes")
        else:
            self._readout = {}


def _distinct(names: list[str]) -> list[str]:
    """A layer that runs more than once has its number behind its name."""
    times = [names[:place].count(name) + 1 for place, name in enumerate(names)]
    return [name if number == 1 else f"{name} ({number})" for name, number in zip(names, times, strict=True)]


def _layer(name: str, seen: Seen, comes_from: int | None) -> Layer:
    connection: Any = seen.connection
    neuron: dict[str, Any] | None = None
    if seen.neuron is not None:
        beta, threshold = seen.neuron.constants()
        dynamics = seen.neuron.dynamics
        neuron = {"beta": beta, "threshold": threshold, "input_scale": dynamics.input_scale}
        neuron |= {"reset_mechanism": dynamics.reset_mechanism, "reset_delay": dynamics.reset_delay}
    arrays = {name: getattr(connection, name) for name in ("weight", "bias")}
    if isinstance(seen.normalization, nn.GroupNorm):
        arrays |= {"scale": seen.normalization.weight, "shift": seen.normalization.bias}
    kept = {name: array.detach().cpu().numpy().copy() for name, array in arrays.items() if array is not None}
    shape = tuple(seen.outputs.shape[1:])
    inputs = tuple(seen.inputs.shape[1:])
    convolution = _geometry(connection) if isinstance(connection, nn.Conv2d) else None
    return Layer(name, seen.kind, shape, len(seen.outputs), comes_from, seen.delay, convolution, inputs, neuron, kept)


def _geometry(connection: nn.Conv2d) -> dict[str, Any]:
    """As of :class:`~sb3_spiking.look.recording.Layer`."""
    padding: Any = connection.padding
    if isinstance(padding, str):  # "same": what is odd comes behind
        ends = [size * (kernel - 1) // 2 for size, kernel in zip(connection.dilation, connection.kernel_size, strict=True)]
        padding = ends if padding == "same" else [0, 0]
    sides = {"stride": connection.stride, "padding": padding, "dilation": connection.dilation}
    return {**{name: list(values) for name, values in sides.items()}, "groups": connection.groups}


def _delays(network: Any) -> bool:
    """Whether the spiking body of a Q-network is read a step later."""
    body = network if isinstance(network, SpikingQNetwork) else getattr(network, "features_extractor", None)
    return isinstance(body, (SpikingQNetwork, SpikingExtractor)) and body.settings.layer_delay


def _readout(network: nn.Module) -> dict[str, np.ndarray]:
    """The last linear layer of a Q-network that maps rates or activations to Q-values."""
    if not isinstance(network, QNetwork) or (isinstance(network, SpikingQNetwork) and network.output_neuron is not None):
        return {}
    linear: Any = network.q_net[-1]
    return {name: getattr(linear, name).detach().cpu().numpy().copy() for name in ("weight", "bias")}


def _note_inputs(arrays: dict[str, list[np.ndarray]], inputs: np.ndarray) -> None:
    """Spikes over a window are kept as bits, while nothing else comes in."""
    binary = len(inputs) > 1 and bool(((inputs == 0) | (inputs == 1)).all())
    if binary and not arrays["inputs"]:
        arrays["input_bits"].append(pack(inputs))
        return
    earlier = [unpack(bits, inputs.shape[1:]).astype(inputs.dtype) for bits in arrays.pop("input_bits", ())]
    arrays["inputs"] += [*earlier, inputs]


class Watch:
    """
    Sees what the layers of a network do in a decision, and counts its operations.

    :param network: of :class:`~sb3_spiking.evaluation.decisions.Decider`
    :param energy: what operations are counted for
    """

    def __init__(self, network: BaseModel, energy: Energy) -> None:
        self._recorder, self._counter = Recorder(network), OperationCounter(network, energy.boolean_spikes)

    def __enter__(self) -> Self:
        self._recorder.__enter__()
        self._counter.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._counter.__exit__(*error)
        self._recorder.__exit__(*error)

    def clear(self) -> None:
        """Forget the decision before."""
        self._recorder.clear()
        self._counter.clear()

    @property
    def layers(self) -> list[Seen]:
        """In the order in which they ran."""
        return self._recorder.layers

    @property
    def operations(self) -> list[LayerOperations]:
        """Of all layers, those of the output among them."""
        return self._counter.layers
