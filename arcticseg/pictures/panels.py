"""A page of small pictures in rows and columns, such as what a network makes of some samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from arcticseg.files import atomic_path, make_folder
from arcticseg.ice.simulated import SCENES_BANNER, SCENES_DISCLAIMER
from arcticseg.pictures.colours import FAINT, INK, MASKED, NO_DATA
from arcticseg.pictures.sheet import draw_banner, hatched, pixel_axes

UInt8 = NDArray[np.uint8]
Float = NDArray[np.floating]
Bool = NDArray[np.bool_]

_DPI = 100
# Pixels of the page.
_GAP, _LEFT, _TOP, _LINE, _RIGHT, _LEAST = 8, 230, 128, 20, 24, 620
# Shares of the values outside the colours, on either side.
_OUTSIDE = 2.0


@dataclass(frozen=True)
class Row:
    """Some panels side by side.

    Attributes:
        texts: lines beside them, the first in bold.
        panels: uint8 [H, W, 3], or None where there is none.
    """

    texts: Sequence[str]
    panels: Sequence[UInt8 | None]


@dataclass(frozen=True)
class Painted:
    """A channel of a sample before and after a masked autoencoder.

    Attributes:
        image: float [H, W] in the channel's unit; NaN = no data.
        removed: bool [H, W], what the network was not shown.
        painted: the image with what the network made of the removed part; None: the channel is no target.
    """

    name: str
    unit: str
    image: Float
    removed: Bool
    painted: Float | None = None


PAINTED_COLUMNS = ("input", "masked input", "reconstruction")


def painted_row(channel: Painted, texts: Sequence[str] = ()) -> Row:
    """Input, masked input and reconstruction in the same colours; the texts say what they mean, and what is given."""
    known = channel.image[np.isfinite(channel.image)]
    low, high = np.percentile(known, [_OUTSIDE, 100 - _OUTSIDE]) if known.size else (0.0, 1.0)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    colours = "gray" if channel.unit == "dB" else "viridis"
    masked = coloured(channel.image, low, high, colours)
    masked[channel.removed] = MASKED
    painted = None if channel.painted is None else coloured(channel.painted, low, high, colours)
    unit = "" if channel.unit == "1" else f" {channel.unit}"
    # Rounding leaves some 1e-7 where there is 0.
    ends = (f"{value:.4g}" for value in np.round((low, high), 6))
    meaning = f"{' to '.join(ends)}{unit}" if known.size else "no data"
    lines = [channel.name, meaning, *([] if painted is not None else ["not reconstructed"]), *texts]
    return Row(lines, [coloured(channel.image, low, high, colours), hatched(masked), painted])


def coloured(values: Float, low: float, high: float, colours: str) -> UInt8:
    """Float [H, W] -> uint8 [H, W, 3]; no data is dark grey."""
    level = np.clip((values - low) / (high - low), 0, 1)
    rgb: UInt8 = colormaps[colours](np.nan_to_num(level), bytes=True)[..., :3].copy()
    rgb[~np.isfinite(values)] = NO_DATA
    return rgb


def draw_panels(
    path: Path,
    title: str,
    subtitle: str,
    columns: Sequence[str],
    rows: Sequence[Row],
    simulated: bool,
    edge: int = 184,
) -> None:
    """Draw rows of panels as a PNG.

    Args:
        columns: titles.
        simulated: whether any of it is of simulated scenes, which the page then says.
        edge: width of a panel in pixels.

    Raises:
        OutputError: it cannot be written.
    """
    heights = [_height(row, edge) for row in rows]
    width = max(_LEAST, _LEFT + len(columns) * (edge + _GAP) + _RIGHT)
    height = _TOP + sum(heights) + _GAP * len(rows) + _LINE
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = pixel_axes(figure, 0, 0, width, _TOP)
    axes.text(24, 30, title, fontsize=_fitting(title, 14, width), fontweight="bold", color=INK, va="center")
    axes.text(24, 58, subtitle, fontsize=_fitting(subtitle, 10, width), color=FAINT, va="center")
    if simulated:
        draw_banner(axes, width - 32, 86, SCENES_BANNER, 11, 0.5)
    for column, text in enumerate(columns):
        left = _LEFT + column * (edge + _GAP)
        axes.text(left, _TOP - 12, text, fontsize=10.5, fontweight="bold", color=INK, va="center")
    top = float(_TOP)
    for row, high in zip(rows, heights, strict=True):
        _draw_row(figure, row, top, edge, high)
        top += high + _GAP
    disclaimer = SCENES_DISCLAIMER if simulated else ""
    make_folder(path.parent)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Title": title, "Description": f"{disclaimer}{subtitle}"})


def _fitting(text: str, size: float, width: float) -> float:
    """Size of letters, at most so large, with which a text fits in a page; a letter is about as wide as its size."""
    return min(size, (width - 48) / max(1, len(text)))


def _height(row: Row, edge: int) -> int:
    """Of a row in pixels: that of its panels, whose pixels are square, and of its texts."""
    shapes = [panel.shape for panel in row.panels if panel is not None]
    panels = max((round(edge * shape[0] / shape[1]) for shape in shapes), default=0)
    return max(panels, _LINE * (len(row.texts) + 1))


def _draw_row(figure: Figure, row: Row, top: float, edge: int, height: int) -> None:
    axes = pixel_axes(figure, 24, top, _LEFT - 24, height)
    for number, text in enumerate(row.texts):
        style = ("bold", INK) if number == 0 else ("normal", FAINT)
        axes.text(0, 12 + number * _LINE, text, fontsize=9, fontweight=style[0], color=style[1], va="center")
    for column, panel in enumerate(row.panels):
        if panel is None:
            continue
        own = round(edge * panel.shape[0] / panel.shape[1])
        axes = pixel_axes(figure, _LEFT + column * (edge + _GAP), top, edge, own)
        axes.imshow(panel, extent=(0, edge, own, 0), interpolation="nearest", aspect="auto")
        frame = Rectangle((0, 0), edge, own, fill=False, edgecolor=INK, linewidth=0.8, clip_on=False)
        axes.add_patch(frame)
