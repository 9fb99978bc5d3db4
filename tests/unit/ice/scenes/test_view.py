"""A scene as xarray sees it, against the file's own numbers; and its summary."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import netCDF4
import numpy as np
import pytest
import rasterio
import xarray as xr
from rasterio.transform import from_origin

import arcticseg
from arcticseg.ice.channels import CHANNELS
from arcticseg.ice.geo import GeoGrid
from arcticseg.ice.land import distance_zones
from arcticseg.ice.scenes.scene import Scene
from arcticseg.ice.scenes.view import extent
from tests import safes, scenes

LINES, SAMPLES = 200, 220
STATISTICS = {name: (channel.mean, channel.std) for name, channel in CHANNELS.items()}


@pytest.fixture(scope="module")
def raw_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.write_raw(tmp_path_factory.mktemp("raw") / f"{scenes.RAW_NAME}.nc", lines=LINES, samples=SAMPLES)


@pytest.fixture
def raw_scene(raw_path: Path) -> Iterator[Scene]:
    with arcticseg.open_scene(raw_path) as scene:
        yield scene


def test_the_import_loads_nothing() -> None:
    code = (
        "import sys, arcticseg; print(*{'numpy', 'xarray', 'arcticseg.ice'} & set(sys.modules)); arcticseg.open_scene"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    with pytest.raises(AttributeError, match="open_scenes"):
        _ = arcticseg.open_scenes  # type: ignore[attr-defined]


def test_values_of_a_raw_scene(raw_scene: Scene) -> None:
    variables = scenes.raw(LINES, SAMPLES)
    data = raw_scene.to_xarray()
    for name, stored in (("hh", "nersc_sar_primary"), ("hv", "nersc_sar_secondary"), ("distance_map", "distance_map")):
        assert data[name].dims == ("line", "sample")
        np.testing.assert_array_equal(data[name], variables[stored][1])
    labels = raw_scene.chart()
    assert labels is not None
    for plane, chart in zip(labels, ("SIC", "SOD", "FLOE"), strict=True):
        np.testing.assert_array_equal(data[chart].fillna(255), plane)
        assert len(data[chart].flag_meanings.split()) == len(data[chart].flag_values)
    for name in scenes.COARSE_RANGE:
        assert data[name].dims == ("line_2km", "sample_2km")
        np.testing.assert_allclose(data[name], variables[name][1], rtol=1e-6)
    # A cell has 50 x 50 pixels.
    np.testing.assert_array_equal(data.line_2km, [24.5, 74.5, 124.5, 174.5])
    north = (LINES / 2 - np.arange(LINES)) * 0.04
    np.testing.assert_allclose(data.latitude[:, 7], 75 + north / 111.2, atol=1e-3)
    np.testing.assert_allclose(data.latitude_2km[:, 0], 75 + (LINES / 2 - data.line_2km) * 0.04 / 111.2, atol=1e-3)
    np.testing.assert_allclose(data.incidence_angle[3], 20 + 25 * np.arange(SAMPLES) / (SAMPLES - 1), atol=1e-3)
    assert data.time == np.datetime64("2018-07-21T12:01:56")
    assert (data.attrs["platform"], data.attrs["orbit"], data.attrs["ice_service"]) == ("S1A", 22892, "cis")


def test_nothing_is_read_before_it_is_needed(raw_scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    sar = raw_scene.sar
    monkeypatch.setattr(raw_scene, "sar", lambda name: read.append(name) or sar(name), raising=False)
    monkeypatch.setattr(raw_scene, "distance", lambda: pytest.fail("the distance map is read"))
    data = raw_scene.to_xarray()
    assert "hh" in repr(data)
    assert "HH" in repr(raw_scene)
    part = data.hv[10:20, ::3]
    assert read == []
    np.testing.assert_array_equal(part, sar("hv")[10:20, ::3])
    assert read == ["hv"]


@pytest.mark.parametrize(
    "key",
    [
        np.s_[3, 5],
        np.s_[3, :],
        np.s_[:, -1],
        np.s_[::-7, 5:50:3],
        (np.array([5, 1, 1]), slice(None)),
        (slice(2, 9), np.array([0, 100])),
        (np.array([5, 1]), np.array([0, 100, 7])),
        (4, np.array([0, 100, 7])),
        np.s_[0:0, :],
    ],
)
@pytest.mark.parametrize("name", ["hh", "SIC", "latitude", "incidence_angle"])
def test_any_rows_and_columns(name: str, key: Any, raw_path: Path) -> None:
    with arcticseg.open_scene(raw_path) as scene:
        whole = scene.to_xarray()[name].values
        part = scene.to_xarray()[name][key]
    rows, columns = (np.arange(n)[at] for n, at in zip(whole.shape, key, strict=True))
    expected = whole[np.ix_(np.atleast_1d(rows), np.atleast_1d(columns))].reshape(np.shape(rows) + np.shape(columns))
    np.testing.assert_allclose(part.values, expected, atol=1e-5)


def test_a_file_of_it_is_read_by_others(raw_scene: Scene, tmp_path: Path) -> None:
    data = raw_scene.to_xarray()
    data.to_netcdf(tmp_path / "out.nc")
    labels = raw_scene.chart()
    assert labels is not None
    with netCDF4.Dataset(tmp_path / "out.nc") as file:
        file.set_auto_maskandscale(False)
        np.testing.assert_array_equal(file["SOD"][:], labels[1])
        assert file["SOD"].dtype == np.uint8
        assert file["SOD"]._FillValue == 255
        assert set(file["hh"].coordinates.split()) == {"latitude", "longitude", "time"}
        assert set(file["t2m"].coordinates.split()) == {"latitude_2km", "longitude_2km", "time"}
        assert file.Conventions.startswith("CF-1.")
        for name, variable in file.variables.items():
            if name not in ("SIC", "SOD", "FLOE", "line", "sample", "line_2km", "sample_2km", "distance_map"):
                assert variable.units, name
            assert hasattr(variable, "standard_name") or variable.long_name, name
    with xr.open_dataset(tmp_path / "out.nc") as again:
        xr.testing.assert_allclose(again.load(), data.load(), rtol=1e-6)


def test_a_ready_to_train_scene(tmp_path: Path) -> None:
    scored, physical = scenes.rtt(STATISTICS)
    path = scenes.write(tmp_path / f"{scenes.RTT_NAME}.nc", scored, scenes.RTT_ATTRIBUTES)
    with arcticseg.open_scene(path) as scene:
        assert "ready-to-train AI4Arctic netCDF" in repr(scene)
        data = scene.to_xarray()
        np.testing.assert_allclose(data.hh, physical["nersc_sar_primary"][1], atol=1e-4)
        np.testing.assert_array_equal(data.FLOE.fillna(255), scored["FLOE"][1])
        # A cell has 25 x 25 pixels of 80 m.
        np.testing.assert_array_equal(data.line_2km[:2], [12, 37])


def test_a_geotiff_has_what_it_has(tmp_path: Path) -> None:
    power = np.random.default_rng(0).uniform(0.001, 0.1, (60, 80)).astype(np.float32)
    path = tmp_path / "scene_HV.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=60, width=80, count=1, dtype="float32", crs="EPSG:3413",
        transform=from_origin(300_000, -2_000_000, 40, 40),
    ) as file:  # fmt: skip
        file.write(power, 1)
    with arcticseg.open_scene(path) as scene:
        data = scene.to_xarray()
        assert set(data.data_vars) == {"hv", "distance_map"}
        np.testing.assert_allclose(data.hv, 10 * np.log10(power), rtol=1e-5)
        expected = distance_zones(scene.geo, (60, 80), scene.pixel_spacing, [1])[1]
        np.testing.assert_array_equal(data.distance_map, expected)
        assert scene.to_xarray().sizes == {"line": 60, "sample": 80}


def test_a_safe_product(tmp_path: Path) -> None:
    with arcticseg.open_scene(safes.made(tmp_path, lines=120, samples=140)) as scene:
        assert "Sentinel-1 SAFE product" in repr(scene)
        data = scene.to_xarray()
        assert set(data.data_vars) == {"hh", "hv", "incidence_angle", "distance_map"}
        np.testing.assert_array_equal(data.hv, scene.sar("hv"))
        assert (data.incidence_angle > 15).all()
        data.to_netcdf(tmp_path / "out.nc")
    assert (tmp_path / "out.nc").stat().st_size > 10_000


def test_closing_the_dataset_closes_the_scene(raw_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = arcticseg.open_scene(raw_path)
    closed: list[bool] = []
    monkeypatch.setattr(type(scene), "close", lambda self: closed.append(True))
    with scene.to_xarray():
        assert closed == []
    assert closed == [True]


def test_three_lines_draw_a_picture(raw_path: Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    data = arcticseg.open_scene(raw_path).to_xarray()[{"line": slice(None, None, 2), "sample": slice(None, None, 2)}]
    backscatter = data.hh.plot(x="longitude", y="latitude", cmap="gray")
    chart = data.SIC.plot(x="longitude", y="latitude", vmin=0, vmax=10)
    np.testing.assert_array_equal(np.ma.filled(backscatter.get_array(), np.nan).reshape(100, 110), data.hh.values)
    assert chart.get_array().count() == int(data.SIC.notnull().sum())
    assert backscatter.axes.get_xlabel() == "longitude [degrees_east]"
    plt.close("all")


def test_summary(raw_scene: Scene) -> None:
    raw_scene.note("drawn <by> a test")
    lines = repr(raw_scene).splitlines()
    assert lines[0] == f"<Scene {scenes.RAW_NAME}>"
    rows = dict(line.strip().split(maxsplit=1) for line in lines[1:])
    assert rows["file"] == "raw AI4Arctic netCDF"
    assert rows["image"] == "200 x 220 pixels of 40 m (8 x 9 km)"
    assert rows["time"] == "2018-07-21 12:01:56 UTC"
    assert rows["satellite"] == "S1A, orbit 22892"
    assert rows["polarisations"] == "HH, HV"
    assert rows["chart"] == "cis"
    assert rows["extent"] == "74.96 N to 75.04 N, 60.15 W to 59.85 W"
    assert rows["notes"] == "drawn <by> a test"
    page = raw_scene._repr_html_()
    assert "drawn &lt;by&gt; a test" in page
    assert page.count("<tr>") == len(rows)
    assert raw_scene.to_xarray().attrs["comment"] == "drawn <by> a test"


@pytest.mark.parametrize(
    ("latitudes", "longitudes", "text"),
    [
        ((70, 75), (-30, 10), "70.00 N to 75.00 N, 30.00 W to 10.00 E"),
        ((-75, -70), (175, 190), "75.00 S to 70.00 S, 175.00 E to 170.00 W"),
        ((88, 89), (-180, -60, 60, 180), "88.00 N to 90.00 N, all longitudes"),
        ((-89, -88), (0, 90, 180, 270), "90.00 S to 88.00 S, all longitudes"),
    ],
)
def test_extent(latitudes: tuple[float, float], longitudes: tuple[float, ...], text: str) -> None:
    lat, lon = np.meshgrid(np.array(latitudes, float), np.array(longitudes, float), indexing="ij")
    lines, samples = np.arange(2.0), np.arange(float(len(longitudes)))
    assert extent(GeoGrid(lines, samples, lat, lon, np.full(lat.shape, 30.0))) == text
