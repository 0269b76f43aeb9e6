"""
How the currents into a layer's neurons are normalised.

A normalisation is a function ``(channels, threshold) -> module`` for a layer of so many channels or units, whose neurons fire
at ``threshold``; the module maps the currents of samples, shape (N, channels, \\*), to others of the same shape.
"""

from collections.abc import Callable

from torch import nn

Normalization = Callable[[int, float], nn.Module]


def potential(channels: int, threshold: float) -> nn.Module:
    """
    Potential-based layer normalisation, Sun et al. 2022 (Front. Neurosci. 16:953368): at each step the currents into all
    neurons of a layer get the mean 0 and, to begin with, the standard deviation of the distance from reset to threshold;
    what is learned is a scale and a shift for each channel or unit.
    """
    norm = nn.GroupNorm(1, channels)
    nn.init.constant_(norm.weight, threshold)  # the reset is at 0
    return norm


NORMALIZATIONS: dict[str, Normalization] = {"potential": potential}
