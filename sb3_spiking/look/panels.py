"""Pictures of a recording by matplotlib: what a video and a still are made of."""

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.image import AxesImage
from matplotlib.text import Text
from matplotlib.ticker import EngFormatter

from sb3_spiking.look.recording import Layer, Recording

#: "1.03 mJ"
joules = EngFormatter("J", places=2)
#: simulation steps that a raster shows at least
RASTER_STEPS = 96
# Width of a panel of maps, its height being 1
_ASPECT = 4.3


def title_of(layers: list[Layer], number: int) -> str:
    """What a layer is called: convolutions and dense layers, each numbered from the input on, as on the page."""
    kinds = [
        "convolution" if len(layer.shape) == 3 else "output" if layer.kind == "membranes" else "dense" for layer in layers
    ]
    return f"{kinds[number]} {kinds[: number + 1].count(kinds[number])}"


def outputs(layer: Layer, first: int, last: int) -> np.ndarray:
    """
    :param layer: of any kind
    :param first: decision
    :param last: decision after the last one
    :return: spikes, membranes or activations by simulation step, shape (steps, neurons)
    """
    if layer.kind == "spikes":
        bits = layer.arrays["bits"][first:last].reshape(-1, layer.arrays["bits"].shape[2])
        return np.unpackbits(bits, axis=1, count=layer.neurons, bitorder="little").astype(np.float32)
    return layer.arrays[layer.kind][first:last].reshape(-1, layer.neurons).astype(np.float32)


def maps(layer: Layer, decision: int) -> np.ndarray:
    """
    :param layer: a convolution
    :param decision: number
    :return: how much each neuron fired, from 0 to 1, or activations, shape (channels, height, width)
    """
    return outputs(layer, decision, decision + 1).mean(axis=0).reshape(layer.shape)


def mosaic(planes: np.ndarray) -> np.ndarray:
    """
    :param planes: shape (channels, height, width)
    :return: all of them side by side, NaN between them, about four times as wide as high
    """
    channels, height, width = planes.shape
    across = min(range(1, channels + 1), key=lambda count: abs(count * width / (-(-channels // count) * height) - _ASPECT))
    down = -(-channels // across)
    whole = np.full((down * (height + 1) - 1, across * (width + 1) - 1), np.nan, np.float32)
    for channel, plane in enumerate(planes):
        top, left = channel // across * (height + 1), channel % across * (width + 1)
        whole[top : top + height, left : left + width] = plane
    return whole


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


class AgentPanels:
    """
    One agent at one moment: the game, its layers and its Q-values side by side.

    :param figure: to draw in
    :param place: in the figure
    :param recording: of the agent
    """

    def __init__(self, figure: Figure, place: SubplotSpec, recording: Recording) -> None:
        self._recording = recording
        self._rates = [layer.rates() for layer in recording.layers]
        layers = recording.layers
        grid = place.subgridspec(1, 3, width_ratios=(1.1, 2.2, 0.8), wspace=0.2)
        self._game = figure.add_subplot(grid[0])
        self._game.set_title(f"{recording.agent}, {recording.env}", fontsize=10, loc="left")
        _bare(self._game)
        self._screen = None if recording.frames is None else self._game.imshow(recording.frames[0])
        self._text = self._game.text(0, -0.02, "", fontsize=9, va="top", transform=self._game.transAxes)
        heights = [2 if len(layer.shape) == 3 else 1.6 for layer in layers] or [1]
        rows = grid[1].subgridspec(max(1, len(layers)), 1, height_ratios=heights, hspace=0.28)
        self._images = [
            self._layer(figure.add_subplot(rows[number]), layer, title_of(layers, number))
            for number, layer in enumerate(layers)
        ]
        self._values = figure.add_subplot(grid[2]) if recording.q_values.shape[1] else None
        if self._values is not None:
            self._begin_values(self._values)

    def moving(self) -> list[Artist]:
        """What is different from moment to moment."""
        screen = [] if self._screen is None else [self._screen]
        bars = [] if self._values is None else [*self._bars]
        return [*screen, self._text, *bars, *(artist for image, text, _ in self._images for artist in (image, text))]

    def _layer(self, axes: Axes, layer: Layer, title: str) -> tuple[AxesImage, Text, str]:
        first = self._picture(layer, 0)
        low, high = 0.0, 1.0
        if layer.kind != "spikes":
            values = layer.arrays[layer.kind]
            values = values[np.isfinite(values)]
            low, high = float(values.min(initial=0)), float(values.max(initial=0))
        image = axes.imshow(
            first, cmap="inferno", vmin=low, vmax=high if high > low else low + 1, interpolation="nearest", aspect="auto"
        )
        if len(layer.shape) == 3:
            axes.set_aspect("equal")
        _bare(axes)
        return image, axes.set_title(title, fontsize=8, loc="left", pad=2), title

    def _picture(self, layer: Layer, decision: int) -> np.ndarray:
        if len(layer.shape) == 3:
            return mosaic(maps(layer, decision))
        count = max(2, -(-RASTER_STEPS // layer.steps))
        first = max(0, decision + 1 - count)
        shown = np.zeros((count * layer.steps, layer.neurons), np.float32)
        window = outputs(layer, first, decision + 1)
        shown[-len(window) :] = window
        return shown.T

    def _begin_values(self, axes: Axes) -> None:
        values = self._recording.q_values
        names = self._recording.action_names
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        room = 0.05 * (high - low) or 1.0
        self._bars = axes.barh(range(len(names)), values[0] - low + room, left=low - room)
        axes.set(yticks=range(len(names)), yticklabels=names, xlim=(low - room, high + room))
        axes.invert_yaxis()
        axes.tick_params(labelsize=8)
        axes.set_title("Q-values", fontsize=8, loc="left", pad=2)

    def show(self, decision: int) -> None:
        """
        :param decision: number; beyond the last one the last one stays
        """
        recording = self._recording
        decision = min(decision, recording.decisions - 1)
        if self._screen is not None and recording.frames is not None:
            self._screen.set_data(recording.frames[decision])
        score, energy = recording.rewards[: decision + 1].sum(), recording.picojoules[: decision + 1].sum() / 1e12
        self._text.set_text(f"decision {decision}   score {score:g}   {joules(energy)} so far")
        for layer, rates, (image, text, title) in zip(recording.layers, self._rates, self._images, strict=True):
            image.set_data(self._picture(layer, decision))
            text.set_text(f"{title}: {rates[decision]:.1%}")
        if self._values is not None:
            low = self._values.get_xlim()[0]
            for number, bar in enumerate(self._bars):
                bar.set_width(np.nan_to_num(recording.q_values[decision, number]) - low)
                bar.set_color("#5c7cfa" if number == recording.actions[decision] else "#7a8594")
