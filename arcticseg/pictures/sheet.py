"""The page of a scene map: panels, legends, graticule and scale bar, laid out in pixels.

This module knows where things stand, `maps` what is in them. matplotlib's object interface alone is
used, so that nothing touches pyplot's global state and a map can be drawn in any thread or process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.patheffects import Normal, Stroke

from arcticseg.ice.simulated import ATTRIBUTE, SCENE_BANNER
from arcticseg.pictures.colours import (
    ALARM,
    CHART_TITLES,
    FAINT,
    HATCH,
    INK,
    LAND,
    MASKED,
    RGB,
    RIGHT,
    WRONG,
    chart_colours,
    difference_colours,
)

UInt8 = npt.NDArray[np.uint8]
Float = npt.NDArray[np.floating]

_DPI = 150


def hatched(rgb: UInt8) -> UInt8:
    """Draw diagonal lines over masked pixels of uint8 [H, W, 3], in place: masked is not a class."""
    rows, columns = np.indices(rgb.shape[:2])
    line = (rows + columns) % 9 < 2
    rgb[(rgb == MASKED).all(axis=-1) & line] = HATCH
    return rgb


def pixel_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at pixels from a figure's upper left corner, in units of pixels with y downwards."""
    across, down = figure.get_size_inches() * figure.dpi
    axes = figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    return axes


def draw_banner(axes: Axes, right: float, middle: float, text: str, size: float, pad: float) -> None:
    """White text on the colour of an alarm, which ends at `right`: the mark of simulated scenes."""
    box = {"boxstyle": f"square,pad={pad}", "facecolor": ALARM, "edgecolor": "none"}
    axes.text(right, middle, text, fontsize=size, fontweight="bold", color="white", ha="right", va="center", bbox=box)


@dataclass(frozen=True)
class Panel:
    """One picture at panel size, with the tags that stand in its corners."""

    rgb: UInt8
    tag: str = ""
    score: str = ""


@dataclass(frozen=True)
class Graticule:
    """Latitudes and longitudes on a coarse grid [n, m], and the lines to draw."""

    latitude: npt.NDArray[np.float64]
    longitude: npt.NDArray[np.float64]
    parallels: list[float]
    meridians: list[float]


def make_graticule(latitude: Float | None, longitude: Float | None) -> Graticule | None:
    """Choose the lines for a scene from degrees on a regular grid over it; None without a usable grid."""
    if latitude is None or longitude is None or min(latitude.shape) < 2:
        return None
    n, m = (min(size, 41) for size in latitude.shape)
    i = np.linspace(0, latitude.shape[0] - 1, n).round().astype(np.intp)
    j = np.linspace(0, latitude.shape[1] - 1, m).round().astype(np.intp)
    lat = latitude[np.ix_(i, j)].astype(np.float64)
    lon = longitude[np.ix_(i, j)].astype(np.float64)
    if not (np.isfinite(lat).all() and np.isfinite(lon).all()):
        return None
    # Longitudes relative to the scene's own, so that they do not jump at the date line.
    middle = np.degrees(np.angle(np.exp(1j * np.radians(lon)).mean()))
    lon = middle + (lon - middle + 180) % 360 - 180
    return Graticule(lat, lon, _round_levels(lat), _round_levels(lon))


def _round_levels(values: npt.NDArray[np.float64]) -> list[float]:
    """Two to five round values inside the range; none where the range is nearly empty."""
    low, high = float(values.min()), float(values.max())
    if high - low < 0.02:
        return []
    steps = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 90)
    step = next((s for s in steps if (high - low) / s <= 4.5), 90)
    return [k * step for k in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]


def _degrees(value: float, positive: str, negative: str) -> str:
    value = (value + 180) % 360 - 180 if positive == "E" else value
    return f"{abs(round(value, 2)):g}° {positive if value >= 0 else negative}"


def _scale_bar(pixels_across: int, metres: float) -> tuple[float, str]:
    """Length in panel pixels and text of a bar of a round length, at most 0.3 of the panel; `metres` a pixel."""
    longest = 0.3 * pixels_across * metres / 1000
    exponent = np.floor(np.log10(longest))
    kilometres = max(f * 10**exponent for f in (1, 2, 5) if f * 10**exponent <= longest)
    return kilometres * 1000 / metres, f"{kilometres:g} km"


class Sheet:
    """The figure, laid out in pixels so that one array element is one pixel and hatches and coasts stay sharp."""

    GAP = 18
    LEFT = 64
    LEGEND = 610
    TOP = 160
    COLUMN_TITLE = 44
    BOTTOM = 40
    LINE = 38

    def __init__(self, rows: int, columns: int, *, compared: bool, land: bool, simulated: bool) -> None:
        self.rows, self.columns, self.land, self.simulated = rows, columns, land, simulated
        # A legend needs room for the eleven classes of SIC, land and masked, however flat the scene.
        legend_height = 14 * self.LINE
        self.row_height = max(rows, legend_height) if compared else rows
        step = columns + self.GAP
        if compared:
            self.width = self.LEFT + 4 * step + self.LEGEND
            self.height = self.TOP + self.COLUMN_TITLE + 3 * (self.row_height + self.GAP) + self.BOTTOM
        else:
            self.width = max(self.LEFT + 4 * step, 1500)
            self.height = self.TOP + self.COLUMN_TITLE + rows + self.GAP + legend_height + self.BOTTOM
        self.figure = Figure(figsize=(self.width / _DPI, self.height / _DPI), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(self.figure)  # makes the figure drawable by Agg, whatever pyplot is set to

    def _axes_at(self, left: float, top: float, width: float, height: float) -> Axes:
        return pixel_axes(self.figure, left, top, width, height)

    def header(self, title: str, subtitle: str) -> None:
        """Title, subtitle and, if the scene is simulated, the mark that says so."""
        axes = self._axes_at(0, 0, self.width, self.TOP)
        room = self.width - self.LEFT - (430 if self.simulated else 48)
        # A bold character is about 1.4 pixels wide a point; a long name gets smaller, not longer.
        size = min(19.0, room / (1.4 * max(len(title), 1)))
        axes.text(self.LEFT, 58, title, fontsize=size, fontweight="bold", color=INK, va="center")
        axes.text(self.LEFT, 112, subtitle, fontsize=12.5, color=FAINT, va="center")
        if self.simulated:
            draw_banner(axes, self.width - 48, 74, SCENE_BANNER, 15, 0.55)

    def draw_compared(
        self, sar: Sequence[Panel], charts: Mapping[str, Sequence[Panel]], graticule: Graticule | None, metres: float
    ) -> None:
        """Rows SIC, SOD, FLOE; columns SAR, chart, prediction, difference, legend. `metres` a panel pixel."""
        step = self.columns + self.GAP
        top = self.TOP + self.COLUMN_TITLE
        for column, text in enumerate(("SAR", "Ice chart", "Prediction", "Difference")):
            self._column_title(self.LEFT + column * step, text)
        for row, (name, panels) in enumerate(charts.items()):
            y = top + row * (self.row_height + self.GAP)
            self._row_title(y, name)
            if row < len(sar):
                axes = self._panel(self.LEFT, y, sar[row], graticule, labelled=True)
                self._simulated_tag(axes)
                if row == 0:
                    self._scale_bar(axes, metres)
            for column, panel in enumerate(panels, start=1):
                self._panel(self.LEFT + column * step, y, panel, graticule, labelled=False)
            x = self.LEFT + 4 * step + self.GAP
            self._class_legend(x, y, name)
            self._difference_legend(x + 318, y, name)

    def draw_prediction(
        self, sar: Panel, charts: Mapping[str, Sequence[Panel]], graticule: Graticule | None, metres: float
    ) -> None:
        """A single row, SAR and the three predictions, with the legends below. `metres` a panel pixel."""
        step = self.columns + self.GAP
        top = self.TOP + self.COLUMN_TITLE
        self._column_title(self.LEFT, "SAR")
        axes = self._panel(self.LEFT, top, sar, graticule, labelled=True)
        self._simulated_tag(axes)
        self._scale_bar(axes, metres)
        for column, (name, panels) in enumerate(charts.items(), start=1):
            x = self.LEFT + column * step
            self._column_title(x, f"{name}, {CHART_TITLES[name]}")
            self._panel(x, top, panels[0], graticule, labelled=False)
            self._class_legend(x, top + self.rows + self.GAP, name)

    def _column_title(self, x: float, text: str) -> None:
        axes = self._axes_at(x, self.TOP, self.columns, self.COLUMN_TITLE)
        size = 13.5 * min(1.0, self.columns / 440)
        axes.text(0, self.COLUMN_TITLE / 2 - 4, text, fontsize=size, fontweight="bold", color=INK, va="center")

    def _row_title(self, y: float, name: str) -> None:
        height = max(self.rows, 440)  # the text is longer than a flat panel
        axes = self._axes_at(0, y, self.LEFT, height)
        axes.text(
            self.LEFT - 26, height / 2, f"{name}  {CHART_TITLES[name]}", fontsize=13.5, fontweight="bold", color=INK,
            rotation=90, ha="center", va="center",
        )  # fmt: skip

    def _panel(self, x: float, y: float, panel: Panel, graticule: Graticule | None, *, labelled: bool) -> Axes:
        axes = self._axes_at(x, y, self.columns, self.rows)
        axes.imshow(panel.rgb, extent=(0, self.columns, self.rows, 0), interpolation="nearest", aspect="auto")
        axes.add_patch(
            Rectangle((0, 0), self.columns, self.rows, fill=False, edgecolor=INK, linewidth=1.2, clip_on=False)
        )
        if graticule is not None:
            self._graticule(axes, graticule, labelled=labelled)
        if panel.tag:
            self._tag(axes, 12, self.rows - 14, panel.tag, va="bottom")
        if panel.score:
            self._tag(axes, self.columns - 12, self.rows - 14, panel.score, ha="right", va="bottom", fontweight="bold")
        return axes

    def _graticule(self, axes: Axes, graticule: Graticule, *, labelled: bool) -> None:
        n, m = graticule.latitude.shape
        x, y = np.linspace(0, self.columns, m), np.linspace(0, self.rows, n)
        colour = "#f4f6f8" if labelled else INK
        for values, levels, signs in (
            (graticule.latitude, graticule.parallels, ("N", "S")),
            (graticule.longitude, graticule.meridians, ("E", "W")),
        ):
            if not levels:
                continue
            lines = axes.contour(
                x, y, values, levels=levels, colors=[colour], linestyles="solid", linewidths=0.6,
                alpha=0.55 if labelled else 0.28,
            )  # fmt: skip
            if labelled:
                texts = {level: _degrees(level, *signs) for level in lines.levels}
                for text in axes.clabel(lines, fmt=texts, fontsize=8, colors="white", inline=False):
                    text.set_path_effects([Stroke(linewidth=2, foreground="#20242a", alpha=0.75), Normal()])
                    text.set_alpha(1)
                    # The corners belong to the tags and the scale bar.
                    if not 70 < text.get_position()[1] < self.rows - 60:
                        text.set_visible(False)

    def _tag(self, axes: Axes, x: float, y: float, text: str, *, colour: str = INK, **style: Any) -> None:
        box = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": "none", "alpha": 0.88}
        axes.text(x, y, text, fontsize=9.5, color=colour, bbox=box, zorder=5, **style)

    def _simulated_tag(self, axes: Axes) -> None:
        if self.simulated:
            self._tag(axes, 12, 14, ATTRIBUTE, colour=ALARM, va="top", fontweight="bold")

    def _scale_bar(self, axes: Axes, metres: float) -> None:
        length, text = _scale_bar(self.columns, metres)
        right, y = self.columns - 20, 44
        axes.add_patch(
            FancyBboxPatch(
                (right - length - 5, 14), length + 10, 38,
                boxstyle="round,pad=3", facecolor="white", linewidth=0, alpha=0.88, zorder=5,
            )
        )  # fmt: skip
        axes.plot([right - length, right], [y, y], color=INK, linewidth=2.5, solid_capstyle="butt", zorder=6)
        axes.text(right - length / 2, y - 5, text, fontsize=8, color=INK, ha="center", va="bottom", zorder=6)

    def _class_legend(self, x: float, y: float, name: str) -> None:
        # Highest class on top, as thick ice and high concentration are on a chart's own legend.
        entries = [*reversed(chart_colours(name)), *([("land", LAND)] if self.land else []), ("masked", MASKED)]
        axes = self._axes_at(x, y, 300, len(entries) * self.LINE)
        for k, (text, colour) in enumerate(entries):
            self._swatch(axes, 0, k * self.LINE, text, colour)

    def _swatch(self, axes: Axes, x: float, y: float, text: str, colour: RGB) -> None:
        patch = np.full((22, 36, 3), colour, np.uint8)
        axes.imshow(hatched(patch), extent=(x, x + 36, y + 22, y), interpolation="nearest", aspect="auto", zorder=2)
        axes.add_patch(Rectangle((x, y), 36, 22, fill=False, edgecolor=FAINT, linewidth=0.6, clip_on=False, zorder=3))
        axes.text(x + 48, y + 11, text, fontsize=10.5, color=INK, va="center")
        # imshow moves the limits to its own extent.
        axes.set_xlim(0, axes.bbox.width)
        axes.set_ylim(axes.bbox.height, 0)

    def _difference_legend(self, x: float, y: float, name: str) -> None:
        axes = self._axes_at(x, y, 260, 13 * self.LINE)
        if name != "SIC":
            for k, (text, colour) in enumerate((("right", RIGHT), ("wrong", WRONG))):
                self._swatch(axes, 0, k * self.LINE, text, colour)
            return
        height = 11 * self.LINE - 12
        axes.imshow(
            difference_colours()[::-1, None],
            extent=(0, 36, height, 0),
            interpolation="nearest",
            aspect="auto",
            zorder=2,
        )
        axes.add_patch(Rectangle((0, 0), 36, height, fill=False, edgecolor=FAINT, linewidth=0.6, clip_on=False))
        words = ("100 % too high", "50 % too high", "equal", "50 % too low", "100 % too low")
        for share, text in zip(np.linspace(0, 1, len(words)), words, strict=True):
            axes.text(48, 9 + share * (height - 18), text, fontsize=10.5, color=INK, va="center")
        axes.set_xlim(0, axes.bbox.width)
        axes.set_ylim(axes.bbox.height, 0)
