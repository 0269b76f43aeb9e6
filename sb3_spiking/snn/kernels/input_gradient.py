"""
The gradient of a convolution's input on the CPU, dense, by Numba. It is a matrix product whose results are added up where the
windows of the kernel overlap: a few positions of the output and one vector of input channels at a time stay in registers.
"""

from typing import Any

import numpy as np
import torch as th
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch.nn import grad as nn_grad

from sb3_spiking.snn.kernels.threads import kernel, run
from sb3_spiking.snn.kernels.vectors import Vectors

# Input channels and positions whose sums are held in registers: twelve of the sixteen of AVX2
_LANES = 16
_POSITIONS = 6


def _multiply(positions: int) -> Any:
    """
    ``(left, at, depth, right, start, out, base, places, first)``: multiply ``positions`` rows of a matrix, ``left`` from
    ``at``, each ``depth`` long, by a matrix of ``depth`` rows of _LANES, ``right`` from ``start``, and add the results to
    ``out`` at ``base + places[first]`` and so on.
    """

    @intrinsic
    def multiply(context, left, at, depth, right, start, out, base, places, first):
        size = types.intp
        signature = types.void(left, size, size, right, size, out, size, places, size)

        def generate(context, builder, signature, arguments):
            left, at, depth, right, start, out, base, places, first = arguments
            vectors = Vectors(context, builder, signature, signature.args[0].dtype, _LANES)
            numbers, table = vectors.numbers(0, left), vectors.numbers(7, places)
            sums = [cgutils.alloca_once_value(builder, vectors.constant(0)) for _ in range(positions)]
            with cgutils.for_range(builder, depth, intp=start.type) as loop:
                row = vectors.load(3, right, builder.add(start, builder.mul(loop.index, start.type(_LANES))))
                for position, each in enumerate(sums):
                    offset = builder.add(builder.add(at, builder.mul(depth, depth.type(position))), loop.index)
                    number = vectors.splat(builder.load(builder.gep(numbers, [offset])))
                    product = builder.fmul(number, row, flags=("contract",))
                    builder.store(builder.fadd(builder.load(each), product, flags=("contract",)), each)
            for position, each in enumerate(sums):
                place = builder.load(builder.gep(table, [builder.add(first, first.type(position))]))
                offset = builder.add(base, place)
                vectors.store(builder.fadd(vectors.load(5, out, offset), builder.load(each)), 5, out, offset)
            return context.get_dummy_value()

        return signature, generate

    return multiply


_multiply_many, _multiply_one = _multiply(_POSITIONS), _multiply(1)


@kernel
def _input_gradient(first, last, positions, depth, grads, panels, shifts, places, out):
    """
    Groups first to last of _POSITIONS images. grads: (R * positions * depth,); panels: (panels * depth * lanes,); shifts:
    where the window of the kernel has the channels of each panel; places: where the window lies for each position of a group
    of images; out: (R, numbers of an image).
    """
    flat = out.reshape(-1)
    for group in range(first, last):
        start = group * _POSITIONS
        stop = min(start + _POSITIONS, out.shape[0])
        out[start:stop] = 0
        position, count = 0, (stop - start) * positions
        while position < count:
            at, together = (start * positions + position) * depth, min(_POSITIONS, count - position)
            for panel in range(shifts.size):
                right, base = panel * depth * _LANES, start * out.shape[1] + shifts[panel]
                if together == _POSITIONS:
                    _multiply_many(grads, at, depth, panels, right, flat, base, places, position)
                else:
                    for each in range(together):
                        _multiply_one(grads, at + each * depth, depth, panels, right, flat, base, places, position + each)
            position += together


def input_gradient(shape: th.Size, weight: th.Tensor, grad: th.Tensor, stride: int) -> th.Tensor:
    """
    :param shape: (T, B, C, H, W) of the input window
    :param weight: shape (O, C, KH, KW)
    :param grad: of the output, shape (T, B, OH, OW, O), contiguous
    :param stride: stride of the convolution
    :return: gradient of the window, shape (T, B, C, H, W), channels last in memory unless the kernel is the whole image
    """
    num_steps, samples, channels, height, width = shape
    rows, outputs, kernel_height, kernel_width = num_steps * samples, weight.shape[0], *weight.shape[2:]
    lines, columns = grad.shape[2:4]
    if weight.shape[1:] == shape[2:]:  # a linear layer
        return (grad.reshape(rows, outputs) @ weight.flatten(1)).view(shape)
    if channels % _LANES:
        images = grad.flatten(0, 1).permute(0, 3, 1, 2)
        weight = weight.contiguous(memory_format=th.channels_last)
        return nn_grad.conv2d_input((rows, *shape[2:]), weight, images, stride).unflatten(0, shape[:2])
    panels = weight.permute(2, 3, 1, 0).unflatten(2, (-1, _LANES)).transpose(3, 4).flatten()
    pixels = np.arange(height * width).reshape(height, width) * channels
    shifts = (pixels[:kernel_height, :kernel_width, None] + np.arange(0, channels, _LANES)).ravel()
    positions = pixels[: lines * stride : stride, : columns * stride : stride].ravel()
    places = (np.arange(_POSITIONS)[:, None] * height * width * channels + positions).ravel()
    out = grad.new_empty(rows, height * width * channels)
    arguments = (lines * columns, outputs, grad.flatten().numpy(), panels.numpy(), shifts, places, out.numpy())
    run(_input_gradient, -(-rows // _POSITIONS), rows * lines * columns * weight.numel(), *arguments)
    return out.view(num_steps, samples, height, width, channels).permute(0, 1, 4, 2, 3)
