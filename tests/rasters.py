"""GeoTIFFs for tests: bands on square pixels of a size that is true on the ground, about a place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import rasterio
from affine import Affine
from numpy.typing import NDArray

NAME = "S1B_EW_GRDM_1SDH_20200123T120618_HH.tif"


def projection(latitude: float, longitude: float) -> str:
    """An equal-area plane about a place, which keeps lengths to within 1e-4 for 100 km around."""
    return f"+proj=laea +lat_0={latitude} +lon_0={longitude} +datum=WGS84 +units=m"


def texture(lines: int, samples: int, seed: int = 0) -> NDArray[np.float32]:
    """Backscatter in dB, about -18, with slopes, texture and noise."""
    line, sample = np.mgrid[:lines, :samples]
    noise = np.random.default_rng(seed).normal(0, 1, (lines, samples))
    return np.asarray(-18 + 5 * np.sin(line / 17) * np.cos(sample / 23) + noise, np.float32)


def write(
    path: Path,
    *bands: NDArray[Any],
    sides: tuple[float, float] = (40.0, 40.0),
    place: tuple[float, float] = (75.0, -20.0),
    description: str = "HH",
    tags: dict[str, str] | None = None,
    band_tags: dict[str, str] | None = None,
    unit: str | None = None,
    scale: float | None = None,
    offset: float | None = None,
    mask: NDArray[np.bool_] | None = None,
    **profile: Any,
) -> Path:
    """Write bands [H, W] with pixels of `sides` metres (down, across), the scene's middle at `place`.

    mask: where there is data, as a mask in the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = bands[0].shape
    down, across = sides
    transform = Affine(across, 0, -across * width / 2, 0, -down, down * height / 2)
    options = {"crs": projection(*place), "transform": transform, "dtype": bands[0].dtype} | profile
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", driver="GTiff", height=height, width=width, count=len(bands), **options) as file,
    ):
        for number, band in enumerate(bands, 1):
            file.write(band, number)
        file.descriptions = description.split(",") + [None] * (len(bands) - len(description.split(",")))
        if mask is not None:
            file.write_mask(mask)
        if unit is not None:
            file.units = [unit] * len(bands)
        if scale is not None:
            file.scales = [scale] * len(bands)
        if offset is not None:
            file.offsets = [offset] * len(bands)
        file.update_tags(**(tags or {}))
        for number in range(1, len(bands) + 1):
            file.update_tags(number, **(band_tags or {}))
    return path


def lonlat(
    shape: tuple[int, int], sides: tuple[float, float], place: tuple[float, float], line: Any, sample: Any
) -> tuple[Any, Any]:
    """True longitude and latitude of pixel coordinates of such a raster (whole numbers are centres)."""
    x = (np.asarray(sample) + 0.5) * sides[1] - sides[1] * shape[1] / 2
    y = sides[0] * shape[0] / 2 - (np.asarray(line) + 0.5) * sides[0]
    back = pyproj.Transformer.from_crs(projection(*place), "EPSG:4326", always_xy=True)
    longitude, latitude = back.transform(*np.broadcast_arrays(x, y))
    return longitude, latitude
