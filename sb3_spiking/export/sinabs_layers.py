"""
Agents as sinabs modules: convolutions and linear layers, each before integrate-and-fire or leaky neurons, as SynSense's Speck
and DYNAP-CNN take them.

sinabs' neurons fire at ``v >= spike_threshold``, ours above the threshold: theirs is the next number above ours, and what a
spike subtracts stays ours. They fire once a step (``SingleSpike``); sinabs' default, ``MultiSpike``, is another network.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from torch import nn

from sb3_spiking.errors import AgentError
from sb3_spiking.export.fixed_point import LOWEST_STATE, scale_of
from sb3_spiking.export.network import Network, Stage
from sb3_spiking.export.packages import needed
from sb3_spiking.export.record import write_record
from sb3_spiking.files import draft_of


def check_sinabs(network: Network) -> None:
    """
    :param network: an agent
    :raises AgentError: for what sinabs' neurons cannot do, with what to change in training
    """
    settings = network.settings
    for stage in network.stages:
        if not stage.fires:
            raise AgentError(
                f"readout={settings.readout!r}: neurons of a chip fire, and membranes are not read; train with "
                "readout='rate' or 'spike'"
            )
        if stage.threshold <= 0:
            raise AgentError(f"a threshold of {stage.threshold:g}: neurons of sinabs have one above 0; train with threshold=1")
        if stage.reset_mechanism == "none":
            raise AgentError(
                "reset_mechanism='none': neurons of sinabs reset; train with reset_mechanism='subtract' or 'zero'"
            )
        if stage.reset_mechanism == "subtract" and not stage.reset_delay:
            raise AgentError(
                "reset_delay=False with reset_mechanism='subtract': snnTorch holds back spikes of a membrane above twice the "
                "threshold, sinabs does not; train with reset_delay=True"
            )
        if stage.reset_mechanism == "subtract" and stage.beta == 0:
            raise AgentError("beta=0 with reset_mechanism='subtract': nothing is left to subtract from; train with beta=1")
    if settings.layer_delay:
        raise AgentError(
            "layer_delay=True: sinabs' layers see spikes in the step in which they are fired; train with layer_delay=False, "
            "or convert with --no-layer-delay"
        )


def sinabs_network(network: Network) -> nn.Sequential:
    """
    :param network: an agent that :func:`check_sinabs` takes
    :return: sinabs' layers, from input events to the spikes of the last neurons; batches hold the steps of each decision one
        after another, shape (B * T, \\*)
    """
    check_sinabs(network)
    needed("sinabs")
    layers: list[nn.Module] = []
    for stage in network.stages:
        if not stage.is_convolution and len(stage.in_shape) == 3:
            layers.append(nn.Flatten())
        layers += [_connection(stage), _neurons(stage, network.settings.num_steps)]
    return nn.Sequential(*layers).eval()


def _connection(stage: Stage) -> nn.Module:
    outputs, inputs, *kernel = stage.weight.shape
    layer = nn.Conv2d(inputs, outputs, kernel[0], stage.stride) if kernel else nn.Linear(inputs, outputs)
    with th.no_grad():
        layer.weight.copy_(stage.weight)
        layer.bias.copy_(stage.bias)  # type: ignore[union-attr]
    return layer


def _neurons(stage: Stage, num_steps: int) -> nn.Module:
    activation, layers = needed("sinabs.activation"), needed("sinabs.layers")
    if stage.reset_mechanism == "zero":
        reset = activation.MembraneReset()
    else:
        # What a delayed reset subtracts has not leaked by then
        reset = activation.MembraneSubtract(stage.threshold / stage.beta)
    threshold = np.nextafter(np.float32(stage.threshold), np.float32(np.inf))
    common: dict[str, Any] = {
        "num_timesteps": num_steps,
        "spike_threshold": th.tensor(threshold),
        "spike_fn": activation.SingleSpike,
        "reset_fn": reset,
    }
    if stage.beta == 1:
        # The lowest state that a chip has: without one, sinabs leaves no bits to the weights when it rounds them
        return layers.IAFSqueeze(min_v_mem=LOWEST_STATE / scale_of(stage), **common)
    tau = -1 / math.log(stage.beta) if stage.beta else 0.0
    return layers.LIFSqueeze(tau_mem=tau, norm_input=False, **common)


def run_sinabs(module: nn.Module, inputs: th.Tensor, num_steps: int) -> th.Tensor:
    """
    :param module: of :func:`sinabs_network`
    :param inputs: the same at each step, shape (B, \\*)
    :param num_steps: T
    :return: spikes of the last neurons from zero membranes on, shape (T, B, \\*)
    """
    needed("sinabs").reset_states(module)
    window = inputs[:, None].expand(-1, num_steps, *inputs.shape[1:]).flatten(0, 1)
    with th.no_grad():
        return module(window).unflatten(0, (len(inputs), num_steps)).transpose(0, 1)


def write_sinabs(network: Network, path: Path) -> nn.Sequential:
    """
    Write the module, which ``torch.load(path, weights_only=False)`` reads, and its record.

    :param network: an agent
    :param path: of the module
    :return: the module
    """
    module = sinabs_network(network)
    readout = None
    if network.linear is not None:
        readout = dict(zip(("weight", "bias"), (each.tolist() for each in network.linear), strict=True))
    with draft_of(path) as draft:
        th.save(module, draft)
        write_record(
            path,
            network.model,
            input="the preprocessed observation at each step: SB3's preprocess_obs, channels first, (B * T, *)",
            values="the mean over the steps of what comes out"
            + ("" if readout is None else ", times weight, and bias, of readout"),
            readout_layer=readout,
        )
    return module
