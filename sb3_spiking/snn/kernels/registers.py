"""A window of 16 neurons whose membranes stay in registers: see :mod:`.vectors`."""

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from sb3_spiking.snn.kernels.cpu import SUBTRACT_LATER, SUBTRACT_NOW, ZERO_LATER, ZERO_NOW
from sb3_spiking.snn.kernels.dynamics import FORMULAS, RESETS
from sb3_spiking.snn.kernels.vectors import Vectors, data_of


@intrinsic
def neurons_16(context, currents, at, step, neuron, words, place, next_step, num_steps, kept, to):
    """
    A window of 16 neurons by the equations of :mod:`.reference`. Their currents are at ``at``, after a step at ``at + step``
    and so on; their bits go to ``place`` of ``words``, 16 each, ``place + next_step`` and so on. neuron: beta, threshold,
    scale, reset. Returns the spikes.

    kept: None, or for gradients through rates the surrogate, its slope, the shares of the steps (T,), and where rates and
    their derivatives go, from ``to``.
    """
    size = types.intp
    signature = types.intp(currents, size, size, neuron, words, size, size, size, kept, size)
    keeps = not isinstance(kept, types.NoneType)

    def generate(context, builder, signature, arguments):
        currents, at, step, neuron, words, place, next_step, num_steps, kept, to = arguments
        vectors = Vectors(context, builder, signature, signature.args[0].dtype, 16)
        zero, one = vectors.constant(0), vectors.constant(1)
        *numbers, reset = cgutils.unpack_tuple(builder, neuron)
        beta, threshold, scale = map(vectors.splat, numbers)
        resets = [builder.icmp_signed("==", reset, reset.type(code)) for code in range(len(set(RESETS.values())))]
        to_zero = builder.or_(resets[ZERO_LATER], resets[ZERO_NOW])
        # What is taken from a membrane that is due for a reset, but for one to zero
        reduced = builder.select(builder.or_(resets[SUBTRACT_LATER], resets[SUBTRACT_NOW]), threshold, zero)
        table = builder.bitcast(vectors.numbers(4, words), ir.IntType(16).as_pointer())
        membranes, count = cgutils.alloca_once_value(builder, zero), cgutils.alloca_once_value(builder, at.type(0))
        rates = _Rates(context, builder, signature.args[8], kept, vectors) if keeps else None
        with cgutils.for_range(builder, num_steps, intp=at.type) as loop:
            before = builder.load(membranes)
            due = builder.fcmp_ordered(">", before, threshold)
            left = builder.select(due, builder.select(to_zero, zero, before), before)
            current = builder.fmul(vectors.load(0, currents, builder.add(at, builder.mul(loop.index, step))), scale)
            charged = builder.fadd(builder.fmul(beta, left), current)
            charged = builder.fsub(charged, builder.select(due, reduced, zero))
            fired = builder.fcmp_ordered(">", charged, threshold)
            bits = builder.bitcast(fired, ir.IntType(16))
            builder.store(bits, builder.gep(table, [builder.add(place, builder.mul(loop.index, next_step))]))
            spikes = builder.zext(builder.ctpop(bits), at.type)
            builder.store(builder.add(builder.load(count), spikes), count)
            change = builder.fsub(builder.select(fired, one, zero), builder.select(due, one, zero))
            after = builder.fsub(charged, builder.fmul(change, threshold))
            builder.store(builder.select(resets[SUBTRACT_NOW], after, charged), membranes)
            if rates is not None:
                rates.step(loop.index, beta, threshold, resets, due, charged, fired)
        if rates is not None:
            rates.store(scale, to)
        return builder.load(count)

    return signature, generate


class _Rates:
    """Instructions for the rates of 16 neurons and their derivatives with respect to a current that is added at every step."""

    def __init__(self, context: Any, builder: Any, kept_type: Any, kept: Any, vectors: Vectors) -> None:
        self.builder, self.vectors = builder, vectors
        surrogate, slope, *arrays = cgutils.unpack_tuple(builder, kept)
        self.shares, *self.results = (
            data_of(context, builder, kept_type[2 + number], array) for number, array in enumerate(arrays)
        )
        self.reach, self.rates, self.derivatives = (cgutils.alloca_once_value(builder, vectors.constant(0)) for _ in range(3))
        # A fast sigmoid has the derivative 1 / (|slope U| + 1)^2, an arctan slope / 2 / (1 + (pi slope / 2 U)^2)
        slope = vectors.splat(slope)
        self.is_atan = builder.icmp_signed("==", surrogate, surrogate.type(FORMULAS["atan"]))
        self.steepness = builder.select(self.is_atan, builder.fmul(vectors.constant(math.pi / 2), slope), slope)
        self.highest = builder.select(self.is_atan, builder.fmul(slope, vectors.constant(0.5)), vectors.constant(1))

    def _slopes(self, over: Any) -> Any:
        """Derivative of the surrogate for membranes less the threshold."""
        builder, zero, one = self.builder, self.vectors.constant(0), self.vectors.constant(1)
        over = builder.fmul(self.steepness, over)
        size = builder.select(builder.fcmp_ordered("<", over, zero), builder.fsub(zero, over), over)
        of_sigmoid = builder.fadd(size, one)
        of_sigmoid = builder.fmul(of_sigmoid, of_sigmoid)
        of_atan = builder.fadd(one, builder.fmul(over, over))
        return builder.fdiv(self.highest, builder.select(self.is_atan, of_atan, of_sigmoid))

    def step(self, number: Any, beta: Any, threshold: Any, resets: list[Any], due: Any, charged: Any, fired: Any) -> None:
        """
        One step's part.

        :param number: of the step
        :param due: which membranes were above the threshold after the last step
        :param charged: membranes
        :param fired: which of them are above the threshold
        """
        builder, zero, one = self.builder, self.vectors.constant(0), self.vectors.constant(1)
        share = self.vectors.splat(builder.load(builder.gep(self.shares, [number])))
        slopes = self._slopes(builder.fsub(charged, threshold))
        # How far the current that is added has reached into the membranes
        reached = builder.load(self.reach)
        reached = builder.select(resets[ZERO_LATER], builder.select(due, zero, reached), reached)
        reached = builder.fadd(builder.fmul(beta, reached), one)
        for total, part in (
            (self.derivatives, builder.fmul(builder.fmul(share, slopes), reached)),
            (self.rates, builder.select(fired, share, zero)),
        ):
            builder.store(builder.fadd(builder.load(total), part), total)
        # Of that an immediate reset takes away what its spike does
        of_spike = builder.select(resets[ZERO_NOW], charged, builder.select(resets[SUBTRACT_NOW], threshold, zero))
        stays = builder.select(resets[ZERO_NOW], builder.select(fired, zero, one), one)
        reached = builder.fmul(reached, builder.fsub(stays, builder.fmul(of_spike, slopes)))
        builder.store(reached, self.reach)

    def store(self, scale: Any, to: Any) -> None:
        """Rates and derivatives to where they are kept."""
        rates, derivatives = self.builder.load(self.rates), self.builder.load(self.derivatives)
        for result, numbers in zip((rates, self.builder.fmul(derivatives, scale)), self.results, strict=True):
            self.vectors.store_at(result, numbers, to)
