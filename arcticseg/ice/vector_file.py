"""Vector files as tables: one layer's geometries, and the columns asked for as text. Only two formats are opened.

A file is told by its first bytes and its suffix, never by trying drivers: other formats may name files and servers that
the library would then read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from arcticseg.errors import SceneError


@dataclass(frozen=True)
class Layer:
    """A layer of a file: its name and the names of its columns."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """N features of a layer.

    Attributes:
        crs: WKT or `AUTHORITY:CODE`; "" = unknown.
        geometries: N shapely geometries in two dimensions; None = none.
        columns: name -> N cells as text; null is "".
        notes: what was done on reading, a sentence each.
    """

    crs: str
    geometries: tuple[BaseGeometry | None, ...]
    columns: dict[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()


def text(value: object) -> str:
    """A cell as text: null is "", whole numbers stored as reals have no decimal point, bytes are taken as Latin-1."""
    if value is None or (isinstance(value, float | np.floating) and not np.isfinite(value)):
        return ""
    if isinstance(value, float | np.floating) and value == int(value):
        return str(int(value))
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def geometries_of(blobs: Sequence[bytes | None] | NDArray, source: str) -> tuple[BaseGeometry | None, ...]:
    """Geometries of well-known binary, in two dimensions.

    Raises:
        SceneError: bytes that are no geometry, or a curve.
    """
    geometries = []
    for number, blob in enumerate(blobs, start=1):
        try:
            geometries.append(None if blob is None else shapely.force_2d(shapely.from_wkb(blob)))
        except NotImplementedError as error:
            raise SceneError(
                f"{source}: feature {number} has curves; make them lines with ogr2ogr -nlt CONVERT_TO_LINEAR"
            ) from error
        except (shapely.errors.GEOSException, TypeError, ValueError, OverflowError) as error:
            raise SceneError(
                f"{source}: the geometry of feature {number} is damaged ({' '.join(str(error).split())}); get the file "
                "again"
            ) from error
    return tuple(geometries)
