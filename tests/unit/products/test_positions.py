"""Charts as GeoTIFF, brought to map projections by GDAL as `rio warp` does, lie where their scene lies."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pyproj
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import GCPTransformer
from rasterio.warp import calculate_default_transform, reproject

from arcticseg.ice.geo import GeoGrid, interpolate
from arcticseg.ice.scenes.scene import Scene
from arcticseg.products.geotiff import write_geotiff

GEOD = pyproj.Geod(ellps="WGS84")
# A scene of 400 km, of pixels that are twice as large as the product takes them for: the test is faster.
LINES, SPACING, STEP = 5_000, 80, 2
# Half the edge of a mark, in pixels of the chart.
HALF = 12
FIFTH, MIDDLE = LINES // STEP // 20, LINES // STEP // 2
MARKS = ((FIFTH, FIFTH), (FIFTH, -FIFTH), (MIDDLE, MIDDLE), (-FIFTH, FIFTH), (-FIFTH, -FIFTH))
LAEA = "+proj=laea +lat_0=90 +lon_0=0 +datum=WGS84"


def places(latitude: float, longitude: float, nodes: NDArray, heading: float) -> tuple[NDArray, NDArray]:
    """Latitude and longitude of pixels as a satellite sees them: lines are geodesics across its ground track.

    The middle of the scene, 300 km to the right of the track, lies at the given place.
    """
    metres = (nodes - (LINES - 1) / 2) * SPACING
    track_lon, track_lat, _ = GEOD.fwd(longitude, latitude, heading - 90, 300e3)
    along = GEOD.inv(track_lon, track_lat, longitude, latitude)[0] - 90
    lat, lon = np.empty((nodes.size, nodes.size)), np.empty((nodes.size, nodes.size))
    for i, ahead in enumerate(metres):
        start_lon, start_lat, back = GEOD.fwd(track_lon, track_lat, along, ahead)
        across = np.full(nodes.size, back + 180 + 90)
        lon[i], lat[i], _ = GEOD.fwd(
            np.full(nodes.size, start_lon), np.full(nodes.size, start_lat), across, metres + 300e3
        )
    return lat, lon


def grid(latitude: float, longitude: float, heading: float) -> GeoGrid:
    nodes = np.linspace(0, LINES - 1, 21)
    lat, lon = places(latitude, longitude, nodes, heading)
    return GeoGrid(nodes, nodes, lat, lon, np.full(lat.shape, 30.0))


def write(path: Path, geo: GeoGrid, charts: NDArray[np.uint8]) -> None:
    scene = SimpleNamespace(geo=geo, notes=(), simulated=False, pixel_spacing=40.0)
    write_geotiff(path, cast(Scene, scene), charts)


@pytest.mark.parametrize(
    ("latitude", "longitude", "target"),
    [
        (60, 10, "EPSG:3413"),
        (70, -60, "EPSG:3413"),
        (75, -20, "EPSG:3995"),
        (80, -10, "EPSG:3413"),
        (83, -30, LAEA),
        (87.5, 100, "EPSG:3413"),
        (90, 0, "EPSG:3995"),
        (72, 180, "EPSG:3413"),
        (79, -179, LAEA),
        (-70, 30, "EPSG:3031"),
        (-76, 180, "EPSG:3031"),
    ],
)
def test_marks_stay_in_place(latitude: float, longitude: float, target: str, tmp_path: Path) -> None:
    geo = grid(latitude, longitude, -20)
    size = LINES // STEP
    charts = np.full((3, size, size), 255, np.uint8)
    centres = np.array(MARKS) % size
    for value, (row, column) in enumerate(centres):
        charts[:, row - HALF : row + HALF, column - HALF : column + HALF] = value
    write(tmp_path / "a.tif", geo, charts)
    with rasterio.open(tmp_path / "a.tif") as file:
        points, crs = file.gcps
        spacing = SPACING * STEP
        transform, width, height = calculate_default_transform(
            crs, target, size, size, gcps=points, resolution=(spacing, spacing)
        )
        warped = np.full((height, width), 255, np.uint8)
        reproject(file.read(1), warped, gcps=points, src_crs=crs, dst_crs=target, dst_transform=transform,
                  src_nodata=255, dst_nodata=255)  # fmt: skip
    back = pyproj.Transformer.from_crs(target, 4326, always_xy=True)
    for value, (row, column) in enumerate(centres):
        rows, columns = np.nonzero(warped == value)
        assert rows.size, f"mark {value} is lost"
        x, y = transform @ (columns.mean() + 0.5, rows.mean() + 0.5)
        # A mark's middle is the corner between four pixels of the chart.
        lat, lon, _ = interpolate(geo, row * STEP - 0.5, column * STEP - 0.5)
        metres = GEOD.inv(*back.transform(x, y), lon[0, 0], lat[0, 0])[2]
        # The polynomial leaves 51 m in the corners, to which the warp adds an eighth of a pixel.
        assert metres < 100, f"mark {value} lies off by {metres:.0f} m"


@pytest.mark.parametrize(("latitude", "longitude"), [(60, 0), (75, 180), (87.5, 40), (90, 0), (-72, -30)])
@pytest.mark.parametrize(("splines", "most"), [(False, 52), (True, 3)])
def test_control_points_give_every_pixel_its_place(
    latitude: float, longitude: float, splines: bool, most: float, tmp_path: Path
) -> None:
    geo = grid(latitude, longitude, 200)
    write(tmp_path / "a.tif", geo, np.zeros((3, LINES // STEP, LINES // STEP), np.uint8))
    with rasterio.open(tmp_path / "a.tif") as file:
        points, crs = file.gcps
    at = np.linspace(0, LINES // STEP - 1, 60)
    lines, samples = np.meshgrid(at, at, indexing="ij")
    with GCPTransformer(points, tps=splines) as transformer:
        x, y = transformer.xy(lines.ravel(), samples.ravel(), offset="center")
    lon, lat = pyproj.Transformer.from_crs(crs, 4326, always_xy=True).transform(np.array(x), np.array(y))
    # Pixel r of the chart is the mean of lines STEP r to STEP r + STEP - 1.
    true_lat, true_lon, _ = interpolate(geo, at * STEP + (STEP - 1) / 2, at * STEP + (STEP - 1) / 2)
    metres = GEOD.inv(lon, lat, true_lon.ravel(), true_lat.ravel())[2]
    assert metres.max() < most
