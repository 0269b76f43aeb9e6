"""Recordings as a film, mp4 or GIF: the game, the layers and the Q-values side by side."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context, style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from sb3_spiking.files import draft_of
from sb3_spiking.look.panels import AgentPanels
from sb3_spiking.look.recording import Recording

# Pixels of a film; encoders want even numbers
_WIDTH, _HEIGHT_OF_ONE = 1280, 560
_GROUND = "#101419"
_GIF_WIDTH, _GIF_COLORS, _GIF_SAMPLES = 720, 96, 8


def frames(recordings: Sequence[Recording], on_step: Callable[[], Any] | None = None) -> Iterator[np.ndarray]:
    """
    :param recordings: below each other
    :param on_step: called after each picture
    :return: a picture for each decision, shape (H, W, 3), uint8
    """
    height = _HEIGHT_OF_ONE if len(recordings) == 1 else 400 * len(recordings)
    with rc_context({**style.library["dark_background"], "figure.facecolor": _GROUND, "axes.facecolor": _GROUND}):
        figure = Figure(figsize=(_WIDTH / 100, height / 100), dpi=100)
        canvas = FigureCanvasAgg(figure)
        grid = figure.add_gridspec(len(recordings), 1, left=0.015, right=0.985, top=0.94, bottom=0.07, hspace=0.25)
        panels = [AgentPanels(figure, grid[row], recording) for row, recording in enumerate(recordings)]
    # What stays the same is drawn once
    moving = [artist for each in panels for artist in each.moving()]
    for artist in moving:
        artist.set_animated(True)
    canvas.draw()
    background = canvas.copy_from_bbox(figure.bbox)
    for decision in range(max(recording.decisions for recording in recordings)):
        canvas.restore_region(background)
        for each in panels:
            each.show(decision)
        for artist in moving:
            assert artist.axes is not None
            artist.axes.draw_artist(artist)
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()
        if on_step is not None:
            on_step()


def write_video(
    recordings: Sequence[Recording], path: str | Path, fps: int = 10, on_step: Callable[[], Any] | None = None
) -> None:
    """
    By moviepy, the encoder of the videos of SB3 and RL Zoo.

    :param recordings: below each other
    :param path: of the file, ``.mp4``
    :param fps: decisions a second
    :param on_step: called after each decision
    """
    from moviepy.video.VideoClip import VideoClip

    count = max(recording.decisions for recording in recordings)
    made = frames(recordings, on_step)
    first = next(made)
    shown, number = first, 0

    def picture(time: float) -> np.ndarray:
        nonlocal shown, number
        while number < min(round(time * fps), count - 1):
            shown, number = next(made), number + 1
        return shown

    path = Path(path)
    with draft_of(path) as draft:
        # A draft's name begins with a dot, its end says the format
        VideoClip(picture, duration=count / fps).write_videofile(str(draft), fps=fps, audio=False, logger=None)


def write_gif(
    recordings: Sequence[Recording], path: str | Path, fps: int = 10, on_step: Callable[[], Any] | None = None
) -> None:
    """
    :param recordings: below each other
    :param path: of the file, ``.gif``
    :param fps: decisions a second
    :param on_step: called after each decision
    """
    small = []
    for frame in frames(recordings, on_step):
        image = Image.fromarray(frame)
        small.append(image.resize((_GIF_WIDTH, round(_GIF_WIDTH * image.height / image.width)), Image.Resampling.LANCZOS))
    # One palette for all, of a few of them: pixels that stay the same cost nothing
    few = small[:: -(-len(small) // _GIF_SAMPLES)]
    together = Image.fromarray(np.concatenate([np.asarray(image) for image in few]))
    palette = together.quantize(_GIF_COLORS, method=Image.Quantize.MAXCOVERAGE)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in small]
    with draft_of(Path(path)) as draft:
        film = {"save_all": True, "append_images": images[1:], "duration": round(1000 / fps), "loop": 0}
        images[0].save(draft, "gif", **film)
