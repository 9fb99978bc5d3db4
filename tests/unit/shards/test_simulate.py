"""Whole simulated scenes: schema, repeatability, names, edges, real charts, resuming."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import netCDF4
import numpy as np
import pyogrio
import pytest
import xarray as xr

from arcticseg.errors import ConfigError, OutputError, SceneError
from arcticseg.ice.scenes.open import open_scene
from shards.simulate import SimulationConfig, simulate_archive, simulate_scene

SIZE = (500, 600)
# Whole SAFE names with orbit, take and id, then the chart of either service.
NAME = re.compile(
    r"S1[AB]_EW_GRDM_1SDH_(\d{8}T\d{6})_\d{8}T\d{6}_\d{6}_[0-9A-F]{6}_[0-9A-F]{4}_icechart_"
    r"(cis_SGRD[A-Z]+_\d{8}T\d{4}Z_pl_a|dmi_\d{12}_[A-Za-z]+_RIC)\.nc"
)


def arrays(path: Path) -> dict[str, np.ndarray]:
    with netCDF4.Dataset(path) as file:
        file.set_auto_mask(False)
        return {name: variable[:] for name, variable in file.variables.items()}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_scene(tmp_path_factory.mktemp("scene"), index=5, seed=3, size=SIZE)


@pytest.mark.parametrize(("kind", "labelled"), [("raw_train", True), ("raw_test", False)])
def test_follows_the_schema_of_real_scenes(real_data: Path, tmp_path: Path, kind: str, labelled: bool) -> None:
    schemas = json.loads((real_data / "schema/ai4arctic_real_scene_schemas.json").read_text())
    schema = next(schema for schema in schemas if schema["kind"] == kind)
    path = simulate_scene(tmp_path, index=2, seed=0, size=SIZE, labelled=labelled)

    with xr.open_dataset(path) as data:
        expected = {"sar_lines": 500, "sar_samples": 600, "sar_grid_points": 441}
        expected |= {"2km_grid_lines": 10, "2km_grid_samples": 12}
        assert {name: count for name, count in data.sizes.items() if name != "polygon_codes"} == expected
        assert set(data.sizes) == set(schema["dims"])
        for name, real in schema["variables"].items():
            assert list(data[name].dims) == real["dims"], name
            # Strings are read as objects or as fixed-width text, whichever xarray prefers.
            assert data[name].dtype == np.dtype(real["dtype"]) or data[name].dtype.kind == "U", name
            assert sorted(data[name].attrs) == sorted(real["attrs"]), name
            for key, value in real["attrs"].items():
                assert type(data[name].attrs[key]) is type(value), (name, key)
        for name in ("distance_map", "t2m", "btemp_6_9h", "nersc_sar_primary"):
            for key in {"description", "long_name", "zonal_range_description", "units", "polarisation"} & {
                *schema["variables"][name]["attrs"]
            }:
                assert data[name].attrs[key] == schema["variables"][name]["attrs"][key]
        assert set(data.attrs) == {*schema["global_attrs"], "simulated"}
        assert schema["global_attrs"]["title"] in data.attrs["title"]
    with netCDF4.Dataset(path) as file:
        assert list(file.variables) == schema["order"]
        assert all(
            file[name].dtype == (str if real["dtype"] == "object" else np.dtype(real["dtype"]))
            for name, real in schema["variables"].items()
        )


def test_says_that_it_is_simulated(scene: Path) -> None:
    with netCDF4.Dataset(scene) as file:
        assert "SIMULATED" in file.title
        assert file.simulated.startswith("simulated")
    with open_scene(scene) as opened:
        assert opened.simulated


def test_name_is_like_a_real_one_and_agrees_with_the_content(scene: Path) -> None:
    match = NAME.fullmatch(scene.name)
    assert match is not None
    with open_scene(scene) as opened:
        assert opened.time == datetime.strptime(match[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
        assert opened.ice_service == match[2][:3]
    with netCDF4.Dataset(scene) as file:
        assert file["polygon_codes"].icechart_id == match[2]
        assert scene.name.startswith(file["nersc_sar_primary"].upstream_id)


def test_same_arrays_for_same_seed_and_index_only(scene: Path, tiny_archive: Path, tmp_path: Path) -> None:
    first = arrays(scene)
    again = arrays(simulate_scene(tmp_path / "again.nc", index=5, seed=3, size=SIZE))
    assert first.keys() == again.keys()
    for name, values in first.items():
        if values.dtype == object:
            assert list(values) == list(again[name])
        else:
            assert np.array_equal(values, again[name], equal_nan=True), name
    # Two scenes of the same size and seed, of another index each.
    backscatter = [arrays(path)["nersc_sar_primary"] for path in sorted(tiny_archive.iterdir())[:2]]
    assert not np.array_equal(*backscatter, equal_nan=True)


def test_both_polarisations_lack_data_in_the_same_pixels_at_the_edges(scene: Path) -> None:
    variables = arrays(scene)
    hh, hv = np.isnan(variables["nersc_sar_primary"]), np.isnan(variables["nersc_sar_secondary"])
    assert (hh == hv).all()
    assert 0 < hh.mean() < 0.1
    assert not hh[20:-20, 20:-20].any()


def test_chart_is_absent_over_land_and_its_ids_are_in_the_codes(tiny_archive: Path) -> None:
    with_land = 0
    for path in tiny_archive.iterdir():
        variables = arrays(path)
        land = variables["distance_map"] == 0
        with_land += bool(land.any())
        assert np.isnan(variables["polygon_icechart"][land]).all()
        ids = {int(value) for value in np.unique(variables["polygon_icechart"]) if np.isfinite(value)}
        assert ids == {int(row.split(";")[0]) for row in variables["polygon_codes"][1:]}
        assert set(np.unique(variables["distance_map"])) <= set(range(42))
        # Land is imaged like everything else.
        assert np.isfinite(variables["nersc_sar_primary"][20:-20, 20:-20]).all()
    assert with_land


def test_incidence_runs_over_the_swath_along_samples(scene: Path) -> None:
    with open_scene(scene) as opened:
        incidence = opened.geo.incidence
        assert opened.geo.latitude.shape == (21, 21)
        # 600 pixels of 40 m: the grid's corners are as far apart as on the ground, to a thousandth.
        lat, lon = np.radians(opened.geo.latitude), np.radians(opened.geo.longitude)
    assert incidence[:, 0] == pytest.approx(18.9)
    assert incidence[:, -1] == pytest.approx(46.5)
    assert (np.diff(incidence, axis=1) > 0).all()
    half = np.sin((lat[0, 0] - lat[0, -1]) / 2) ** 2
    half += np.cos(lat[0, 0]) * np.cos(lat[0, -1]) * np.sin((lon[0, 0] - lon[0, -1]) / 2) ** 2
    assert 2 * 6371 * np.arcsin(np.sqrt(half)) == pytest.approx(599 * 0.04, rel=1e-3)


def test_scene_larger_than_a_block_has_no_seam(tmp_path: Path) -> None:
    """Across the border between two blocks neighbouring lines differ no more than elsewhere."""
    variables = arrays(simulate_scene(tmp_path / "seam.nc", index=1, seed=1, size=(600, 500)))
    assert np.isfinite(variables["nersc_sar_primary"][495:505, 20:-20]).all()
    for name in ("nersc_sar_primary", "distance_map"):
        step = np.abs(np.diff(variables[name][400:590, 20:-20], axis=0)).mean(axis=1)
        assert step[99] < 1.5 * step.mean()


def test_archive_is_resumed_and_independent_of_workers(tiny_archive: Path, tmp_path: Path) -> None:
    """`tiny_archive` is of seed 0, made without further processes."""
    parallel = simulate_archive(tmp_path / "parallel", 2, size=500, workers=2)
    assert sorted(path.name for path in (tmp_path / "parallel").iterdir()) == sorted(path.name for path in parallel)
    for path in parallel:
        assert path.read_bytes() == (tiny_archive / path.name).read_bytes()
    stamps = [path.stat().st_mtime_ns for path in parallel]
    told: list[tuple[int, int]] = []
    resumed = simulate_archive(tmp_path / "parallel", 3, size=500, progress=lambda *state: told.append(state))
    assert resumed[:2] == parallel
    assert [path.stat().st_mtime_ns for path in parallel] == stamps
    assert resumed[2].read_bytes() == (tiny_archive / resumed[2].name).read_bytes()
    assert told == [(2, 3), (3, 3)]


def test_archive_replaces_files_of_another_configuration_and_broken_ones(tiny_archive: Path, tmp_path: Path) -> None:
    (path,) = simulate_archive(tmp_path, 1, size=500, labelled=False)
    assert path.read_bytes() != (tiny_archive / path.name).read_bytes()
    simulate_archive(tmp_path, 1, size=500)
    assert path.read_bytes() == (tiny_archive / path.name).read_bytes()
    path.write_bytes(path.read_bytes()[:1000])
    simulate_archive(tmp_path, 1, size=500)
    assert path.read_bytes() == (tiny_archive / path.name).read_bytes()


def test_date_is_kept_and_drives_the_season(tmp_path: Path) -> None:
    temperature = {}
    for month in (1, 7):
        path = simulate_scene(tmp_path, index=0, seed=0, size=500, date=datetime(2020, month, 15))
        assert f"_2020{month:02d}15T" in path.name
        temperature[month] = arrays(path)["t2m"].mean()
    assert temperature[7] > temperature[1] + 5


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"size \(400, 400\).*500"):
        SimulationConfig(size=400)
    with pytest.raises(ConfigError, match=r"window \(75\.0, 120\.0\)"):
        SimulationConfig(window=(75.0, 120.0))
    with pytest.raises(ConfigError, match="scenes 0"):
        simulate_archive(tmp_path, 0, size=500)
    with pytest.raises(SceneError, match=r"absent\.shp"):
        simulate_scene(tmp_path, index=0, seed=0, size=500, chart=tmp_path / "absent.shp")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        simulate_archive(tmp_path / "file", 1, size=500)


def test_real_chart_gives_real_polygons_and_codes(real_data: Path, tmp_path: Path) -> None:
    chart = real_data / "charts/cis/cis_SGRDREA_20201102T.gpkg"
    path = simulate_scene(tmp_path, index=0, seed=0, size=600, chart=chart)
    # The day is in the chart's name.
    assert "_20201102T" in path.name
    assert "_icechart_cis_SGRDREA" in path.name
    variables = arrays(path)
    meta, _, _, columns = pyogrio.raw.read(chart, read_geometry=False)
    table = dict(zip(meta["fields"], columns, strict=True))
    header, *rows = (row.split(";") for row in variables["polygon_codes"])
    assert len(rows) >= 3
    for row in rows:
        for column, cell in zip(header[1:], row[1:], strict=True):
            assert cell == str(table[column][int(row[0]) - 1]), (row[0], column)
    shown = {int(value) for value in np.unique(variables["polygon_icechart"]) if np.isfinite(value)}
    assert shown == {int(row[0]) for row in rows}
    with netCDF4.Dataset(path) as file:
        assert "cis_SGRDREA_20201102T" in file.simulated


def test_ranges_of_a_real_chart_can_be_resolved(real_data: Path, tmp_path: Path) -> None:
    chart = real_data / "charts/dmi/201404250420_CapeFarewell2_RIC.shp"
    codes = {}
    for how in ("mask", "mean"):
        path = simulate_scene(
            tmp_path / f"{how}.nc", index=0, seed=0, size=500, chart=chart, window=(-45.55, 59.75), ct_ranges=how
        )
        codes[how] = [row.split(";")[1] for row in arrays(path)["polygon_codes"][1:]]
        with netCDF4.Dataset(path) as file:
            assert ("(CT ranges: mean)" in file.simulated) is (how == "mean")
    resolved = {"23": "30", "46": "50"}
    assert codes["mean"] == [resolved.get(code, code) for code in codes["mask"]]
    assert codes["mean"] != codes["mask"]


def test_real_chart_in_a_window(real_data: Path, tmp_path: Path) -> None:
    chart = real_data / "charts/dmi/201405011000_SouthWest_RIC.shp"
    path = simulate_scene(tmp_path, index=0, seed=0, size=500, chart=chart, window=(-55.0, 66.0))
    assert path.name.endswith("_icechart_dmi_201405011000_SouthWest_RIC.nc")
    with open_scene(path) as opened:
        assert opened.geo.latitude[10, 10] == pytest.approx(66.0, abs=1e-6)
        assert opened.geo.longitude[10, 10] == pytest.approx(-55.0, abs=1e-6)
    with pytest.raises(SceneError, match=r"201405011000_SouthWest_RIC.*100\.00.*80\.00"):
        simulate_scene(tmp_path, index=0, seed=0, size=500, chart=chart, window=(100.0, 80.0))
