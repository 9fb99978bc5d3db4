"""Ice charts as vector files: shapefiles and GeoPackages -> polygons in longitude and latitude, and their codes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from shapely.geometry.base import BaseGeometry

from arcticseg.errors import SceneError
from arcticseg.ice import geopackage, shapefile
from arcticseg.ice.dialects import FIELDS, NO_CHART_TYPES, NULL, WATER, Dialect, dialect_of
from arcticseg.ice.outlines import Outline, area_km2, outline, to_lonlat
from arcticseg.ice.sigrid import CODE_COLUMNS, SIC_RANGES
from arcticseg.ice.vector_file import Layer, Table

# What to do with total concentrations that are ranges, see `resolve_ranges`.
CT_RANGES = ("mean", "mask")

# Columns that a message names at most.
_NAMED = 30


@dataclass(frozen=True)
class VectorChart:
    """An ice chart: polygon i has the codes `codes[i]`.

    Attributes:
        name: the file's stem.
        polygons: shapely Polygon or MultiPolygon, longitude and latitude in degrees (WGS 84); longitudes may pass 180,
            see `outlines`.
        codes: column -> code as written in the file, for every column of CODE_COLUMNS but poly_id; empty is "-9".
        repairs: a sentence for each repair on reading.
        notes: sentences on how the file was read, and on what is lost of it.
    """

    name: str
    polygons: tuple[BaseGeometry, ...]
    codes: tuple[dict[str, str], ...]
    repairs: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_chart(path: str | Path, layer: str | None = None, max_lost: float | None = None) -> VectorChart:
    """Read an ice chart (.shp or .gpkg); `dialects` says which columns tell the codes.

    Invalid polygons are repaired and a missing .shx is made again in a temporary copy; both are listed in `repairs`.

    Args:
        layer: of a file with several; by default the first with ice codes.
        max_lost: per cent of the chart's area, and of its features, that repairs may lose or leave in doubt.

    Raises:
        SceneError: the file is not of these formats, is damaged, or has no reference system, no polygons or no codes;
            repairs lose more than `max_lost`.
    """
    path = Path(path)
    chosen, dialect, notes = _choose(_layers(path), layer, path)
    table = _read(path, chosen.name, dialect.columns)
    if not table.crs:
        raise SceneError(
            f"{path}: no coordinate reference system; put the chart's .prj beside it or set it with ogr2ogr -a_srs"
        )
    cells = zip(*(table.columns[column] for column in dialect.columns), strict=True)
    codes = [dialect.read(row) for row in cells]
    outlines = [outline(geometry) for geometry in table.geometries]
    repairs = [f"feature {number}: {each.note}" for number, each in enumerate(outlines, start=1) if each.note]
    kept = [number for number, each in enumerate(outlines) if each.polygon is not None]
    if not kept:
        raise SceneError(f"{path}: {len(outlines)} features and no polygon among them; give an ice chart of polygons")
    polygons = to_lonlat([outlines[number].polygon for number in kept], table.crs, str(path))
    lost = _lost(outlines, polygons, table.crs, max_lost, path)
    return VectorChart(
        path.stem,
        tuple(polygons),
        tuple(codes[number] for number in kept),
        (*table.notes, *repairs),
        (*notes, *dialect.notes, *lost),
    )


def has_ice_information(codes: dict[str, str]) -> bool:
    """Whether a polygon belongs to the chart: not land, ice shelf or no data, and with some code or water."""
    if codes["POLY_TYPE"] in NO_CHART_TYPES:
        return False
    written = any(codes[field] != NULL for field in FIELDS if field != "POLY_TYPE")
    return written or codes["POLY_TYPE"] == WATER


def resolve_ranges(chart: VectorChart, how: str) -> tuple[VectorChart, tuple[str, ...]]:
    """A chart whose CT ranges are resolved, and a sentence for each code that is a range.

    The class tables list no ranges, such as 46 (4/10 to 6/10), so SIC would be masked there.

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

    Ids are those of `vector_raster.rasterise` (the place in the chart, from 1); polygons without ice information are
    left out.
    """
    rows = [";".join(CODE_COLUMNS)]
    for number, codes in enumerate(chart.codes, start=1):
        if has_ice_information(codes):
            rows.append(";".join([str(number), *(codes[field] for field in FIELDS)]))
    return rows


def _layers(path: Path) -> tuple[Layer, ...]:
    """The layers of a file, if it is one of the two formats by suffix and first bytes."""
    if not path.exists():
        raise SceneError(f"{path}: no such chart; give an existing .shp or .gpkg file")
    if not path.is_file():
        raise SceneError(f"{path}: not a file; give a shapefile (.shp) or GeoPackage (.gpkg)")
    try:
        with path.open("rb") as file:
            start = file.read(16)
        kind = path.suffix.lower()
        if kind == ".shp" and start.startswith(shapefile.MAGIC):
            return shapefile.layers(path)
        if kind == ".gpkg" and start == geopackage.MAGIC:
            return geopackage.layers(path)
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error
    raise SceneError(
        f"{path}: not a readable vector file: neither a shapefile (.shp) nor a GeoPackage (.gpkg) by its suffix and "
        "first bytes; convert it with ogr2ogr"
    )


def _read(path: Path, layer: str, columns: tuple[str, ...]) -> Table:
    try:
        return shapefile.read(path, columns) if path.suffix.lower() == ".shp" else geopackage.read(path, layer, columns)
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error


def _choose(layers: tuple[Layer, ...], wanted: str | None, path: Path) -> tuple[Layer, Dialect, tuple[str, ...]]:
    """The layer to read, its dialect, and what to say of the choice."""
    names = ", ".join(layer.name for layer in layers)
    if wanted is not None and wanted not in [layer.name for layer in layers]:
        raise SceneError(f"{path}: no layer {wanted!r}; its layers are {names or 'none'}")
    spoken = [(layer, dialect_of(layer.columns)) for layer in layers if wanted in (None, layer.name)]
    known = [(layer, dialect) for layer, dialect in spoken if dialect is not None]
    if not known:
        columns = [column for layer, _ in spoken for column in layer.columns]
        listing = ", ".join(columns[:_NAMED]) + (" ..." if len(columns) > _NAMED else "")
        raise SceneError(
            f"{path}: no SIGRID-3 columns CT, CA, SA, FA ..., no ICECODE and no NIS_CLASS (or two of a name) among "
            f"{listing or 'none'}; give a chart with one of them"
        )
    layer, dialect = known[0]
    notes = [] if dialect.name == "SIGRID-3 columns" else [f"codes are read from {dialect.name}"]
    if len(layers) > 1:
        notes.append(f"layer {layer.name} is used, of {names}; --layer chooses another")
    return layer, dialect, tuple(notes)


def _lost(
    outlines: list[Outline], polygons: list[BaseGeometry], crs: str, max_lost: float | None, path: Path
) -> list[str]:
    """Sentences on the area that repairs lose or leave in doubt, and on features without polygon.

    Raises:
        SceneError: they are more than `max_lost` per cent.
    """
    doubts = [each.doubt for each in outlines if each.doubt is not None]
    area = float(area_km2(to_lonlat(doubts, crs, str(path))).sum()) if doubts else 0.0
    share = 100 * area / max(float(area_km2(polygons).sum()), area, 1e-9)
    left_out = sum(each.polygon is None for each in outlines)
    sentences = []
    if any(each.note.startswith("invalid") for each in outlines):
        sentences.append(f"{area:.1f} km2 ({share:.2g} % of the chart) are lost or in doubt by repairs")
    if left_out:
        sentences.append(f"{left_out} of {len(outlines)} features have no polygon and are left out")
    if max_lost is not None and max(share, 100 * left_out / len(outlines)) > max_lost:
        raise SceneError(
            f"{path}: {'; '.join(sentences)}; more than {max_lost:g} %, repair the chart or raise --max-lost"
        )
    return sentences
