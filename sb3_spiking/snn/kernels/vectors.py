"""
What the kernels that hold numbers in vector registers are built from.

Numba compiles loops over arrays and leaves it to LLVM to make vector instructions of them. That is enough for a loop that
reads one row and writes another, as in :mod:`.cpu`. It is not where sums, or the membranes of a window, should stay in
registers from one pass of an outer loop to the next: LLVM must assume that arrays overlap, so it writes them back to memory
and reads them again each time, which takes several times as long. There an ``@intrinsic`` writes LLVM's instructions itself, a
few dozen, for vectors of a fixed number of lanes, which LLVM lays out in as many registers as the processor needs: 16 float32
are one register of AVX-512, two of AVX2, four of NEON.

Six kinds of work are done so: a window of 16 neurons (:mod:`.registers`); adding up the weights of events, and the other way
round for their gradients, and packing spikes into bits (:mod:`.event_driven`); unpacking them, and putting eight rows of
weights side by side (:mod:`.fused`); a product of a few rows with a matrix (:mod:`.input_gradient`). Each says in its first
line what it computes. What Numba calls it with are ``(context, builder, signature, arguments)``, the types and values of its
arguments.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.np import arrayobj

from sb3_spiking.snn.kernels.threads import kernel

# Bytes of a line of the cache, and of the widest vectors
_LINE_BYTES = 64


class Vectors:
    """
    Instructions on vectors of numbers, and where they come from and go to: flat arrays among the intrinsic's arguments.

    :param context: Numba's
    :param builder: of the instructions, in order
    :param signature: of the intrinsic
    :param dtype: Numba's type of a number
    :param lanes: numbers of a vector
    """

    def __init__(self, context: Any, builder: Any, signature: Any, dtype: Any, lanes: int) -> None:
        self._context, self._builder, self._signature = context, builder, signature
        self._lanes, self._align = lanes, dtype.bitwidth // 8
        self.type = ir.VectorType(context.get_data_type(dtype), lanes)

    def constant(self, number: float) -> ir.Constant:
        """A vector of the same number."""
        return ir.Constant(self.type, [float(number)] * self._lanes)

    def splat(self, number: Any) -> Any:
        """The same, of a number that is computed."""
        undefined, index = ir.Constant(self.type, ir.Undefined), ir.IntType(32)
        first = self._builder.insert_element(undefined, number, index(0))
        everywhere = ir.Constant(ir.VectorType(index, self._lanes), [0] * self._lanes)
        return self._builder.shuffle_vector(first, undefined, everywhere)

    def numbers(self, argument: int, array: Any) -> Any:
        """Pointer to the first number of an array, the argument of that position."""
        return data_of(self._context, self._builder, self._signature.args[argument], array)

    def load(self, argument: int, array: Any, offset: Any) -> Any:
        """A vector from an array, the argument of that position, from ``offset`` on."""
        return self._builder.load(self._pointer(self.numbers(argument, array), offset), align=self._align)

    def store(self, vector: Any, argument: int, array: Any, offset: Any) -> None:
        """A vector to an array, the argument of that position, from ``offset`` on."""
        self.store_at(vector, self.numbers(argument, array), offset)

    def store_at(self, vector: Any, numbers: Any, offset: Any) -> None:
        """A vector to where ``numbers`` points to, from ``offset`` on."""
        self._builder.store(vector, self._pointer(numbers, offset), align=self._align)

    def _pointer(self, numbers: Any, offset: Any) -> Any:
        return self._builder.bitcast(self._builder.gep(numbers, [offset]), self.type.as_pointer())


def data_of(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    """Pointer to the first number of an array."""
    return arrayobj.make_array(array_type)(context, builder, array).data


@kernel
def aligned(size, like):
    """An array like another one whose vectors do not lie across two lines of the cache, which takes two loads."""
    room = np.empty(size + _LINE_BYTES // like.itemsize, like.dtype)
    first = (-room.ctypes.data % _LINE_BYTES) // like.itemsize
    return room[first : first + size]
