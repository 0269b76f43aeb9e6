"""A layer of a spiking network: weights and neurons."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_spiking.snn import rates
from sb3_spiking.snn.kernels import chosen, fused_layers, traced
from sb3_spiking.snn.kernels import currents as currents_of
from sb3_spiking.snn.kernels.dynamics import Kept, Layer
from sb3_spiking.snn.neurons import Leaky
from sb3_spiking.snn.normalization import NORMALIZATIONS


def delayed(window: th.Tensor) -> th.Tensor:
    """
    :param window: shape (T, \\*)
    :return: the window one step later, nothing at the first step, shape (T, \\*)
    """
    # Padding, not zeros beside it: what PyTorch exports then takes any number of samples
    return F.pad(window[:-1], (0, 0) * (window.dim() - 1) + (1, 0))


class SpikingLayer(nn.Module):
    """
    A convolution or linear layer followed by Leaky neurons, over a whole window.

    :param connection: a Conv2d with a square stride and no padding, dilation or groups; or a Linear of all that a step holds
    :param num_steps: simulation steps of a window
    :param neuron: settings of the :class:`Leaky` neurons
    :param delay: see the input one step later
    :param normalization: of the currents, a key of :data:`~sb3_spiking.snn.normalization.NORMALIZATIONS`, or None

    ``shares``, what a spike at each step counts for what comes behind the layer, are None where gradients are exact;
    :func:`learn_through_rates` sets them.
    """

    def __init__(
        self,
        connection: nn.Conv2d | nn.Linear,
        num_steps: int,
        neuron: dict[str, Any],
        delay: bool = False,
        normalization: str | None = None,
    ) -> None:
        super().__init__()
        self.delay = delay
        self.connection = connection
        self.num_steps = num_steps
        self.neuron = Leaky(**neuron)
        self._stride = connection.stride[0] if isinstance(connection, nn.Conv2d) else 1
        self.shares: rates.LayerShares | None = None
        self.normalization: nn.Module | None = None
        if normalization is not None:
            if connection.weight.shape[0] == 1 and isinstance(connection, nn.Linear):
                raise ValueError(f"normalization={normalization!r} of one unit: its current would be 0, expected two at least")
            self.normalization = NORMALIZATIONS[normalization](len(connection.weight), neuron["threshold"])

    def forward(self, window: th.Tensor) -> th.Tensor:
        """
        :param window: input over the window, shape (T, B, \\*in), or (1, B, \\*in) if the same at every step: then the
            connection runs once, not T times
        :return: spikes, shape (T, B, \\*out)
        """
        if self.shares is not None and th.is_grad_enabled():
            return self._through_rates(window, self.shares)
        currents = self._currents(delayed(window) if self.delay else window)
        if self.normalization is not None:
            currents = self.normalization(currents.flatten(0, 1)).unflatten(0, (len(currents), -1))
        return self.neuron(currents, self.num_steps)

    def _through_rates(self, window: th.Tensor, shares: rates.LayerShares) -> th.Tensor:
        with th.no_grad():
            seen = delayed(window) if self.delay else window
            currents = self._currents(seen)
        # Who observes the neurons waits for a call of them
        done = None if _has_hooks(self.neuron) else self.neuron.rates(currents, self.num_steps, shares.outputs)
        spikes, derivative = done or rates.of_neurons(lambda each: self.neuron(each, self.num_steps), currents, shares.outputs)
        return self.learned(rates.of_window(window, seen, shares.inputs), derivative, spikes)

    def learned(self, inputs: th.Tensor, derivative: th.Tensor, outputs: th.Tensor) -> th.Tensor:
        """
        What the layer did, with gradients through rates.

        :param inputs: rates into it, shape (B, \\*in)
        :param derivative: of its own rates with respect to a current that is added at every step, shape (B, \\*out)
        :param outputs: its spikes, shape (T, B, \\*out), or its rates, shape (B, \\*out)
        :return: these
        """
        connection = self.connection
        if _is_plain(connection) and not th.is_autocast_enabled(inputs.device.type):
            return rates.layer(inputs, connection.weight, connection.bias, self._stride, derivative, outputs)
        currents = connection(inputs.flatten(1) if isinstance(connection, nn.Linear) else inputs)
        return rates.neurons(currents, derivative, outputs)

    def _currents(self, window: th.Tensor) -> th.Tensor:
        if not _is_plain(self.connection):
            images = window.flatten(0, 1)
            if isinstance(self.connection, nn.Linear):
                images = images.flatten(1)
            currents: th.Tensor = self.connection(images)
            return currents.unflatten(0, (len(window), -1))
        return currents_of(window, self.connection.weight, self.connection.bias, self._stride)

    def is_constant(self) -> bool:
        """Whether :meth:`constants` are all there is to it: no normalisation, and no hook that waits for what it computes."""
        hooks = _has_hooks(self) or _has_hooks(self.neuron) or not _is_plain(self.connection)
        return not hooks and self.normalization is None

    def constants(self) -> Layer:
        """The layer as numbers, where nothing is to be learned."""
        connection, neuron = self.connection, self.neuron
        return Layer(connection.weight, connection.bias, self._stride, *neuron.constants(), neuron.dynamics, self.delay)


def learn_through_rates(layers: Sequence[nn.Module], shares: rates.Shares) -> rates.Shares:
    """
    Give layers gradients through rates in place of exact ones.

    :param layers: :class:`SpikingLayer` modules, one after another
    :param shares: what a spike of the last one counts at each step for what comes behind it
    :return: what an input of the first one counts at each step
    """
    for layer in reversed(layers):
        assert isinstance(layer, SpikingLayer)
        inputs = rates.input_shares(shares, layer.neuron.constants()[0])
        layer.shares = rates.LayerShares(inputs, shares)
        shares = rates.one_step_earlier(inputs) if layer.delay else inputs
    return shares


def _has_hooks(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


def _is_plain(connection: nn.Module) -> bool:
    """
    Whether weights and bias are all there is to a connection: no hook waits for what goes through it, as those of
    ``torch.nn.utils.prune`` do, and its forward is PyTorch's own. Others are called as any module is, on T * B images.
    """
    return type(connection).forward in (nn.Conv2d.forward, nn.Linear.forward) and not _has_hooks(connection)


def run_layers(layers: Iterable[nn.Module], window: th.Tensor, largest: int = 1) -> th.Tensor:
    """
    Spiking layers one after another. Without gradients they may run in a faster way, unless a hook observes one of them.

    :param layers: :class:`SpikingLayer` modules, convolutions first, or others that map windows to windows
    :param window: input over the window, shape (T, B, \\*in), or (1, B, \\*in) if the same at every step
    :param largest: numbers in one sample's window of the largest convolution
    :return: spikes of the last layer, shape (T, B, \\*out)
    """
    rest: list[Any] = list(layers)
    learns = th.is_grad_enabled()
    why = _why_one_by_one(rest, learns)
    if why:
        chosen("one by one", why, "layers")
    else:
        shares = [layer.shares.outputs for layer in rest] if learns else []
        spikes, done, kept = fused_layers(window, rest[0].num_steps, (layer.constants() for layer in rest), shares)
        if done:
            window = _graph_of_rates(rest[:done], window, spikes, kept) if learns else spikes
        del rest[:done]
    convolutions = [layer for layer in rest if isinstance(layer.connection, nn.Conv2d)]
    if convolutions:
        body = nn.Sequential(*convolutions)
        # Who observes a layer sees the whole batch
        window = body(window) if any(map(_has_hooks, body.modules())) else in_parts(body, window, largest)
    for layer in rest[len(convolutions) :]:
        window = layer(window)
    return window


def _why_one_by_one(layers: Sequence[nn.Module], learns: bool) -> str:
    """Why layers are not run at once: empty where they may be."""
    if traced():
        return "traced"
    if not all(isinstance(layer, SpikingLayer) and layer.is_constant() for layer in layers):
        return "normalisation, or a hook on a layer"
    return "exact gradients" if learns and any(layer.shares is None for layer in layers) else ""


def _graph_of_rates(layers: list[SpikingLayer], window: th.Tensor, spikes: th.Tensor, kept: list[Kept]) -> th.Tensor:
    """
    :param layers: that ran
    :param window: the first one's input, the same at every step, shape (1, B, \\*in)
    :param spikes: of the last one, shape (T, B, \\*out)
    :param kept: of each layer
    :return: these, with gradients through rates
    """
    inputs = rates.of_window(window, window, (1.0,))
    for number, (layer, (layer_rates, derivatives)) in enumerate(zip(layers, kept, strict=True)):
        inputs = layer.learned(inputs, derivatives, spikes if number == len(layers) - 1 else layer_rates)
    return inputs


# A layer's window over this many numbers stays in the cache of most processors, and is memory that the C library hands out
# again and again instead of asking the system for new pages each time: above 32 MiB it would.
_NUMBERS_AT_ONCE = 5_000_000


def in_parts(layers: Callable[[th.Tensor], th.Tensor], window: th.Tensor, largest: int) -> th.Tensor:
    """
    Run layers on a few samples at a time on the CPU, which is faster there than all at once, with the same result.

    :param layers: maps windows (T or 1, B, \\*in) to windows (T, B, \\*out)
    :param window: shape (T or 1, B, \\*in)
    :param largest: numbers in one sample's window of the largest layer
    :return: shape (T, B, \\*out)
    """
    samples = max(1, _NUMBERS_AT_ONCE // largest)
    if window.device.type != "cpu" or window.shape[1] <= samples or traced():
        return layers(window)
    parts = window.chunk(-(-window.shape[1] // samples), dim=1)
    return th.cat([layers(part) for part in parts], dim=1)
