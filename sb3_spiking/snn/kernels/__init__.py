"""
The dynamics of a Leaky window, one module a backend. This is the one place that chooses between backends;
:class:`sb3_spiking.snn.neurons.Leaky` calls :func:`leaky_window` and knows nothing of them.
"""

from sb3_spiking.snn.kernels.reference import leaky_window

__all__ = ["leaky_window"]
