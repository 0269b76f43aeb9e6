"""
Which layers SynSense's Speck and DYNAP-CNN hold.

Cores are those of sinabs 3.1.3, ``sinabs/backend/dynapcnn/chips/dynapcnn.py``, which Speck 2e and 2f share; what a layer takes
of them is ``DynapcnnLayer.memory_summary`` there. Kernels, strides, channels and sizes are those of samna's page on the Speck
series (https://synsense-sys-int.gitlab.io/samna/models/speckSeries/speck2b.html).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from sb3_spiking.export.fixed_point import whole_threshold
from sb3_spiking.export.network import Network, Stage


class Memory(NamedTuple):
    """
    Of a core, or what a layer takes of one.

    :param weights: of 8 bits
    :param neurons: states of 16 bits
    :param biases: of 8 bits
    """

    weights: int
    neurons: int
    biases: int

    def holds(self, other: "Memory") -> bool:
        """Whether a layer fits."""
        return all(there >= taken for there, taken in zip(self, other, strict=True))


CHIPS = "Speck, DYNAP-CNN"
_KI = 1024
CORES = tuple(
    Memory(weights * _KI, neurons * _KI, 1024)
    for weights, neurons in zip((16, 16, 16, 32, 32, 64, 64, 16, 16), (64, 64, 64, 32, 32, 16, 16, 16, 16), strict=True)
)
STRIDES = (1, 2, 4, 8)
MAX_KERNEL, MAX_CHANNELS, MAX_INPUT, MAX_OUTPUT = 16, 1024, 128, 64


class _Shape(NamedTuple):
    """A layer as the convolution that a core runs: a linear one has a kernel of the size of its input."""

    channels: int
    inputs: tuple[int, int]
    kernel: tuple[int, int]
    outputs: tuple[int, int, int]


def _shape(stage: Stage) -> _Shape:
    channels, *size = stage.in_shape
    inputs = (size[0], size[1]) if size else (1, 1)
    if stage.is_convolution:
        kernel, place = stage.weight.shape[2:], stage.out_shape[1:]
        return _Shape(channels, inputs, (kernel[0], kernel[1]), (stage.out_shape[0], place[0], place[1]))
    return _Shape(channels, inputs, inputs, (stage.out_shape[0], 1, 1))


def _power(number: int) -> int:
    """The next power of two."""
    return 2 ** math.ceil(math.log2(number))


def memory_of(stage: Stage) -> Memory:
    """
    :param stage: a layer
    :return: what it takes of a core: kernels and maps round up to powers of two, as a core finds its numbers
    """
    channels, _, (height, width), (outputs, rows, columns) = _shape(stage)
    return Memory(channels * _power(height * width) * _power(outputs), outputs * _power(rows) * _power(columns), outputs)


@dataclass(frozen=True)
class Placement:
    """
    An agent on a chip.

    :param cores: of each layer, None for one without
    :param problems: what does not go, and what would, a line each; none for an agent that fits
    """

    cores: tuple[int | None, ...]
    problems: tuple[str, ...]


def place(network: Network) -> Placement:
    """
    :param network: an agent
    :return: a core for each of its layers, and what stands against it
    """
    memories = [memory_of(stage) for stage in network.stages]
    fits = np.array([[core.holds(memory) for core in CORES] for memory in memories])
    found = maximum_bipartite_matching(csr_array(fits), perm_type="column")
    problems = [*_around(network)]
    for number, stage in enumerate(network.stages, start=1):
        problems += [f"layer {number} ({stage}): {problem}" for problem in _against(stage)]
    if len(network.stages) > len(CORES):
        problems.append(f"{len(network.stages)} layers: there are {len(CORES)} cores; train with fewer layers")
    elif fits.any(axis=1).all() and (found < 0).any():
        problems.append("each layer fits a core, but not all of them one of their own; train with smaller layers")
    return Placement(tuple(None if core < 0 else int(core) for core in found), tuple(problems))


def _around(network: Network) -> list[str]:
    settings, problems = network.settings, []
    if not network.has_events:
        problems.append(
            f"observations of {network.model.observation_space}: a chip takes events; train on zeros and ones, such as "
            "MinAtar's planes"
        )
    if settings.layer_delay:
        problems.append("layer_delay=True: a core works on a spike when it comes; train with layer_delay=False")
    return problems


def _against(stage: Stage) -> list[str]:
    problems = []
    shape, memory = _shape(stage), memory_of(stage)
    if not stage.fires:
        problems.append("membranes are read, a chip gives spikes; train with readout='rate' or 'spike'")
    elif stage.beta < 1:
        problems.append(f"beta={stage.beta:g}: neurons of a chip do not leak in proportion; train with beta=1")
    if stage.fires and whole_threshold(stage) <= 0:
        problems.append(
            f"a threshold of {stage.threshold:g} beside weights of up to {stage.weight.abs().max().item():g}: not above 0 in "
            "whole numbers, and neurons would fire from rest; train without learn_threshold, or from a higher threshold on"
        )
    if stage.fires and not stage.resets_at_once and stage.beta == 1:
        problems.append(
            f"reset_mechanism={stage.reset_mechanism!r}, reset_delay={stage.reset_delay}: a chip subtracts the threshold or "
            "goes to zero; train with reset_mechanism='subtract', reset_delay=True"
        )
    if stage.stride not in STRIDES:
        problems.append(f"stride {stage.stride}: train with a stride of {', '.join(map(str, STRIDES))}")
    for what, size, most in (
        ("kernel", max(shape.kernel), MAX_KERNEL),
        ("number of channels", max(shape.channels, shape.outputs[0]), MAX_CHANNELS),
        ("input", max(shape.inputs), MAX_INPUT),
        ("map", max(shape.outputs[1:]), MAX_OUTPUT),
    ):
        if size > most:
            problems.append(f"{what} of {size}: at most {most}")
    if shape.kernel[0] != shape.kernel[1]:
        problems.append(f"kernel of {shape.kernel[0]} x {shape.kernel[1]}: both sides must be equal")
    if not any(core.holds(memory) for core in CORES):
        problems.append(_too_large(shape, memory))
    return problems


def _too_large(shape: _Shape, memory: Memory) -> str:
    units = "units" if shape.kernel == shape.inputs else "channels"
    for outputs in sorted({2**power for power in range(11)}, reverse=True):
        if outputs < shape.outputs[0]:
            kernel, rows, columns = _power(shape.kernel[0] * shape.kernel[1]), shape.outputs[1], shape.outputs[2]
            smaller = Memory(shape.channels * kernel * outputs, outputs * _power(rows) * _power(columns), outputs)
            if any(core.holds(smaller) for core in CORES):
                return f"{_said(memory)}, more than a core has; train with {outputs} {units}"
    return f"{_said(memory)}, more than a core has with any number of {units}; train with fewer or smaller maps before it"


def _said(memory: Memory) -> str:
    return f"{memory.weights / _KI:g} Ki weights and {memory.neurons / _KI:g} Ki neurons"
