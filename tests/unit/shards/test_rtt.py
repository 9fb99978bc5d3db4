import json
import os
import warnings
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest

from arcticseg.errors import ConfigError, OutputError, SceneError
from arcticseg.ice.channels import CHANNELS, COARSE
from arcticseg.ice.geo import interpolate
from arcticseg.ice.layers import official_labels, read_layers
from arcticseg.ice.scenes.netcdf import RttScene
from arcticseg.ice.scenes.open import open_scene
from launchers.cli import main
from shards.rtt import make_ready, ready_name, write_ready
from tests import scenes
from tests.archive import InThisProcess

pytestmark = pytest.mark.slow

SHAPE = (61, 73)
READY = "20180721T120156_cis_prep.nc"


def raw_scene(folder: Path, chart: bool = True, **attributes: Any) -> tuple[Path, dict[str, scenes.Variable]]:
    """A small raw scene with odd edges, zero power, and holes in the distance map."""
    variables = scenes.raw(*SHAPE, seed=3, chart=chart)
    variables["nersc_sar_secondary"][1][20, 30] = -np.inf
    variables["nersc_sar_secondary"][1][30:32, 40:42] = -np.inf
    variables["nersc_sar_primary"][1][44, 51] = np.nan
    variables["distance_map"][1][11, 60] = np.nan
    variables["btemp_18_7h"][1][0, 0] = np.nan
    return scenes.write(folder / f"{scenes.RAW_NAME}.nc", variables, {"title": "by a test", **attributes}), variables


def by_hand(variables: dict[str, scenes.Variable], chart: bool) -> dict[str, np.ndarray]:
    """The recipe, read literally, pixel by pixel; z-scores, 0 and 255 where there is no data."""
    lines, samples = SHAPE
    grid = scenes.geolocation(*SHAPE)
    knots = grid["line"][:, 0], grid["sample"][0]
    angle = grid["incidenceangle"]

    def incidence(line: int, sample: int) -> float:
        along = [np.interp(sample, knots[1], row) for row in angle]
        return float(np.interp(line, knots[0], along))

    full = {name: variables[name][1] for name in ("nersc_sar_primary", "nersc_sar_secondary", "distance_map")}
    out = {name: np.zeros((lines // 2, samples // 2)) for name in (*full, "sar_incidenceangle")}
    if chart:
        out |= {name: np.full((lines // 2, samples // 2), 255) for name in ("SIC", "SOD", "FLOE")}
    for i in range(lines // 2):
        for j in range(samples // 2):
            pixels = [(2 * i + a, 2 * j + b) for a in (0, 1) for b in (0, 1)]
            lost = any(np.isnan(values[pixel]) for values in full.values() for pixel in pixels)
            if chart:
                ids = [variables["polygon_icechart"][1][pixel] for pixel in pixels]
                classes = [(255, 255, 255) if np.isnan(number) else scenes.CLASSES[int(number)] for number in ids]
                lost |= any(sic == 255 for sic, _, _ in classes)
                if not lost:
                    for k, name in enumerate(("SIC", "SOD", "FLOE")):
                        out[name][i, j] = max(pixel[k] for pixel in classes)
            if lost:
                continue
            means = {name: [values[pixel] for pixel in pixels] for name, values in full.items()}
            means["sar_incidenceangle"] = [incidence(*pixel) for pixel in pixels]
            for name, values in means.items():
                finite = [float(value) for value in values if np.isfinite(value)]
                if finite:
                    out[name][i, j] = (np.mean(finite) - CHANNELS[name].mean) / CHANNELS[name].std
    return out


@pytest.mark.parametrize("chart", [True, False])
def test_the_recipe_read_literally(tmp_path: Path, chart: bool) -> None:
    path, variables = raw_scene(tmp_path, chart)
    ready, warned = write_ready(path, tmp_path)
    assert ready.name == READY
    assert warned == []
    expected = by_hand(variables, chart)
    with netCDF4.Dataset(ready) as file:
        file.set_auto_maskandscale(False)
        assert ("SIC" in file.variables) is chart
        for name, values in expected.items():
            assert file[name].dtype == (np.uint8 if name in ("SIC", "SOD", "FLOE") else np.float32)
            np.testing.assert_allclose(file[name][:], values, atol=2e-6, err_msg=name)
        assert (expected["nersc_sar_primary"] == 0).mean() > 0.05
        for name in COARSE:
            scores = (variables[name][1] - CHANNELS[name].mean) / CHANNELS[name].std
            np.testing.assert_allclose(file[name][:], np.nan_to_num(scores, nan=0), atol=2e-6)
        assert file["btemp_18_7h"][0, 0] == 0


def test_the_file_reads_back(tmp_path: Path) -> None:
    path, _ = raw_scene(tmp_path)
    ready, _ = write_ready(path, tmp_path)
    with open_scene(path) as raw, open_scene(ready) as scene:
        assert isinstance(scene, RttScene)
        assert (scene.time, scene.ice_service, scene.simulated) == (raw.time, "cis", False)
        assert scene.shape == (30, 36)
        labels, official = scene.chart(), official_labels(raw)
        assert labels is not None
        assert official is not None
        np.testing.assert_array_equal(labels, official)
        assert (labels < 255).any()
        # The same places: a pixel of 80 m is centred between two of 40 m.
        rows, columns = np.arange(30), np.arange(36)
        places = interpolate(scene.geo, rows, columns)
        expected = interpolate(raw.geo, 2 * rows + 0.5, 2 * columns + 0.5)
        np.testing.assert_allclose(places[0], expected[0], atol=1e-5)  # about a metre
        np.testing.assert_allclose(places[1], expected[1], atol=5e-5)
        # Angles are read back at the nearest pixel to a grid point, and 36 pixels span 25 degrees here.
        np.testing.assert_allclose(places[2], expected[2], atol=0.5 * 25 / 36)
        (layers,) = read_layers(scene, [2])
        assert layers.valid.any()


def test_a_simulated_scene_stays_simulated_and_its_labels_are_official(tiny_archive: Path, tmp_path: Path) -> None:
    path = sorted(tiny_archive.iterdir())[0]
    ready, _ = write_ready(path, tmp_path)
    with open_scene(path) as raw, open_scene(ready) as scene:
        assert scene.simulated
        np.testing.assert_array_equal(scene.chart(), official_labels(raw))


def test_a_polarisation_that_is_missing_does_not_rule_out_the_rest(tmp_path: Path) -> None:
    variables = scenes.raw(*SHAPE)
    variables["nersc_sar_primary"][1][:] = np.nan
    variables["sar_grid_incidenceangle"][1][:] = np.nan
    path = scenes.write(tmp_path / "own.nc", variables)
    ready, _ = write_ready(path, tmp_path)
    assert ready.name == "own_prep.nc"
    with open_scene(ready) as scene, open_scene(path) as raw:
        assert np.isnan(scene.sar("hh")).all()
        assert np.isfinite(scene.sar("hv")).any()
        assert np.isnan(scene.geo.incidence).all()
        labels = scene.chart()
        assert labels is not None
        assert (labels < 255).any()
        np.testing.assert_array_equal(labels, official_labels(raw))


def test_files_that_are_there_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.rtt.Workers", InThisProcess)
    path, _ = raw_scene(tmp_path / "raw")
    out = tmp_path / "out"
    made, skipped = make_ready([path], out)
    assert (made, skipped) == ([out / READY], [])
    os.utime(made[0], ns=(1, 1))
    make_ready([path], out)
    assert made[0].stat().st_mtime_ns == 1
    made[0].unlink()
    make_ready([path], out)
    assert made[0].stat().st_mtime_ns > 1
    other = path.with_name(f"{scenes.RAW_NAME}_b.nc")
    path.rename(other)
    with pytest.raises(SceneError, match=rf"^{out / READY}: .*{path.name}, not of {other.name}"):
        make_ready([other], out)


def test_scenes_that_cannot_be_read(tmp_path: Path) -> None:
    good, _ = raw_scene(tmp_path / "raw")
    bad = tmp_path / "raw" / "20190101T000000_x.nc"
    bad.write_bytes(good.read_bytes()[:5000])
    told: list[str] = []
    steps: list[tuple[int, int]] = []
    made, skipped = make_ready(
        [bad, good], tmp_path / "out", workers=2, on_error="skip", report=told.append,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert [path.name for path in made] == [READY]
    assert skipped == [bad]
    assert len(told) == 1
    assert told[0].startswith(f"skipped: {bad}")
    assert steps == [(1, 2), (2, 2)]
    # Nothing half done is left.
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [READY]
    with pytest.raises(SceneError, match=rf"^{made[0]}: "):
        make_ready(made, tmp_path / "again")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("shards.rtt.Workers", InThisProcess)
    good, _ = raw_scene(tmp_path / "raw")
    (tmp_path / "raw" / "bad.nc").write_bytes(b"no netCDF")
    (tmp_path / "list.txt").write_text(f"{good.stem}\n")
    command = ["rtt", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    assert main([*command, "--list", str(tmp_path / "list.txt")]) == 0
    assert capsys.readouterr().out == f"1 ready-to-train scenes in {tmp_path / 'out'}, 0 skipped\n"
    assert main(command) == 2
    assert f"{tmp_path / 'raw' / 'bad.nc'}: " in capsys.readouterr().err
    assert main([*command, "--on-error", "skip"]) == 1
    shown = capsys.readouterr()
    assert "1 skipped" in shown.out
    assert "skipped: " in shown.err


def test_two_scenes_of_one_name(tmp_path: Path) -> None:
    first, second = (tmp_path / f"S1A_20180721T120156_{x}_icechart_dmi_a.nc" for x in "ab")
    with pytest.raises(ConfigError, match=rf"^{second}: .*20180721T120156_dmi_prep\.nc .*{first.name}"):
        make_ready([first, second], tmp_path / "out")


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match=rf"^{tmp_path / 'out'}"):
        make_ready([], tmp_path / "out")


def test_names() -> None:
    assert ready_name(scenes.RAW_NAME) == READY
    assert ready_name("mine") == "mine_prep.nc"
    assert ready_name("S1B_EW_GRDM_1SDH_20200123T120618") == "S1B_EW_GRDM_1SDH_20200123T120618_prep.nc"


def test_the_schema_is_that_of_the_archive(real_data: Path, tiny_archive: Path, tmp_path: Path) -> None:
    """Names, dimensions, types, order and attributes of real ready-to-train files, from a simulated raw scene."""
    known = json.loads((real_data / "schema" / "ai4arctic_real_scene_schemas.json").read_text())
    path = sorted(tiny_archive.iterdir())[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ready, _ = write_ready(path, tmp_path)
    real = [schema for schema in known if schema["kind"] == "rtt_train"]
    assert len(real) == 2
    with netCDF4.Dataset(ready) as file:
        for schema in real:
            assert list(file.variables) == schema["order"]
            assert set(file.dimensions) == set(schema["dims"])
            for name, expected in schema["variables"].items():
                assert file[name].dimensions == tuple(expected["dims"]), name
                assert file[name].dtype == np.dtype(expected["dtype"]), name
                assert set(file[name].ncattrs()) == set(expected["attrs"]), name
                for key in ("chart_fill_value", "variable_fill_value", "polygon", "description", "units"):
                    if key in expected["attrs"]:
                        assert str(file[name].getncattr(key)) == expected["attrs"][key], name
            assert set(file.ncattrs()) == {*schema["global_attrs"], "simulated"}
            for key in ("flip", "pixel_spacing"):
                assert str(file.getncattr(key)) == schema["global_attrs"][key]
            # The archive's own names follow from those of its raw scenes.
            attributes = schema["global_attrs"]
            assert ready_name(attributes["original_id"].removesuffix(".nc")) == attributes["scene_id"]
        assert file.dimensions["sar_lines"].size == 250
        assert file.dimensions["2km_grid_samples"].size == 10
