"""Ice charts as vector files: SIGRID-3 shapefiles and GeoPackages -> polygons, codes, and rasters on a scene's pixels.

Coordinates are transformed to longitude and latitude (WGS 84) from the file's own reference system. No rule here
depends on where longitudes wrap, so polygons may cross the date line or contain the pole.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pyproj
import rasterio.features
import rasterio.transform
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from arcticseg.errors import SceneError
from arcticseg.ice.geo import EARTH_RADIUS, Frame, GeoGrid, interpolate, pixel_of, positions, unit_vectors
from arcticseg.ice.sigrid import CODE_COLUMNS, EMPTY, SIC_RANGES

# What to do with total concentrations that are ranges, see `resolve_ranges`.
CT_RANGES = ("mean", "mask")

_FIELDS = CODE_COLUMNS[1:]
_OPTIONAL = ("CN", "CD", "CF", "POLY_TYPE")
_EMPTY = str(EMPTY)

# POLY_TYPE of polygons that hold no ice information: land, no data, ice shelf.
_NO_CHART_TYPES = ("L", "N", "S")
_WATER = "W"

# An edge of a chart is straight in the chart's own system. Cut into pieces of this length before it is transformed to
# another system, it stays within half a metre of its course even at 85 degrees north (sagitta L^2 tan(lat) / 8 R).
_EDGE_METRES = 1_500.0
_EDGE_DEGREES = 0.02
# Metres per unit of the plane in which polygons are cut to a scene (mean Earth radius, IUGG).
# Pixels by which the cut reaches beyond the image, so that its edges burn nothing.
_MARGIN_PIXELS = 20.0

_SIDECARS = (".dbf", ".prj", ".cpg")


@dataclass(frozen=True)
class VectorChart:
    """An ice chart: polygon i has the codes `codes[i]`.

    Attributes:
        name: the file's stem.
        polygons: shapely Polygon or MultiPolygon, longitude and latitude in degrees (WGS 84).
        codes: column -> code as written in the file, for every column of CODE_COLUMNS but poly_id; empty is "-9".
        repairs: a sentence for each repair on reading.
    """

    name: str
    polygons: tuple[BaseGeometry, ...]
    codes: tuple[dict[str, str], ...]
    repairs: tuple[str, ...]


def read_chart(path: str | Path) -> VectorChart:
    """Read a SIGRID-3 chart (.shp or .gpkg).

    Invalid polygons are repaired and a missing .shx is restored in a temporary copy; both are listed in `repairs`.

    Raises:
        SceneError: the file is not a vector file, or has no reference system, no polygons or no SIGRID-3 columns.
    """
    path = Path(path)
    if not path.exists():
        raise SceneError(f"{path}: no such chart; give an existing .shp or .gpkg file")
    repairs: list[str] = []
    if path.suffix.lower() == ".shp" and not _sibling(path, ".shx"):
        with tempfile.TemporaryDirectory() as folder:
            meta, geometries, columns = _read_layer(_restore_index(path, Path(folder)), path)
        repairs.append("the index (.shx) is missing: rebuilt from the .shp")
    else:
        meta, geometries, columns = _read_layer(path, path)
    if not meta["crs"]:
        raise SceneError(
            f"{path}: no coordinate reference system; put the chart's .prj beside it or set it with ogr2ogr -a_srs"
        )
    codes = _codes(columns, len(geometries), path)

    kept: list[BaseGeometry] = []
    kept_codes: list[dict[str, str]] = []
    for number, (geometry, row) in enumerate(zip(geometries, codes, strict=True), start=1):
        polygon, note = _polygonal(geometry)
        if note:
            repairs.append(f"feature {number}: {note}")
        if polygon is not None:
            kept.append(polygon)
            kept_codes.append(row)
    if not kept:
        raise SceneError(f"{path}: {len(geometries)} features and no polygon among them; give an ice chart of polygons")
    return VectorChart(path.stem, _to_lonlat(kept, meta["crs"], path), tuple(kept_codes), tuple(repairs))


def has_ice_information(codes: dict[str, str]) -> bool:
    """Whether a polygon belongs to the chart: not land, ice shelf or no data, and with some code or water."""
    if codes["POLY_TYPE"] in _NO_CHART_TYPES:
        return False
    written = any(codes[field] != _EMPTY for field in _FIELDS if field != "POLY_TYPE")
    return written or codes["POLY_TYPE"] == _WATER


def resolve_ranges(chart: VectorChart, how: str) -> tuple[VectorChart, tuple[str, ...]]:
    """A chart whose CT ranges are resolved, and a sentence for each code that is a range.

    The class tables list no ranges, such as 46 (4/10 to 6/10), so their polygons would be masked.

    Args:
        how: `mean` replaces a range by the code of its middle, half a tenth rounded up (46 becomes 50, 12 becomes 20,
            81 becomes 90); `mask` leaves it unchanged.

    Raises:
        ValueError: `how` is neither.
    """
    if how not in CT_RANGES:
        raise ValueError(f"how must be one of {CT_RANGES}, not {how!r}")
    new: dict[str, str] = {}
    notes = []
    written = Counter(codes["CT"] for codes in chart.codes)
    for text in sorted(written):
        ends = SIC_RANGES.get(int(text)) if text.isdecimal() else None
        if ends is None:
            continue
        new[text] = str(10 * ((sum(ends) + 1) // 2)) if how == "mean" else text
        fate = f"taken as {new[text]}" if how == "mean" else "masked"
        notes.append(f"CT {text}, {ends[0]}/10 to {ends[1]}/10, in {written[text]} polygons: {fate}")
    codes = tuple(row | {"CT": new.get(row["CT"], row["CT"])} for row in chart.codes)
    return replace(chart, codes=codes), tuple(notes)


def polygon_codes(chart: VectorChart) -> list[str]:
    """The chart's codes as in AI4Arctic scenes: the header, then "id;CT;...;POLY_TYPE" of each polygon.

    Ids are those of `rasterise` (the place in the chart, from 1); polygons without ice information are left out.
    """
    rows = [";".join(CODE_COLUMNS)]
    for number, codes in enumerate(chart.codes, start=1):
        if has_ice_information(codes):
            rows.append(";".join([str(number), *(codes[field] for field in _FIELDS)]))
    return rows


def rasterise(chart: VectorChart, geo: GeoGrid, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Polygon ids on a scene's pixels: float32 [H, W], NaN where there is no chart.

    A pixel belongs to the polygon that contains its centre; of overlapping polygons the later counts. Positions between
    grid points are those of `geo.interpolate`; edges are wrong by well under a tenth of a pixel of 40 m.

    Raises:
        SceneError: the geolocation covers half the Earth or more.
    """
    frame = Frame(unit_vectors(geo.latitude, geo.longitude))
    outline = _outline(frame, geo, shape)
    shapes: list[tuple[BaseGeometry, int]] = []
    for number, (polygon, codes) in enumerate(zip(chart.polygons, chart.codes, strict=True), start=1):
        if not has_ice_information(codes):
            continue
        inside = _cut(_in_plane(polygon, frame), outline)
        shapes += [(_in_pixels(part, frame, geo), number) for part in inside]
    if not shapes:
        return np.full(shape, np.nan, dtype=np.float32)
    burned = rasterio.features.rasterize(
        shapes, out_shape=shape, fill=np.nan, transform=rasterio.transform.Affine.identity(), dtype="float32"
    )
    return np.asarray(burned, dtype=np.float32)


# Reading ------------------------------------------------------------------------------------------------------------


def _sibling(path: Path, suffix: str) -> Path | None:
    """The file beside `path` with the same stem and this suffix in either case; None where there is none."""
    for candidate in (path.with_suffix(suffix), path.with_suffix(suffix.upper())):
        if candidate.exists():
            return candidate
    return None


def _restore_index(path: Path, folder: Path) -> Path:
    """Copy a shapefile without .shx into `folder`, where GDAL rebuilds the index: the input's folder stays as it is."""
    copy = folder / "chart.shp"
    shutil.copyfile(path, copy)
    for suffix in _SIDECARS:
        sidecar = _sibling(path, suffix)
        if sidecar is not None:
            shutil.copyfile(sidecar, copy.with_suffix(suffix))
    previous = pyogrio.get_gdal_config_option("SHAPE_RESTORE_SHX")
    pyogrio.set_gdal_config_options({"SHAPE_RESTORE_SHX": "YES"})
    try:
        pyogrio.read_info(copy)
    except pyogrio.errors.DataSourceError as error:
        raise SceneError(f"{path}: not a readable shapefile ({_one_line(error)}); get the file again") from error
    finally:
        pyogrio.set_gdal_config_options({"SHAPE_RESTORE_SHX": previous})
    return copy


def _read_layer(path: Path, shown: Path) -> tuple[dict[str, Any], list[BaseGeometry | None], dict[str, NDArray[Any]]]:
    """Meta, geometries and attribute columns of the first layer with code columns, or else of the first layer."""
    try:
        layers = [str(name) for name in pyogrio.list_layers(path)[:, 0]]
        chosen = next((name for name in layers if not _missing(pyogrio.read_info(path, layer=name)["fields"])), None)
        if not layers:
            raise SceneError(f"{shown}: no layer in it; give an ice chart of polygons")
        meta, _, blobs, values = pyogrio.raw.read(path, layer=chosen or layers[0], force_2d=True)
        geometries = [None] * len(values[0]) if blobs is None else list(shapely.from_wkb(blobs))
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, shapely.errors.GEOSException) as error:
        raise SceneError(
            f"{shown}: not a readable vector file ({_one_line(error)}); give a SIGRID-3 .shp or .gpkg"
        ) from error
    return meta, geometries, dict(zip(meta["fields"], values, strict=True))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _missing(fields: Sequence[str]) -> list[str]:
    """Columns that a SIGRID-3 chart must have and that are not among these fields."""
    present = {field.upper() for field in fields}
    return [field for field in _FIELDS if field not in present and field not in _OPTIONAL]


def _codes(columns: dict[str, NDArray[Any]], count: int, path: Path) -> list[dict[str, str]]:
    """The code columns, row by row. Only exact SIGRID-3 names count: other columns (E_CT ...) hold egg codes."""
    missing = _missing(list(columns))
    if missing:
        raise SceneError(
            f"{path}: no SIGRID-3 columns {', '.join(missing)} among {', '.join(columns) or 'none'}; "
            "give a chart with CT, CA, SA, FA and so on"
        )
    by_name = {name.upper(): values for name, values in columns.items()}
    return [
        {field: _code(by_name[field][row]) if field in by_name else _EMPTY for field in _FIELDS} for row in range(count)
    ]


def _code(value: object) -> str:
    """A cell as text: null and blank are "-9", whole numbers stored as reals lose their decimal point."""
    if value is None or (isinstance(value, float | np.floating) and not np.isfinite(value)):
        return _EMPTY
    if isinstance(value, float | np.floating) and value == int(value):
        return str(int(value))
    return str(value).strip() or _EMPTY


def _polygonal(geometry: BaseGeometry | None) -> tuple[BaseGeometry | None, str]:
    """The valid polygon of a feature (None: it has none), and what was done to get it ("": nothing)."""
    if geometry is None or geometry.is_empty:
        return None, "no geometry: left out"
    if geometry.geom_type not in ("Polygon", "MultiPolygon"):
        return None, f"a {geometry.geom_type}, not a polygon: left out"
    if geometry.is_valid:
        return geometry, ""
    reason = shapely.is_valid_reason(geometry)
    # The structure method keeps what rings enclose and drops collapsed parts, so the result stays polygonal.
    repaired = shapely.make_valid(geometry, method="structure", keep_collapsed=False)
    if repaired.is_empty:
        return None, f"invalid ({reason}) and without area: left out"
    return repaired, f"invalid ({reason}): repaired"


def _to_lonlat(polygons: list[BaseGeometry], crs_text: str, path: Path) -> tuple[BaseGeometry, ...]:
    """Polygons from their own reference system to longitude and latitude."""
    try:
        crs = pyproj.CRS.from_user_input(crs_text)
        transformer = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    except pyproj.exceptions.ProjError as error:
        raise SceneError(
            f"{path}: reference system that cannot be used ({_one_line(error)}); set another with ogr2ogr -a_srs"
        ) from error
    if crs.is_projected:
        step = _EDGE_METRES / crs.axis_info[0].unit_conversion_factor
        polygons = list(shapely.segmentize(polygons, step))

    def turn(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(transformer.transform(xy[:, 0], xy[:, 1]))

    turned = [_transform(polygon, turn) for polygon in polygons]
    coordinates = shapely.get_coordinates(turned)
    if not np.isfinite(coordinates).all() or np.abs(coordinates[:, 1]).max() > 90.0001:
        raise SceneError(
            f"{path}: coordinates do not fit the reference system {crs.name!r}; set the right one with ogr2ogr -a_srs"
        )
    return tuple(turned)


def _transform(polygon: BaseGeometry, function: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> BaseGeometry:
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


# Rasterising --------------------------------------------------------------------------------------------------------


def _outline(frame: Frame, geo: GeoGrid, shape: tuple[int, int]) -> BaseGeometry:
    """Convex outline of the image with a margin, in the plane of `frame`."""
    lines = np.linspace(-_MARGIN_PIXELS, shape[0] + _MARGIN_PIXELS, 41)
    samples = np.linspace(-_MARGIN_PIXELS, shape[1] + _MARGIN_PIXELS, 41)
    latitude, longitude, _ = interpolate(geo, lines, samples)
    points = frame.stereographic(unit_vectors(latitude, longitude)).reshape(-1, 2)
    outline = shapely.convex_hull(shapely.multipoints(points))
    shapely.prepare(outline)
    return outline


def _in_plane(polygon: BaseGeometry, frame: Frame) -> BaseGeometry:
    """A longitude-latitude polygon in the plane of `frame`, edges cut into pieces so that they keep their course."""

    def turn(ring: BaseGeometry) -> NDArray[np.float64]:
        lonlat = shapely.get_coordinates(ring)
        # Unwrapped, an edge over the date line is as short as on the ground. A ring around the pole does not close
        # then, so rings are cut as open lines.
        lonlat[:, 0] = np.unwrap(lonlat[:, 0], period=360)
        dense = shapely.get_coordinates(shapely.segmentize(shapely.linestrings(lonlat), _EDGE_DEGREES))
        plane = frame.stereographic(unit_vectors(dense[:, 1], dense[:, 0]))
        plane[-1] = plane[0]
        return plane

    parts = [
        shapely.Polygon(turn(part.exterior), [turn(hole) for hole in part.interiors])
        for part in shapely.get_parts(polygon)
    ]
    whole = parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    return whole if whole.is_valid else shapely.make_valid(whole, method="structure", keep_collapsed=False)


def _cut(polygon: BaseGeometry, outline: BaseGeometry) -> list[BaseGeometry]:
    """The parts of a polygon inside the outline."""
    if not outline.intersects(polygon):
        return []
    inside = polygon if outline.covers(polygon) else shapely.intersection(polygon, outline)
    return [part for part in shapely.get_parts(inside) if part.geom_type == "Polygon" and not part.is_empty]


def _in_pixels(polygon: BaseGeometry, frame: Frame, geo: GeoGrid) -> BaseGeometry:
    """A polygon of the plane in corner-based pixel coordinates (x = sample + 0.5, y = line + 0.5)."""

    def turn(plane: NDArray[np.float64]) -> NDArray[np.float64]:
        latitude, longitude = positions(frame.unstereographic(plane))
        line, sample = pixel_of(geo, longitude, latitude)
        return np.column_stack([sample + 0.5, line + 0.5])

    return _transform(shapely.segmentize(polygon, _EDGE_METRES / EARTH_RADIUS), turn)
