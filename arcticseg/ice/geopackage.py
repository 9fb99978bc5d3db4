"""GeoPackages (OGC 12-128r18), read as what they are: SQLite files with a table of features.

GDAL opens whatever a file's own SQL names, functions that ask servers included. Here SQLite reads plain tables only,
and no code of the file is run: no view, no virtual table, no trigger.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from arcticseg.errors import SceneError
from arcticseg.ice.vector_file import Layer, Table, geometries_of, text

MAGIC = b"SQLite format 3\0"

# Bytes of the envelope in front of the geometry, by its indicator (clause 2.1.3).
_ENVELOPES = (0, 32, 48, 48, 64)
# Beside a database: transactions that are not in the file itself.
_LOGS = ("-wal", "-journal")
# Columns of a table; SQLite allows 32,767.
_MANY = 2000

_READ_ONLY = frozenset({
    sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_PRAGMA, sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_TRANSACTION,
})  # fmt: skip


def layers(path: Path) -> tuple[Layer, ...]:
    """The feature layers of a GeoPackage.

    Raises:
        SceneError: the file is damaged, is being written, or is a database but no GeoPackage.
    """
    with _opened(path) as file:
        names = [name for name, _ in _geometry_columns(file)]
        return tuple(Layer(name, tuple(_columns(file, name))) for name in names)


def read(path: Path, layer: str, columns: tuple[str, ...]) -> Table:
    """Geometries and some columns of a layer.

    Raises:
        SceneError: as `layers`, or a geometry cannot be read.
    """
    with _opened(path) as file:
        _refuse_damage(file, layer, path)
        geometry, crs = _geometry_column(file, layer)
        chosen = ", ".join(_quoted(name) for name in (geometry, *columns))
        rows = file.execute(f"SELECT {chosen} FROM {_quoted(layer)} ORDER BY rowid").fetchall()
    blobs = [_well_known_binary(row[0], number, path) for number, row in enumerate(rows, start=1)]
    cells = {name: tuple(text(row[place]) for row in rows) for place, name in enumerate(columns, start=1)}
    return Table(crs, geometries_of(blobs, str(path)), cells)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The file, for reading only; its faults become a SceneError."""
    for log in _LOGS:
        beside = path.with_name(path.name + log)
        if beside.exists() and beside.stat().st_size:
            raise SceneError(
                f"{path}: has changes that are not yet in it ({beside.name}); close the program that writes it"
            )
    _check_size(path)
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as file:
            file.text_factory = lambda data: data.decode("utf-8", "replace")
            file.execute("PRAGMA trusted_schema = OFF")
            file.execute("PRAGMA cell_size_check = ON")
            file.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(path.stat().st_size, 1 << 16))
            file.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _READ_ONLY else sqlite3.SQLITE_DENY)
            yield file
    except (sqlite3.Error, UnicodeError) as error:
        # Names and messages of the library are decoded, too.
        raise SceneError(
            f"{path}: not a readable GeoPackage ({' '.join(str(error).split())}); get the file again"
        ) from error


def _check_size(path: Path) -> None:
    """Refuse a file that is shorter than its header says (https://sqlite.org/fileformat2.html, section 1.3)."""
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100:
        raise SceneError(f"{path}: ends within the header; the file is cut: get it again")
    (page,) = struct.unpack(">H", header[16:18])
    page = 65536 if page == 1 else page
    changed, pages, valid_for = (
        struct.unpack(">I", header[24:28]) + struct.unpack(">I", header[28:32]) + struct.unpack(">I", header[92:96])
    )
    size = path.stat().st_size
    if changed == valid_for and pages * page > size:
        raise SceneError(f"{path}: has {size} bytes of {pages * page}; the file is cut: get it again")


def _refuse_damage(file: sqlite3.Connection, layer: str, path: Path) -> None:
    """Refuse a layer whose pages do not hold together; rows that break the file's own rules are no damage."""
    for (fault,) in file.execute(f"PRAGMA quick_check({_quoted(layer)})").fetchmany(100):
        if fault != "ok" and not fault.startswith(("NULL value", "CHECK constraint", "non-unique", "NUMERIC value")):
            raise SceneError(f"{path}: is damaged ({' '.join(fault.split())}); get the file again")


def _plain_tables(file: sqlite3.Connection) -> dict[str, str]:
    """Name in small letters -> name of the tables that hold their rows themselves."""
    tables = file.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
    return {
        str(name).lower(): str(name)
        for name, sql in tables
        if not " ".join(str(sql).split()).upper().startswith("CREATE VIRTUAL")
    }


def _geometry_columns(file: sqlite3.Connection) -> list[tuple[str, tuple[str, int]]]:
    """Layer -> geometry column and reference system, in the file's order; layers that are no plain tables are none."""
    tables = _plain_tables(file)
    if "gpkg_geometry_columns" not in tables:
        raise sqlite3.DatabaseError("a database without gpkg_geometry_columns")
    rows = file.execute("SELECT table_name, column_name, srs_id FROM gpkg_geometry_columns ORDER BY rowid").fetchall()
    return [
        (tables[str(name).lower()], (str(column), srs))
        for name, column, srs in rows
        if str(name).lower() in tables and isinstance(srs, int)
    ]


def _columns(file: sqlite3.Connection, table: str) -> list[str]:
    """Names of the columns that are stored; generated ones are code."""
    rows = file.execute(f"PRAGMA table_xinfo({_quoted(table)})").fetchmany(_MANY)
    return [str(name) for _, name, _, _, _, _, hidden in rows if not hidden]


def _geometry_column(file: sqlite3.Connection, layer: str) -> tuple[str, str]:
    """The geometry column of a layer, and its reference system as text; "" where it has none."""
    column, srs = dict(_geometry_columns(file))[layer]
    if column not in _columns(file, layer):
        raise sqlite3.DatabaseError(f"layer {layer} has no column {column}")
    row = None
    if "gpkg_spatial_ref_sys" in _plain_tables(file):
        row = file.execute(
            "SELECT organization, organization_coordsys_id, definition FROM gpkg_spatial_ref_sys WHERE srs_id = ?",
            (srs,),
        ).fetchone()
    if srs in (0, -1) or row is None:
        return column, ""
    organization, code, definition = row
    named = str(organization).upper() in ("EPSG", "ESRI", "IAU_2015", "OGC")
    return column, f"{organization}:{code}" if named else "" if definition in (None, "undefined") else str(definition)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _well_known_binary(blob: object, number: int, path: Path) -> bytes | None:
    """The geometry within a GeoPackage's blob (clause 2.1.3); None where it is null or empty.

    Raises:
        SceneError: the blob has no header of this kind.
    """
    if blob is None:
        return None
    if isinstance(blob, bytes) and len(blob) >= 8 and blob[:2] == b"GP":
        flags = blob[3]
        envelope = flags >> 1 & 7
        if not flags & 0b100000 and envelope < len(_ENVELOPES):
            return None if flags & 0b10000 else blob[8 + _ENVELOPES[envelope] :]
    raise SceneError(f"{path}: the geometry of feature {number} is damaged; get the file again")
