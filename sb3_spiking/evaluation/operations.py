"""
What a decision costs, counted while it is taken: the operations of a network's layers, and their energy.

* A layer fed by real values multiplies: one multiply-accumulate for each connection, once where the input stays the same over
  the window.
* Booleans are real values, too, or spikes if one chooses so (:attr:`Energy.boolean_spikes`): then they arrive at each step.
* A layer fed by spikes accumulates: one synaptic operation for each spike and each of its outgoing connections, fewer at the
  border of an image, where fewer windows of the kernel see a neuron.
* A neuron is updated at every step: a multiply-accumulate where its membrane decays, an accumulation where it does not.
* A normalised current takes three operations, for the mean, the variance and the current itself: multiply-accumulates.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Self, TypeVar

import torch as th
from stable_baselines3.common.policies import BaseModel
from torch import nn
from torch.nn import functional as F

from sb3_spiking.extractors import SpikingCombinedExtractor, SpikingExtractor
from sb3_spiking.observations import is_boolean
from sb3_spiking.policies import SpikingQNetwork
from sb3_spiking.snn.layers import SpikingLayer

_NORMALIZATION_OPERATIONS = 3

Number = TypeVar("Number", float, th.Tensor)


class Energy(NamedTuple):
    """
    Picojoules of an operation.

    :param multiply_accumulate: a multiplication and an addition
    :param accumulate: an addition
    :param boolean_spikes: whether observations that are booleans, as MinAtar's planes, are spikes: a layer adds the weights of
        what is set, a spiking one at each step, and multiplies nothing
    :param bits: of a weight or membrane
    :param memory: whether reads and writes of these count, or arithmetic alone
    """

    multiply_accumulate: float
    accumulate: float
    boolean_spikes: bool = False
    bits: int = 32
    memory: bool = False


#: Operations on 32-bit floating-point and integer numbers and on 8-bit ones in 45 nm: Horowitz, ISSCC 2014. Each stands here a
#: second time, with booleans as spikes
ENERGIES = {
    "45nm-float32": Energy(4.6, 0.9),
    "45nm-int32": Energy(3.2, 0.1),
    "45nm-int8": Energy(0.23, 0.03, bits=8),
    "45nm-float32-memory": Energy(4.6, 0.9, memory=True),
    "45nm-int8-memory": Energy(0.23, 0.03, bits=8, memory=True),
}
ENERGIES |= {f"{name}-boolean-spikes": energy._replace(boolean_spikes=True) for name, energy in ENERGIES.items()}

#: Picojoules of reading 64 bits from a memory of up to so many bytes, same source; DRAM at the lower end of its 1.3 to 2.6 nJ
MEMORIES = ((8 * 1024, 10.0), (32 * 1024, 20.0), (1024 * 1024, 100.0), (math.inf, 1300.0))


def memory_picojoules(operations: Number, updates: Number, parameters: int, neurons: int, bits: int) -> Number:
    """
    What a layer reads and writes: each operation its weight, each update of a neuron its membrane, twice. Weights and
    membranes of a layer lie in memories of their own, the smallest of :data:`MEMORIES` that holds them; nothing is kept in
    registers from one operation to the next.

    :param operations: multiply-accumulates and accumulates
    :param updates: of neurons
    :param parameters: of the layer
    :param neurons: of the layer
    :param bits: of a weight or membrane
    :return: picojoules
    """
    return operations * _access(parameters, bits) + 2 * updates * _access(neurons, bits)


def _access(numbers: int, bits: int) -> float:
    """Picojoules of reading one of so many numbers."""
    size = numbers * bits / 8
    return next(picojoules for limit, picojoules in MEMORIES if size <= limit) * bits / 64


_COUNTS = ("multiply_accumulates", "accumulates", "updates", "spikes")


@dataclass
class LayerOperations:
    """
    Operations of one layer for a batch of decisions. The counts are tensors of shape (B,).

    :param name: of the layer in the policy
    :param neurons: number of its spiking neurons or units
    :param steps: simulation steps of the window, 1 for a layer that is not spiking
    :param parameters: numbers that it stores
    :param multiply_accumulates: of real inputs
    :param accumulates: synaptic operations
    :param updates: of neurons
    :param decays: whether an update multiplies
    :param spikes: that it emits
    """

    name: str
    neurons: int
    steps: int
    parameters: int
    multiply_accumulates: th.Tensor
    accumulates: th.Tensor
    updates: th.Tensor
    decays: bool
    spikes: th.Tensor

    def followed_by(self, other: Self) -> Self:
        """The same layer, which ran once more."""
        both: dict[str, Any] = {name: th.cat([getattr(self, name), getattr(other, name)]) for name in _COUNTS}
        return replace(self, **both)

    def of_decisions(self, decisions: int) -> Self:
        """
        :param decisions: of a batch
        :return: the sums over all runs of a layer with that batch, and over batches that lie behind one another in a run
        """
        if len(self.updates) == decisions:
            return self
        return replace(self, **{name: getattr(self, name).reshape(-1, decisions).sum(dim=0) for name in _COUNTS})

    def picojoules(self, energy: Energy) -> th.Tensor:
        """
        :param energy: of the operations
        :return: shape (B,)
        """
        updates = energy.multiply_accumulate if self.decays else energy.accumulate
        real = self.multiply_accumulates * energy.multiply_accumulate
        arithmetic = real + self.accumulates * energy.accumulate + self.updates * updates
        if not energy.memory:
            return arithmetic
        operations = self.multiply_accumulates + self.accumulates
        return arithmetic + memory_picojoules(operations, self.updates, self.parameters, self.neurons, energy.bits)


class OperationCounter:
    """
    Counts while a policy decides::

        with OperationCounter(policy) as counter:
            policy.predict(observations)
            counter.layers  # what that took
            counter.clear()  # before the next one

    Counted are convolutions, linear layers and Leaky neurons, wherever the policy runs them.

    :param policy: spiking or not
    :param boolean_spikes: count observations that are booleans as spikes. Those of a Dict stay real values
    """

    def __init__(self, policy: BaseModel, boolean_spikes: bool = False) -> None:
        self._policy = policy
        self._sees_spikes = boolean_spikes and is_boolean(policy.observation_space)
        self._layers: dict[str, LayerOperations] = {}
        self._first: dict[str, bool] = {}  # spiking layers that see the observation: whether as real values
        self._mixed: dict[str, th.Tensor] = {}  # layers that see spikes and real values side by side: which are spikes
        self._connections: dict[tuple[str, th.Size], th.Tensor] = {}
        self._handles: list[Any] = []
        self._last_step = th.empty(0)  # spikes of the last layer that ran in its last step

    @property
    def layers(self) -> list[LayerOperations]:
        """The layers since the last :meth:`clear`, in the order in which they ran; the last one has run once a decision."""
        layers = list(self._layers.values())
        return [layer.of_decisions(len(layers[-1].updates)) for layer in layers]

    def clear(self) -> None:
        """Forget what was counted."""
        self._layers.clear()

    def __enter__(self) -> Self:
        counted: set[nn.Module] = set()
        for name, module in self._policy.named_modules():
            if isinstance(module, SpikingCombinedExtractor) and len(module.cnns):
                self._mixed[f"{name}.dense.0".lstrip(".")] = module.spike_inputs()
            elif isinstance(module, SpikingExtractor):
                layers = [child for child, layer in module.named_modules() if isinstance(layer, SpikingLayer)]
                self._first |= {f"{name}.{first}".lstrip("."): module.settings.encoding == "direct" for first in layers[:1]}
            if isinstance(module, SpikingQNetwork):
                counted.update(module.q_net.modules())
                if module.common_mode is not None:
                    counted.update(module.common_mode.modules())  # no part of a decision
                readout = f"{name}.q_net".lstrip(".")
                self._hook(module.q_net, partial(self._count_readout, network=module), readout)
                if module.output_neuron is not None:
                    hook = partial(self._add_output_spikes, readout)
                    self._handles.append(module.output_neuron.register_forward_hook(hook))
            elif isinstance(module, SpikingLayer):
                counted.add(module.connection)
                self._hook(module, self._count_spiking, name)
            elif isinstance(module, (nn.Conv2d, nn.Linear)) and module not in counted:
                self._hook(module, self._count_dense, name)
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, module: nn.Module, count: Callable[..., LayerOperations], name: str) -> None:
        def hook(module: nn.Module, inputs: Any, output: th.Tensor) -> None:
            with th.no_grad():
                layer = count(name, module, inputs[0], output)
            earlier = self._layers.get(name)
            self._layers[name] = layer if earlier is None else earlier.followed_by(layer)

        self._handles.append(module.register_forward_hook(hook))

    def _outgoing(self, name: str, connection: nn.Module, shape: th.Size) -> th.Tensor:
        if (name, shape) not in self._connections:
            self._connections[name, shape] = _uses(connection, tuple(shape))
        return self._connections[name, shape]

    def _is_first(self, name: str) -> bool:
        """Whether a layer is the first that runs: it sees the observation."""
        return next(iter(self._layers), name) == name

    def _count_spiking(self, name: str, layer: SpikingLayer, window: th.Tensor, spikes: th.Tensor) -> LayerOperations:
        steps, samples = spikes.shape[:2]
        uses = self._outgoing(name, layer.connection, window.shape[2:]).to(window.device)
        mixed = self._mixed.get(name)
        is_spikes = ((window == 0) | (window == 1)).all(dim=0)
        if mixed is not None:
            is_spikes = mixed.to(window.device).expand_as(is_spikes)
        elif self._first.get(name, False):
            if self._sees_spikes and is_spikes.all():
                window = window.expand(steps, *window.shape[1:])
            else:
                is_spikes = th.zeros_like(is_spikes)
        if mixed is None and (window.shape[0] < steps or (steps == 1 and not is_spikes.all())):
            real, events = uses.sum().expand(samples), th.zeros(samples)
        else:
            arriving = window[:-1] if layer.delay else window
            events = (arriving.sum(dim=0) * uses * is_spikes).flatten(1).sum(dim=1)
            real = (steps * uses * ~is_spikes).flatten(1).sum(dim=1)
        neurons = spikes[0, 0].numel()
        if layer.normalization is not None:
            real = real + _NORMALIZATION_OPERATIONS * neurons * window.shape[0]
        updates = th.full((samples,), float(steps * neurons))
        decays = 0 < layer.neuron.constants()[0] < 1
        emitted = spikes.sum(dim=0).flatten(1).sum(dim=1)
        self._last_step = spikes[-1].flatten(1).sum(dim=1).cpu().double()
        real, events, updates, emitted = (each.cpu().double() for each in (real, events, updates, emitted))
        return LayerOperations(name, neurons, steps, _parameters(layer), real, events, updates, decays, emitted)

    def _count_dense(self, name: str, layer: nn.Module, inputs: th.Tensor, outputs: th.Tensor) -> LayerOperations:
        samples, uses = len(inputs), self._outgoing(name, layer, inputs.shape[1:])
        nothing = th.zeros(samples, dtype=th.float64)
        real, events = uses.sum().double().expand(samples), nothing
        if self._sees_spikes and self._is_first(name) and bool(((inputs == 0) | (inputs == 1)).all()):
            real, events = nothing, (inputs.cpu() * uses).flatten(1).sum(dim=1).double()
        return LayerOperations(name, outputs[0].numel(), 1, _parameters(layer), real, events, nothing, False, nothing)

    def _count_readout(
        self, name: str, linear: nn.Module, _: Any, values: th.Tensor, network: SpikingQNetwork
    ) -> LayerOperations:
        # Its input are the spikes of the last layer before it
        steps, (samples, actions) = network.settings.num_steps, values.shape[-2:]
        spikes = self.layers[-1].of_decisions(samples).spikes
        if network.settings.layer_delay:
            spikes = spikes - self._last_step
        nothing = th.zeros(samples, dtype=th.float64)
        updates, decays = nothing, False
        if network.output_neuron is not None:
            updates = updates + steps * actions
            decays = 0 < network.output_neuron.constants()[0] < 1
        return LayerOperations(name, actions, steps, _parameters(linear), nothing, spikes * actions, updates, decays, nothing)

    def _add_output_spikes(self, name: str, neuron: nn.Module, inputs: Any, spikes: th.Tensor) -> None:
        readout = self._layers[name]
        emitted = spikes.detach().sum(dim=(0, 2)).cpu().double()
        self._layers[name] = replace(readout, spikes=th.cat([readout.spikes[: -len(emitted)], emitted]))


def _uses(connection: nn.Module, shape: tuple[int, ...]) -> th.Tensor:
    """
    :param connection: a convolution or linear layer
    :param shape: of its input for one decision
    :return: outgoing connections of each input, shape ``shape``
    """
    if isinstance(connection, nn.Conv2d):
        ones = th.ones(1, *shape, requires_grad=True)
        kernel = th.ones(connection.out_channels, shape[0] // connection.groups, *connection.kernel_size)
        geometry: Any = (connection.stride, connection.padding, connection.dilation, connection.groups)
        with th.enable_grad():
            return th.autograd.grad(F.conv2d(ones, kernel, None, *geometry).sum(), ones)[0][0]
    assert isinstance(connection, nn.Linear)
    return th.full(shape, float(connection.out_features))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
