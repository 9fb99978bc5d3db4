"""The spacing of a scene's pixels, measured from its positions, and the spacing that networks work at.

A file's format says little about its pixels: a raw file is taken for 40 m whatever its positions say. So the sides of
a pixel are measured on the ellipsoid and compared with what the reader assumes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj
from numpy.typing import NDArray

from arcticseg.errors import SceneError
from arcticseg.ice.channels import RAW_SPACING
from arcticseg.ice.geo import GeoGrid

# A side that is off by more than this share is not the spacing assumed. Products of Sentinel-1 EW at 40 m have pixels
# of up to 40.7 m.
TOLERANCE = 0.02
# Ratio of a pixel's sides above which it is not a square; ratio to the median at which pixels of one scene are unlike.
_MAX_OBLONG = 1.25

_REMEDY = (
    "correct its positions, or resample it in a polar projection (of a GeoTIFF: "
    "rio warp IN.tif OUT.tif --dst-crs EPSG:3413 --res 40)"
)

Float = NDArray[np.float64]


def medians(geo: GeoGrid) -> tuple[float, float]:
    """Metres from line to line and from sample to sample: medians over the grid, on the ellipsoid."""
    down, across = _steps(geo)
    return float(np.median(down)), float(np.median(across))


def sides(geo: GeoGrid, path: Path) -> tuple[float, float]:
    """`medians`, of pixels that are squares and alike all over the scene.

    Raises:
        SceneError: they are not.
    """
    measured = medians(geo)
    for name, metres, median in zip(("lines", "samples"), _steps(geo), measured, strict=True):
        low, high = float(metres.min()), float(metres.max())
        if not (low > median / _MAX_OBLONG and high < median * _MAX_OBLONG and np.isfinite(high)):
            raise SceneError(
                f"{path}: by its positions its {name} are {low:.1f} to {high:.1f} m apart, not evenly; {_REMEDY}"
            )
    if max(measured) > _MAX_OBLONG * min(measured):
        raise SceneError(f"{path}: pixels of {measured[0]:.1f} x {measured[1]:.1f} m are not squares; {_REMEDY}")
    return measured


def _steps(geo: GeoGrid) -> tuple[Float, Float]:
    """Metres a line [n - 1, m] and metres a sample [n, m - 1] between neighbours in the grid."""
    geod = pyproj.Geod(ellps="WGS84")
    lat, lon = geo.latitude, geo.longitude
    down = geod.inv(lon[:-1], lat[:-1], lon[1:], lat[1:])[2] / np.diff(geo.lines)[:, None]
    across = geod.inv(lon[:, :-1], lat[:, :-1], lon[:, 1:], lat[:, 1:])[2] / np.diff(geo.samples)
    return down, across


def target(measured: tuple[float, float], assumed: float) -> float | None:
    """The spacing to which a scene is brought: the nearest multiple of 40 m; None: it has that, and so it is assumed.

    Args:
        measured: sides of a pixel in metres.
        assumed: the spacing in metres that the reader assumes.
    """
    wanted = RAW_SPACING * multiple(float(np.sqrt(measured[0] * measured[1])))
    near = all(abs(metres / wanted - 1) <= TOLERANCE for metres in (*measured, assumed))
    return None if near else wanted


def multiple(spacing: float) -> int:
    """The nearest multiple of 40 m to a spacing in metres, 1 at least."""
    return max(1, round(spacing / RAW_SPACING))
