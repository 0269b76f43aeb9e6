"""What each layer of a policy does while it decides."""

from dataclasses import dataclass
from typing import Any, Self

import torch as th
from torch import nn

from sb3_spiking.policies import SpikingQNetwork
from sb3_spiking.relu import ReluLayer
from sb3_spiking.snn.kernels import reference
from sb3_spiking.snn.layers import SpikingLayer
from sb3_spiking.snn.neurons import Leaky


@dataclass
class Seen:
    """
    A layer in one decision.

    :param name: of the layer in the network, as in ``layers.csv``
    :param kind: ``"spikes"``, ``"activations"`` of a layer that does not spike, or ``"membranes"`` of output neurons that are
        read and do not fire
    :param connection: its convolution or linear layer
    :param neuron: its Leaky neurons, None for activations
    :param normalization: of its currents, or None
    :param delay: whether it sees its input one step later
    :param inputs: what comes in, before the delay, shape (T, \\*in), or (1, \\*in) if the same at every step
    :param outputs: spikes (T, \\*out), activations (1, \\*out) or membranes (T, \\*out)
    :param membranes: after each step, before a delayed reset and after an immediate one, shape (T, \\*out); None for
        activations
    :param statistics: mean and standard deviation of the currents at each step that a normalisation takes out, shape (T, 2) or
        (1, 2), None without
    """

    name: str
    kind: str
    connection: nn.Module
    inputs: th.Tensor
    outputs: th.Tensor
    neuron: Leaky | None = None
    normalization: nn.Module | None = None
    delay: bool = False
    membranes: th.Tensor | None = None
    statistics: th.Tensor | None = None


class Recorder:
    """
    Sees the layers of a network while it decides on one observation::

        with Recorder(policy.q_net) as recorder:
            recorder.clear()
            policy.q_net(observations)
            recorder.layers  # from the input to the output

    The spikes are those that the decision is made of. The membranes come from plain PyTorch, whose neurons are snnTorch's,
    given the same currents; it must say the same of every spike.

    :param network: spiking or not
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._handles: list[Any] = []
        self._last: tuple[str, nn.Module, th.Tensor] | None = None  # the connection that ran last
        self._currents = th.empty(0)  # of the neurons that ran last
        self._spikes = th.empty(0)
        self._statistics: th.Tensor | None = None
        self.layers: list[Seen] = []

    def clear(self) -> None:
        """Forget what was seen, before a decision."""
        self.layers = []

    def __enter__(self) -> Self:
        inside: set[nn.Module] = set()
        for name, module in self._network.named_modules():
            if module in inside:
                continue
            if isinstance(module, SpikingQNetwork):
                if module.common_mode is not None:
                    inside.update(module.common_mode.modules())  # no part of a decision
                if module.output_neuron is not None:
                    inside.update(module.q_net.modules())
                    self._readout(f"{name}.q_net".lstrip("."), module)
            elif isinstance(module, SpikingLayer):
                inside.update(module.modules())
                self._spiking(name, module)
            elif isinstance(module, ReluLayer):
                inside.update(module.modules())
                self._hook(module, f"{name}.connection", self._see_relu)
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                self._hook(module, name, self._remember)
            elif type(module).__module__ == nn.ReLU.__module__:
                self._hook(module, name, self._see_activation)
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, module: nn.Module, name: str, see: Any) -> None:
        def hook(module: nn.Module, inputs: Any, outputs: th.Tensor) -> None:
            with th.no_grad():
                see(name, module, inputs[0], outputs)

        self._handles.append(module.register_forward_hook(hook))

    def _spiking(self, name: str, layer: SpikingLayer) -> None:
        if layer.normalization is not None:
            self._hook(layer.normalization, name, self._see_normalization)
        self._hook(layer.neuron, name, self._see_neurons)
        self._hook(layer, name, self._see_layer)

    def _readout(self, name: str, network: SpikingQNetwork) -> None:
        """Output neurons, and the linear layer before them."""
        (linear,) = network.q_net
        neuron = network.output_neuron
        assert neuron is not None

        def see_currents(_: str, module: nn.Module, window: th.Tensor, currents: th.Tensor) -> None:
            layer = Seen(name, "membranes", linear, _one(window), th.empty(0), neuron)
            membranes = _reference(neuron, currents, len(currents), membranes=True)
            layer.membranes = layer.outputs = _one(membranes)
            self.layers.append(layer)

        def see_spikes(_: str, module: nn.Module, currents: th.Tensor, spikes: th.Tensor) -> None:
            _check(name, neuron, currents, spikes)
            self.layers[-1].kind, self.layers[-1].outputs = "spikes", _one(spikes)

        self._hook(network.q_net, name, see_currents)
        self._hook(neuron, name, see_spikes)

    def _see_normalization(self, name: str, module: nn.Module, currents: th.Tensor, _: th.Tensor) -> None:
        self._statistics = None
        if isinstance(module, nn.GroupNorm) and module.num_groups == 1:
            flat = currents.flatten(1)
            deviation = (flat.var(dim=1, correction=0) + module.eps).sqrt()
            self._statistics = th.stack([flat.mean(dim=1), deviation], dim=1)

    def _see_neurons(self, name: str, neuron: nn.Module, currents: th.Tensor, spikes: th.Tensor) -> None:
        self._currents, self._spikes = currents, spikes

    def _see_layer(self, name: str, layer: SpikingLayer, window: th.Tensor, spikes: th.Tensor) -> None:
        _check(name, layer.neuron, self._currents, spikes)
        membranes = _reference(layer.neuron, self._currents, len(spikes), membranes=True)
        seen = Seen(
            name, "spikes", layer.connection, _one(window), _one(spikes), layer.neuron, layer.normalization, layer.delay
        )
        seen.membranes = _one(membranes)
        seen.statistics = None if layer.normalization is None else self._statistics
        self.layers.append(seen)

    def _see_relu(self, name: str, layer: ReluLayer, window: th.Tensor, activations: th.Tensor) -> None:
        self.layers.append(Seen(name, "activations", layer.connection, _one(window), _one(activations)))

    def _remember(self, name: str, connection: nn.Module, inputs: th.Tensor, _: th.Tensor) -> None:
        self._last = name, connection, inputs

    def _see_activation(self, _: str, module: nn.Module, inputs: th.Tensor, outputs: th.Tensor) -> None:
        if self._last is not None:
            name, connection, arrived = self._last
            self.layers.append(Seen(name, "activations", connection, _one(arrived[None]), _one(outputs[None])))


def _one(window: th.Tensor) -> th.Tensor:
    """The one observation of a batch, shape (T, \\*)."""
    if window.shape[1] != 1:
        raise ValueError(f"a recorder sees one observation at a time, not {window.shape[1]}")
    return window[:, 0].detach()


def _reference(neuron: Leaky, currents: th.Tensor, num_steps: int, membranes: bool) -> th.Tensor:
    beta, threshold = map(currents.new_tensor, neuron.constants())
    return reference.leaky_window(currents, num_steps, beta, threshold, neuron.dynamics, membranes)


def _check(name: str, neuron: Leaky, currents: th.Tensor, spikes: th.Tensor) -> None:
    different = int((_reference(neuron, currents, len(spikes), membranes=False) != spikes).sum())
    if different:
        raise RuntimeError(
            f"{name}: {different} of {spikes.numel()} spikes that the agent acts on are not those of snnTorch's neurons; with "
            "the environment variable SB3_SPIKING_KERNELS=reference it acts on them"
        )


def source(inputs: th.Tensor, earlier: list[Seen]) -> int | None:
    """
    :param inputs: into a layer, shape (T, \\*)
    :param earlier: layers that ran before
    :return: the place of the one whose output this is, None if it is none's: an observation, or several things side by side
    """
    for place in reversed(range(len(earlier))):
        outputs = earlier[place].outputs
        if len(outputs) != len(inputs) or outputs.numel() != inputs.numel():
            continue
        # What a silent layer says is the same one step later: there it must be the same memory
        if outputs.data_ptr() == inputs.data_ptr() or (outputs.any() and th.equal(inputs.flatten(1), outputs.flatten(1))):
            return place
    return None
