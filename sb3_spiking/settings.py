"""The settings of a spiking network as one frozen record of numbers, strings and None."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

import numpy as np

from sb3_spiking.snn.encoding import ENCODINGS
from sb3_spiking.snn.normalization import NORMALIZATIONS
from sb3_spiking.snn.readout import READOUTS
from sb3_spiking.snn.surrogates import SURROGATES, Surrogate

# The network of Liu et al. 2022 (arXiv 2201.07211): LIF h = v + (x - v) / tau with tau = 2, that is beta = 1 - 1/tau and
# currents times 1/tau; fires at h >= 1, which in float32 is h > the number before 1; hard reset within the graph;
# arctan surrogate with alpha = 2; T = 64. `liu2022_spike` is its DsqnSpike, `liu2022_if` its DsqnIF (tau infinite in the
# leak, currents unscaled).
_LIU2022 = {
    "num_steps": 64,
    "beta": 0.5,
    "threshold": 1.0 - 2.0**-24,
    "input_scale": 0.5,
    "spike_grad": "atan",
    "slope": 2.0,
    "reset_mechanism": "zero",
    "reset_delay": False,
    "learn_beta": False,
    "learn_threshold": False,
    "normalization": None,
    "encoding": "direct",
    "readout": "rate",
    "gradients": "exact",
    "layer_delay": False,
}
PRESETS: dict[str, dict[str, Any]] = {
    "liu2022": _LIU2022,
    "liu2022_spike": {**_LIU2022, "readout": "spike"},
    "liu2022_if": {**_LIU2022, "beta": 1.0, "input_scale": 1.0},
}


GRADIENTS = ("exact", "rates")
# What gradients through rates take, by setting
_COVERED_BY_RATES: dict[str, tuple[Any, ...]] = {
    "readout": ("rate", "spike"),
    "encoding": ("direct",),
    "normalization": (None,),
    "learn_beta": (False,),
    "learn_threshold": (False,),
}


def _is_covered(name: str, value: Any) -> bool:
    return all(each in _COVERED_BY_RATES[name] for each in (value if isinstance(value, (list, tuple)) else (value,)))


@dataclass(frozen=True)
class _Rule:
    accepts: Callable[[Any], bool]
    expected: str


def _one_of(choices: Mapping[str, Any] | tuple[str, ...]) -> str:
    return "one of " + ", ".join(repr(choice) for choice in choices)


def plain(value: Any) -> Any:
    """Lists and arrays as tuples, NumPy's numbers and strings as Python's: what a file of weights holds."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return tuple(map(plain, value))
    return value.item() if isinstance(value, np.generic) else value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# Layers of a network, more than any that is trained
_MAX_LAYERS = 1000


def _is_list(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= _MAX_LAYERS


def _is_units(value: Any) -> bool:
    return _is_list(value) and all(_is_int(units) for units in value)


def _is_conv_layers(value: Any) -> bool:
    return _is_list(value) and all(_is_units(layer) and len(layer) == 3 for layer in value)


def _choice(choices: Mapping[str, Any] | tuple[str, ...]) -> _Rule:
    return _Rule(lambda value: isinstance(value, str) and value in choices, _one_of(choices))


_POSITIVE = _Rule(lambda value: _is_number(value) and value > 0, "a number above 0")
_SHARE = _Rule(lambda value: _is_number(value) and 0 <= value <= 1, "a number from 0 to 1")
_FLAG = _Rule(lambda value: isinstance(value, bool), "True or False")
_COUNT = _Rule(_is_int, "a whole number of at least 1")


def _setting(default: Any, rule: _Rule, description: str, per_layer: bool = False) -> Any:
    """A field of the record: its default, what it takes, what it means, and whether each spiking layer may have its own."""
    return field(default=default, metadata={"rule": rule, "description": description, "per_layer": per_layer})


@dataclass(frozen=True, kw_only=True)
class SpikingSettings:
    """
    Everything that makes a spiking network what it is. Those marked * are one value for all layers or a tuple with one value
    for each spiking layer, from the input to the output. What is said of each ends with its default. Bodies have a ``slope``
    of 2 for the fast sigmoid; those with convolutions an ``input_scale`` of 4 and ``gradients="rates"`` too.

    :raises ValueError: for a value outside what its setting takes
    """

    num_steps: int = _setting(4, _COUNT, "simulation steps of a decision's window (snnTorch's name; T in papers)")
    beta: float | tuple[float, ...] = _setting(1.0, _SHARE, "membrane decay per step", per_layer=True)
    threshold: float | tuple[float, ...] = _setting(
        1.0, _POSITIVE, "a neuron fires when its membrane is above this", per_layer=True
    )
    input_scale: float | tuple[float, ...] = _setting(
        2.0, _POSITIVE, "factor on the currents into the neurons; 1/tau in neurons that scale their input", per_layer=True
    )
    spike_grad: str | tuple[str, ...] = _setting("fast_sigmoid", _choice(SURROGATES), "surrogate gradient", per_layer=True)
    slope: float | tuple[float | None, ...] | None = _setting(
        None,
        _Rule(lambda value: value is None or _POSITIVE.accepts(value), "a number above 0, or None"),
        "steepness of the surrogate (snnTorch's slope, alpha for atan); None takes snnTorch's default",
        per_layer=True,
    )
    reset_mechanism: str | tuple[str, ...] = _setting(
        "subtract", _choice(("zero", "subtract", "none")), "what a spike does to the membrane", per_layer=True
    )
    reset_delay: bool | tuple[bool, ...] = _setting(
        True, _FLAG, "reset one step after the spike, detached from the graph (snnTorch's default), or at once", per_layer=True
    )
    learn_beta: bool | tuple[bool, ...] = _setting(False, _FLAG, "learn one beta per layer", per_layer=True)
    learn_threshold: bool | tuple[bool, ...] = _setting(False, _FLAG, "learn one threshold per layer", per_layer=True)
    normalization: str | None = _setting(
        None,
        _Rule(lambda value: value is None or value in NORMALIZATIONS, f"None or {_one_of(NORMALIZATIONS)}"),
        "of the currents into the neurons",
    )
    encoding: str = _setting("direct", _choice(ENCODINGS), "observation to input")
    readout: str = _setting("rate", _choice(READOUTS), "window to Q-values")
    gradients: str = _setting(
        "exact",
        _choice(GRADIENTS),
        "backpropagation through the window, or through rates: at a ReLU network's cost, whatever the number of steps",
    )
    layer_delay: bool = _setting(
        False,
        _FLAG,
        "a layer, and the readout, sees the spikes of the one before one step later, as on chips that run all layers at once",
    )
    conv_layers: tuple[tuple[int, int, int], ...] | None = _setting(
        None,
        _Rule(
            lambda value: value is None or _is_conv_layers(value),
            "a list of (channels, kernel size, stride), whole numbers of at least 1",
        ),
        "each spiking convolution, without padding; None takes the body's own",
    )
    layout: str | None = _setting(
        None,
        _Rule(lambda value: value in (None, "chw", "hwc"), "'chw' (channels first) or 'hwc' (channels last)"),
        "where an image has its channels; None takes SB3's rule for uint8 images",
    )
    features_dim: int = _setting(512, _COUNT, "spiking units after the convolutions")
    net_arch: tuple[int, ...] | None = _setting(
        None,
        _Rule(
            lambda value: value is None or _is_units(value), "a list of units, whole numbers of at least 1, one for each layer"
        ),
        "spiking units of each dense layer after the body; None takes the body's own",
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            value = plain(getattr(self, each.name))
            object.__setattr__(self, each.name, value)
            rule, per_layer = each.metadata["rule"], each.metadata["per_layer"]
            values = value if per_layer and isinstance(value, tuple) else (value,)
            if not values or len(values) > _MAX_LAYERS or not all(map(rule.accepts, values)):
                or_list = ", or a list with one for each spiking layer" if per_layer else ""
                raise ValueError(f"{each.name}={value!r}: expected {rule.expected}{or_list}")
        object.__setattr__(self, "slope", self._resolved_slope())
        for name in _COVERED_BY_RATES if self.gradients == "rates" else ():
            value = getattr(self, name)
            if not _is_covered(name, value):
                raise ValueError(
                    f"gradients='rates' does not cover {name}={value!r}: expected {name}="
                    f"{' or '.join(map(repr, _COVERED_BY_RATES[name]))}, or gradients='exact'"
                )

    def _resolved_slope(self) -> float | tuple[float | None, ...] | None:
        names, slopes = self.spike_grad, self.slope
        if isinstance(names, str) and not isinstance(slopes, tuple):
            return _surrogate_slope(names, slopes)
        count = len(names) if isinstance(names, tuple) else len(slopes)  # type: ignore[arg-type]
        names = (names,) * count if isinstance(names, str) else names
        slopes = slopes if isinstance(slopes, tuple) else (slopes,) * count
        if len(slopes) != len(names):
            raise ValueError(f"slope has {len(slopes)} values, spike_grad {len(names)}: expected one for each spiking layer")
        return tuple(_surrogate_slope(name, slope) for name, slope in zip(names, slopes, strict=True))

    @classmethod
    def resolve(
        cls, *, preset: str | None = None, defaults: Mapping[str, Any] = MappingProxyType({}), **given: Any
    ) -> "SpikingSettings":
        """
        What is given comes before the preset, the preset before the defaults. A slope belongs to its surrogate: choosing
        another surrogate drops the slope of the one before. Gradients through rates by default give way to exact ones where
        they do not cover what is chosen.

        :param preset: a key of :data:`PRESETS`
        :param defaults: settings that come before this class's own defaults
        :param given: settings by name; None stands for the default
        :raises ValueError: for an unknown preset or setting, or a wrong value
        """
        if preset is not None and not (isinstance(preset, str) and preset in PRESETS):
            raise ValueError(f"preset={preset!r}: expected {_one_of(PRESETS)}")
        known = [each.name for each in fields(cls)]
        for name in given:
            if name not in known:
                raise ValueError(unknown_setting(name, ["preset", *known]))
        given = {name: plain(value) for name, value in given.items() if value is not None}
        chosen: dict[str, Any] = {"spike_grad": cls.spike_grad}
        for layer in (defaults, PRESETS.get(preset or "", {}), given):
            before, names = chosen["spike_grad"], layer.get("spike_grad", chosen["spike_grad"])
            if names != before:
                slope = chosen.pop("slope", None)
                if isinstance(names, (list, tuple)) and not isinstance(slope, (list, tuple)):
                    chosen["slope"] = [slope if name == before else None for name in names]
            chosen.update(layer)
        rates = "gradients" in given or all(_is_covered(name, chosen[name]) for name in _COVERED_BY_RATES if name in chosen)
        return cls(**chosen if rates else {**chosen, "gradients": "exact"})

    def neurons(self, count: int, depth: int | None = None) -> list[dict[str, Any]]:
        """
        :param count: number of spiking layers
        :param depth: how many of them spikes pass on the longest way to the readout; None for all
        :return: keyword arguments of each layer's :class:`~sb3_spiking.snn.neurons.Leaky`
        :raises ValueError: for a setting with another number of values, or a window that ends before spikes reach the
            readout
        """
        depth = count if depth is None else depth
        if self.layer_delay and self.num_steps <= depth:
            raise ValueError(
                f"num_steps={self.num_steps}, layer_delay=True: spikes take a step for each of {depth} spiking layers to "
                f"reach the readout; expected num_steps of at least {depth + 1}"
            )
        layers: list[dict[str, Any]] = [{} for _ in range(count)]
        for name in NEURON_SETTINGS:
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,) * count
            if len(values) != count:
                raise ValueError(f"{name}={value!r} has {len(values)} values: expected one for each of {count} spiking layers")
            for layer, each in zip(layers, values, strict=True):
                layer[name] = each
        return layers

    def as_dict(self) -> dict[str, Any]:
        """The record as a dict of numbers, strings, tuples and None."""
        return asdict(self)

    def differences(self, other: "SpikingSettings") -> dict[str, tuple[Any, Any]]:
        """What differs, by name: this record's value and the other's."""
        pairs = {name: (value, getattr(other, name)) for name, value in self.as_dict().items()}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


#: Those that may differ from layer to layer
NEURON_SETTINGS = tuple(each.name for each in fields(SpikingSettings) if each.metadata["per_layer"])
_STAR = r" \*"  # for Sphinx
assert SpikingSettings.__doc__ is not None
SpikingSettings.__doc__ += "\n" + "\n".join(
    f"    * ``{each.name}``{_STAR if each.metadata['per_layer'] else ''}: {each.metadata['description']}; "
    f"{each.metadata['rule'].expected}; {each.default!r}"
    for each in fields(SpikingSettings)
)


def unknown_setting(name: str, known: Iterable[str], what: str = "A spiking network") -> str:
    """What to tell somebody who gave ``name``, with the closest of the ``known`` names that ``what`` takes."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"Unknown setting {name!r}.{hint} {what} takes: {', '.join(known)}"


def _surrogate_slope(name: str, slope: float | None) -> float | None:
    return Surrogate(name, slope).slope
