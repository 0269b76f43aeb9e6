"""Gymnasium spaces as JSON, and what SB3 writes of them beside its pickles."""

import ast
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

#: An observation has at most this many numbers; an Atari stack has 28,224
MAX_ELEMENTS = 2**24
#: An action space or a discrete observation has at most this many values
MAX_VALUES = 2**20
_MAX_PARTS = 500

_DTYPE = re.compile(r"(bool|u?int(8|16|32|64)|float(16|32|64))")
_NUMBER = re.compile(r"[-+]?(?:inf|\d+\.?\d*(?:e[-+]?\d+)?|\.\d+)|True|False")


def space_to_json(space: gym.Space) -> dict[str, Any]:
    """
    :param space: Box, Discrete, MultiDiscrete, MultiBinary or Dict
    :return: a dict of strings, numbers and lists
    :raises ValueError: for another space
    """
    if isinstance(space, spaces.Box):
        bounds = {"low": _bound(space.low), "high": _bound(space.high)}
        return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist(), "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.n)}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {name: space_to_json(part) for name, part in space.spaces.items()}}
    raise ValueError(f"{space}: a space without a JSON form")


def _bound(values: np.ndarray) -> Any:
    """One number where all are the same; infinity as a string."""
    if values.size and (values == values.flat[0]).all():
        values = values.flat[0]
    return _finite(values.tolist())


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def space_from_json(record: Any) -> gym.Space:
    """
    :param record: what :func:`space_to_json` makes
    :return: the space
    :raises ValueError: for anything else
    """
    if not isinstance(record, dict):
        raise ValueError(f"a space is an object, not {type(record).__name__}")
    kind = record.get("type")
    if kind == "Box":
        return _box(record.get("shape"), record.get("dtype"), record.get("low"), record.get("high"))
    if kind == "Discrete":
        return spaces.Discrete(_count(record.get("n")), start=_integer(record.get("start", 0)))
    if kind == "MultiDiscrete":
        return _multi_discrete(record.get("nvec"), record.get("start"), record.get("dtype", "int64"))
    if kind == "MultiBinary":
        n = record.get("n")
        return spaces.MultiBinary(_shape(n) if isinstance(n, list) else _count(n))
    if kind == "Dict":
        parts = record.get("spaces")
        if not isinstance(parts, dict) or not all(
            isinstance(part, dict) and part.get("type") != "Dict" for part in parts.values()
        ):
            raise ValueError("a Dict space holds spaces that are no Dicts")
        _check_parts(parts)
        return _dict({str(name): space_from_json(part) for name, part in parts.items()})
    raise ValueError(f"a space of type {str(kind)[:50]!r}: expected Box, Discrete, MultiDiscrete, MultiBinary or Dict")


def space_from_sb3(record: Any) -> gym.Space:
    """
    SB3 pickles spaces, and writes their attributes as text beside it. Bounds that the text leaves out become those of the
    type: 0 to 255 for uint8, infinite for floats.

    :param record: the entry of a space in the ``data`` of SB3's zip; its pickle is not looked at
    :return: the space
    :raises ValueError: for anything else
    """
    if not isinstance(record, dict) or not isinstance(record.get(":type:"), str):
        raise ValueError("there is no space")
    kind = record[":type:"].rpartition(".")[2].removesuffix("'>")
    if kind == "Box":
        shape = _shape(record.get("_shape", record.get("shape")))  # agents of 2021 spell it without the underscore
        dtype = _dtype(record.get("dtype"))
        return _box(list(shape), str(dtype), *(_bound_from_text(record, name, shape, dtype) for name in ("low", "high")))
    if kind == "Discrete":
        return spaces.Discrete(_count(_number(record.get("n"))), start=_integer(_number(record.get("start", "0"))))
    if kind == "MultiDiscrete":
        if any("..." in str(record.get(name)) for name in ("nvec", "start")):
            raise ValueError(
                "a MultiDiscrete space that SB3's zip prints in part: load a zip that you trust by SB3's DQN.load; "
                "the folders of sb3_spiking.save hold all of it"
            )
        nvec, start = ([int(n) for n in re.findall(r"-?\d+", str(record.get(name))[:100_000])] for name in ("nvec", "start"))
        return _multi_discrete(nvec, start or None, record.get("dtype", "int64"))
    if kind == "MultiBinary":
        n = record.get("n")
        return spaces.MultiBinary(_shape(n) if isinstance(n, list) else _count(_number(n)))
    if kind == "Dict":
        return _dict_from_text(record.get("spaces"))
    raise ValueError(f"a space of type {record[':type:'][:100]}: expected Box, Discrete, MultiDiscrete, MultiBinary or Dict")


def _bound_from_text(record: dict[str, Any], name: str, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    short = record.get(f"{name}_repr")
    text = short if isinstance(short, str) and "[" not in short else record.get(name)
    numbers = [_text_number(each) for each in _NUMBER.findall(text)] if isinstance(text, str) else []
    if isinstance(text, str) and "..." not in text and len(numbers) == math.prod(shape):
        return np.array(numbers).reshape(shape).tolist()
    if numbers and len(set(numbers)) == 1:
        return numbers[0]
    return _limits(dtype)[name == "high"]


def _limits(dtype: np.dtype) -> tuple[float, float]:
    if dtype.kind == "f":
        return -math.inf, math.inf
    return (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)


def _text_number(text: str) -> float:
    return float(text == "True") if text in ("True", "False") else float(text)


def _dict_from_text(text: Any) -> spaces.Dict:
    """From ``{'image': Box(0, 255, (1, 36, 36), uint8), 'mode': Discrete(3)}``."""
    if not isinstance(text, str) or len(text) > 100_000:
        raise ValueError("a Dict space without a readable form")
    try:
        tree = ast.parse(_with_commas(text.strip()), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"a Dict space that cannot be read from its text, {text[:100]!r}") from error
    if isinstance(tree, ast.Call) and tree.args:  # OrderedDict({...})
        tree = tree.args[0]
    if not isinstance(tree, ast.Dict):
        raise ValueError(f"a Dict space that cannot be read from its text, {text[:100]!r}")
    _check_parts(tree.keys)
    parts: dict[str, gym.Space] = {}
    for key, call in zip(tree.keys, tree.values, strict=True):
        if not isinstance(key, ast.Constant) or not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError(f"a Dict space that cannot be read from its text, {text[:100]!r}")
        arguments = [_literal(argument) for argument in call.args]
        try:
            parts[str(key.value)] = _PARTS[call.func.id](*arguments)
        except (KeyError, TypeError) as error:
            raise ValueError(f"a Dict space with a part that cannot be read from its text, {call.func.id}") from error
    return _dict(parts)


# A text in quotes of either kind, whole or cut off: matched once from its first quote on, whatever follows
_QUOTED = re.compile(r"""('(?:[^'\\]|\\.?)*+(?:'|$)|"(?:[^"\\]|\\.?)*+(?:"|$))""", re.DOTALL)


def _with_commas(text: str) -> str:
    """NumPy prints arrays without: ``[-1. -2.]``. What is in quotes stays."""
    parts = _QUOTED.split(text)
    parts[::2] = [re.sub(r"(?<=[\d.\]f])\s+(?=[-\d.\[i])", ", ", part) for part in parts[::2]]
    return "".join(parts)


def _box_from_text(low: Any, high: Any, shape: Any, dtype: Any) -> spaces.Box:
    limits = _limits(_dtype(dtype))
    bounds = (limit if _is_shortened(bound) else bound for bound, limit in zip((low, high), limits, strict=True))
    return _box(list(shape), dtype, *bounds)


def _is_shortened(bound: Any) -> bool:
    return bound is ... or (isinstance(bound, list) and any(map(_is_shortened, bound)))


# As they print themselves
_PARTS: dict[str, Callable[..., gym.Space]] = {
    "Box": _box_from_text,
    "Discrete": lambda n: spaces.Discrete(_count(n)),
    "MultiBinary": lambda n: spaces.MultiBinary(_shape(n) if isinstance(n, list) else _count(n)),
    "MultiDiscrete": lambda nvec: spaces.MultiDiscrete([_count(n) for n in _list(nvec)]),
}


def _literal(node: ast.expr) -> Any:
    """Numbers, tuples and lists of them, what NumPy leaves out of a long one, inf and names of types."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -float(_literal(node.operand))
    if isinstance(node, ast.Name):
        return math.inf if node.id == "inf" else node.id
    if isinstance(node, (ast.Tuple, ast.List)):
        return [_literal(each) for each in node.elts]
    if isinstance(node, ast.Constant) and (node.value is ... or isinstance(node.value, (int, float))):
        return node.value
    raise ValueError("a Dict space with arguments that are no numbers")


def _check_parts(parts: Collection[Any]) -> None:
    if len(parts) > _MAX_PARTS:
        raise ValueError(f"a Dict space of {len(parts)} parts, expected at most {_MAX_PARTS}")


def _dict(parts: dict[str, gym.Space]) -> spaces.Dict:
    numbers = sum(math.prod(part.shape or ()) for part in parts.values())
    if numbers > MAX_ELEMENTS:
        raise ValueError(f"a Dict space of {numbers} numbers, expected at most {MAX_ELEMENTS}")
    return spaces.Dict(OrderedDict(parts))  # Gymnasium sorts any other mapping, and the order is that of a network's inputs


def _multi_discrete(nvec: Any, start: Any, dtype: Any) -> spaces.MultiDiscrete:
    counts = [_count(n) for n in _list(nvec)]
    starts = [0] * len(counts) if start is None else [_integer(first) for first in _list(start)]
    if len(starts) != len(counts) or _dtype(dtype).kind not in "iu":
        raise ValueError(f"a MultiDiscrete space of {len(counts)} parts with {len(starts)} first values, of {dtype}")
    return spaces.MultiDiscrete(counts, dtype=_dtype(dtype).type, start=starts)


def _box(shape: Any, dtype: Any, low: Any, high: Any) -> spaces.Box:
    shape, dtype = _shape(shape), _dtype(dtype)
    bounds = []
    for bound in (low, high):
        try:
            values = np.asarray(bound, np.float64)
            np.broadcast_to(values, shape)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"a bound of a Box of shape {shape} is {str(bound)[:50]}") from error
        if np.isnan(values).any():
            raise ValueError("a bound of a Box is no number")
        bounds.append(np.broadcast_to(_as_type(values, dtype), shape))
    return spaces.Box(bounds[0], bounds[1], shape=shape, dtype=dtype.type)


def _as_type(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Numbers of a type, the closest that it has: float64 does not hold the ends of 64 bits."""
    if dtype.kind == "f":
        return values.astype(dtype)
    lowest, highest = _limits(dtype)
    inside = (values > lowest) & (values < highest)
    ends = np.where(values >= highest, dtype.type(highest), dtype.type(lowest))
    return np.where(inside, np.where(inside, values, 0).astype(dtype), ends)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_VALUES:
        raise ValueError(f"expected a list, not {str(value)[:50]}")
    return value


def _shape(value: Any) -> tuple[int, ...]:
    sizes = tuple(_integer(size) for size in _list(value))
    if len(sizes) > 8 or not all(size >= 1 for size in sizes) or math.prod(sizes) > MAX_ELEMENTS:
        raise ValueError(f"the shape {str(sizes)[:80]} of a space: expected at most {MAX_ELEMENTS} numbers")
    return sizes


def _dtype(value: Any) -> np.dtype:
    if not isinstance(value, str) or not _DTYPE.fullmatch(value):
        raise ValueError(f"the type {str(value)[:50]!r} of a space: expected a type of numbers")
    return np.dtype(value)


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value) else value


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 2**62:
        raise ValueError(f"expected a whole number, not {str(value)[:50]!r}")
    return value


def _count(value: Any) -> int:
    if not 1 <= _integer(value) <= MAX_VALUES:
        raise ValueError(f"expected 1 to {MAX_VALUES} values, not {value}")
    return value
