"""
Spiking layers without exact gradients on the CPU, by Numba: from the bits of one layer's spikes to those of the next. The
currents of a line of neurons go into their membranes while they are in the cache, and no window of numbers is written but the
last one.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import torch as th
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload
from torch.nn import functional as F

from sb3_spiking.snn.kernels.dynamics import FORMULAS, Kept, Layer
from sb3_spiking.snn.kernels.event_driven import gather, lanes_for, unpack
from sb3_spiking.snn.kernels.registers import neurons_16
from sb3_spiking.snn.kernels.threads import GRAIN, in_parallel, kernel, run
from sb3_spiking.snn.kernels.vectors import Vectors, aligned

# Neurons whose membranes are held in registers
_FEWEST_LANES = 16
# The weights of a block of outputs stay in the cache: at most these bytes
_BLOCK_BYTES = 500_000
# Samples that share ordered weights: as many as have at most this number of spikes
_EVENTS_AT_ONCE = 10_000_000


@kernel
def _neuron(plan, like):
    number = like.dtype.type
    return number(plan.beta), number(plan.threshold), number(plan.input_scale), plan.reset


@kernel
def _fire(currents, plan, output, words, pixel, kept):
    """
    A window of neurons, and how often they fire. currents: (T, pixels * lanes), of outputs from ``output``; words: (T, pixels
    of all, words of a pixel), theirs are those from ``pixel``; kept: see :func:`_kept`.
    """
    neuron, flat, step, depth = _neuron(plan, currents), currents.reshape(-1), currents.shape[1], 4 * words.shape[2]
    outputs = -(-plan.outputs // plan.lanes) * plan.lanes
    count = 0
    for each in range(step // plan.lanes):
        place, to = (pixel + each) * depth + output // 16, (pixel + each) * outputs + output
        for lane in range(0, plan.lanes, 16):
            at = each * plan.lanes + lane
            count += neurons_16(
                flat, at, step, neuron, words, place + lane // 16, words.shape[1] * depth, words.shape[0], kept, to + lane
            )
    return count


@intrinsic
def _transpose_8(context, weights, at, row_size, places, column, out, shift):
    """8 rows of a matrix from ``at``, of 8 columns: the 8 numbers of a column to ``out`` at ``places[column] + shift``."""
    size = types.intp
    signature = types.void(weights, size, size, places, size, out, size)

    def generate(context, builder, signature, arguments):
        weights, at, row_size, places, column, out, shift = arguments
        vectors = Vectors(context, builder, signature, signature.args[0].dtype, 8)
        rows = [vectors.load(0, weights, builder.add(at, builder.mul(row_size, at.type(row)))) for row in range(8)]
        for distance in (4, 2, 1):
            low = [j + 8 - distance if j & distance else j for j in range(8)]
            high = [j + 8 if j & distance else j + distance for j in range(8)]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), 8), mask) for mask in (low, high)]
            for row in range(8):
                if not row & distance:
                    pair = rows[row], rows[row + distance]
                    rows[row], rows[row + distance] = (builder.shuffle_vector(*pair, mask) for mask in masks)
        table = vectors.numbers(3, places)
        for number, row in enumerate(rows):
            place = builder.load(builder.gep(table, [builder.add(column, at.type(number))]))
            vectors.store(row, 5, out, builder.add(place, shift))
        return context.get_dummy_value()

    return signature, generate


@kernel
def _places(channels, taps, lanes):
    """Where the weights of each input begin that are sorted by the tap of the kernel first, then by the channel."""
    places = np.empty((channels, taps), np.int64)
    for channel in range(channels):
        for tap in range(taps):
            places[channel, tap] = (tap * channels + channel) * lanes
    return places.reshape(-1)


@kernel
def _order(weights, first, lanes, places, out):
    """
    Put the weights of ``lanes`` outputs from ``first`` beside each other. weights: (O, inputs); places: where each input's
    begin in ``out``, (inputs,); out: (inputs * lanes,), 0 where there is no such output.
    """
    outputs, inputs = weights.shape
    flat = weights.reshape(-1)
    for lane in range(0, lanes, 8):
        column, output = 0, first + lane
        if output + 8 <= outputs:
            while column + 8 <= inputs:
                _transpose_8(flat, output * inputs + column, inputs, places, column, out, lane)
                column += 8
        for rest in range(column, inputs):
            for each in range(8):
                out[places[rest] + lane + each] = weights[output + each, rest] if output + each < outputs else 0


@intrinsic
def _pointer(context, address, like):
    """The address as a pointer to numbers like those of an array."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(address, like), generate


# A layer as the kernels take it: addresses of its parameters; its geometry, ``whole`` where its kernel is as large as the
# image; its neurons; and addresses of what is kept for gradients through rates, 0 where there are none
_PLAN = np.dtype(
    [
        *((name, np.int64) for name in ("weight", "bias", "outputs", "channels", "height", "width", "kernel_height")),
        *((name, np.int64) for name in ("kernel_width", "stride", "lines", "columns", "whole", "lanes", "delay", "reset")),
        *((name, np.int64) for name in ("surrogate", "shares", "rates", "derivatives")),
        *((name, np.float64) for name in ("beta", "threshold", "input_scale", "slope")),
    ]
)


@kernel
def _pieces(first, last, plan, samples):
    """
    What belongs to pieces first to last of a layer of spikes: first and last block of outputs, first and last line of neurons.
    A piece is a line of neurons, or, where the kernel is as large as the image, 64 outputs.
    """
    blocks = -(-plan.outputs // plan.lanes)
    if plan.whole:
        together = 64 // plan.lanes
        return first * together, min(last * together, blocks), 0, samples
    return 0, blocks, first, last


def _kept(plan, like, size, num_steps, keeps):
    """
    What is kept for gradients through rates, as :func:`neurons_16` takes it. size: of all neurons; keeps: None for nothing.
    """


@overload(_kept)
def _kept_by_type(plan, like, size, num_steps, keeps):
    if isinstance(keeps, types.NoneType):
        return lambda plan, like, size, num_steps, keeps: None
    return lambda plan, like, size, num_steps, keeps: (
        plan.surrogate,
        like.dtype.type(plan.slope),
        numba.carray(_pointer(plan.shares, like), (num_steps,)),
        numba.carray(_pointer(plan.rates, like), (size,)),
        numba.carray(_pointer(plan.derivatives, like), (size,)),
    )


@kernel
def _first_layer(first, last, currents, plan, keeps, out, counts):
    """
    Neurons of pixels first to last, whose currents stay the same over the window. currents: (B * positions, outputs), these
    filled up to a multiple of 16; out: bits of the spikes, (T, B * positions, words of a pixel); counts: number of spikes, at
    ``first``.
    """
    neuron, flat = _neuron(plan, currents), currents.reshape(-1)
    num_steps, outputs, depth = out.shape[0], currents.shape[1], 4 * out.shape[2]
    kept = _kept(plan, currents, currents.size, num_steps, keeps)
    count = 0
    for pixel in range(first, last):
        for lane in range(0, outputs, 16):
            place, at = pixel * depth + lane // 16, pixel * outputs + lane
            count += neurons_16(flat, at, 0, neuron, out, place, out.shape[1] * depth, num_steps, kept, at)
    counts[first] = count


@kernel
def _layer(first, last, words, samples, like, plan, keeps, out, counts):
    """
    A layer of spikes: pieces first to last. words: bits of the last layer's, (T, B * pixels, words of a pixel); like: an
    array of the parameters' type; out and counts as of :func:`_first_layer`.
    """
    lanes, stride, lines, columns, width, channels = (
        plan.lanes,
        plan.stride,
        plan.lines,
        plan.columns,
        plan.width,
        plan.channels,
    )
    num_steps, pixels = words.shape[0], plan.height * width
    inputs = channels * plan.kernel_height * plan.kernel_width
    weights = numba.carray(_pointer(plan.weight, like), (plan.outputs, inputs))
    biases = numba.carray(_pointer(plan.bias, like), (plan.outputs,))
    first_block, last_block, first_line, last_line = _pieces(first, last, plan, samples)
    first_sample, last_sample = first_line // lines, -(-last_line // lines)
    if plan.whole:
        # One line as long as the image, with the events in the order that the weights have already; many samples at once,
        # since to put the weights beside each other takes longer than a sample
        tile = min(samples, 1 + _EVENTS_AT_ONCE // (num_steps * pixels * channels))
        kernel_height, kernel_width, order = 1, pixels, (1, pixels)
    else:
        tile, kernel_height, kernel_width, order = 1, plan.kernel_height, plan.kernel_width, (channels, 1)
    events = np.empty(tile * num_steps * pixels * channels, np.uint32)
    ends = np.empty((tile, num_steps, pixels + 1), np.int64)
    places = _places(order[0], inputs // order[0], lanes)
    ordered, bias = aligned(inputs * lanes, like), np.empty(lanes, like.dtype)
    currents = aligned(num_steps * columns * lanes, like).reshape(num_steps, columns * lanes)
    flat = currents.reshape(-1)
    all_lanes = -(-plan.outputs // lanes) * lanes
    kept = _kept(plan, like, samples * lines * columns * all_lanes, num_steps, keeps)
    total = 0
    for start in range(first_sample, last_sample, tile):
        stop = min(start + tile, last_sample)
        count = 0
        for sample in range(start, stop):
            top, bottom = max(first_line - sample * lines, 0), min(last_line - sample * lines, lines)
            first_pixel, last_pixel = top * stride * width, min(((bottom - 1) * stride + plan.kernel_height) * width, pixels)
            ends[sample - start, : plan.delay] = count
            for t in range(plan.delay, num_steps):
                row = words[t - plan.delay, sample * pixels : (sample + 1) * pixels]
                count = unpack(row, first_pixel, last_pixel, order, count, events, ends[sample - start, t])
        for block in range(first_block, last_block):
            output = block * lanes
            if start == first_sample or last_block - first_block > 1:
                _order(weights, output, lanes, places, ordered)
                for lane in range(lanes):
                    bias[lane] = biases[output + lane] if output + lane < biases.size else 0
            for sample in range(start, stop):
                top, bottom = max(first_line - sample * lines, 0), min(last_line - sample * lines, lines)
                for line in range(top, bottom):
                    at = 0
                    for t in range(num_steps):
                        for column in range(columns):
                            flat[at : at + lanes] = bias
                            gather(
                                lanes, flat, at, ordered, 0, events, ends[sample - start, t],
                                line * stride * width + column * stride, width, kernel_height, kernel_width, channels,
                            )  # fmt: skip
                            at += lanes
                    total += _fire(currents, plan, output, out, (sample * lines + line) * columns, kept)
    counts[first] = total


@intrinsic
def _spread_16(context, words, place, out, at):
    """16 bits, at ``place`` of ``words``, as numbers to ``out`` from ``at``."""

    def generate(context, builder, signature, arguments):
        words, place, out, at = arguments
        vectors = Vectors(context, builder, signature, signature.args[2].dtype, 16)
        table = builder.bitcast(vectors.numbers(0, words), ir.IntType(16).as_pointer())
        bits = builder.bitcast(builder.load(builder.gep(table, [place])), ir.VectorType(ir.IntType(1), 16))
        vectors.store(builder.uitofp(bits, vectors.type), 2, out, at)
        return context.get_dummy_value()

    return types.void(words, types.intp, out, types.intp), generate


@kernel
def _numbers(first, last, words, out):
    """Rows first to last. words: (rows, words of a row); out: their bits as numbers, (rows, channels)."""
    flat, channels = out.reshape(-1), out.shape[1]
    for row in range(first, last):
        whole = channels // 16
        for part in range(whole):
            _spread_16(words, row * 4 * words.shape[1] + part, flat, row * channels + part * 16)
        for channel in range(whole * 16, channels):
            out[row, channel] = (words[row, channel // 64] >> np.uint64(channel % 64)) & np.uint64(1)


@kernel
def _layers(currents, samples, num_steps, plans, keeps, below_rate, threads):
    """
    Layers up to one that fires too often. currents: as of :func:`_first_layer`; samples: B; plans: of the layers. Returns the
    bits of the last one's spikes, (T, B * positions, words of a pixel), and how many ran, or -1 without memory.
    """
    words, fired = np.empty((0, 0, 0), np.uint64), 0
    for number in range(plans.size):
        plan = plans[number]
        rows = samples * plan.lines * plan.columns
        # An odd number of lines of the cache, so that the steps of a neuron do not compete for the same ones
        padded = 8 * (-(-rows // 8) | 1)
        spikes = np.zeros((num_steps, padded, -(-plan.outputs // 64)), np.uint64)
        work = num_steps * rows * plan.outputs
        if number == 0:
            counts = np.zeros(rows, np.int64)
            parts = max(1, min(threads, rows, work // GRAIN))
            failed = in_parallel(_first_layer, rows, parts, (currents, plan, keeps, spikes, counts))
        else:
            pieces = spikes.shape[2] if plan.whole else samples * plan.lines
            counts = np.zeros(pieces, np.int64)
            size = plan.outputs * plan.channels * plan.kernel_height * plan.kernel_width
            work += size + fired * size // (plan.channels * plan.stride * plan.stride)
            parts = max(1, min(threads, pieces, work // GRAIN))
            failed = in_parallel(_layer, pieces, parts, (words, samples, currents, plan, keeps, spikes, counts))
        if failed:
            return words, -1
        words, fired = spikes, counts.sum()
        if fired >= below_rate * num_steps * rows * plan.outputs:
            return words, number + 1
    return words, plans.size


@functools.lru_cache(maxsize=1024)
def _geometry(shape: tuple[int, ...], weight_shape: th.Size, stride: int, itemsize: int) -> tuple[int, ...]:
    """
    :param shape: (C, H, W) of the input
    :param weight_shape: of the layer's weights
    :param stride: of the convolution
    :param itemsize: bytes of a number
    :return: the part of a plan from ``outputs`` to ``lanes``
    :raises ValueError: if the layer is not made for the input: the kernels read and write without looking
    """
    channels, height, width = shape
    outputs, *kernel_size = weight_shape
    kernel_height, kernel_width = kernel_size[1:] or (height, width)
    inputs = math.prod(kernel_size)
    if inputs != channels * kernel_height * kernel_width or kernel_height > height or kernel_width > width:
        raise ValueError(f"weights of shape {tuple(weight_shape)} for an input of shape {shape}")
    lines, columns = (height - kernel_height) // stride + 1, (width - kernel_width) // stride + 1
    whole = (kernel_height, kernel_width) == (height, width)
    lanes = lanes_for(outputs)
    while whole and lanes > _FEWEST_LANES and inputs * lanes * itemsize > _BLOCK_BYTES:
        lanes //= 2
    return outputs, channels, height, width, kernel_height, kernel_width, stride, lines, columns, whole, lanes


@functools.lru_cache(maxsize=1024)
def _as_tensor(numbers: tuple[float, ...], dtype: th.dtype) -> th.Tensor:
    return th.tensor(numbers, dtype=dtype)


def spikes(
    images: th.Tensor,
    num_steps: int,
    layers: Sequence[Layer],
    below_rate: float,
    convolution: Callable[..., th.Tensor],
    shares: Sequence[tuple[float, ...]] = (),
) -> tuple[th.Tensor, int, list[Kept]]:
    """
    Run layers, up to one that fires too often for the next to go event by event.

    :param images: input that stays the same over the window, shape (B, C, H, W), or (B, \\*) into a linear layer
    :param num_steps: T
    :param layers: one after another, of the images' type
    :param below_rate: spikes per neuron and step
    :param convolution: what computes the currents of the first layer, given (1, B, C, H, W), (O, C, KH, KW), bias and stride
    :param shares: for gradients through rates, what a spike of each layer counts at each step, T numbers each
    :return: the spikes of the last layer that ran, shape (T, B, \\*), the number of layers that did, and what each of
        them keeps if there are shares
    :raises MemoryError: if there is too little memory
    :raises ValueError: if a layer is not made for what comes out of the one before
    """
    images = images if images.dim() == 4 else images.flatten(1)[..., None, None]
    samples, *shape = images.shape
    parameters: list[th.Tensor] = []  # the plans have addresses of
    plans: list[tuple[Any, ...]] = []
    kept: list[Kept] = []
    shapes: list[tuple[int, ...]] = [tuple(shape)]
    for number, layer in enumerate(layers):
        weight = layer.weight.detach().contiguous()
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().to(weight.dtype).contiguous()
        parameters += [weight, bias]
        geometry = _geometry(shapes[-1], weight.shape, layer.stride, weight.element_size())
        outputs, lines, columns, lanes = geometry[0], geometry[-4], geometry[-3], geometry[-1]
        dynamics, addresses, surrogate = layer.dynamics, (0, 0, 0), 0
        if shares:
            row = lanes if number else _FEWEST_LANES
            both = weight.new_zeros(2, samples, lines, columns, -(-outputs // row) * row)
            counts = _as_tensor(shares[number], weight.dtype)
            parameters += [both, counts]
            each = both[..., :outputs].permute(0, 1, 4, 2, 3)
            kept.append(Kept(*(each if weight.dim() == 4 else each.flatten(2))))
            first = both.data_ptr()
            addresses = (counts.data_ptr(), first, first + both.nbytes // 2)
            surrogate = FORMULAS[dynamics.spike_grad.name]
        neurons = (layer.beta, layer.threshold, dynamics.input_scale, dynamics.spike_grad.slope or 0)
        plans.append(
            (weight.data_ptr(), bias.data_ptr(), *geometry, layer.delay, dynamics.reset, surrogate, *addresses, *neurons)
        )
        shapes.append((outputs, lines, columns))
    first_layer = layers[0]
    weight = first_layer.weight if first_layer.weight.dim() == 4 else first_layer.weight.unflatten(1, shape)
    currents = convolution(images[None], weight, first_layer.bias, first_layer.stride)
    currents = currents.detach()[0].permute(0, 2, 3, 1).flatten(0, 2)
    missing = -currents.shape[1] % _FEWEST_LANES
    currents = F.pad(currents, (0, missing)) if missing else currents.contiguous()
    keeps, threads = True if shares else None, th.get_num_threads()
    plan = np.array(plans, _PLAN)
    words, done = _layers(currents.numpy(), samples, num_steps, plan, keeps, below_rate, threads)
    if done < 0:
        raise MemoryError(f"no memory for a window of {num_steps} steps of {samples} observations")
    outputs, lines, columns = shapes[done]
    window = images.new_empty(num_steps, samples, lines, columns, outputs)
    rows = window.flatten(0, 3).numpy()
    words = np.ascontiguousarray(words[:, : len(rows) // num_steps]).reshape(len(rows), -1)
    run(_numbers, len(rows), rows.size, words, rows)
    window = window.permute(0, 1, 4, 2, 3)
    return window if layers[done - 1].weight.dim() == 4 else window.flatten(2), done, kept[:done]
