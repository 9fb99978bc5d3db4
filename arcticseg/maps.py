"""Pictures of scenes and charts in the colours of the ice services.

`chart_rgb` and `sar_rgb` turn arrays into RGB; `scene_map` draws one scene as a PNG: SAR, chart, prediction
and difference. The figures are made through matplotlib's object interface, so that nothing here touches
pyplot's global state and a map can be drawn from any thread or process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.patheffects import Normal, Stroke

from arcticseg.files import atomic_path
from arcticseg.ice.sigrid import CHARTS, CLASS_NAMES, IGNORE_INDEX, N_CLASSES

RGB = tuple[int, int, int]
UInt8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
Float = npt.NDArray[np.floating]

# Water has one colour in all three charts: that of "less than one tenth", the upper bound of class 0.
WATER: RGB = (150, 200, 255)

# SIC and SOD follow the Ice Chart Colour Code Standard (WMO/TD-No. 1215, JCOMM Technical Report 24). It colours
# total concentration in groups of tenths (1-3, 4-6, 7-8, 9-10): each group keeps its colour at one tenth, and its
# other tenths are lighter or darker shades of it. It has no colours for floe size: FLOE is a ramp that darkens with
# size, apart from the bergs, which are no floes.
COLOURS: dict[str, tuple[RGB, ...]] = {
    "SIC": (
        WATER,
        (200, 255, 208), (140, 255, 160), (88, 222, 118),
        (255, 255, 150), (255, 255, 0), (255, 218, 0),
        (255, 172, 72), (255, 125, 7),
        (255, 0, 0), (178, 0, 20),
    ),
    "SOD": (WATER, (240, 210, 250), (170, 40, 240), (155, 210, 0), (0, 120, 0), (180, 100, 50)),
    "FLOE": (
        WATER, (254, 242, 170), (186, 219, 108), (78, 178, 112), (26, 122, 130), (46, 48, 112), (214, 30, 122),
    ),
}  # fmt: skip

CHART_TITLES = {"SIC": "sea ice concentration", "SOD": "stage of development", "FLOE": "floe size"}

MASKED: RGB = (214, 214, 214)
LAND: RGB = (233, 224, 205)
NO_DATA: RGB = (58, 60, 64)

_HATCH: RGB = (182, 182, 182)
_COAST: RGB = (104, 94, 78)
_RIGHT: RGB = (222, 236, 226)
_WRONG: RGB = (202, 38, 68)
_INK = "#1d2733"
_FAINT = "#66717d"
_ALARM = "#b3123a"

# Signed difference in tenths: blue is too little ice, red too much, as water and ice are in the charts.
_DIFFERENCE = LinearSegmentedColormap.from_list(
    "difference", ["#08306b", "#2f79b9", "#9cc8e3", "#f4f4f1", "#f3b48f", "#d2463c", "#67001f"]
)

_PANEL = 560  # edge of a square panel in pixels; others have its area
_LONGEST = 800  # pixels, and so the largest array that is drawn
_DPI = 150


def chart_colours(chart: str) -> list[tuple[str, RGB]]:
    """Class names of a chart ("SIC", "SOD", "FLOE") and their RGB colours, in the order of the classes."""
    return list(zip(CLASS_NAMES[chart], COLOURS[chart], strict=True))


def chart_rgb(chart: str, classes: UInt8, land: Bool | None = None) -> UInt8:
    """Colour a class raster.

    `classes` is uint8 [H, W] with 255 = masked (grey); `land` bool [H, W] is painted over it. Returns uint8
    [H, W, 3]. Raises ValueError for a class that the chart does not have.
    """
    table = np.zeros((256, 3), np.uint8)
    table[: N_CLASSES[chart]] = COLOURS[chart]
    table[IGNORE_INDEX] = MASKED
    unknown = (classes >= N_CLASSES[chart]) & (classes != IGNORE_INDEX)
    if unknown.any():
        raise ValueError(f"{chart} has classes 0 to {N_CLASSES[chart] - 1} and 255, not {classes[unknown][0]}")
    rgb: UInt8 = table[classes]
    if land is not None:
        rgb[land] = LAND
    return rgb


def sar_rgb(hh: Float | None, hv: Float | None) -> UInt8:
    """Backscatter as a picture: false colour of both polarisations, grey of one.

    `hh` and `hv` are dB [H, W] with NaN = no data (dark grey). Each is stretched between its 1st and 99th
    percentile; red is HV, blue HH, green their mean, so that rough and old ice looks warm and wind-roughened
    water, bright in HH alone, blue. Returns uint8 [H, W, 3]. Raises ValueError without any polarisation.
    """
    if hh is None and hv is None:
        raise ValueError("sar_rgb needs hh, hv or both")
    if hh is not None and hv is not None:
        blue, red = _stretched(hh), _stretched(hv)
        planes = (red, (red + blue) / 2, blue)
    else:
        grey = _stretched(hh if hh is not None else hv)  # type: ignore[arg-type]  # one of them is there
        planes = (grey, grey, grey)
    level = np.stack(planes, axis=-1)  # [H, W, 3]
    valid = np.isfinite(level).all(axis=-1)
    rgb = np.full(level.shape, NO_DATA, np.uint8)
    rgb[valid] = np.rint(255 * level[valid]).astype(np.uint8)
    return rgb


def sar_range(values: Float) -> tuple[float, float] | None:
    """The dB values that `sar_rgb` shows as black and white; None where nothing is valid."""
    valid = values[np.isfinite(values)]
    if valid.size == 0:
        return None
    # A sample is enough for a percentile, and keeps a 100-megapixel scene quick.
    low, high = np.percentile(valid[:: max(1, valid.size // 200_000)], (1, 99))
    return float(low), float(high)


def _stretched(values: Float) -> npt.NDArray[np.float64]:
    """0..1 between the robust limits; NaN stays NaN."""
    limits = sar_range(values)
    if limits is None:
        return np.full(values.shape, np.nan)
    low, high = limits
    return np.clip((values.astype(np.float64) - low) / max(high - low, 1e-6), 0, 1)


def difference_rgb(chart: str, truth: UInt8, prediction: UInt8, land: Bool | None = None) -> UInt8:
    """Where a prediction departs from the chart: uint8 [H, W, 3] from two class rasters uint8 [H, W].

    SIC shows prediction minus chart in tenths, SOD and FLOE right or wrong; a pixel masked in either is grey.
    """
    if chart == "SIC":
        tenths = prediction.astype(np.int16) - truth.astype(np.int16)
        rgb = _difference_table()[np.clip(tenths, -10, 10) + 10]
    else:
        rgb = np.where((truth == prediction)[..., None], np.array(_RIGHT, np.uint8), np.array(_WRONG, np.uint8))
    rgb[(truth == IGNORE_INDEX) | (prediction == IGNORE_INDEX)] = MASKED
    if land is not None:
        rgb[land] = LAND
    return rgb


def _difference_table() -> UInt8:
    """Colours of the differences -10..10, uint8 [21, 3]."""
    table: UInt8 = np.rint(255 * _DIFFERENCE(np.linspace(0, 1, 21))[:, :3]).astype(np.uint8)
    return table


def _nearest(values: npt.NDArray[np.generic], rows: int, columns: int) -> npt.NDArray[np.generic]:
    """[H, W] at the size of the panel, without new values."""
    height, width = values.shape
    i = ((np.arange(rows) + 0.5) * height / rows).astype(np.intp)
    j = ((np.arange(columns) + 0.5) * width / columns).astype(np.intp)
    return values[np.ix_(i, j)]


def _area_mean(values: Float, rows: int, columns: int) -> Float:
    """[H, W] at the size of the panel, mean over the valid pixels; enlarged without new values."""
    height, width = values.shape
    if rows >= height or columns >= width:
        small = _nearest(values, rows, columns)
        return small.astype(np.float32)
    valid = np.isfinite(values)
    i = np.arange(rows) * height // rows
    j = np.arange(columns) * width // columns
    total = np.add.reduceat(np.where(valid, values, 0), i, axis=0)
    count = np.add.reduceat(valid, i, axis=0, dtype=np.int32)
    total, count = np.add.reduceat(total, j, axis=1), np.add.reduceat(count, j, axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def _hatched(rgb: UInt8) -> UInt8:
    """Diagonal lines over masked pixels, so that they are not taken for a class."""
    rows, columns = np.indices(rgb.shape[:2])
    line = (rows + columns) % 9 < 2
    rgb[(rgb == MASKED).all(axis=-1) & line] = _HATCH
    return rgb


def _with_coast(rgb: UInt8, land: Bool | None) -> UInt8:
    """The land pixels that touch something else, drawn as a line."""
    if land is None:
        return rgb
    padded = np.pad(land, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    rgb[land & ~inner] = _COAST
    return rgb


@dataclass(frozen=True)
class _Panel:
    """One picture at panel size, with the tags that stand in its corners."""

    rgb: UInt8
    tag: str = ""
    score: str = ""


def scene_map(
    path: Path,
    *,
    title: str,
    hh: Float | None,
    hv: Float | None,
    prediction: UInt8,
    pixel_spacing: float,
    chart: UInt8 | None = None,
    land: Bool | None = None,
    latitude: Float | None = None,
    longitude: Float | None = None,
    simulated: bool = False,
    scores: Mapping[str, float | None] | None = None,
) -> None:
    """Draw a scene as a PNG: SAR, and for SIC, SOD and FLOE the chart, the prediction and their difference.

    `hh`, `hv`: dB [H, W], NaN = no data, one may be None. `prediction`, `chart`: uint8 [3, H, W] in the order SIC,
    SOD, FLOE, 255 = masked; without a chart only SAR and prediction are drawn. `land`: bool [H, W].
    `pixel_spacing`: metres. `latitude`, `longitude`: degrees on any regular grid over the whole scene, such as
    the geolocation grid, for the graticule. `scores`: R2 and F1 times 100 of this scene by chart, and "combined".
    The file is written whole or not at all, and says in its metadata, as on its face, whether the scene is simulated.
    """
    if hh is None and hv is None:
        raise ValueError("scene_map needs hh, hv or both")
    height, width = prediction.shape[1:]
    scale = min(_PANEL / np.sqrt(height * width), _LONGEST / max(height, width))
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))

    def shrink(classes: UInt8) -> UInt8:
        return _nearest(classes, rows, columns).astype(np.uint8)

    small_land = None if land is None else _nearest(land, rows, columns).astype(bool)
    sar = _sar_panels(
        None if hh is None else _area_mean(hh, rows, columns), None if hv is None else _area_mean(hv, rows, columns)
    )
    charts: dict[str, list[_Panel]] = {}
    for k, name in enumerate(CHARTS):
        guess = shrink(prediction[k])
        drawn = _Panel(_finish(chart_rgb(name, guess, small_land), small_land), score=_score_tag(name, scores))
        charts[name] = [drawn]
        if chart is not None:
            truth = shrink(chart[k])
            charts[name] = [
                _Panel(_finish(chart_rgb(name, truth, small_land), small_land)),
                drawn,
                _Panel(
                    _finish(difference_rgb(name, truth, guess, small_land), small_land),
                    score=_agreement(name, chart[k], prediction[k]),
                ),
            ]

    sheet = _Sheet(rows, columns, compared=chart is not None, land=land is not None, simulated=simulated)
    sheet.header(title, _subtitle(height, width, pixel_spacing, scores))
    graticule = _graticule(latitude, longitude)
    if chart is not None:
        sheet.draw_compared(sar, charts, graticule, pixel_spacing / scale)
    else:
        sheet.draw_prediction(sar[0], charts, graticule, pixel_spacing / scale)
    description = "SIMULATED SCENE: not an observation. " if simulated else ""
    metadata = {"Title": title, "Description": description + "Sea ice charts: SIC, SOD, FLOE.", "Software": "ArcticSeg"}
    with atomic_path(path) as partial:
        sheet.figure.savefig(partial, format="png", metadata=metadata)


def _finish(rgb: UInt8, land: Bool | None) -> UInt8:
    return _with_coast(_hatched(rgb), land)


def _sar_panels(hh: Float | None, hv: Float | None) -> list[_Panel]:
    """Both polarisations: false colour, then each alone; one: that one."""
    single = [
        _Panel(sar_rgb(values, None), tag=name + _db_range(values))
        for name, values in (("HH", hh), ("HV", hv))
        if values is not None
    ]
    if len(single) < 2:
        return single
    return [_Panel(sar_rgb(hh, hv), tag="R: HV   G: mean   B: HH"), *single]


def _db_range(values: Float) -> str:
    limits = sar_range(values)
    return "" if limits is None else f"  {limits[0]:.0f} to {limits[1]:.0f} dB".replace("-", "\u2212")


def _score_tag(chart: str, scores: Mapping[str, float | None] | None) -> str:
    value = None if scores is None else scores.get(chart)
    return "" if value is None else f"{'R²' if chart == 'SIC' else 'F1'} {value:.1f}"


def _agreement(chart: str, truth: UInt8, prediction: UInt8) -> str:
    """Share of right pixels, or the mean absolute difference of concentration, over the pixels that both have."""
    both = (truth != IGNORE_INDEX) & (prediction != IGNORE_INDEX)
    n = int(both.sum())
    if n == 0:
        return ""
    if chart == "SIC":
        tenths = np.abs(prediction.astype(np.int8) - truth.astype(np.int8))[both]
        return f"mean error {10 * tenths.mean():.0f} %"
    return f"{100 * int(((truth == prediction) & both).sum()) / n:.0f} % right"


def _subtitle(height: int, width: int, pixel_spacing: float, scores: Mapping[str, float | None] | None) -> str:
    across, down = width * pixel_spacing / 1000, height * pixel_spacing / 1000
    extent = f"{across:.0f} x {down:.0f} km, pixels of {pixel_spacing:g} m"
    combined = None if scores is None else scores.get("combined")
    return extent if combined is None else f"{extent}, combined score {combined:.1f}"


@dataclass(frozen=True)
class _Graticule:
    """Latitudes and longitudes on a coarse grid [n, m], and the lines to draw."""

    latitude: npt.NDArray[np.float64]
    longitude: npt.NDArray[np.float64]
    parallels: list[float]
    meridians: list[float]


def _graticule(latitude: Float | None, longitude: Float | None) -> _Graticule | None:
    if latitude is None or longitude is None or min(latitude.shape) < 2:
        return None
    n, m = (min(size, 41) for size in latitude.shape)
    i = np.linspace(0, latitude.shape[0] - 1, n).round().astype(np.intp)
    j = np.linspace(0, latitude.shape[1] - 1, m).round().astype(np.intp)
    lat = latitude[np.ix_(i, j)].astype(np.float64)
    lon = longitude[np.ix_(i, j)].astype(np.float64)
    if not (np.isfinite(lat).all() and np.isfinite(lon).all()):
        return None
    # Longitudes relative to the scene's own, so that the date line is no jump.
    middle = np.degrees(np.angle(np.exp(1j * np.radians(lon)).mean()))
    lon = middle + (lon - middle + 180) % 360 - 180
    return _Graticule(lat, lon, _round_levels(lat), _round_levels(lon))


def _round_levels(values: npt.NDArray[np.float64]) -> list[float]:
    """Two to five round values inside the range; none where the range is as good as empty."""
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


class _Sheet:
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

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes at pixels from the upper left corner, in units of pixels with y downwards."""
        axes = self.figure.add_axes(
            (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        )
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.set_axis_off()
        return axes

    def header(self, title: str, subtitle: str) -> None:
        axes = self.axes(0, 0, self.width, self.TOP)
        room = self.width - self.LEFT - (430 if self.simulated else 48)
        # A bold character is about 1.4 pixels wide a point; a long name gets smaller, not longer.
        size = min(19.0, room / (1.4 * max(len(title), 1)))
        axes.text(self.LEFT, 58, title, fontsize=size, fontweight="bold", color=_INK, va="center")
        axes.text(self.LEFT, 112, subtitle, fontsize=12.5, color=_FAINT, va="center")
        if self.simulated:
            axes.text(
                self.width - 48, 74, "SIMULATED SCENE", fontsize=15, fontweight="bold", color="white",
                ha="right", va="center",
                bbox={"boxstyle": "square,pad=0.55", "facecolor": _ALARM, "edgecolor": "none"},
            )  # fmt: skip

    def draw_compared(
        self, sar: Sequence[_Panel], charts: Mapping[str, Sequence[_Panel]], graticule: _Graticule | None, metres: float
    ) -> None:
        """Rows SIC, SOD, FLOE; columns SAR, chart, prediction, difference, legend. `metres` a panel pixel."""
        step = self.columns + self.GAP
        top = self.TOP + self.COLUMN_TITLE
        for column, text in enumerate(("SAR", "Ice chart", "Prediction", "Difference")):
            self.column_title(self.LEFT + column * step, text)
        for row, (name, panels) in enumerate(charts.items()):
            y = top + row * (self.row_height + self.GAP)
            self.row_title(y, name)
            if row < len(sar):
                axes = self.panel(self.LEFT, y, sar[row], graticule, labelled=True)
                self.simulated_tag(axes)
                if row == 0:
                    self.scale_bar(axes, metres)
            for column, panel in enumerate(panels, start=1):
                self.panel(self.LEFT + column * step, y, panel, graticule, labelled=False)
            x = self.LEFT + 4 * step + self.GAP
            self.class_legend(x, y, name)
            self.difference_legend(x + 318, y, name)

    def draw_prediction(
        self, sar: _Panel, charts: Mapping[str, Sequence[_Panel]], graticule: _Graticule | None, metres: float
    ) -> None:
        """One row, SAR and the three predictions, with the legends below. `metres` a panel pixel."""
        step = self.columns + self.GAP
        top = self.TOP + self.COLUMN_TITLE
        self.column_title(self.LEFT, "SAR")
        axes = self.panel(self.LEFT, top, sar, graticule, labelled=True)
        self.simulated_tag(axes)
        self.scale_bar(axes, metres)
        for column, (name, panels) in enumerate(charts.items(), start=1):
            x = self.LEFT + column * step
            self.column_title(x, f"{name}, {CHART_TITLES[name]}")
            self.panel(x, top, panels[0], graticule, labelled=False)
            self.class_legend(x, top + self.rows + self.GAP, name)

    def column_title(self, x: float, text: str) -> None:
        axes = self.axes(x, self.TOP, self.columns, self.COLUMN_TITLE)
        size = 13.5 * min(1.0, self.columns / 440)
        axes.text(0, self.COLUMN_TITLE / 2 - 4, text, fontsize=size, fontweight="bold", color=_INK, va="center")

    def row_title(self, y: float, name: str) -> None:
        height = max(self.rows, 440)  # the text is longer than a flat panel
        axes = self.axes(0, y, self.LEFT, height)
        axes.text(
            self.LEFT - 26, height / 2, f"{name}  {CHART_TITLES[name]}", fontsize=13.5, fontweight="bold", color=_INK,
            rotation=90, ha="center", va="center",
        )  # fmt: skip

    def panel(self, x: float, y: float, panel: _Panel, graticule: _Graticule | None, *, labelled: bool) -> Axes:
        axes = self.axes(x, y, self.columns, self.rows)
        axes.imshow(panel.rgb, extent=(0, self.columns, self.rows, 0), interpolation="nearest", aspect="auto")
        axes.add_patch(
            Rectangle((0, 0), self.columns, self.rows, fill=False, edgecolor=_INK, linewidth=1.2, clip_on=False)
        )
        if graticule is not None:
            self.graticule(axes, graticule, labelled=labelled)
        if panel.tag:
            self.tag(axes, 12, self.rows - 14, panel.tag, va="bottom")
        if panel.score:
            self.tag(axes, self.columns - 12, self.rows - 14, panel.score, ha="right", va="bottom", fontweight="bold")
        return axes

    def graticule(self, axes: Axes, graticule: _Graticule, *, labelled: bool) -> None:
        n, m = graticule.latitude.shape
        x, y = np.linspace(0, self.columns, m), np.linspace(0, self.rows, n)
        colour = "#f4f6f8" if labelled else _INK
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

    def tag(self, axes: Axes, x: float, y: float, text: str, *, colour: str = _INK, **style: Any) -> None:
        box = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": "none", "alpha": 0.88}
        axes.text(x, y, text, fontsize=9.5, color=colour, bbox=box, zorder=5, **style)

    def simulated_tag(self, axes: Axes) -> None:
        if self.simulated:
            self.tag(axes, 12, 14, "simulated", colour=_ALARM, va="top", fontweight="bold")

    def scale_bar(self, axes: Axes, metres: float) -> None:
        length, text = _scale_bar(self.columns, metres)
        right, y = self.columns - 20, 44
        axes.add_patch(
            FancyBboxPatch(
                (right - length - 5, 14), length + 10, 38,
                boxstyle="round,pad=3", facecolor="white", linewidth=0, alpha=0.88, zorder=5,
            )
        )  # fmt: skip
        axes.plot([right - length, right], [y, y], color=_INK, linewidth=2.5, solid_capstyle="butt", zorder=6)
        axes.text(right - length / 2, y - 5, text, fontsize=8, color=_INK, ha="center", va="bottom", zorder=6)

    def class_legend(self, x: float, y: float, name: str) -> None:
        # Highest class on top, as thick ice and high concentration are on a chart's own legend.
        entries = [*reversed(chart_colours(name)), *([("land", LAND)] if self.land else []), ("masked", MASKED)]
        axes = self.axes(x, y, 300, len(entries) * self.LINE)
        for k, (text, colour) in enumerate(entries):
            self.swatch(axes, 0, k * self.LINE, text, colour)

    def swatch(self, axes: Axes, x: float, y: float, text: str, colour: RGB) -> None:
        patch = np.full((22, 36, 3), colour, np.uint8)
        axes.imshow(_hatched(patch), extent=(x, x + 36, y + 22, y), interpolation="nearest", aspect="auto", zorder=2)
        axes.add_patch(Rectangle((x, y), 36, 22, fill=False, edgecolor=_FAINT, linewidth=0.6, clip_on=False, zorder=3))
        axes.text(x + 48, y + 11, text, fontsize=10.5, color=_INK, va="center")
        # imshow moves the limits to its own extent.
        axes.set_xlim(0, axes.bbox.width)
        axes.set_ylim(axes.bbox.height, 0)

    def difference_legend(self, x: float, y: float, name: str) -> None:
        axes = self.axes(x, y, 260, 13 * self.LINE)
        if name != "SIC":
            for k, (text, colour) in enumerate((("right", _RIGHT), ("wrong", _WRONG))):
                self.swatch(axes, 0, k * self.LINE, text, colour)
            return
        height = 11 * self.LINE - 12
        axes.imshow(
            _difference_table()[::-1, None], extent=(0, 36, height, 0), interpolation="nearest", aspect="auto", zorder=2
        )
        axes.add_patch(Rectangle((0, 0), 36, height, fill=False, edgecolor=_FAINT, linewidth=0.6, clip_on=False))
        words = ("100 % too high", "50 % too high", "equal", "50 % too low", "100 % too low")
        for share, text in zip(np.linspace(0, 1, len(words)), words, strict=True):
            axes.text(48, 9 + share * (height - 18), text, fontsize=10.5, color=_INK, va="center")
        axes.set_xlim(0, axes.bbox.width)
        axes.set_ylim(axes.bbox.height, 0)
