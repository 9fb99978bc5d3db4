"""The ground of a scene under a real SIGRID-3 vector chart: its polygons and codes, and a truth drawn from them."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from arcticseg.errors import SceneError
from arcticseg.ice.chart import parse_polygon_codes, polygon_classes
from arcticseg.ice.geo import GeoGrid
from arcticseg.ice.sigrid import EMPTY, IGNORE_INDEX, SIC_CLASS, SIC_RANGES
from arcticseg.ice.vector import VectorChart, polygon_codes, read_chart, resolve_ranges
from arcticseg.ice.vector_raster import rasterise
from shards.simulation.eggs import Egg, Partial
from shards.simulation.land import (
    LAND_STEP,
    Land,
    Places,
    distance_km,
    land_grid,
    margin_places,
)
from shards.simulation.layout import Ground
from shards.simulation.place import GRID_POINTS, PIXEL_KM, Place, geolocation, place_scene, positions

_LAND = "L"
_KM_A_DEGREE = 111.2
_LEAST_SHARE = 0.02
_WATER = "W"


@lru_cache(maxsize=2)
def open_chart(path: Path, ct_ranges: str = "mask") -> VectorChart:
    """Read a chart once a process; ct_ranges: see `vector.resolve_ranges`."""
    return resolve_ranges(read_chart(path), ct_ranges)[0]


def chart_id(chart: VectorChart) -> str:
    """The chart's name as scene files have it: it begins with `cis_` for Canadian charts (SGRD...), else `dmi_`."""
    service = "cis" if re.match(r"(?i)(cis|sgrd)", chart.name) else "dmi"
    return chart.name if chart.name.lower().startswith(service) else f"{service}_{chart.name}"


def day_of(chart: VectorChart) -> datetime | None:
    """The first date (YYYYMMDD) in the chart's name, or None."""
    for digits in re.findall(r"(?:19|20)\d{6}", chart.name):
        try:
            return datetime.strptime(digits, "%Y%m%d").replace(tzinfo=UTC)
        except ValueError:
            continue
    return None


@lru_cache(maxsize=8)
def default_windows(path: Path, size: tuple[int, int], ct_ranges: str = "mask") -> tuple[tuple[float, float], ...]:
    """Longitude and latitude of a place in each ice polygon of the chart, the best scenes first.

    The value of a scene is the number of SIC, SOD and FLOE classes that cover a fiftieth of it or more, times its
    charted share. Raises SceneError for a chart without ice.
    """
    chart = open_chart(path, ct_ranges)
    header, *rows = polygon_codes(chart)
    numbers = [int(row.split(";")[0]) - 1 for row in rows]
    with warnings.catch_warnings():
        # Unlisted codes are reported when the scene is read; here they only lower the value of a place.
        warnings.simplefilter("ignore")
        classes = polygon_classes(parse_polygon_codes([header, *rows], chart.name)) if rows else np.zeros((0, 3))
    classes_of = dict(zip(numbers, classes, strict=True))
    icy = [n for n in numbers if egg_of(chart.codes[n]).partials]
    if not icy:
        raise SceneError(f"{chart.name}: the chart has no ice polygon; choose another chart or give a window")
    polygons = [chart.polygons[n] for n in numbers]
    tree = shapely.STRtree(polygons)
    reach = min(size) * PIXEL_KM / 2 / _KM_A_DEGREE
    ranked = []
    for n in icy:
        point = chart.polygons[n].representative_point()
        squeeze = 1 / max(math.cos(math.radians(point.y)), 0.05)
        box = (point.x - reach * squeeze, point.y - reach, point.x + reach * squeeze, point.y + reach)
        whole = 4 * reach**2 * squeeze
        near = [int(k) for k in tree.query(shapely.box(*box))]
        shares = {numbers[k]: shapely.clip_by_rect(polygons[k], *box).area / whole for k in near}
        shown = {
            (chart_number, int(classes_of[k][chart_number]))
            for k, share in shares.items()
            for chart_number in range(3)
            if share >= _LEAST_SHARE and classes_of[k][chart_number] != IGNORE_INDEX
        }
        ranked.append((-len(shown) * min(sum(shares.values()), 1.0), n, (float(point.x), float(point.y))))
    return tuple(place for _, _, place in sorted(ranked))


def place_under(
    path: Path, size: tuple[int, int], index: int, seed: int, date: datetime | None,
    window: tuple[float, float] | None, ct_ranges: str = "mask",
) -> Place:  # fmt: skip
    """Time and place of scene `index` under a chart.

    Without a date, the day in the chart's name; without a window (longitude, latitude), scene after scene moves on
    through places in the chart's ice.
    """
    chart = open_chart(path, ct_ranges)
    windows = (window,) if window is not None else default_windows(path, size, ct_ranges)
    name = chart_id(chart)
    place = place_scene(index, seed, date or day_of(chart), windows[index % len(windows)], name[:3].lower())
    return replace(place, chart_name=name)


def _code(cell: str) -> int:
    try:
        return int(cell)
    except ValueError:
        return EMPTY


def concentration(code: int) -> float:
    """Share of ice, 0..1, that a concentration code stands for; a range such as 46 (4 to 6 tenths) gives its middle."""
    if code in SIC_CLASS:
        return SIC_CLASS[code] / 10
    return sum(SIC_RANGES.get(code, (0, 0))) / 20


def egg_of(codes: Mapping[str, str]) -> Egg:
    """The ice in a polygon by a chart's codes. Partials without a concentration share evenly what the others leave."""
    total = _code(codes["CT"])
    cover = concentration(total)
    if codes["POLY_TYPE"].strip() == _WATER or cover == 0:
        return Egg(max(total, 0), ())
    written = [
        (_code(codes["C" + letter]), _code(codes["S" + letter]), _code(codes["F" + letter]))
        for letter in "ABC"
        if _code(codes["S" + letter]) != EMPTY
    ]
    if not written:
        return Egg(total, (Partial(cover, 99, 99),))
    known = [concentration(share) if share != EMPTY else None for share, _, _ in written]
    rest = max(cover - sum(share for share in known if share is not None), 0.0)
    unknown = sum(share is None for share in known)
    shares = [rest / unknown if share is None else share for share in known]
    scale = cover / sum(shares) if sum(shares) > 0 else 0.0
    pairs = zip(shares, written, strict=True)
    return Egg(total, tuple(Partial(share * scale, stage, floe) for share, (_, stage, floe) in pairs))


def _grid_of(place: Place, size: tuple[int, int], lines: Places, samples: Places) -> GeoGrid:
    """A geolocation grid whose pixel (i, j) is the scene's pixel (lines[i], samples[j]); both are evenly spaced."""
    rows, columns = (np.linspace(0, len(places) - 1, min(GRID_POINTS, len(places))) for places in (lines, samples))
    down, right = lines[0] + rows * (lines[1] - lines[0]), samples[0] + columns * (samples[1] - samples[0])
    latitude, longitude = positions(place, size, down, right)
    return GeoGrid(rows, columns, latitude, longitude, np.full(latitude.shape, np.nan))


def _land_only(chart: VectorChart) -> VectorChart:
    """The chart's land, as polygons that `rasterise` takes for ice.

    Danish charts leave land out: there it is the rest of the hull around all their polygons.
    """
    land = [
        polygon
        for polygon, codes in zip(chart.polygons, chart.codes, strict=True)
        if codes["POLY_TYPE"].strip() == _LAND
    ]
    if not land:
        land = [shapely.convex_hull(shapely.GeometryCollection(list(chart.polygons)))]
    codes = dict.fromkeys(chart.codes[0], str(EMPTY)) | {"CT": "92", "POLY_TYPE": "I"}
    return replace(chart, polygons=tuple(land), codes=(codes,) * len(land))


def _charted_land(chart: VectorChart, place: Place, size: tuple[int, int]) -> Land:
    only = _land_only(chart)
    masks = []
    for lines, samples in (land_grid(size), margin_places(size)):
        grid, shape = _grid_of(place, size, lines, samples), (len(lines), len(samples))
        masks.append(np.isfinite(rasterise(only, grid, shape)) & np.isnan(rasterise(chart, grid, shape)))
    here, margin = masks
    if not here.any():
        return Land(np.full(here.shape, -1, np.float32), distance_km(size, here, margin), margin)
    # A signed distance makes the coast smooth between the grid's points.
    level = ndimage.distance_transform_edt(here) - ndimage.distance_transform_edt(~here)
    return Land((level * LAND_STEP).astype(np.float32), distance_km(size, here, margin), margin)


def ground_under(chart: VectorChart, place: Place, size: tuple[int, int]) -> Ground:
    """The ground of a scene whose chart is real.

    Raises SceneError where the chart has no polygon in the scene.
    """
    ids = rasterise(chart, geolocation(place, size), size)
    raster = np.where(np.isfinite(ids), ids, 0).astype(np.int32) - 1
    del ids
    land = _charted_land(chart, place, size)
    shown = np.bincount(raster.ravel() + 1, minlength=len(chart.polygons) + 1)[1:]
    if not shown.any():
        raise SceneError(
            f"{chart.name}: no charted polygon within the scene at longitude {place.longitude:.2f}, latitude "
            f"{place.latitude:.2f}; choose a window inside the chart"
        )
    lines, samples = margin_places(size)
    outer = rasterise(chart, _grid_of(place, size, lines, samples), (len(lines), len(samples)))
    eggs = tuple(egg_of(codes) for codes in chart.codes)
    header, *rows = polygon_codes(chart)
    kept = [row for row in rows if shown[int(row.split(";")[0]) - 1]]

    def charted(lines: Places, samples: Places) -> NDArray[np.bool_]:
        here = raster[np.ix_(lines.astype(np.int64), samples.astype(np.int64))]
        return np.asarray(here >= 0)

    margin = np.where(np.isfinite(outer), outer, 0).astype(np.int32) - 1
    identities = np.arange(1, len(eggs) + 1)
    return Ground(land, raster, margin, eggs, identities, (header, *kept), charted)
