import shutil
import warnings
from pathlib import Path

import netCDF4
import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin

from arcticseg.errors import ConfigError, SceneError
from arcticseg.ice.geo import interpolate
from arcticseg.ice.scenes.open import open_scene
from arcticseg.ice.sigrid import CODE_COLUMNS
from arcticseg.ice.vector import read_chart
from arcticseg.ice.vector_raster import rasterise
from launchers.cli import main
from shards.chart import chart_scene
from shards.simulate import simulate_scene
from tests import rasters, scenes

NAME = "S1A_EW_GRDM_1SDH_20200123T120618_HV"
# Degrees: all of the test scene, its western half; a bow tie in the east; land.
WEST, EAST, LAND = shapely.box(-70, 70, -60, 80), shapely.box(-60, 70, -50, 80), shapely.box(-59.9, 70, -59.8, 80)
BOW = shapely.Polygon([(-60, 74), (-50, 76), (-50, 74), (-60, 76)])


def geotiff(path: Path, size: int = 300) -> Path:
    """HV of linear power around 75 N, 60 W, placed by control points."""
    plane = pyproj.Proj(proj="stere", lat_0=75, lon_0=-60)
    points = []
    for row in np.linspace(0, size, 5):
        for col in np.linspace(0, size, 5):
            longitude, latitude = plane((col - size / 2) * 40, (size / 2 - row) * 40, inverse=True)
            points.append(GroundControlPoint(row=row, col=col, x=longitude, y=latitude))
    values = np.random.default_rng(0).gamma(10, 3e-4, (size, size)).astype(np.float32)
    with rasterio.open(
        path, "w", driver="GTiff", height=size, width=size, count=1, dtype="float32", gcps=points, crs="EPSG:4326"
    ) as target:
        target.write(values, 1)
        target.set_band_description(1, "sigma0_HV")
    return path


def vector_chart(path: Path, polygons: list[shapely.Polygon], *rows: dict[str, str], crs: str = "EPSG:4326") -> Path:
    fields = CODE_COLUMNS[1:]
    empty = dict.fromkeys(fields, "-9") | {"POLY_TYPE": "I"}
    columns = [np.array([(empty | row)[field] for row in rows], dtype=object) for field in fields]
    pyogrio.raw.write(
        path, np.array([shapely.to_wkb(p) for p in polygons], dtype=object), columns,
        np.array(fields, dtype=object), geometry_type="Polygon", crs=crs,
    )  # fmt: skip
    return path


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    rows = ({"CT": "46", "SA": "93", "FA": "05"}, {"CT": "92", "SA": "95", "FA": "06"}, {"POLY_TYPE": "L"})
    return vector_chart(tmp_path / "dmi_chart.gpkg", [WEST, EAST, LAND], *rows)


def test_a_geotiff_becomes_a_raw_scene(tmp_path: Path, chart: Path) -> None:
    tif = geotiff(tmp_path / f"{NAME}.tif")
    made = chart_scene(tif, chart, tmp_path / "own", "mean")
    assert made.path == tmp_path / "own" / f"{NAME}.nc"
    with open_scene(tif) as sar, open_scene(made.path) as scene:
        assert scene.time == sar.time
        assert not scene.simulated
        np.testing.assert_array_equal(scene.sar("hv"), sar.sar("hv"))
        assert np.isnan(scene.sar("hh")).all()
        np.testing.assert_allclose(scene.geo.latitude, sar.geo.latitude)
        labels = scene.chart("corrected")
        ids = rasterise(read_chart(chart), sar.geo, sar.shape)
        assert labels is not None
        assert {*np.unique(ids).tolist()} == {1.0, 2.0}
        np.testing.assert_array_equal(labels[0], np.where(ids == 1, 5, 10))
        np.testing.assert_array_equal(labels[1], np.where(ids == 1, 4, 5))
    assert "range: CT 46, 4/10 to 6/10, in 1 polygons: taken as 50" in made.notes
    assert "2 polygons cover 100.0% of the scene" in made.notes


def test_ranges_are_masked_unless_they_are_resolved(tmp_path: Path, chart: Path) -> None:
    made = chart_scene(geotiff(tmp_path / f"{NAME}.tif"), chart, tmp_path)
    assert "range: CT 46, 4/10 to 6/10, in 1 polygons: masked" in made.notes
    assert any("codes without a class (CT 46)" in note for note in made.notes)
    with warnings.catch_warnings(), open_scene(made.path) as scene:
        warnings.simplefilter("ignore")
        labels = scene.chart()
        assert labels is not None
        assert set(np.unique(labels[0])) == {10, 255}


def test_repairs_are_reported_and_polygons_elsewhere_left_out(tmp_path: Path) -> None:
    codes = {"CT": "91", "CA": "91", "SA": "93", "FA": "05"}
    path = vector_chart(tmp_path / "a.shp", [BOW, shapely.box(100, 70, 110, 80)], codes, codes)
    path.with_suffix(".shx").unlink()
    made = chart_scene(geotiff(tmp_path / f"{NAME}.tif"), path, tmp_path / f"{NAME}.nc")
    assert [note.split(":")[0] for note in made.notes[:2]] == ["repaired", "repaired"]
    assert ".shx" in made.notes[0]
    assert "feature 1: invalid (Self-intersection" in made.notes[1]
    with netCDF4.Dataset(made.path) as file:
        assert len(file["polygon_codes"]) == 2  # the header, and the only polygon that is in the scene
        assert file["polygon_codes"][1].startswith("1;91;91;93;05")


def test_a_raw_scene_keeps_all_but_its_chart(tmp_path: Path, chart: Path) -> None:
    path = scenes.write_raw(tmp_path / f"{scenes.RAW_NAME}.nc", lines=300, samples=350)
    before = path.read_bytes()
    made = chart_scene(path, chart, tmp_path / "own", "mean")
    assert path.read_bytes() == before
    assert made.path.name == path.name
    with netCDF4.Dataset(path) as old, netCDF4.Dataset(made.path) as new:
        old.set_auto_maskandscale(False)
        new.set_auto_maskandscale(False)
        assert set(new.variables) == set(old.variables)
        assert new.title == old.title
        for name in set(old.variables) - {"polygon_codes", "polygon_icechart"}:
            assert new[name].dtype == old[name].dtype
            assert new[name].dimensions == old[name].dimensions
            np.testing.assert_array_equal(new[name][:], old[name][:])
        assert new["polygon_codes"].icechart_id == "dmi_chart"
    with open_scene(made.path) as scene:
        labels = scene.chart()
        assert labels is not None
        assert set(np.unique(labels[0])) == {5, 10}


def test_a_damaged_scene(tmp_path: Path, chart: Path) -> None:
    variables = scenes.raw(300, 350)
    for name in ("nersc_sar_secondary", "distance_map", "polygon_icechart"):
        variables[name][1][:] = 11
    path = scenes.write(tmp_path / f"{scenes.RAW_NAME}.nc", variables)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)  # amid HH, the only large variable
    path.write_bytes(data)
    with pytest.raises(SceneError, match=rf"^{path}: nersc_sar_primary "):
        chart_scene(path, chart, tmp_path / "own")
    assert list((tmp_path / "own").iterdir()) == []


def test_a_scene_never_replaces_itself(tmp_path: Path, chart: Path) -> None:
    path = scenes.write_raw(tmp_path / f"{scenes.RAW_NAME}.nc", lines=60, samples=60)
    before = path.read_bytes()
    for out in (path, tmp_path):
        with pytest.raises(ConfigError, match=rf"^--out is '{out}'.*{path}"):
            chart_scene(path, chart, out)
    assert path.read_bytes() == before


def test_a_simulated_scene_without_chart_stays_simulated(tmp_path: Path) -> None:
    path = simulate_scene(tmp_path, index=0, seed=0, size=500, labelled=False)
    with open_scene(path) as scene:
        west, east = scene.geo.longitude.min() - 1, scene.geo.longitude.max() + 1
        south, north = scene.geo.latitude.min() - 1, scene.geo.latitude.max() + 1
    codes = {"CT": "91", "CA": "91", "SA": "93", "FA": "05"}
    vector = vector_chart(tmp_path / "a.gpkg", [shapely.box(west, south, east, north)], codes)
    made = chart_scene(path, vector, tmp_path / "own")
    with open_scene(made.path) as scene:
        assert scene.simulated
        assert scene.has_chart


def test_what_is_lost_may_be_an_error(tmp_path: Path, chart: Path) -> None:
    tif = geotiff(tmp_path / f"{NAME}.tif")
    for wrong in (-1.0, 101.0, float("nan")):
        with pytest.raises(ConfigError, match="--max-lost is"):
            chart_scene(tif, chart, tmp_path / "own", max_lost=wrong)
    path = vector_chart(tmp_path / "a.gpkg", [WEST, shapely.Polygon([(0, 0), (1, 1), (0, 0)])], {"CT": "92"}, {})
    made = chart_scene(tif, path, tmp_path / "own")
    assert "1 of 2 features have no polygon and are left out" in "; ".join(made.notes)
    command = ["chart", str(tif), str(path), "--out", str(tmp_path / "own"), "--max-lost", "10"]
    assert main(command) == 2


def test_names_keep_the_time(tmp_path: Path, chart: Path) -> None:
    tif = geotiff(tmp_path / f"{NAME}.tif")
    with pytest.warns(UserWarning, match=rf"^{tmp_path}/mine\.nc: .*20200123T120618"):
        chart_scene(tif, chart, tmp_path / "mine.nc")
    bare = shutil.copy(tif, tmp_path / "bare_HV.tif")
    with rasterio.open(bare, "r+") as target:
        target.update_tags(time_coverage_start="2020-01-23T12:06:18")
    made = chart_scene(Path(bare), chart, tmp_path / "own")
    assert made.path.name == "20200123T120618_bare_HV.nc"


def test_what_cannot_be_charted(tmp_path: Path, chart: Path) -> None:
    tif = geotiff(tmp_path / f"{NAME}.tif")
    far = vector_chart(tmp_path / "far.gpkg", [shapely.box(100, 70, 110, 80)], {"CT": "91"})
    with pytest.raises(SceneError, match=rf"^{far}: .*{tif}"):
        chart_scene(tif, far, tmp_path / "own")
    statistics = dict.fromkeys(("nersc_sar_primary", "nersc_sar_secondary", "sar_incidenceangle"), (0.0, 1.0))
    statistics |= dict.fromkeys((*scenes.COARSE_RANGE, "distance_map"), (0.0, 1.0))
    ready = scenes.write(tmp_path / "ready.nc", scenes.rtt(statistics)[0], scenes.RTT_ATTRIBUTES)
    with pytest.raises(SceneError, match=rf"^{ready}: "):
        chart_scene(ready, chart, tmp_path / "own")
    assert not (tmp_path / "own").exists()


def test_the_command(tmp_path: Path, chart: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tif = geotiff(tmp_path / f"{NAME}.tif")
    assert main(["chart", str(tif), str(chart), "--out", str(tmp_path / "own"), "--ct-ranges", "mean"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(tmp_path / "own" / f"{NAME}.nc")
    assert "SIC classes: 5 50.0%, 10 50.0%" in printed
    assert main(["chart", str(tif), str(tmp_path / "none.shp"), "--out", str(tmp_path / "own")]) == 2
    assert f"{tmp_path / 'none.shp'}: " in capsys.readouterr().err


def test_a_projected_geotiff_and_a_projected_chart(tmp_path: Path) -> None:
    # At 81 N, a metre of EPSG:3413 is 1.025 m: 39 m there are 40 m on the ground.
    tif, chart = tmp_path / "a_HV.tif", tmp_path / "chart.gpkg"
    with rasterio.open(
        tif, "w", driver="GTiff", transform=from_origin(0, -1_000_000, 39, 39), height=60, width=80, count=1,
        dtype="float32", crs="EPSG:3413",
    ) as target:  # fmt: skip
        target.write(np.full((60, 80), 0.01, np.float32), 1)
    # The left half: 9/10 of old ice in vast floes.
    left = shapely.box(0, -1_000_000 - 60 * 39, 40 * 39, -1_000_000)
    vector_chart(chart, [left], {"CT": "90", "CA": "90", "SA": "95", "FA": "06"}, crs="EPSG:3413")
    made = chart_scene(tif, chart, tmp_path / "scene.nc")
    with open_scene(made.path) as scene:
        assert scene.shape == (60, 80)
        np.testing.assert_allclose(scene.sar("hv"), -20, atol=1e-4)
        labels = scene.chart()
    assert labels is not None
    assert labels[:, 30, 20].tolist() == [9, 5, 5]
    assert labels[:, 30, 60].tolist() == [255, 255, 255]


def test_pixels_of_another_size(tmp_path: Path) -> None:
    """A GeoTIFF of 55 m becomes a raw scene of 40 m; a raw scene of 55 m, which would be copied, is refused."""
    tif = rasters.write(tmp_path / rasters.NAME, np.full((100, 120), 0.01, np.float32), sides=(55, 55))
    longitude, latitude = rasters.lonlat(
        (100, 120), (55, 55), (75.0, -20.0), [-0.5, 99.5, 99.5, -0.5], [-0.5, -0.5, 59.5, 59.5]
    )
    left = shapely.Polygon(np.column_stack([longitude, latitude]))
    chart = vector_chart(tmp_path / "chart.gpkg", [left], {"CT": "90", "CA": "90", "SA": "95", "FA": "06"})
    with pytest.warns(UserWarning, match="resampled to 40 m"):
        made = chart_scene(tif, chart, tmp_path / "own")
    assert any("resampled to 40 m" in note for note in made.notes)
    with open_scene(made.path) as scene:
        assert (scene.shape, scene.pixel_spacing) == ((137, 165), 40)
        np.testing.assert_allclose(scene.sar("hh"), -20, atol=1e-4)
        labels = scene.chart()
    assert labels is not None
    assert (labels[0] == 9).mean() == pytest.approx(0.5, abs=0.01)
    with netCDF4.Dataset(made.path, "r+") as file:
        assert "resampled to 40 m" in file.comment
        # The positions of the corners' neighbours: pixels of 55 m.
        for name, degrees in (("latitude", latitude.mean()), ("longitude", longitude.mean())):
            file[f"sar_grid_{name}"][:] = degrees + (file[f"sar_grid_{name}"][:] - degrees) * 55 / 40
    with (
        pytest.warns(UserWarning, match="resampled to 40 m"),
        pytest.raises(SceneError, match=rf"^{made.path}: .*resampled to 40 m"),
    ):
        chart_scene(made.path, chart, tmp_path / "again")


def test_a_chart_on_real_sar(real_data: Path, tmp_path: Path) -> None:
    """Real crops, one of each reference system, under a chart of two halves; the real charts lie elsewhere."""
    for name in ("S1B_EW_GRDM_1SDH_20161005T101835", "S1B_EW_GRDM_1SDH_20200123T120618"):
        tif = real_data / "sar" / f"{name}.tif"
        elsewhere = real_data / "charts" / "cis" / "cis_SGRDREA_20201102T.gpkg"
        with pytest.raises(SceneError, match=rf"^{elsewhere}: .*{tif}"):
            chart_scene(tif, elsewhere, tmp_path)
        with open_scene(tif) as sar:
            middle = float(sar.geo.longitude.mean())
            _, longitude, _ = interpolate(sar.geo, np.arange(1000), np.arange(1000))
        boxes = [shapely.box(middle - 30, 80, middle, 89), shapely.box(middle, 80, middle + 30, 89)]
        codes = {"CT": "92", "CA": "92", "SA": "95", "FA": "06"}, {"CT": "12", "SA": "87", "FA": "05"}
        made = chart_scene(tif, vector_chart(tmp_path / f"{name}.gpkg", boxes, *codes), tmp_path / "own", "mean")
        with open_scene(made.path) as scene:
            labels = scene.chart("corrected")
            assert scene.time is not None
            assert np.isfinite(scene.sar("hv")).mean() > 0.9
        assert labels is not None
        clear = np.abs(longitude - middle) > 1e-3  # some ten metres
        np.testing.assert_array_equal(labels[0][clear], np.where(longitude < middle, 10, 2)[clear])
        np.testing.assert_array_equal(labels[1][clear], np.where(longitude < middle, 5, 3)[clear])
