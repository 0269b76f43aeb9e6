"""A picture of a few decisions in a row: what an agent sees, its spikes, and the Q-values that they add up to."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sb3_spiking.files import draft_of
from sb3_spiking.look.panels import maps, outputs, title_of
from sb3_spiking.look.recording import Recording


def write_still(recording: Recording, path: str | Path, first: int = 0, decisions: int = 8) -> None:
    """
    :param recording: of an agent
    :param path: of the picture, ``.png``
    :param first: decision that the picture starts with
    :param decisions: in the picture, as many as there are
    :raises ValueError: if the recording ends before the first one
    """
    if first >= recording.decisions:
        raise ValueError(f"first={first}: the recording has {recording.decisions} decisions")
    decisions = min(decisions, recording.decisions - first)
    shown = range(first, first + decisions)
    convolutions = [number for number, layer in enumerate(recording.layers) if len(layer.shape) == 3]
    dense = [number for number, layer in enumerate(recording.layers) if len(layer.shape) == 1]
    has_values = recording.q_values.shape[1] > 0
    heights = {"game": 1.1, "convolution": 1.1, "raster": 2.6, "values": 1.2}
    wanted = {
        "game": recording.frames is not None,
        "convolution": bool(convolutions),
        "raster": bool(dense),
        "values": has_values,
    }
    names = [name for name, there in wanted.items() if there]
    figure = Figure(
        figsize=(1.5 * decisions + 0.5, 1.35 * sum(heights[name] for name in names)), dpi=110, layout="constrained"
    )
    canvas = FigureCanvasAgg(figure)
    rows = figure.add_gridspec(len(names), decisions, height_ratios=[heights[name] for name in names])
    for row, name in enumerate(names):
        if name == "game" and recording.frames is not None:
            _pictures(figure, rows, row, list(recording.frames[first : first + decisions]), "what it plays")
        elif name == "convolution":
            layer = recording.layers[convolutions[0]]
            what = "spikes" if layer.kind == "spikes" else "activations"
            fired = [maps(layer, decision).sum(axis=0) * (layer.steps if layer.kind == "spikes" else 1) for decision in shown]
            _pictures(figure, rows, row, fired, f"{title_of(recording.layers, convolutions[0])}:\n{what} at a place")
        elif name == "raster":
            layer = recording.layers[dense[-1]]
            axes = figure.add_subplot(rows[row, :])
            window = outputs(layer, first, first + decisions)
            title = title_of(recording.layers, dense[-1])
            if layer.kind == "spikes":
                steps, neurons = np.nonzero(window)
                axes.scatter(steps + 0.5, neurons, s=5, color="black", marker="|", linewidths=1)
                axes.set(xlabel=f"simulation step, {layer.steps} a decision")
            else:
                extent = (0, len(window), -0.5, layer.neurons - 0.5)
                axes.imshow(window.T, cmap="Greys", aspect="auto", extent=extent, interpolation="nearest", origin="lower")
            axes.set(ylabel=f"{title}: neuron", ylim=(-1, layer.neurons), xlim=(0, len(window)))
            for border in range(1, decisions):
                axes.axvline(border * layer.steps, color="lightgray", linewidth=0.8)
        else:
            axes = figure.add_subplot(rows[row, :])
            values, actions = recording.q_values[first : first + decisions], recording.actions[first : first + decisions]
            moments = np.arange(decisions) + 0.5
            for action, action_name in enumerate(recording.action_names):
                axes.plot(moments, values[:, action], "o-", label=action_name, markersize=4)
            chosen = values[np.arange(decisions), actions]
            axes.plot(moments, chosen, "o", color="black", fillstyle="none", markersize=9)
            for moment, action, value in zip(moments, actions, chosen, strict=True):
                label = recording.action_names[action]
                axes.annotate(label, (moment, value), (0, 8), textcoords="offset points", ha="center", fontsize="small")
            axes.margins(y=0.5)
            axes.set(ylabel="Q-values", xticks=[], xlim=(0, decisions))
            axes.legend(fontsize="small", ncols=len(recording.action_names), loc="lower left")
    with draft_of(Path(path)) as draft:
        canvas.print_png(draft)


def _pictures(figure: Figure, rows: object, row: int, pictures: list[np.ndarray], label: str) -> None:
    highest = max(1e-12, *(float(picture.max()) for picture in pictures))
    for place, picture in enumerate(pictures):
        axes = figure.add_subplot(rows[row, place])  # type: ignore[index]
        axes.imshow(picture, cmap="magma", vmin=0, vmax=highest)
        axes.set(xticks=[], yticks=[])
        if place == 0:
            axes.set_ylabel(label)
