"""Rows of codes, charts and grids for the tests of vector charts."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pyproj

from arcticseg.ice.geo import GeoGrid
from arcticseg.ice.sigrid import CODE_COLUMNS
from arcticseg.ice.vector import VectorChart, read_chart

FIELDS = CODE_COLUMNS[1:]


def codes(**given: str) -> dict[str, str]:
    """A row of ice; codes left out are empty."""
    return dict.fromkeys(FIELDS, "-9") | {"POLY_TYPE": "I"} | given


@functools.cache
def read_once(path: Path) -> VectorChart:
    """A chart that several tests use and none changes."""
    return read_chart(path)


def local_grid(lat0: float, lon0: float, pixels: int, turn: float = 0.5, spacing: float = 40) -> GeoGrid:
    """The grid of a turned square scene around a place, spacing in metres."""
    plane = pyproj.Proj(proj="stere", lat_0=lat0, lon_0=lon0)
    at = np.linspace(0, pixels - 1, 21)
    lines, samples = np.meshgrid(at, at, indexing="ij")
    down, across = (lines - pixels / 2) * spacing, (samples - pixels / 2) * spacing
    lon, lat = plane(
        np.cos(turn) * down - np.sin(turn) * across, np.sin(turn) * down + np.cos(turn) * across, inverse=True
    )
    return GeoGrid(at, at, lat, lon, np.full_like(lat, np.nan))
