"""Shapefiles (ESRI Shapefile Technical Description, 1998), checked before GDAL reads them.

GDAL takes what it finds: a record that the .shp lacks is a feature without geometry. Here .shp, .shx and .dbf must
agree with each other and with their own headers, so a cut file is told from a whole one.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from pathlib import Path

import numpy as np
import pyogrio
from numpy.typing import NDArray

from arcticseg.errors import SceneError
from arcticseg.ice.vector_file import Layer, Table, geometries_of, text

MAGIC = b"\0\0\x27\x0a"

_HEADER = 100
# Geometry types of polygons: plain, with Z, with M, and patches.
_POLYGONS = (5, 15, 25, 31)
# A .prj is a line of text.
_LONGEST_PRJ = 1 << 16
# Any byte is a letter in this encoding, and codes are ASCII in every other.
_ENCODING = "ISO-8859-1"


def layers(path: Path) -> tuple[Layer, ...]:
    """The only layer of a shapefile.

    Raises:
        SceneError: a part is missing, cut or damaged, or does not fit the others.
    """
    return (Layer(path.stem, _fields(path)),)


def read(path: Path, columns: tuple[str, ...]) -> Table:
    """Geometries and some columns of a shapefile; a missing .shx is made from the .shp.

    Raises:
        SceneError: as `layers`.
    """
    notes = () if _sibling(path, ".shx") else ("the index (.shx) is missing: rebuilt from the .shp",)
    index = _check(path)
    with tempfile.TemporaryDirectory() as folder:
        copy = _gather(path, index, Path(folder))
        try:
            meta, _, blobs, values = pyogrio.raw.read(
                copy, columns=list(columns), force_2d=True, encoding=_ENCODING, datetime_as_string=True
            )
        except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, pyogrio.errors.FeatureError) as error:
            raise SceneError(
                f"{path}: not a readable shapefile ({' '.join(str(error).split())}); get the file again"
            ) from error
    count = len(index) if blobs is None else len(blobs)
    cells = {
        str(name): tuple(text(value) for value in column) for name, column in zip(meta["fields"], values, strict=True)
    }
    if lost := [name for name in columns if name not in cells]:
        raise _damaged(_table(path), f"its column {', '.join(lost)} cannot be read")
    geometries = (None,) * count if blobs is None else geometries_of(blobs, str(path))
    return Table(_system(path), geometries, cells, notes)


def _sibling(path: Path, suffix: str) -> Path | None:
    """The file beside `path` with the same stem and this suffix in either case; None where there is none."""
    for candidate in (path.with_suffix(suffix), path.with_suffix(suffix.upper())):
        if candidate.is_file():
            return candidate
    return None


def _damaged(path: Path, what: str) -> SceneError:
    return SceneError(f"{path}: {what}; the file is damaged or cut: get it again")


def _check(path: Path) -> NDArray[np.int64]:
    """Places of the records in the .shp: int64 [N, 2], first byte of the record's header, bytes of its content.

    Raises:
        SceneError: .shp, .shx and .dbf are not whole, or do not agree.
    """
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    _check_header(path, data)
    shape = struct.unpack("<i", bytes(data[32:36]))[0]
    if shape not in _POLYGONS and shape != 0:
        raise SceneError(f"{path}: holds shapes of type {shape}, not polygons; give an ice chart of polygons")
    records = _records(path, data)
    indexed = _sibling(path, ".shx")
    if indexed is not None:
        index = np.fromfile(indexed, np.uint8)
        _check_header(indexed, index)
        if (len(index) - _HEADER) % 8:
            raise _damaged(indexed, "ends within a record")
        pairs = index[_HEADER:].view(">i4").reshape(-1, 2).astype(np.int64) * 2
        if len(pairs) != len(records) or (pairs[pairs[:, 0].argsort()] != records).any():
            raise _damaged(path, f"has {len(records)} records, its index {indexed.name} {len(pairs)} at other places")
    count = _count_of_rows(path)
    if count != len(records):
        raise _damaged(path, f"has {len(records)} records, its table (.dbf) {count} rows")
    return records


def _check_header(path: Path, data: NDArray[np.uint8]) -> None:
    """Refuse a .shp or .shx that is not as long as its header says."""
    if len(data) < _HEADER or bytes(data[:4]) != MAGIC:
        raise _damaged(path, "no shapefile header")
    length = 2 * struct.unpack(">i", bytes(data[24:28]))[0]
    if length != len(data):
        raise _damaged(path, f"has {len(data)} bytes, its header says {length}")


def _records(path: Path, data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Places of the records that follow each other to the end of the .shp, int64 [N, 2]."""
    places: list[tuple[int, int]] = []
    at = _HEADER
    while at < len(data):
        if at + 12 > len(data):
            raise _damaged(path, "ends within a record")
        length = 2 * struct.unpack(">i", bytes(data[at + 4 : at + 8]))[0]
        end = at + 8 + length
        if length < 4 or end > len(data):
            raise _damaged(path, f"record {len(places) + 1} does not end in the file")
        shape = struct.unpack("<i", bytes(data[at + 8 : at + 12]))[0]
        if shape and not (shape in _POLYGONS and _holds(data[at + 8 : end], shape)):
            raise _damaged(path, f"record {len(places) + 1} does not hold what it says")
        places.append((at, length))
        at = end
    return np.array(places, np.int64).reshape(-1, 2)


def _holds(content: NDArray[np.uint8], shape: int) -> bool:
    """Whether the parts and points of a polygon are within its record, and its points within its own bounds."""
    if len(content) < 44:
        return False
    parts, points = struct.unpack("<ii", bytes(content[36:44]))
    head = 44 + 4 * parts * (2 if shape == 31 else 1)
    if parts < 0 or points < 0 or head + 16 * points > len(content):
        return False
    first = content[44 : 44 + 4 * parts].view("<i4")
    if parts and (first[0] != 0 or (np.diff(first) <= 0).any() or first[-1] >= points):
        return False
    xy = content[head : head + 16 * points].view("<f8").reshape(-1, 2)
    bounds = content[4:36].view("<f8")
    slack = 1e-6 * max(1.0, float(np.abs(bounds[np.isfinite(bounds)]).max(initial=0)))
    return bool(
        not points or (np.isfinite(xy).all() and (xy >= bounds[:2] - slack).all() and (xy <= bounds[2:] + slack).all())
    )


def _table(path: Path) -> Path:
    table = _sibling(path, ".dbf")
    if table is None:
        raise SceneError(f"{path}: the table (.dbf) with its codes is missing; put it beside the .shp")
    return table


def _dbf_header(path: Path) -> tuple[Path, bytes, int, int, int]:
    """The .dbf, its header with the fields, and from it: rows, bytes of the header, bytes of a row."""
    table = _table(path)
    with table.open("rb") as file:
        start = file.read(32)
        if len(start) < 32:
            raise _damaged(table, "ends within the header")
        rows, length, width = struct.unpack("<IHH", start[4:12])
        header = start + file.read(max(length - 32, 0))
    if length < 65 or len(header) < length or width < 1:
        raise _damaged(table, "ends within the header")
    return table, header, rows, length, width


def _count_of_rows(path: Path) -> int:
    """Rows of the .dbf, which must all be in it."""
    table, _, rows, length, width = _dbf_header(path)
    size = table.stat().st_size
    if size < length + rows * width:
        raise _damaged(table, f"has {size} bytes, its header says {length + rows * width}")
    return rows


def _fields(path: Path) -> tuple[str, ...]:
    """Names of the columns, of the 32 bytes that describe each."""
    _, header, *_ = _dbf_header(path)
    names = []
    for at in range(32, len(header) - 31, 32):
        if header[at] == 0x0D:
            break
        names.append(header[at : at + 11].split(b"\0")[0].decode(_ENCODING).strip())
    return tuple(names)


def _system(path: Path) -> str:
    """The reference system of the .prj, as WKT; "" where there is none."""
    system = _sibling(path, ".prj")
    if system is None:
        return ""
    if system.stat().st_size > _LONGEST_PRJ:
        raise _damaged(system, f"has {system.stat().st_size} bytes, a reference system some hundred")
    return system.read_bytes().decode("utf-8-sig", "replace").strip(" \t\r\n\0")


def _gather(path: Path, records: NDArray[np.int64], folder: Path) -> Path:
    """A copy of what is read, and nothing else, with an index of its own; the input's folder stays as it is."""
    copy = folder / "chart.shp"
    shutil.copyfile(path, copy)
    shutil.copyfile(_table(path), copy.with_suffix(".dbf"))
    with path.open("rb") as file:
        header = bytearray(file.read(_HEADER))
    header[24:28] = struct.pack(">i", (_HEADER + 8 * len(records)) // 2)
    copy.with_suffix(".shx").write_bytes(bytes(header) + (records // 2).astype(">i4").tobytes())
    return copy
