"""The list of names, shapes and numbers inside PyTorch's weights is a pickle. Here it is looked at, without being run."""

import pickletools
from typing import Any

# Bytes, and operations; the weights of the largest networks here have a hundredth of it
_MAX_BYTES = 2**20
_MAX_OPERATIONS = 100_000

# Everything that PyTorch writes of named tensors, numbers and strings
_OPERATIONS = frozenset(
    "PROTO STOP MARK EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 SETITEM SETITEMS APPEND APPENDS BUILD "
    "REDUCE GLOBAL BINPERSID BINUNICODE BININT BININT1 BININT2 LONG1 BINFLOAT NEWTRUE NEWFALSE NONE BINPUT LONG_BINPUT BINGET "
    "LONG_BINGET".split()
)
_NUMBERS = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_NAMES = frozenset(
    (
        *("collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"),
        *(f"torch {numbers}Storage" for numbers in _NUMBERS),
    )
)


def check_weights_pickle(content: bytes) -> None:
    """
    :param content: ``data.pkl`` of a file that PyTorch wrote
    :raises ValueError: for more than named tensors, numbers and strings, or so much that it would take long; lists and dicts
        that stand in several places, which can make much of little, among it
    """
    if len(content) > _MAX_BYTES:
        raise ValueError(f"{len(content)} bytes of names and shapes, expected at most {_MAX_BYTES}")
    remembered: set[Any] = set()  # places of the memo that hold a string or a name
    before = ""
    for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
        if number >= _MAX_OPERATIONS:
            raise ValueError(f"more than {_MAX_OPERATIONS} operations in the list of names and shapes")
        if operation.name not in _OPERATIONS or (operation.name == "GLOBAL" and argument not in _NAMES):
            shown = f"{operation.name} {str(argument)[:50]}".strip()
            raise ValueError(f"more than named tensors, numbers and strings: {shown}")
        if operation.name.endswith("PUT"):
            (remembered.add if before in ("BINUNICODE", "GLOBAL") else remembered.discard)(argument)
        elif operation.name.endswith("GET") and argument not in remembered:
            raise ValueError("a list or dict that stands in several places")
        before = operation.name
