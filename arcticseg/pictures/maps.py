"""Pictures of scenes and charts in the colours of the ice services.

`chart_rgb` and `sar_rgb` turn arrays into RGB; `scene_map` draws one scene as a PNG: SAR, chart, prediction
and difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from arcticseg.files import atomic_path
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX, N_CLASSES
from arcticseg.ice.simulated import SCENE_DISCLAIMER
from arcticseg.pictures.colours import (
    COAST,
    COLOURS,
    LAND,
    MASKED,
    NO_DATA,
    RIGHT,
    WRONG,
    chart_colours,
    difference_colours,
)
from arcticseg.pictures.sheet import Panel, Sheet, hatched, make_graticule

__all__ = ["chart_colours", "chart_rgb", "difference_rgb", "sar_range", "sar_rgb", "scene_map"]

UInt8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
Float = npt.NDArray[np.floating]

_PANEL = 560  # edge of a square panel in pixels; others have its area
_LONGEST = 800  # pixels, and so the largest array that is drawn


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
    """Backscatter as a picture: false colour of both polarisations, grey of a single one.

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
        grey = _stretched(hh if hh is not None else hv)  # type: ignore[arg-type]  # hh or hv is there
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
        rgb = difference_colours()[np.clip(tenths, -10, 10) + 10]
    else:
        rgb = np.where((truth == prediction)[..., None], np.array(RIGHT, np.uint8), np.array(WRONG, np.uint8))
    rgb[(truth == IGNORE_INDEX) | (prediction == IGNORE_INDEX)] = MASKED
    if land is not None:
        rgb[land] = LAND
    return rgb


def _nearest(values: npt.NDArray[np.generic], rows: int, columns: int) -> npt.NDArray[np.generic]:
    """[H, W] at the size of the panel, without new values."""
    height, width = values.shape
    i = ((np.arange(rows) + 0.5) * height / rows).astype(np.intp)
    j = ((np.arange(columns) + 0.5) * width / columns).astype(np.intp)
    return values[np.ix_(i, j)]


def _area_mean(values: Float, rows: int, columns: int) -> Float:
    """[H, W] at the size of the panel, mean over the valid pixels; enlarged without new values.

    The blocks differ by a pixel where the panel's size does not divide the scene's: nothing is cut off, and every panel
    of a map shows the same ground.
    """
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


def _with_coast(rgb: UInt8, land: Bool | None) -> UInt8:
    """The land pixels that touch something else, drawn as a line."""
    if land is None:
        return rgb
    padded = np.pad(land, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    rgb[land & ~inner] = COAST
    return rgb


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

    The file is written whole or not at all, and says in its metadata, as on its face, whether the scene is simulated.

    Args:
        path: the .png to write, in a folder that exists.
        title: its first line is the headline; further lines stand below it.
        hh, hv: dB [H, W], NaN = no data; either may be None.
        prediction: uint8 [3, H, W] in the order SIC, SOD, FLOE, 255 = masked.
        pixel_spacing: metres.
        chart: like `prediction`; None: only SAR and prediction are drawn.
        land: bool [H, W], or None.
        latitude, longitude: degrees [n, m] on a regular grid over the whole scene, of any size, for the graticule.
        scores: R2 and F1 times 100 of this scene by chart, and "combined".

    Raises:
        OutputError: the file cannot be written.
        ValueError: both polarisations are None, or a class is not of its chart.
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
    charts: dict[str, list[Panel]] = {}
    for k, name in enumerate(CHARTS):
        guess = shrink(prediction[k])
        drawn = Panel(_finish(chart_rgb(name, guess, small_land), small_land), score=_score_tag(name, scores))
        charts[name] = [drawn]
        if chart is not None:
            truth = shrink(chart[k])
            charts[name] = [
                Panel(_finish(chart_rgb(name, truth, small_land), small_land)),
                drawn,
                Panel(
                    _finish(difference_rgb(name, truth, guess, small_land), small_land),
                    score=_agreement(name, chart[k], prediction[k]),
                ),
            ]

    sheet = Sheet(rows, columns, compared=chart is not None, land=land is not None, simulated=simulated)
    headline, *more = title.splitlines() or [""]
    sheet.header(headline, ", ".join([*more, _subtitle(height, width, pixel_spacing, scores)]))
    graticule = make_graticule(latitude, longitude)
    if chart is not None:
        sheet.draw_compared(sar, charts, graticule, pixel_spacing / scale)
    else:
        sheet.draw_prediction(sar[0], charts, graticule, pixel_spacing / scale)
    metadata = {
        "Title": ", ".join([headline, *more]),
        "Description": f"{SCENE_DISCLAIMER if simulated else ''}Sea ice charts: SIC, SOD, FLOE.",
        "Software": "ArcticSeg",
    }
    with atomic_path(path) as partial:
        sheet.figure.savefig(partial, format="png", metadata=metadata)


def _finish(rgb: UInt8, land: Bool | None) -> UInt8:
    return _with_coast(hatched(rgb), land)


def _sar_panels(hh: Float | None, hv: Float | None) -> list[Panel]:
    """Of both polarisations: false colour, then each alone; of a single polarisation: its grey."""
    single = [
        Panel(sar_rgb(values, None), tag=name + _db_range(values))
        for name, values in (("HH", hh), ("HV", hv))
        if values is not None
    ]
    if len(single) < 2:
        return single
    return [Panel(sar_rgb(hh, hv), tag="R: HV   G: mean   B: HH"), *single]


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
