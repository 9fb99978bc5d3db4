"""Land and distance zones by the coastline, against geodesics on the ellipsoid and polygons in degrees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pyproj
import pytest
import xarray as xr
from numpy.typing import NDArray

from arcticseg.errors import SceneError
from arcticseg.ice import land
from arcticseg.ice.geo import GeoGrid, interpolate
from arcticseg.ice.layers import read_layers
from arcticseg.ice.scenes.open import open_scene
from arcticseg.ice.scenes.scene import Scene
from tests import scenes
from tests.coast import coast_km, land_by_degrees

# Copied by hand from `zonal_range_description` of real scenes: the upper ends of zones 1 to 40.
ENDS = [0.5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 25, 30, 35, 40, 45, 50, 60, 70, 80,
        90, 100, 125, 150, 175, 200, 225, 250, 275, 300]  # fmt: skip


def scene(latitude: float, longitude: float, lines: int = 1000, spacing: float = 400.0, turn: float = 12.0) -> GeoGrid:
    """The grid of a square scene of 400 km about a place, turned."""
    middle = f"+proj=laea +lat_0={latitude} +lon_0={longitude} +datum=WGS84"
    nodes = np.linspace(0, lines - 1, 21)
    right, down = np.meshgrid(*[(nodes - (lines - 1) / 2) * spacing] * 2)
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    to_degrees = pyproj.Transformer.from_crs(middle, 4326, always_xy=True)
    lon, lat = to_degrees.transform(cos * right + sin * down, sin * right - cos * down)
    return GeoGrid(nodes, nodes, lat, lon, np.full(lat.shape, 30.0))


def pixels(geo: GeoGrid, shape: tuple[int, int], step: int) -> tuple[NDArray, NDArray]:
    """Latitude and longitude of the centres of blocks."""
    at = [np.arange(n // step) * step + (step - 1) / 2 for n in shape]
    return interpolate(geo, *at)[:2]


# Greenland, the date line, water alone, Antarctica and its ice shelves, the Great Lakes.
PLACES = [(70, -52), (72, 180), (87, 10), (-75, -60), (45, -84)]


@pytest.mark.parametrize(("latitude", "longitude"), PLACES)
def test_zones_are_geodesic_distances(latitude: float, longitude: float) -> None:
    geo, shape = scene(latitude, longitude), (1000, 1000)
    zones = land.distance_zones(geo, shape, 400.0, [1, 3])
    for step, raster in zones.items():
        assert raster.shape == (1000 // step, 1000 // step)
        assert raster.dtype == np.uint8
        lat, lon = pixels(geo, shape, step)
        sea = np.flatnonzero(raster > 0)
        chosen = np.random.default_rng(step).choice(sea, 60)
        km = coast_km(lat.ravel()[chosen], lon.ravel()[chosen])
        zone = raster.ravel()[chosen].astype(int)
        low, high = np.array([0, 0, *ENDS])[zone], np.array([0, *ENDS, np.inf])[zone]
        allowed = np.where(km < 8, 0.3, 1.2)
        assert (km > low - allowed).all()
        assert (km < high + allowed).all()


@pytest.mark.parametrize(("latitude", "longitude"), PLACES)
def test_land_is_what_lies_within_the_coastline(latitude: float, longitude: float) -> None:
    geo, shape = scene(latitude, longitude, 5000, 80.0), (5000, 5000)
    is_land = land.distance_zones(geo, shape, 80.0, [1])[1] == 0
    rows, columns = np.arange(7, 5000, 50), np.arange(3, 5000, 50)
    lat, lon, _ = interpolate(geo, rows, columns)
    wrong = land_by_degrees(lat, lon) != is_land[np.ix_(rows, columns)]
    assert np.count_nonzero(wrong) <= 10
    assert (coast_km(lat[wrong], lon[wrong]) < 0.08).all()
    if (latitude, longitude) != (87, 10):
        assert 0.03 < is_land.mean() < 0.97


@pytest.mark.parametrize(
    ("latitude", "longitude", "zone"), [(72, -40, 0), (-89, 0, 0), (50, 100, 0), (0, -140, 41), (89.9, 0, 41)]
)
def test_far_from_any_coast(latitude: float, longitude: float, zone: int) -> None:
    raster = land.distance_zones(scene(latitude, longitude), (1000, 1000), 400.0, [5])[5]
    assert (raster == zone).all()


def test_land_beyond_the_frame_counts() -> None:
    # Twenty pixels of 40 m off Jan Mayen, an island of 50 km; nothing but water in the scene.
    raster = land.distance_zones(scene(70.5, -9.5, 21, 40.0), (21, 21), 40.0, [1])[1]
    assert 0 < raster.min() <= raster.max() < 41


def test_threads_change_nothing() -> None:
    geo = scene(70, -52)
    zones = [land.distance_zones(geo, (1000, 1000), 400.0, [2], n_threads)[2] for n_threads in (1, 3)]
    np.testing.assert_array_equal(*zones)


def test_a_scene_without_a_distance_map_gets_the_coastline(tmp_path: Path) -> None:
    variables = scenes.raw()
    with open_scene(scenes.write(tmp_path / "a.nc", variables, {})) as opened:
        list(read_layers(opened, [2]))
        assert opened.notes == ()
    del variables["distance_map"]
    with open_scene(scenes.write(tmp_path / "b.nc", variables, {})) as opened:
        by_factor = {layers.factor: layers for layers in read_layers(opened, [2, 4])}
        assert opened.notes == (land.NOTE,)
        expected = land.distance_zones(opened.geo, opened.shape, 40.0, [2, 4])
    for factor, layers in by_factor.items():
        np.testing.assert_array_equal(layers.distance, expected[factor])


def test_positions_that_fold_are_refused() -> None:
    geo = scene(70, -52)
    longitude = np.random.default_rng(0).permutation(geo.longitude.ravel()).reshape(21, 21)
    folded = SimpleNamespace(
        path="a.tif", geo=replace(geo, longitude=longitude), shape=(1000, 1000), pixel_spacing=400.0, threads=1,
        note=lambda clause: None,
    )  # fmt: skip
    with pytest.raises(SceneError, match=r"^a\.tif: .*; repair the file$"):
        land.zones_of(cast(Scene, folded), [2])


@pytest.mark.parametrize("seed", range(8))
def test_anywhere_on_the_earth(seed: int) -> None:
    random = np.random.default_rng(seed)
    latitude, longitude = np.degrees(np.arcsin(random.uniform(-1, 1))), random.uniform(-180, 180)
    raster = land.distance_zones(scene(latitude, longitude, 500, 400.0), (500, 500), 400.0, [2])[2]
    assert raster.max() <= 41


def test_agrees_with_maps_made_by_others(real_data: Path) -> None:
    with xr.open_dataset(real_data / "geo" / "distance_to_land_0.1deg_gt0km2.nc") as table:
        others = table["distance_to_land"].values
    mask = np.fromfile(real_data / "geo" / "psn25_landmask_448x304_u1.dat", np.uint8).reshape(448, 304)
    to_plane = pyproj.Transformer.from_crs(4326, 3411, always_xy=True)
    for latitude, longitude in [(70, -52), (80, -18), (75, -95), (72, 180), (66, -168)]:
        geo = scene(latitude, longitude)
        raster = land.distance_zones(geo, (1000, 1000), 400.0, [5])[5]
        lat, lon = pixels(geo, (1000, 1000), 5)
        km = others[np.rint((lat + 90) * 10).astype(int), np.rint((lon + 180) * 10).astype(int) % 3600]
        # Cells of 0.1 degree, and of 25 km: they agree away from coasts.
        clear = np.abs(km) > 12
        assert ((raster == 0) == (km < 0))[clear].all()
        zone = raster[clear & (km > 0)].astype(int)
        away = km[clear & (km > 0)]
        # Their islands are all, of any size.
        assert (away > np.array([0, 0, *ENDS])[zone] - 12).mean() > 0.98
        assert (away < np.array([0, *ENDS, np.inf])[zone] + 12).all()
        x, y = to_plane.transform(lon, lat)
        row, column = ((5_850_000 - y) // 25_000).astype(int), ((x + 3_850_000) // 25_000).astype(int)
        agrees = (mask[row, column] > 0) == (raster == 0)
        assert agrees[np.abs(km) > 40].mean() > 0.98
