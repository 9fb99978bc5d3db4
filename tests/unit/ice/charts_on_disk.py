"""Small vector charts written by GDAL, for the tests of their readers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from polygons import codes

SQUARES = [shapely.box(x, 70, x + 1, 71).difference(shapely.box(x + 0.4, 70.4, x + 0.6, 70.6)) for x in range(5)]


def write_chart(
    path: Path,
    geometries: Sequence[Any] = SQUARES,
    extra: dict[str, Sequence[Any]] | None = None,
    crs: str | None = "EPSG:4326",
    **options: Any,
) -> Path:
    """A chart of polygons whose CT are 10, 20 ..., and other columns."""
    rows = [codes(CT=str(10 * (1 + number % 9)), SA="93") for number in range(len(geometries))]
    columns = {name: np.array([row[name] for row in rows], object) for name in rows[0]}
    columns |= {name: np.array(cells, object) for name, cells in (extra or {}).items()}
    pyogrio.raw.write(
        path,
        np.array([None if each is None else shapely.to_wkb(each) for each in geometries], object),
        list(columns.values()),
        np.array(list(columns), object),
        crs=crs,
        **{"geometry_type": "Polygon", **options},
    )
    return path
