"""The ground of a scene under a real SIGRID-3 vector chart: its polygons and codes, and a truth drawn from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from arcticseg.errors import SceneError
from arcticseg.ice.geo import GeoGrid
from arcticseg.ice.sigrid import EMPTY, SIC_CLASS
from arcticseg.ice.vector import VectorChart, has_ice_information, polygon_codes, rasterise, read_chart
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
from shards.simulation.place import GRID_POINTS, Place, geolocation, positions

_LAND = "L"
_WATER = "W"


@lru_cache(maxsize=2)
def open_chart(path: Path) -> VectorChart:
    """Read a chart once a process."""
    return read_chart(path)


def service_of(chart: VectorChart) -> str:
    """`cis` for charts named in the Canadian way, else `dmi`."""
    return "cis" if chart.name.lower().startswith("cis") else "dmi"


def default_window(chart: VectorChart) -> tuple[float, float]:
    """Longitude and latitude of a place inside the chart's ice: in its largest polygon with 3 to 9 tenths of ice.

    Raises SceneError for a chart without ice.
    """
    areas = {}
    for number, (polygon, codes) in enumerate(zip(chart.polygons, chart.codes, strict=True)):
        if not has_ice_information(codes) or codes["POLY_TYPE"].strip() == _WATER:
            continue
        cover = concentration(_code(codes["CT"]))
        # Degrees squared, corrected for the meridians' convergence, are enough to compare areas.
        area = polygon.area * np.cos(np.radians(polygon.centroid.y))
        areas[number] = area * (1.0 if 0.3 <= cover <= 0.95 else 0.2 if cover > 0 else 0.0)
    if not areas or max(areas.values()) == 0:
        raise SceneError(f"{chart.name}: the chart has no ice polygon; choose another chart or give a window")
    inside = chart.polygons[max(areas, key=lambda number: areas[number])].representative_point()
    return float(inside.x), float(inside.y)


def _code(cell: str) -> int:
    try:
        return int(cell)
    except ValueError:
        return EMPTY


def concentration(code: int) -> float:
    """Share of ice, 0..1, that a concentration code stands for; a range such as 46 (4 to 6 tenths) gives its middle."""
    if code in SIC_CLASS:
        return SIC_CLASS[code] / 10
    low, high = divmod(code, 10)
    if code > 10 and high > low:
        return (low + high) / 20
    return 0.95 if code in (81, 91) else 0.0


def egg_of(codes: Mapping[str, str]) -> Egg:
    """What a chart's codes say is in a polygon. Partials without a concentration share evenly what the others leave."""
    total = _code(codes["CT"])
    cover = concentration(total)
    if codes["POLY_TYPE"].strip() == _WATER or cover == 0:
        return Egg(max(total, 0), ())
    found = [
        (_code(codes["C" + letter]), _code(codes["S" + letter]), _code(codes["F" + letter]))
        for letter in "ABC"
        if _code(codes["S" + letter]) != EMPTY
    ]
    if not found:
        return Egg(total, (Partial(cover, 99, 99),))
    known = [concentration(share) if share != EMPTY else None for share, _, _ in found]
    rest = max(cover - sum(share for share in known if share is not None), 0.0)
    unknown = sum(share is None for share in known)
    shares = [rest / unknown if share is None else share for share in known]
    scale = cover / sum(shares) if sum(shares) > 0 else 0.0
    partials = tuple(
        Partial(share * scale, stage, floe) for share, (_, stage, floe) in zip(shares, found, strict=True)
    )
    return Egg(total, partials)


def _grid_of(place: Place, size: tuple[int, int], lines: Places, samples: Places) -> GeoGrid:
    """A geolocation grid whose pixel (i, j) is the scene's pixel (lines[i], samples[j]); both are evenly spaced."""
    knots = [np.linspace(0, len(places) - 1, min(GRID_POINTS, len(places))) for places in (lines, samples)]
    at = [
        places[0] + knot * (places[1] - places[0]) for knot, places in zip(knots, (lines, samples), strict=True)
    ]
    latitude, longitude = positions(place, size, *at)
    return GeoGrid(*knots, latitude, longitude, np.full(latitude.shape, np.nan))


def _land_only(chart: VectorChart) -> VectorChart:
    """The chart's land, as polygons that `rasterise` takes for ice."""
    land = [
        polygon
        for polygon, codes in zip(chart.polygons, chart.codes, strict=True)
        if codes["POLY_TYPE"].strip() == _LAND
    ]
    codes = dict.fromkeys(chart.codes[0], str(EMPTY)) | {"CT": "92", "POLY_TYPE": "I"}
    return replace(chart, polygons=tuple(land), codes=(codes,) * len(land))


def _charted_land(chart: VectorChart, place: Place, size: tuple[int, int]) -> Land:
    only = _land_only(chart)
    masks = []
    for lines, samples in (land_grid(size), margin_places(size)):
        ids = rasterise(only, _grid_of(place, size, lines, samples), (len(lines), len(samples)))
        masks.append(np.isfinite(ids))
    here, margin = masks
    if not here.any():
        return Land(np.full(here.shape, -1, np.float32), distance_km(size, here, margin), margin)
    # A signed distance makes the coast smooth between the grid's points.
    level = ndimage.distance_transform_edt(here) - ndimage.distance_transform_edt(~here)
    return Land((level * LAND_STEP).astype(np.float32), distance_km(size, here, margin), margin)


def charted_ground(chart: VectorChart, place: Place, size: tuple[int, int]) -> Ground:
    """The ground of a scene whose chart is a real one.

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
