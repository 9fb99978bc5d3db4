"""Charts as GeoTIFF with ground control points."""

from __future__ import annotations

from pathlib import Path

from arcticseg.files import atomic_path
from arcticseg.ice import simulated
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX
from arcticseg.products.product import SIMULATED, Drawn, Product


class GeoTIFF(Product):
    """SIC, SOD and FLOE as three bands with ground control points in EPSG:4326; nodata 255."""

    extension = ".tif"
    mark = ".charts"

    def write(self, path: Path, drawn: Drawn) -> None:
        from rasterio.control import GroundControlPoint
        from rasterio.io import MemoryFile

        step, geo = drawn.layers.step, drawn.scene.geo
        points = [
            # A control point's row and column count from the corner of the first pixel.
            GroundControlPoint(
                row=(line + 0.5) / step, col=(sample + 0.5) / step, x=geo.longitude[i, j], y=geo.latitude[i, j]
            )
            for i, line in enumerate(geo.lines)
            for j, sample in enumerate(geo.samples)
        ]
        bands, height, width = drawn.charts.shape
        # In memory first: GDAL does not report a full disk when it closes a file.
        with MemoryFile() as memory:
            with memory.open(
                driver="GTiff", height=height, width=width, count=bands, dtype="uint8", nodata=IGNORE_INDEX,
                compress="deflate", gcps=points, crs="EPSG:4326",
            ) as dataset:  # fmt: skip
                dataset.write(drawn.charts)
                dataset.descriptions = CHARTS
                if drawn.comment:
                    dataset.update_tags(comment=drawn.comment)
                if drawn.scene.simulated:
                    dataset.update_tags(**{simulated.ATTRIBUTE: SIMULATED})
            with atomic_path(path) as temporary:
                temporary.write_bytes(memory.getbuffer())
