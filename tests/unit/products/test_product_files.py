"""The files of a drawn scene, read back by other libraries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pyproj
import pytest
import rasterio

pytest.importorskip("torch")

from drawing import drawn, random_charts

from arcticseg.ice.scenes.open import open_scene
from arcticseg.pictures import maps
from arcticseg.products.geotiff import GeoTIFF
from arcticseg.products.map import Map
from arcticseg.products.netcdf import NetCDF
from arcticseg.products.product import Drawn
from tests import scenes

LINES, SAMPLES = 200, 220
NOTES = {False: "", True: "resampled from 50 m to 40 m; HV not denoised"}
CHARTS = random_charts((LINES // 2, SAMPLES // 2))


@pytest.fixture(scope="module", params=[False, True], ids=["observed", "simulated"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drawn]:
    """A drawn scene, and the same scene with the mark of a simulated scene."""
    folder = tmp_path_factory.mktemp("scene")
    variables = scenes.raw(LINES, SAMPLES)
    path = scenes.write(folder / "a.nc", variables, {"simulated": "simulated: by a test"} if request.param else {})
    with open_scene(path) as scene:
        for clause in ("resampled from 50 m to 40 m", "HV not denoised", "HV not denoised"):
            if request.param:
                scene.note(clause)
        yield drawn(scene, CHARTS)


def test_netcdf(made: Drawn, tmp_path: Path) -> None:
    NetCDF().write(tmp_path / "a.nc", made)
    with netCDF4.Dataset(tmp_path / "a.nc") as file:
        file.set_auto_maskandscale(False)
        for plane, (chart, n_classes) in zip(CHARTS, (("SIC", 11), ("SOD", 6), ("FLOE", 7)), strict=True):
            np.testing.assert_array_equal(file[chart][:], plane)
            assert file[chart]._FillValue == 255
            assert list(file[chart].flag_values) == list(range(n_classes))
            assert len(file[chart].flag_meanings.split()) == n_classes
        # Centre of pixel r at 80 m: line 2 r + 0.5 of the file.
        north = (LINES / 2 - (2 * np.arange(LINES // 2) + 0.5)) * 0.04
        np.testing.assert_allclose(file["latitude"][:, 55], 75 + north / 111.2, atol=1e-3)
        east = ((2 * np.arange(SAMPLES // 2) + 0.5) - SAMPLES / 2) * 0.04
        np.testing.assert_allclose(file["longitude"][50], -60 + east / (111.2 * np.cos(np.radians(75))), atol=1e-3)
        assert file.pixel_spacing == "80.0"
        assert file.source == "ArcticSeg, test, factor 4"
        assert file.trained_on_simulated_scenes == "True"
        assert getattr(file, "comment", "") == NOTES[made.scene.simulated]
        assert file.title.startswith("SIMULATED") == made.scene.simulated
        assert ("simulated" in file.ncattrs()) == made.scene.simulated


def test_geotiff(made: Drawn, tmp_path: Path) -> None:
    GeoTIFF().write(tmp_path / "a.tif", made)
    with rasterio.open(tmp_path / "a.tif") as file:
        np.testing.assert_array_equal(file.read(), CHARTS)
        assert file.descriptions == ("SIC", "SOD", "FLOE")
        assert file.nodata == 255
        assert file.tags().get("comment", "") == NOTES[made.scene.simulated]
        assert ("simulated" in file.tags()) == made.scene.simulated
        points, crs = file.gcps
    grid = scenes.geolocation(LINES, SAMPLES)
    # Half a pixel from the corner, two pixels of the file to one of the charts.
    rows, columns = (np.array([getattr(point, axis) for point in points]) for axis in ("row", "col"))
    np.testing.assert_allclose(rows, (grid["line"].ravel() + 0.5) / 2)
    np.testing.assert_allclose(columns, (grid["sample"].ravel() + 0.5) / 2)
    to_degrees = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    longitude, latitude = to_degrees.transform([point.x for point in points], [point.y for point in points])
    np.testing.assert_allclose(latitude, grid["latitude"].ravel(), atol=1e-7)
    np.testing.assert_allclose(longitude, grid["longitude"].ravel(), atol=1e-7)


def test_map(made: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(maps, "scene_map", lambda path, **arguments: given.update(arguments, path=path))
    Map().write(tmp_path / "a.png", made)
    assert given["path"] == tmp_path / "a.png"
    assert given["title"] == "a\ntest, trained at 160 m"
    assert given["prediction"] is CHARTS
    assert given["chart"] is None
    assert given["hh"].shape == given["latitude"].shape == CHARTS.shape[1:]
    assert given["pixel_spacing"] == 80
    assert given["simulated"] == made.scene.simulated
