"""Outlines of chart polygons: made valid, brought to longitude and latitude, measured.

A polygon here lies in the plane of longitude and latitude (degrees, WGS 84), in which the longitude is continuous: it
may pass 180, and the poles are the lines at 90 and -90. What it covers on the Earth is what it covers in this plane,
longitudes taken modulo 360.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyproj
import shapely
import shapely.affinity
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from arcticseg.errors import SceneError

Float = NDArray[np.float64]

# An edge of a chart is straight in the chart's own system. Cut into pieces of this length before it is transformed to
# another system, it stays within half a metre of its course even at 85 degrees north (sagitta L^2 tan(lat) / 8 R).
EDGE_METRES = 1_500.0

# In a chart in longitude and latitude, an edge over more degrees than this is a step over the date line, such as from
# 179.9 to -179.9; a shorter one, and one over 360 degrees, spans the longitudes that it names, as in boxes and caps.
_DATE_LINE = 300.0
_TURN = 360.0
_SAME = 1e-6

# A reference system by authority and number.
_CODE = re.compile(r"[A-Za-z0-9_]{1,20}:[0-9]{1,9}", re.ASCII)

# Longitudes beyond this are no degrees.
_FAR = 720.0

# WGS 84.
_SEMI_MAJOR, _ECCENTRICITY = 6_378_137.0, 0.0818191908426215


@dataclass(frozen=True)
class Outline:
    """What is left of a feature.

    Attributes:
        polygon: a valid Polygon or MultiPolygon; None: there is none.
        doubt: where the ways to repair an invalid polygon differ; None: nowhere.
        note: what was done ("": nothing).
    """

    polygon: BaseGeometry | None
    doubt: BaseGeometry | None = None
    note: str = ""


def outline(geometry: BaseGeometry | None) -> Outline:
    """The valid polygons of a feature; of a collection, its polygons."""
    if geometry is None or geometry.is_empty:
        return Outline(None, note="no geometry: left out")
    polygons = _polygons(geometry)
    if not polygons:
        return Outline(None, note=f"a {geometry.geom_type}, not a polygon: left out")
    if not np.isfinite(shapely.get_coordinates(polygons)).all():
        return Outline(None, note="coordinates that are no numbers: left out")
    note = ""
    if geometry.geom_type == "GeometryCollection":
        note = f"a GeometryCollection: its {len(polygons)} polygons are kept"
        whole = shapely.union_all([_valid(polygon) for polygon in polygons])
    else:
        whole = geometry
    if whole.is_valid:
        return Outline(whole, note=note)
    # The structure method keeps what rings enclose and drops collapsed parts, so the result stays polygonal; the other
    # takes what an even number of rings encloses for outside.
    reason, repaired = shapely.is_valid_reason(whole), _valid(whole)
    doubt = repaired.symmetric_difference(shapely.union_all(_polygons(shapely.make_valid(whole))))
    doubt = shapely.union_all(_polygons(doubt))
    if repaired.is_empty:
        return Outline(None, note=f"invalid ({reason}) and without area: left out")
    return Outline(repaired, None if doubt.is_empty else doubt, f"invalid ({reason}): repaired")


def _polygons(geometry: BaseGeometry) -> list[BaseGeometry]:
    """The polygons of any geometry, those of nested collections too."""
    parts = [geometry]
    while any(part.geom_type in ("GeometryCollection", "MultiPolygon") for part in parts):
        parts = list(shapely.get_parts(parts))
    return [part for part in parts if part.geom_type == "Polygon" and not part.is_empty]


def _valid(polygon: BaseGeometry) -> BaseGeometry:
    return polygon if polygon.is_valid else shapely.make_valid(polygon, method="structure", keep_collapsed=False)


def to_lonlat(polygons: Iterable[BaseGeometry], crs_text: str, source: str) -> list[BaseGeometry]:
    """Polygons from their own reference system to the plane of longitude and latitude.

    Raises:
        SceneError: the system is unknown, or the coordinates do not fit it.
    """
    try:
        # Files give WKT or a code; other forms that PROJ takes may name files.
        crs = (pyproj.CRS.from_user_input if _CODE.fullmatch(crs_text) else pyproj.CRS.from_wkt)(crs_text)
        transformer = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    except pyproj.exceptions.ProjError as error:
        raise SceneError(
            f"{source}: reference system that cannot be used ({' '.join(str(error).split())}); set another with "
            "ogr2ogr -a_srs"
        ) from error
    polygons = list(polygons)
    if not crs.is_geographic and crs.axis_info:
        step = EDGE_METRES / (crs.axis_info[0].unit_conversion_factor or 1.0)
        polygons = list(shapely.segmentize(polygons, step))

    def turn(xy: Float) -> Float:
        return np.column_stack(transformer.transform(xy[:, 0], xy[:, 1]))

    turned = [_continuous(transform(polygon, turn), crs.is_geographic) for polygon in polygons]
    coordinates = shapely.get_coordinates(turned)
    if not np.isfinite(coordinates).all() or (np.abs(coordinates) > (_FAR, 90.0001)).any():
        raise SceneError(
            f"{source}: coordinates do not fit the reference system {crs.name!r}; set the right one with ogr2ogr -a_srs"
        )
    return turned


def transform(polygon: BaseGeometry, function: Callable[[Float], Float]) -> BaseGeometry:
    """A Polygon or MultiPolygon with every vertex moved by `function` ([n, 2] -> [n, 2]).

    Rings are closed again: vectorised arithmetic may give their two equal ends results that differ in the last bit.
    """
    parts = []
    for part in shapely.get_parts(polygon):
        xy, ring = shapely.get_coordinates(shapely.get_rings(part), return_index=True)
        moved = function(xy)
        first = np.flatnonzero(np.diff(ring, prepend=-1))
        moved[np.append(first[1:], len(ring)) - 1] = moved[first]
        rings = shapely.linearrings(moved, indices=ring)
        parts.append(shapely.Polygon(rings[0], list(rings[1:])))
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _continuous(polygon: BaseGeometry, is_geographic: bool) -> BaseGeometry:
    """A polygon whose longitude jumps, in the plane in which it does not; others stay as they are."""
    xy, ring = shapely.get_coordinates(shapely.get_rings(polygon), return_index=True)
    if not (np.abs(np.diff(xy[:, 0]))[np.diff(ring) == 0] > _TURN / 2).any():
        return polygon
    parts = []
    for part in shapely.get_parts(polygon):
        whole = _enclosed(part.exterior, is_geographic)
        for interior in part.interiors:
            hole = _enclosed(interior, is_geographic)
            # A hole may lie a turn away from the outer ring.
            for copy in copies(hole, whole.bounds[0], whole.bounds[2]):
                whole = shapely.difference(whole, copy)
        parts += _polygons(whole)
    return parts[0] if len(parts) == 1 else shapely.union_all(parts)


def _enclosed(ring: BaseGeometry, is_geographic: bool) -> BaseGeometry:
    """What a ring encloses; a ring around a pole contains the pole of its own hemisphere."""
    xy = shapely.get_coordinates(ring)
    steps = np.diff(xy[:, 0])
    over = np.abs(steps) > (_DATE_LINE if is_geographic else _TURN / 2)
    turns = np.abs(np.abs(steps) - _TURN) < _SAME
    # From -180 to 180 and back is a box around the Earth; only there is it a ring around the pole.
    if is_geographic and np.sign(steps[turns]).sum() == 0:
        over &= ~turns
    xy[1:, 0] -= _TURN * np.cumsum(np.where(over, np.sign(steps), 0))
    winding = xy[-1, 0] - xy[0, 0]
    if abs(winding) > _TURN / 2:
        pole = np.copysign(90.0, xy[:, 1].mean())
        xy = np.vstack([xy, [(xy[-1, 0], pole), (xy[0, 0], pole), xy[0]]])
    return _valid(shapely.Polygon(xy))


def copies(polygon: BaseGeometry, west: float, east: float) -> list[BaseGeometry]:
    """The polygon moved by whole turns, wherever it may touch the longitudes from `west` to `east`."""
    left, _, right, _ = polygon.bounds
    turns = range(int(np.ceil((west - right) / _TURN)), int(np.floor((east - left) / _TURN)) + 1)
    return [shapely.affinity.translate(polygon, n * _TURN) if n else polygon for n in turns]


def area_km2(polygons: Sequence[BaseGeometry]) -> Float:
    """Areas on the ellipsoid of WGS 84, km2, float64 [n], of polygons in longitude and latitude.

    The integral of the sine of the authalic latitude over longitude along each ring (Snyder, Map Projections, 1987, eq.
    3-11 and 3-12), by Simpson's rule on each edge.
    """

    def q(latitude: Float) -> Float:
        e = _ECCENTRICITY
        sine = np.sin(np.radians(latitude))
        return np.asarray((1 - e**2) * (sine / (1 - (e * sine) ** 2) + np.arctanh(e * sine) / e))

    areas = np.zeros(len(polygons))
    for i, polygon in enumerate(polygons):
        for part in shapely.get_parts(polygon):
            for number, ring in enumerate(shapely.get_rings(part)):
                lon, lat = shapely.get_coordinates(ring).T
                middle = q((lat[1:] + lat[:-1]) / 2)
                mean = (q(lat[1:]) + 4 * middle + q(lat[:-1])) / 6
                inside = abs(float((np.radians(np.diff(lon)) * mean).sum()))
                areas[i] += inside if number == 0 else -inside
    return areas * _SEMI_MAJOR**2 / 2 / 1e6
