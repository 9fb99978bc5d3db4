import json
import warnings
from datetime import UTC, datetime
from pathlib import Path

import netCDF4
import numpy as np
import pytest

from arcticseg.errors import SceneError
from arcticseg.ice.channels import CHANNELS, COARSE
from arcticseg.ice.scenes.netcdf import RawScene, RttScene
from arcticseg.ice.scenes.open import open_scene
from tests import scenes

STATISTICS = {name: (channel.mean, channel.std) for name, channel in CHANNELS.items()}
# Lines and samples of scenes whose size does not matter.
SMALL = (100, 150)


@pytest.fixture(scope="module")
def raw_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.write_raw(tmp_path_factory.mktemp("raw") / f"{scenes.RAW_NAME}.nc")


@pytest.fixture(scope="module")
def rtt_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    variables, _ = scenes.rtt(STATISTICS)
    return scenes.write(tmp_path_factory.mktemp("rtt") / f"{scenes.RTT_NAME}.nc", variables, scenes.RTT_ATTRIBUTES)


def test_raw_facts(raw_file: Path) -> None:
    with open_scene(raw_file) as scene:
        assert isinstance(scene, RawScene)
        assert scene.path == raw_file
        assert scene.name == scenes.RAW_NAME
        assert scene.shape == (600, 650)
        assert scene.pixel_spacing == 40
        assert scene.time == datetime(2018, 7, 21, 12, 1, 56, tzinfo=UTC)
        assert scene.ice_service == "cis"
        assert scene.polarisations == ("hh", "hv")
        assert scene.has_chart
        assert not scene.simulated


def test_raw_layers_are_those_of_the_file(raw_file: Path) -> None:
    variables = scenes.raw()
    with open_scene(raw_file) as scene:
        for polarisation, name in (("hh", "nersc_sar_primary"), ("hv", "nersc_sar_secondary")):
            backscatter = scene.sar(polarisation)
            assert backscatter.dtype == np.float32
            np.testing.assert_array_equal(backscatter, variables[name][1])
        distance = scene.distance()
        assert distance is not None
        np.testing.assert_array_equal(distance, variables["distance_map"][1])
        for name in COARSE:
            values = scene.coarse(name)
            assert values is not None
            assert values.dtype == np.float32
            assert values.shape == (12, 13)
            np.testing.assert_array_equal(values, variables[name][1].astype(np.float32))


def test_raw_geolocation_is_the_grid(raw_file: Path) -> None:
    grid = scenes.geolocation(600, 650)
    with open_scene(raw_file) as scene:
        np.testing.assert_array_equal(scene.geo.lines, np.linspace(0, 599, 21))
        np.testing.assert_array_equal(scene.geo.samples, np.linspace(0, 649, 21))
        np.testing.assert_array_equal(scene.geo.latitude, grid["latitude"])
        np.testing.assert_array_equal(scene.geo.longitude, grid["longitude"])
        np.testing.assert_array_equal(scene.geo.incidence, grid["incidenceangle"])


def test_grid_points_may_have_any_order(tmp_path: Path) -> None:
    variables = scenes.raw(*SMALL)
    order = np.random.default_rng(5).permutation(441)
    for name in [name for name in variables if name.startswith("sar_grid_")]:
        dims, values = variables[name]
        variables[name] = (dims, values[order])
    with open_scene(scenes.write(tmp_path / "a.nc", variables)) as scene:
        np.testing.assert_array_equal(scene.geo.latitude, scenes.geolocation(*SMALL)["latitude"])


def test_raw_chart_follows_the_codes(raw_file: Path) -> None:
    polygons = scenes.raw()["polygon_icechart"][1]
    with open_scene(raw_file) as scene:
        chart = scene.chart()
        corrected = scene.chart("corrected")
    assert chart is not None
    assert chart.dtype == np.uint8
    assert chart.shape == (3, 600, 650)
    for number, classes in scenes.CLASSES.items():
        inside = polygons == number
        assert inside.any()
        for plane, value in zip(chart, classes, strict=True):
            assert (plane[inside] == value).all()
    assert (chart[:, np.isnan(polygons)] == 255).all()
    np.testing.assert_array_equal(corrected, chart)


def test_strict_reaches_the_chart(tmp_path: Path) -> None:
    rows = [scenes.ROWS[0].replace(";91;90;", ";94;90;"), *scenes.ROWS[1:]]
    variables = scenes.raw(*SMALL, rows=rows)
    path = scenes.write(tmp_path / "a.nc", variables)
    with open_scene(path) as scene:
        with pytest.warns(UserWarning, match="CT 94"):
            chart = scene.chart()
        assert chart is not None
        assert (chart[:, variables["polygon_icechart"][1] == 11] == 255).all()
        with pytest.raises(SceneError, match=rf"^{path}: .*CT 94.*--strict"):
            scene.chart(strict=True)


def test_a_raw_test_scene_has_no_chart(tmp_path: Path) -> None:
    with open_scene(scenes.write(tmp_path / "a.nc", scenes.raw(*SMALL, chart=False))) as scene:
        assert not scene.has_chart
        assert scene.chart() is None
        assert np.isfinite(scene.sar("hh")).any()


def test_a_scene_may_lack_weather_and_distance(tmp_path: Path) -> None:
    lacking = (*COARSE, "distance_map")
    variables = {name: variable for name, variable in scenes.raw(*SMALL).items() if name not in lacking}
    with open_scene(scenes.write(tmp_path / "a.nc", variables)) as scene:
        assert scene.distance() is None
        assert scene.coarse("t2m") is None


def test_infinite_backscatter_is_no_data_but_zero_power_is_data(tmp_path: Path) -> None:
    variables = scenes.raw(*SMALL)
    variables["nersc_sar_primary"][1][0, :2] = np.inf, -np.inf
    with open_scene(scenes.write(tmp_path / "a.nc", variables)) as scene:
        infinite, zero_power = scene.sar("hh")[0, :2]
    assert np.isnan(infinite)
    assert zero_power == -np.inf


def test_simulated_scenes_say_so(tmp_path: Path) -> None:
    path = scenes.write(tmp_path / "a.nc", scenes.raw(*SMALL), {"simulated": "simulated: by a test"})
    with open_scene(path) as scene:
        assert scene.simulated


def test_rtt_is_brought_back_to_units(rtt_file: Path) -> None:
    _, physical = scenes.rtt(STATISTICS)
    with open_scene(rtt_file) as scene:
        assert isinstance(scene, RttScene)
        assert scene.shape == (300, 325)
        assert scene.pixel_spacing == 80
        layers = {"nersc_sar_primary": scene.sar("hh"), "nersc_sar_secondary": scene.sar("hv")}
        distance = scene.distance()
        assert distance is not None
        layers["distance_map"] = distance
        for name in COARSE:
            values = scene.coarse(name)
            assert values is not None
            layers[name] = values
        for name, values in layers.items():
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, physical[name][1], rtol=2e-5, atol=2e-5, err_msg=name)
        assert np.isnan(layers["btemp_89_0v"][0, 0])


def test_rtt_facts_come_from_attributes(rtt_file: Path) -> None:
    with open_scene(rtt_file) as scene:
        assert scene.name == scenes.RTT_NAME
        assert scene.time == datetime(2018, 6, 7, 18, 43, 26, tzinfo=UTC)
        assert scene.ice_service == "dmi"


def test_rtt_geolocation_spans_the_scene(rtt_file: Path) -> None:
    grid = scenes.geolocation(600, 650)
    with open_scene(rtt_file) as scene:
        geo = scene.geo
    np.testing.assert_array_equal(geo.latitude, grid["latitude"])
    np.testing.assert_array_equal(geo.longitude, grid["longitude"])
    assert (geo.lines[0], geo.lines[-1]) == (0, 299)
    assert (geo.samples[0], geo.samples[-1]) == (0, 324)
    # The angle grows by 25 degrees over 324 samples; the file has none at the swath edge, where the first points lie.
    nearest = np.where(geo.samples >= 325 // 20, np.rint(geo.samples), geo.samples)
    np.testing.assert_allclose(geo.incidence, np.tile(20 + 25 * nearest / 324, (21, 1)), atol=1e-4)


def test_rtt_without_any_angle_has_none(tmp_path: Path) -> None:
    variables, _ = scenes.rtt(STATISTICS, *SMALL)
    variables["sar_incidenceangle"][1][:] = 0
    with open_scene(scenes.write(tmp_path / "a.nc", variables)) as scene:
        assert np.isnan(scene.geo.incidence).all()


def test_rtt_charts_are_the_files_own(rtt_file: Path) -> None:
    variables, _ = scenes.rtt(STATISTICS)
    with open_scene(rtt_file) as scene:
        chart = scene.chart()
        assert chart is not None
        np.testing.assert_array_equal(chart, np.stack([variables[name][1] for name in ("SIC", "SOD", "FLOE")]))
        with pytest.raises(SceneError, match=r"'autoice'; 'corrected'"):
            scene.chart("corrected")


def test_rtt_without_charts(tmp_path: Path) -> None:
    variables, _ = scenes.rtt(STATISTICS, *SMALL)
    for name in ("SIC", "SOD", "FLOE"):
        del variables[name]
    with open_scene(scenes.write(tmp_path / "a.nc", variables, scenes.RTT_ATTRIBUTES)) as scene:
        assert scene.chart() is None


def test_an_rtt_value_that_is_not_a_class_is_an_error(tmp_path: Path) -> None:
    variables, _ = scenes.rtt(STATISTICS, *SMALL)
    variables["SOD"][1][7, 90] = 6
    with (
        open_scene(scenes.write(tmp_path / "a.nc", variables)) as scene,
        pytest.raises(SceneError, match=r"a\.nc: SOD holds 6,"),
    ):
        scene.chart()


@pytest.mark.parametrize("masked", [-1, 255, 3000])
def test_charts_may_be_stored_otherwise(tmp_path: Path, masked: int) -> None:
    """int16 with a fill value, packed uint8 with unsigned bytes, float32 with NaN."""
    variables, _ = scenes.rtt(STATISTICS, *SMALL)
    expected = np.stack([variables[name][1] for name in ("SIC", "SOD", "FLOE")])
    dims = scenes.SAR_DIMS
    variables["SIC"] = (dims, np.where(expected[0] == 255, np.int16(masked), expected[0].astype(np.int16)))
    variables["SOD"] = (dims, (10 * np.where(expected[1] == 255, 20, expected[1])).astype(np.uint8).view(np.int8))
    variables["FLOE"] = (dims, np.where(expected[2] == 255, np.nan, expected[2]).astype(np.float32))
    attributes = {
        "SIC": {"_FillValue": np.int16(masked)},
        "SOD": {"_Unsigned": "true", "scale_factor": 0.1, "missing_value": np.uint8(200).view(np.int8)},
    }
    with open_scene(scenes.write(tmp_path / "a.nc", variables, attributes_of=attributes)) as scene:
        chart = scene.chart()
    assert chart is not None
    np.testing.assert_array_equal(chart, expected)


def test_no_data_among_packed_z_scores_stays_no_data(tmp_path: Path) -> None:
    """No whole number stands for zero exactly; a tenth of a per cent of the others fall together with it."""
    variables, physical = scenes.rtt(STATISTICS, 200, 210)
    attributes = {}
    for name in ("nersc_sar_primary", "sar_incidenceangle", "distance_map"):
        dims, scored = variables[name]
        variables[name] = (dims, np.rint((scored.astype(float) - 0.12345) / 0.0007).astype(np.int16))
        attributes[name] = {"scale_factor": 0.0007, "add_offset": 0.12345}
    with open_scene(scenes.write(tmp_path / "a.nc", variables, attributes_of=attributes)) as scene:
        for name, values in (("nersc_sar_primary", scene.sar("hh")), ("distance_map", scene.distance())):
            assert values is not None
            expected = physical[name][1]
            assert np.isnan(values[np.isnan(expected)]).all()
            both = np.isfinite(values) & np.isfinite(expected)
            assert np.isfinite(expected).sum() - both.sum() <= 0.002 * both.sum()
            np.testing.assert_allclose(values[both], expected[both], atol=0.0004 * CHANNELS[name].std)
        assert scene.geo.incidence.max() == pytest.approx(45, abs=0.1)


def test_half_a_class_is_none(tmp_path: Path) -> None:
    variables, _ = scenes.rtt(STATISTICS, *SMALL)
    dims, values = variables["SOD"]
    variables["SOD"] = (dims, values.astype(np.float32))
    variables["SOD"][1][3, 4] = 2.5
    with (
        open_scene(scenes.write(tmp_path / "a.nc", variables)) as scene,
        pytest.raises(SceneError, match=r"a\.nc: SOD holds 2\.5, not a class;"),
    ):
        scene.chart()


@pytest.mark.parametrize("dtype", ["i2", "u1", "f8"])
def test_polygon_ids_may_be_stored_otherwise(tmp_path: Path, dtype: str) -> None:
    variables = scenes.raw(*SMALL)
    dims, values = variables["polygon_icechart"]
    with open_scene(scenes.write(tmp_path / "plain.nc", variables)) as scene:
        expected = scene.chart()
    variables["polygon_icechart"] = (dims, np.where(np.isnan(values), 99, 2 * values).astype(dtype))
    attributes = {"polygon_icechart": {"scale_factor": 0.5, "_FillValue": np.array(99, dtype)[()]}}
    with open_scene(scenes.write(tmp_path / "a.nc", variables, attributes_of=attributes)) as scene:
        chart = scene.chart()
    assert chart is not None
    assert expected is not None
    np.testing.assert_array_equal(chart, expected)


def test_chunks_that_nobody_wrote_are_no_data_by_the_files_own_fill_value(tmp_path: Path) -> None:
    variables = scenes.raw(200, 250)
    names = ("nersc_sar_primary", "nersc_sar_secondary")
    decibels = [variables.pop(name)[1] for name in names]
    path = scenes.write(tmp_path / "a.nc", variables)
    with netCDF4.Dataset(path, "a") as file:
        for name, fill in zip(names, (-5, None), strict=True):
            variable = file.createVariable(
                name, "i2", scenes.SAR_DIMS, zlib=True, chunksizes=(100, 100), fill_value=fill
            )
            variable.set_auto_maskandscale(False)
            variable.scale_factor = 0.01
            variable[:100] = np.nan_to_num(np.rint(decibels[0][:100] * 100), nan=-5)
    with open_scene(path) as scene:
        for polarisation in ("hh", "hv"):
            values = scene.sar(polarisation)
            assert np.isnan(values[100:]).all()
            np.testing.assert_allclose(values[:100, 50:], decibels[0][:100, 50:], atol=0.00501)


def test_text_where_numbers_must_be_is_refused(tmp_path: Path) -> None:
    variables = scenes.raw(*SMALL)
    variables["t2m"] = (scenes.COARSE_DIMS, np.full((2, 3), "cold", dtype=object))
    with (
        open_scene(scenes.write(tmp_path / "a.nc", variables)) as scene,
        pytest.raises(SceneError, match=r"a\.nc: t2m has dtype"),
    ):
        scene.coarse("t2m")


def test_a_cut_file_is_an_error(tmp_path: Path, raw_file: Path) -> None:
    path = tmp_path / "a.nc"
    data = raw_file.read_bytes()
    for share in (0.0, 0.001, 0.5, 0.99):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(SceneError, match=rf"^{path}: cannot be read \("):
            open_scene(path)


def test_damage_is_noticed_when_the_layer_is_read_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    variables = scenes.raw(300, 300)
    random = np.random.default_rng(0)
    # Only HH is large, so the middle of the file is in its compressed data.
    variables["nersc_sar_primary"][1][:] = random.normal(-14, 4, (300, 300))
    for name in ("nersc_sar_secondary", "distance_map", "polygon_icechart"):
        variables[name][1][:] = 11
    scenes.write(path, variables)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    path.write_bytes(data)
    with open_scene(path) as scene:
        assert (scene.sar("hv") == 11).all()
        assert scene.chart() is not None
        with pytest.raises(SceneError, match=rf"^{path}: cannot be read"):
            scene.sar("hh")


def test_hand_made_scenes_have_the_schema_of_real_ones(real_data: Path) -> None:
    schemas = json.loads((real_data / "schema" / "ai4arctic_real_scene_schemas.json").read_text())
    by_kind = {
        "raw_train": scenes.raw(*SMALL),
        "raw_test": scenes.raw(*SMALL, chart=False),
        "rtt_train": scenes.rtt(STATISTICS, *SMALL)[0],
    }
    for scene in schemas:
        for name, (dims, values) in by_kind[scene["kind"]].items():
            assert list(dims) == scene["variables"][name]["dims"], (scene["kind"], name)
            assert str(values.dtype) == scene["variables"][name]["dtype"], (scene["kind"], name)


def test_a_sound_scene_gives_no_warning(raw_file: Path, rtt_file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in (raw_file, rtt_file):
            with open_scene(path) as scene:
                scene.sar("hh")
                scene.chart()
                scene.distance()
