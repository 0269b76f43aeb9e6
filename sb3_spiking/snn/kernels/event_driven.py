"""
Convolutions and linear layers of spikes, event by event on the CPU, by Numba: instead of multiplying weights by zeros, the
weights of the neurons that fired are added up. Forward and gradient of the weights cost in proportion to the spikes; the
gradient of the spikes is not sparse, and left to PyTorch's dense convolution.

A window of spikes is packed into one bit each: that is all that is saved for the gradients. A row, below, is one step of one
sample. The weights lie with the output channels innermost, pixel by pixel of the kernel, so that each event adds one line of
the memory to another. A linear layer is a convolution of images of one pixel.
"""

from typing import Any, NamedTuple

import numpy as np
import torch as th
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch.nn import functional as F

from sb3_spiking.snn.first_derivatives import first_derivatives
from sb3_spiking.snn.kernels.input_gradient import input_gradient
from sb3_spiking.snn.kernels.threads import kernel, run
from sb3_spiking.snn.kernels.vectors import Vectors

# Output channels that are added at once, the largest that does not exceed their number by half: 64 are four registers of
# AVX-512, eight of AVX2
_LANES = (64, 32, 16)
# Rows of a tile, which take their turn while a line of the kernel's weights is in the cache: as many as these bytes of output
_TILE_BYTES = 2**17
# Lines of the kernel's weights that take one turn together, in the cache: at most these bytes
_LINES_BYTES = 200_000
# Sums that the gradient of the weights is divided into, whatever the number of threads: so it is the same with any number
_GROUPS = 8


def _row_operations(lanes: int) -> tuple[Any, Any]:
    """
    Two loops over the events below a window of the kernel, line by line, in vector instructions, with ``lanes`` numbers in
    registers. LLVM does not make them of loops over arrays, which may overlap.

    Both take ``(total, at, weights, start, events, ends, pixel, width, kernel_lines, kernel_width, channels)``. ``start`` is
    where the weights of the first line lie, ``pixel`` the window's first pixel, of lines of ``width``; ``ends`` says how
    many events come before each pixel. An event is the number of the weights that it adds: counted from the window's first
    pixel on, of so many ``channels``, or from ``start`` on if ``channels`` is 0.

    * ``gather``: for each event ``total[at : at + lanes] += weights[of the event]``
    * ``scatter``: for each event ``weights[of the event] += total[at : at + lanes]``
    """

    def make(scatter: bool) -> Any:
        @intrinsic
        def operation(context, total, at, weights, start, events, ends, pixel, width, kernel_lines, kernel_width, channels):
            size = types.intp
            signature = types.void(total, size, weights, size, events, ends, size, size, size, size, size)

            def generate(context, builder, signature, arguments):
                total, at, weights, start, events, ends, pixel, width, kernel_lines, kernel_width, channels = arguments
                vectors = Vectors(context, builder, signature, signature.args[0].dtype, lanes)
                register = cgutils.alloca_once_value(builder, vectors.load(0, total, at))
                data, counts = vectors.numbers(4, events), vectors.numbers(5, ends)
                row_size = builder.mul(channels, start.type(lanes))
                line_size = builder.mul(row_size, kernel_width)
                with cgutils.for_range(builder, kernel_lines, intp=start.type) as line:
                    at_pixel = builder.add(pixel, builder.mul(line.index, width))
                    first = builder.load(builder.gep(counts, [at_pixel]))
                    last = builder.load(builder.gep(counts, [builder.add(at_pixel, kernel_width)]))
                    base = builder.sub(builder.add(start, builder.mul(line.index, line_size)), builder.mul(at_pixel, row_size))
                    with cgutils.for_range(builder, last, start=first, intp=start.type) as loop:
                        event = builder.zext(builder.load(builder.gep(data, [loop.index])), start.type)
                        offset = builder.add(base, builder.mul(event, start.type(lanes)))
                        added = builder.fadd(builder.load(register), vectors.load(2, weights, offset))
                        if scatter:
                            vectors.store(added, 2, weights, offset)
                        else:
                            builder.store(added, register)
                if not scatter:
                    vectors.store(builder.load(register), 0, total, at)
                return context.get_dummy_value()

            return signature, generate

        return operation

    return make(False), make(True)


_gather_64, _scatter_64 = _row_operations(64)
_gather_32, _scatter_32 = _row_operations(32)
_gather_16, _scatter_16 = _row_operations(16)


@kernel
def gather(lanes, total, at, weights, start, events, ends, pixel, width, kernel_lines, kernel_width, channels):
    if lanes == 64:
        _gather_64(total, at, weights, start, events, ends, pixel, width, kernel_lines, kernel_width, channels)
    elif lanes == 32:
        _gather_32(total, at, weights, start, events, ends, pixel, width, kernel_lines, kernel_width, channels)
    else:
        _gather_16(total, at, weights, start, events, ends, pixel, width, kernel_lines, kernel_width, channels)


@kernel
def _scatter(lanes, total, at, weights, start, events, ends, pixel, width, kernel_lines, kernel_width, channels):
    if lanes == 64:
        _scatter_64(total, at, weights, start, events, ends, pixel, width, kernel_lines, kernel_width, channels)
    elif lanes == 32:
        _scatter_32(total, at, weights, start, events, ends, pixel, width, kernel_lines, kernel_width, channels)
    else:
        _scatter_16(total, at, weights, start, events, ends, pixel, width, kernel_lines, kernel_width, channels)


@intrinsic
def _trailing_zeros(context, word):
    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


@intrinsic
def ones(context, word):
    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@intrinsic
def _fired_16(context, window, at):
    """Bits of 16 numbers that are not 0, and of those that are neither 0 nor 1."""

    def generate(context, builder, signature, arguments):
        vectors = Vectors(context, builder, signature, signature.args[0].dtype, 16)
        numbers = vectors.load(0, *arguments)
        fired = builder.fcmp_unordered("!=", numbers, vectors.constant(0))
        other = builder.and_(fired, builder.fcmp_unordered("!=", numbers, vectors.constant(1)))
        bits = [builder.zext(builder.bitcast(each, ir.IntType(16)), ir.IntType(64)) for each in (fired, other)]
        return context.make_tuple(builder, signature.return_type, bits)

    return types.UniTuple(types.uint64, 2)(window, types.intp), generate


@kernel
def _pack(first, last, window, channels, words, counts):
    """
    Rows first to last. window: (R * pixels * channels,); words: a bit for each channel, (R, pixels, words of a pixel); counts:
    spikes of each row, or -1 if there is anything but zeros and ones, (R,).
    """
    zero, one = window.dtype.type(0), window.dtype.type(1)
    _, pixels, depth = words.shape
    for row in range(first, last):
        count = 0
        other = np.uint64(0)
        for pixel in range(pixels):
            start = (row * pixels + pixel) * channels
            for word in range(depth):
                bits = np.uint64(0)
                channel = word * 64
                stop = min(channel + 64, channels)
                while channel + 16 <= stop:
                    fired, strange = _fired_16(window, start + channel)
                    bits |= fired << np.uint64(channel % 64)
                    other |= strange
                    channel += 16
                while channel < stop:
                    number = window[start + channel]
                    bits |= np.uint64(number != zero) << np.uint64(channel % 64)
                    other |= np.uint64(number != zero) & np.uint64(number != one)
                    channel += 1
                words[row, pixel, word] = bits
                count += np.int64(ones(bits))
        counts[row] = -1 if other else count


@kernel
def unpack(words, first, last, order, count, events, ends):
    """
    Pixels first to last of a row. words: (pixels, words of a pixel); events: for each spike, after ``count`` earlier ones,
    pixel * order[0] + channel * order[1]; ends: number of events before each pixel and after the last one, (pixels + 1,).
    Returns the number of events.
    """
    ends[first] = count
    for pixel in range(first, last):
        for word in range(words.shape[1]):
            bits = words[pixel, word]
            start = pixel * order[0] + word * 64 * order[1]
            while bits:
                events[count] = start + np.int64(_trailing_zeros(bits)) * order[1]
                count += 1
                bits &= bits - np.uint64(1)
        ends[pixel + 1] = count
    return count


@kernel
def _forward(first, last, words, geometry, together, weights, bias, out):
    """
    Tiles first to last of the rows. words: (R, pixels, words of a pixel); weights: (blocks * taps * C * lanes,); out: (R *
    positions * blocks * lanes,).
    """
    inputs, taps, width, channels, kernel_height, kernel_width, stride, lines, columns, blocks, lanes, tile = geometry
    events = np.empty((tile, inputs), np.uint32)
    pixel_ends = np.zeros((tile, words.shape[1] + 1), np.int64)
    outputs, positions = blocks * lanes, lines * columns
    for start in range(first * tile, min(last * tile, words.shape[0]), tile):
        stop = min(start + tile, words.shape[0])
        for row in range(start, stop):
            unpack(words[row], 0, words.shape[1], (channels, 1), 0, events[row - start], pixel_ends[row - start])
            for position in range(row * positions, row * positions + positions):
                out[position * outputs : position * outputs + outputs] = bias
        for block in range(blocks):
            for kernel_line in range(0, kernel_height, together):
                slab = (block * taps + kernel_line * kernel_width * channels) * lanes
                for row in range(start, stop):
                    at = row * positions * outputs + block * lanes
                    for line in range(lines):
                        for column in range(columns):
                            pixel = (line * stride + kernel_line) * width + column * stride
                            gather(
                                lanes, out, at, weights, slab, events[row - start], pixel_ends[row - start],
                                pixel, width, min(together, kernel_height - kernel_line), kernel_width, channels,
                            )  # fmt: skip
                            at += outputs


@kernel
def _weight_gradient(first, last, words, geometry, grads, out):
    """
    Pieces first to last, a piece being the part of one group of rows in one block of output channels.
    grads: (R * positions * blocks * lanes,); out: (groups, blocks * taps * C * lanes), zeros.
    """
    inputs, taps, width, channels, kernel_height, kernel_width, stride, lines, columns, blocks, lanes, tile = geometry
    events = np.empty((tile, inputs), np.uint32)
    pixel_ends = np.zeros((tile, words.shape[1] + 1), np.int64)
    outputs, positions, groups = blocks * lanes, lines * columns, out.shape[0]
    for piece in range(first, last):
        group, block = piece % groups, piece // groups
        gradients = out[group]
        group_first, group_last = words.shape[0] * group // groups, words.shape[0] * (group + 1) // groups
        for start in range(group_first, group_last, tile):
            stop = min(start + tile, group_last)
            for row in range(start, stop):
                unpack(words[row], 0, words.shape[1], (channels, 1), 0, events[row - start], pixel_ends[row - start])
            for kernel_line in range(kernel_height):
                slab = (block * taps + kernel_line * kernel_width * channels) * lanes
                for row in range(start, stop):
                    at = row * positions * outputs + block * lanes
                    for line in range(lines):
                        for column in range(columns):
                            pixel = (line * stride + kernel_line) * width + column * stride
                            _scatter(
                                lanes, grads, at, gradients, slab, events[row - start], pixel_ends[row - start],
                                pixel, width, 1, kernel_width, channels,
                            )  # fmt: skip
                            at += outputs


class Packed(NamedTuple):
    """
    A window of spikes, one bit each.

    :param words: a bit for each channel, shape (T * B, H * W, ceil(C / 64))
    :param shape: (T, B, C, H, W) of the window
    :param spikes: number of spikes
    """

    words: th.Tensor
    shape: th.Size
    spikes: int


def pack(window: th.Tensor) -> Packed | None:
    """
    :param window: shape (T, B, C, H, W)
    :return: its bits, or None if it has values other than 0 and 1
    """
    num_steps, samples, channels, height, width = window.shape
    flat = window.detach().permute(0, 1, 3, 4, 2).contiguous().flatten()
    words = th.empty(num_steps * samples, height * width, -(-channels // 64), dtype=th.uint64)
    counts = np.empty(num_steps * samples, np.int64)
    run(_pack, counts.size, flat.numel(), flat.numpy(), channels, words.numpy(), counts)
    return None if counts.min() < 0 else Packed(words, window.shape, int(counts.sum()))


def lanes_for(outputs: int) -> int:
    """How many output channels are added at once."""
    return next((lanes for lanes in _LANES if lanes < 1.5 * outputs), _LANES[-1])


def _geometry(shape: th.Size, weight: th.Tensor, stride: int) -> tuple[Any, ...]:
    """
    What a convolution is to the kernels: numbers of an image; weights of an output; width of the image; channels; size of the
    kernel; stride; lines, columns, blocks, lanes, rows of a tile.
    """
    channels, height, width = shape[2:]
    outputs, _, kernel_height, kernel_width = weight.shape
    lines, columns = (height - kernel_height) // stride + 1, (width - kernel_width) // stride + 1
    lanes = lanes_for(outputs)
    blocks = -(-outputs // lanes)
    tile = _TILE_BYTES // (lines * columns * blocks * lanes * weight.element_size())
    tile = max(1, min(tile, -(-shape[:2].numel() // th.get_num_threads())))
    numbers, taps = shape[2:].numel(), weight[0].numel()
    return numbers, taps, width, channels, kernel_height, kernel_width, stride, lines, columns, blocks, lanes, tile


def _currents(weight: th.Tensor, bias: th.Tensor, stride: int, packed: Packed) -> th.Tensor:
    geometry = _geometry(packed.shape, weight, stride)
    *_, lines, columns, blocks, lanes, tile = geometry
    num_steps, samples = packed.shape[:2]
    rows, outputs = num_steps * samples, weight.shape[0]
    missing = blocks * lanes - outputs
    padded = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else weight
    together = max(1, _LINES_BYTES // (weight[0, :, 0].numel() * lanes * weight.element_size()))
    out = weight.new_empty(rows * lines * columns * blocks * lanes)
    ordered = _outputs_innermost(padded, lanes)
    arguments = (packed.words.numpy(), geometry, together, ordered.numpy(), F.pad(bias, (0, missing)).numpy())
    run(_forward, -(-rows // tile), packed.spikes * weight[:, 0].numel(), *arguments, out.numpy())
    return out.view(num_steps, samples, lines, columns, blocks * lanes)[..., :outputs].permute(0, 1, 4, 2, 3)


def _outputs_innermost(weight: th.Tensor, lanes: int) -> th.Tensor:
    """
    :param weight: shape (O, C, KH, KW), O a multiple of ``lanes``
    :param lanes: outputs of a block
    :return: the same with shape (O / lanes, KH, KW, C, lanes), flat
    """
    blocks = weight.unflatten(0, (-1, lanes))
    if weight[0, 0].numel() > 1:
        return blocks.permute(0, 3, 4, 2, 1).flatten()
    ordered = weight.new_empty(len(blocks), weight[0].numel(), lanes)
    for block, transposed in zip(blocks.flatten(2), ordered, strict=True):
        transposed.copy_(block.t())  # one matrix at a time: that is what PyTorch has a fast way for
    return ordered.flatten()


def _as_weight(sums: th.Tensor, weight: th.Tensor, lanes: int) -> th.Tensor:
    """The other way round: sums for all outputs of all blocks, flat, in the order of ``weight``, of its shape."""
    blocks = sums.view(-1, weight[0].numel(), lanes)
    _, channels, kernel_height, kernel_width = weight.shape
    if kernel_height * kernel_width > 1:
        ordered = blocks.unflatten(1, (kernel_height, kernel_width, channels)).permute(0, 4, 3, 1, 2).flatten(0, 1)
    else:
        ordered = weight.new_empty(len(blocks) * lanes, channels)
        for block, transposed in zip(blocks, ordered.split(lanes), strict=True):
            transposed.copy_(block.t())
    return ordered[: len(weight)].view(weight.shape)


class _EventConvolution(th.autograd.Function):
    @staticmethod
    def forward(ctx: Any, window: th.Tensor, weight: th.Tensor, bias: th.Tensor, stride: int, packed: Packed) -> th.Tensor:
        ctx.save_for_backward(weight, packed.words)
        ctx.settings = (packed[1:], stride)
        return _currents(weight.detach(), bias.detach(), stride, packed)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, *grad_outputs: th.Tensor) -> tuple[th.Tensor | None, ...]:
        weight, words = ctx.saved_tensors
        settings, stride = ctx.settings
        packed = Packed(words, *settings)
        grad = grad_outputs[0].permute(0, 1, 3, 4, 2).contiguous()
        onto_window = onto_weight = onto_bias = None
        if ctx.needs_input_grad[0]:
            onto_window = input_gradient(packed.shape, weight, grad, stride)
        if ctx.needs_input_grad[1]:
            onto_weight = _weights_gradient(weight, grad, stride, packed)
        if ctx.needs_input_grad[2]:
            onto_bias = grad.sum(dim=(0, 1, 2, 3))
        return onto_window, onto_weight, onto_bias, None, None


def _weights_gradient(weight: th.Tensor, grad: th.Tensor, stride: int, packed: Packed) -> th.Tensor:
    geometry = _geometry(packed.shape, weight, stride)
    *_, blocks, lanes, _ = geometry
    missing = blocks * lanes - len(weight)
    padded = F.pad(grad, (0, missing)) if missing else grad
    sums = grad.new_zeros(max(1, _GROUPS // blocks), blocks * lanes * weight[0].numel())
    arguments = (packed.words.numpy(), geometry, padded.flatten().numpy(), sums.numpy())
    run(_weight_gradient, sums.shape[0] * blocks, packed.spikes * weight[:, 0].numel(), *arguments)
    return _as_weight(sums.sum(dim=0), weight, lanes)


def convolution(window: th.Tensor, weight: th.Tensor, bias: th.Tensor | None, stride: int, packed: Packed) -> th.Tensor:
    """
    ``torch.nn.functional.conv2d`` of a window of spikes, without padding.

    :param window: the spikes, shape (T, B, C, H, W); only their gradient is made use of
    :param weight: shape (O, C, KH, KW)
    :param bias: shape (O,), or None
    :param stride: stride of the convolution
    :param packed: the spikes of ``window``
    :return: shape (T, B, O, OH, OW), channels last in memory
    """
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    if th.is_grad_enabled():
        return _EventConvolution.apply(window, weight, bias, stride, packed)
    return _currents(weight.detach(), bias.detach(), stride, packed)
