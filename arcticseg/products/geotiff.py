"""Charts as GeoTIFF with ground control points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from arcticseg.files import atomic_path
from arcticseg.ice import layers as scene_layers
from arcticseg.ice import simulated
from arcticseg.ice.geo import GeoGrid
from arcticseg.ice.scenes.scene import Scene
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX
from arcticseg.products.charts import PRODUCT_FACTOR


def write_geotiff(path: Path, scene: Scene, charts: NDArray[np.uint8]) -> None:
    """SIC, SOD and FLOE as three bands with ground control points in EPSG:4326; nodata 255.

    Raises:
        OutputError: the file cannot be written.
    """
    from rasterio.control import GroundControlPoint
    from rasterio.io import MemoryFile

    step = scene_layers.step_of(scene, PRODUCT_FACTOR)
    geo: GeoGrid = scene.geo
    points = [
        # A control point's row and column count from the corner of the first pixel.
        GroundControlPoint(
            row=(line + 0.5) / step, col=(sample + 0.5) / step, x=geo.longitude[i, j], y=geo.latitude[i, j]
        )
        for i, line in enumerate(geo.lines)
        for j, sample in enumerate(geo.samples)
    ]
    _, height, width = charts.shape
    # In memory first: GDAL says nothing when the disk is full at the time it closes a file.
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", height=height, width=width, count=3, dtype="uint8", nodata=IGNORE_INDEX,
            compress="deflate", gcps=points, crs="EPSG:4326",
        ) as target:  # fmt: skip
            target.write(charts)
            target.descriptions = CHARTS
            if scene.simulated:
                target.update_tags(**{simulated.ATTRIBUTE: simulated.statement("the scene is simulated")})
        with atomic_path(path) as temporary:
            temporary.write_bytes(memory.getbuffer())
