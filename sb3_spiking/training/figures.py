"""Pictures of spikes while a network learns."""

import numpy as np
from matplotlib.figure import Figure

_BINS = 25


def spike_figure(window: np.ndarray, rates: np.ndarray, title: str) -> Figure:
    """
    :param window: spikes of a few observations, shape (T, B, neurons)
    :param rates: spikes a step of each neuron over a whole batch, shape (neurons,)
    :param title: of the layer
    :return: a raster of the spikes, the observations one after another, beside a histogram of the rates
    """
    steps, samples, neurons = window.shape
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    raster, histogram = figure.subplots(1, 2, width_ratios=(2, 1))
    in_order = window.transpose(2, 1, 0).reshape(neurons, samples * steps)
    raster.imshow(in_order, cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="nearest", origin="lower")
    for border in range(1, samples):
        raster.axvline(border * steps - 0.5, color="tab:orange", linewidth=0.6)
    raster.set(title=title, ylabel="neuron", xlabel=f"simulation step of {samples} observations, {steps} each")
    histogram.hist(rates, bins=_BINS, range=(0, 1))
    histogram.set(xlabel="spikes a step", ylabel="neurons", title=f"mean {rates.mean():.3f}", yscale="log")
    return figure
