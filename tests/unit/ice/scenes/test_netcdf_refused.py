"""netCDF scenes that are refused: what is missing, misshapen or out of place."""

from pathlib import Path

import netCDF4
import numpy as np
import pytest

from arcticseg.errors import SceneError
from arcticseg.ice.channels import CHANNELS
from arcticseg.ice.scenes.open import open_scene
from tests import scenes

STATISTICS = {name: (channel.mean, channel.std) for name, channel in CHANNELS.items()}
# Lines and samples of scenes whose size does not matter.
SMALL = (100, 150)


@pytest.mark.parametrize("name", ["nersc_sar_primary", "sar_grid_line", "sar_grid_incidenceangle", "t2m", "btemp_7_3v"])
def test_a_missing_raw_variable_is_named(tmp_path: Path, name: str) -> None:
    variables = scenes.raw(*SMALL)
    del variables[name]
    path = scenes.write(tmp_path / "a.nc", variables)
    with pytest.raises(SceneError, match=rf"^{path}: variable {name} is missing;"):
        open_scene(path)


def test_polygons_without_codes_are_an_error(tmp_path: Path) -> None:
    variables = scenes.raw(*SMALL)
    del variables["polygon_codes"]
    with pytest.raises(SceneError, match=r"a\.nc: variable polygon_codes"):
        open_scene(scenes.write(tmp_path / "a.nc", variables))


@pytest.mark.parametrize("name", ["sar_incidenceangle", "sar_grid2d_longitude", "SOD", "skt", "nersc_sar_secondary"])
def test_a_missing_rtt_variable_is_named(tmp_path: Path, name: str) -> None:
    variables, _ = scenes.rtt(STATISTICS, *SMALL)
    del variables[name]
    path = scenes.write(tmp_path / "a.nc", variables)
    with pytest.raises(SceneError, match=rf"^{path}: variable {name} is missing;"):
        open_scene(path)


@pytest.mark.parametrize(
    "name", ["nersc_sar_secondary", "polygon_icechart", "distance_map", "t2m", "btemp_89_0v", "sar_grid_latitude"]
)
def test_a_wrong_shape_is_named(tmp_path: Path, name: str) -> None:
    variables = scenes.raw(*SMALL)
    dims, values = variables[name]
    variables[name] = (dims, values[:-1])
    path = scenes.write(tmp_path / "a.nc", variables)
    expected = values.shape
    pattern = rf"^{path}: {name} .*\({expected[0] - 1},.*\({expected[0]},"
    with pytest.raises(SceneError, match=pattern):
        open_scene(path)


def test_sar_with_a_third_dimension_is_refused(tmp_path: Path) -> None:
    variables = scenes.raw(*SMALL)
    for name in ("nersc_sar_primary", "nersc_sar_secondary"):
        variables[name] = (("time", *scenes.SAR_DIMS), variables[name][1][None])
    with pytest.raises(SceneError, match=r"a\.nc: nersc_sar_primary .*\(1, 100, 150\)"):
        open_scene(scenes.write(tmp_path / "a.nc", variables))


def test_an_irregular_grid_is_refused(tmp_path: Path) -> None:
    variables = scenes.raw(*SMALL)
    variables["sar_grid_line"][1][7] += 0.5
    with pytest.raises(SceneError, match=r"a\.nc: sar_grid_line and sar_grid_sample \(441 points\)"):
        open_scene(scenes.write(tmp_path / "a.nc", variables))


def test_points_without_a_sample_are_not_a_grid(tmp_path: Path) -> None:
    variables = scenes.raw(*SMALL)
    dims, values = variables["sar_grid_sample"]
    variables["sar_grid_sample"] = (dims, values[:-1])
    with pytest.raises(SceneError, match=r"a\.nc: sar_grid_line and sar_grid_sample \(441 points\)"):
        open_scene(scenes.write(tmp_path / "a.nc", variables))


@pytest.mark.parametrize(("name", "value"), [("sar_grid_latitude", np.nan), ("sar_grid_longitude", 1e30)])
def test_impossible_positions_are_refused(tmp_path: Path, name: str, value: float) -> None:
    variables = scenes.raw(*SMALL)
    variables[name][1][3] = value
    path = scenes.write(tmp_path / "a.nc", variables)
    with pytest.raises(SceneError, match=rf"^{path}: geolocation grid: latitude or longitude"):
        open_scene(path)


@pytest.mark.parametrize("value", [1e29, -5.0, 90.5])
def test_an_impossible_angle_is_refused(tmp_path: Path, value: float) -> None:
    raw, (rtt, _) = scenes.raw(*SMALL), scenes.rtt(STATISTICS, *SMALL)
    raw["sar_grid_incidenceangle"][1][3] = value
    rtt["sar_incidenceangle"][1][:, -1] = value * 10
    for name, variables in (("raw", raw), ("rtt", rtt)):
        path = scenes.write(tmp_path / f"{name}.nc", variables)
        with pytest.raises(SceneError, match=rf"^{path}: geolocation grid: incidence is .*; use a file"):
            open_scene(path)


@pytest.mark.parametrize("part", ["latitude", "longitude", "line", "sample"])
def test_a_position_that_the_file_calls_missing_is_refused(tmp_path: Path, part: str) -> None:
    variables = scenes.raw(*SMALL)
    variables[f"sar_grid_{part}"][1][7] = -99.0
    path = scenes.write(
        tmp_path / "a.nc", variables, attributes_of={f"sar_grid_{part}": {"missing_value": np.int16(-99)}}
    )
    with pytest.raises(SceneError, match=rf"^{path}: .*(missing|lacks)"):
        open_scene(path)


def test_a_grid_of_another_raster_is_refused(tmp_path: Path) -> None:
    variables = scenes.raw(*SMALL)
    for name in ("nersc_sar_primary", "nersc_sar_secondary", "polygon_icechart", "distance_map"):
        dims, values = variables[name]
        variables[name] = (dims, values[:60])
    for name in (*scenes.AMSR2, *scenes.ERA5):
        dims, values = variables[name]
        variables[name] = (dims, values[:1])
    path = scenes.write(tmp_path / "a.nc", variables)
    with pytest.raises(SceneError, match=rf"^{path}: geolocation grid: covers lines 0 to 99 of a raster of 60;"):
        open_scene(path)


@pytest.mark.parametrize("edge", [1 << 20, 1 << 14])
def test_a_raster_that_no_machine_or_no_file_holds_is_refused(tmp_path: Path, edge: int) -> None:
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w") as file:
        for dim in scenes.SAR_DIMS:
            file.createDimension(dim, edge)
        for name in ("nersc_sar_primary", "nersc_sar_secondary"):
            file.createVariable(name, "f4", scenes.SAR_DIMS, zlib=True)
    with pytest.raises(SceneError, match=rf"^{path}: declares {edge} x {edge} pixels; "):
        open_scene(path)
