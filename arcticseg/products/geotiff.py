"""Charts as GeoTIFF with ground control points.

The points stand in an equal-area projection about the middle of the scene. GDAL puts a polynomial of the second degree
through control points; degrees bend too much for it near the pole and jump at the date line, and a plane that touches
the Earth under the scene does neither. Over a Sentinel-1 EW scene of 400 km it leaves 51 m at most, in the corners, and
thin plate splines (`gdalwarp -tps`) 2 m.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from arcticseg.files import atomic_path
from arcticseg.ice import simulated
from arcticseg.ice.geo import GeoGrid, positions, unit_vectors
from arcticseg.ice.layers import step_of
from arcticseg.ice.scenes.scene import Scene
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX
from arcticseg.products.charts import PRODUCT_FACTOR
from arcticseg.products.product import SIMULATED, Drawn, Product, comment


class GeoTIFF(Product):
    """SIC, SOD and FLOE as three bands with ground control points in a projection about the scene; nodata 255."""

    extension = ".tif"
    mark = ".charts"

    def write(self, path: Path, drawn: Drawn) -> None:
        write_geotiff(path, drawn.scene, drawn.charts)


def write_geotiff(path: Path, scene: Scene, charts: NDArray[np.uint8]) -> None:
    """Write charts of a scene.

    Args:
        charts: uint8 [3, H, W], SIC, SOD and FLOE at 80 m; 255 = no data.

    Raises:
        OutputError: the file cannot be written.
    """
    from pyproj import Transformer
    from rasterio.control import GroundControlPoint
    from rasterio.io import MemoryFile

    step, geo = step_of(scene, PRODUCT_FACTOR), scene.geo
    projection = _projection(geo)
    x, y = Transformer.from_crs("EPSG:4326", projection, always_xy=True).transform(geo.longitude, geo.latitude)
    points = [
        # A control point's row and column count from the corner of the first pixel.
        GroundControlPoint(row=(line + 0.5) / step, col=(sample + 0.5) / step, x=x[i, j], y=y[i, j])
        for i, line in enumerate(geo.lines)
        for j, sample in enumerate(geo.samples)
    ]
    bands, height, width = charts.shape
    # In memory first: GDAL does not report a full disk when it closes a file.
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", height=height, width=width, count=bands, dtype="uint8", nodata=IGNORE_INDEX,
            compress="deflate", gcps=points, crs=projection,
        ) as dataset:  # fmt: skip
            dataset.write(charts)
            dataset.descriptions = CHARTS
            if scene.notes:
                dataset.update_tags(comment=comment(scene))
            if scene.simulated:
                dataset.update_tags(**{simulated.ATTRIBUTE: SIMULATED})
        with atomic_path(path) as temporary:
            temporary.write_bytes(memory.getbuffer())


def _projection(geo: GeoGrid) -> str:
    """Lambert's azimuthal equal-area projection about the middle of a scene, as PROJ text."""
    latitude, longitude = positions(unit_vectors(geo.latitude, geo.longitude).reshape(-1, 3).mean(axis=0))
    return f"+proj=laea +lat_0={latitude:.2f} +lon_0={longitude:.2f} +datum=WGS84 +units=m"
