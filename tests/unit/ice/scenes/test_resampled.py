"""Scenes whose pixels are not of the spacing that their reader assumes, against loops and true positions."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from arcticseg.errors import SceneError
from arcticseg.ice.geo import interpolate, pixel_of
from arcticseg.ice.layers import read_layers
from arcticseg.ice.scenes.netcdf import open_netcdf
from arcticseg.ice.scenes.open import open_scene
from arcticseg.ice.scenes.resampled import ResampledScene, axis, brought
from arcticseg.ice.scenes.scene import Scene
from launchers.cli import main
from shards.rtt import write_ready
from tests import rasters, scenes

PLACE = (75.0, -20.0)


def opened(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return open_scene(path)


def raw_of(path: Path, side: float, lines: int = 300, samples: int = 350, **options: Any) -> Path:
    """A raw scene whose positions are those of square pixels of a side in metres."""
    variables = scenes.raw(lines, samples, **options)
    line, sample = (variables[f"sar_grid_{name}"][1] for name in ("line", "sample"))
    longitude, latitude = rasters.lonlat((lines, samples), (side, side), PLACE, line, sample)
    for name, values in (("latitude", latitude), ("longitude", longitude)):
        variables[f"sar_grid_{name}"] = (scenes.POINT_DIMS, np.asarray(values))
    return scenes.write(path, variables)


def overlap_mean(values: NDArray[Any], ratios: tuple[float, float], row: int, column: int) -> tuple[float, float]:
    """Mean of the values that a pixel covers by their shares of its area, and the share that is data."""
    total = weight = 0.0
    for i in range(values.shape[0]):
        tall = min((row + 1) * ratios[0], i + 1) - max(row * ratios[0], i)
        if tall <= 0:
            continue
        for j in range(values.shape[1]):
            wide = min((column + 1) * ratios[1], j + 1) - max(column * ratios[1], j)
            if wide > 0 and not np.isnan(values[i, j]):
                total += tall * wide * values[i, j]
                weight += tall * wide
    return total / weight if weight else np.nan, weight / (ratios[0] * ratios[1])


@pytest.mark.parametrize("ratios", [(1.3, 2.6), (4.0, 3.0), (1.01, 7.7)])
def test_area_means(ratios: tuple[float, float]) -> None:
    values = np.random.default_rng(0).normal(5, 2, (41, 57)).astype(np.float32)
    values[5:9, 10:31] = np.nan
    n, m = (int(size / ratio) for size, ratio in zip(values.shape, ratios, strict=True))
    result = brought(values, axis(ratios[0], 41, n), axis(ratios[1], 57, m))
    assert result.shape == (n, m)
    for row in range(n):
        for column in range(m):
            mean, share = overlap_mean(values, ratios, row, column)
            if abs(share - 0.5) > 1e-3:
                assert np.isnan(result[row, column]) == (share < 0.5)
            if np.isfinite(result[row, column]):
                assert result[row, column] == pytest.approx(mean, rel=1e-5)


def test_bilinear_values_of_a_plane_are_the_plane() -> None:
    line, sample = np.mgrid[:30, :40]
    plane = (3 * line - 2 * sample).astype(np.float32)
    result = brought(plane, axis(0.7, 30, 42), axis(0.9, 40, 44))
    at = [(np.arange(n) + 0.5) * ratio - 0.5 for n, ratio in ((42, 0.7), (44, 0.9))]
    rows, columns = np.clip(at[0], 0, 29), np.clip(at[1], 0, 39)
    np.testing.assert_allclose(result, 3 * rows[:, None] - 2 * columns, atol=1e-4)


def test_nothing_changes_at_the_same_spacing() -> None:
    values = np.random.default_rng(0).random((600, 30)).astype(np.float32)
    values[:, 3] = np.nan
    np.testing.assert_allclose(brought(values, axis(1.0, 600, 600), axis(1.0, 30, 30), n_threads=2), values, rtol=1e-6)


@pytest.mark.parametrize("side", [20.0, 31.0, 51.0, 55.0, 62.0, 90.0])
def test_power_is_kept_and_lies_in_its_place(side: float, tmp_path: Path) -> None:
    """A bright field in a GeoTIFF of any spacing has its place and its mean power at 40 m or 80 m."""
    power = np.full((240, 260), 0.01, np.float32)
    power[60:120, 100:180] = 1.0
    path = rasters.write(tmp_path / rasters.NAME, power, sides=(side, side), place=PLACE)
    with pytest.warns(UserWarning, match=rf"^{path}: resampled to \d+ m, since .* {side:.1f} x {side:.1f} m"):
        scene = open_scene(path)
    wanted = 80 if side >= 60 else 40
    assert scene.pixel_spacing == wanted
    assert scene.shape == (int(240 * side / wanted), int(260 * side / wanted))
    made = 10 ** (scene.sar("hh") / 10)
    assert made.mean() == pytest.approx(power.mean(), rel=0.03)
    # Its middle, by the power above that around it.
    above = np.where(made > 0.02, made, 0)
    rows, columns = np.indices(made.shape)
    row, column = ((above * at).sum() / above.sum() for at in (rows, columns))
    latitude, longitude, _ = interpolate(scene.geo, row, column)
    true_lon, true_lat = rasters.lonlat(power.shape, (side, side), PLACE, 89.5, 139.5)
    assert pixel_of(scene.geo, true_lon, true_lat) == pytest.approx((row, column), abs=0.02)
    assert (latitude[0, 0], longitude[0, 0]) == pytest.approx((true_lat, true_lon), abs=1e-4)


def test_pixels_of_two_sides(tmp_path: Path) -> None:
    """20 % longer across than down: square pixels of 40 m come of it."""
    power = np.full((200, 200), 0.01, np.float32)
    scene = opened(rasters.write(tmp_path / rasters.NAME, power, sides=(40, 48)))
    assert scene.shape == (200, 240)
    np.testing.assert_allclose(scene.sar("hh"), -20, atol=1e-4)


def test_all_layers_of_a_raw_scene_lie_as_its_positions_say(tmp_path: Path) -> None:
    side, lines, samples = 55.0, 300, 350
    path = raw_of(tmp_path / f"{scenes.RAW_NAME}.nc", side, lines, samples)
    variables = scenes.raw(lines, samples)
    scene = opened(path)
    ratio = 40 / side
    assert isinstance(scene, ResampledScene)
    assert scene.shape == (int(lines / ratio), int(samples / ratio))
    assert (scene.time, scene.ice_service, scene.polarisations, scene.has_chart) == (
        opened(scenes.write(tmp_path / "b" / path.name, variables)).time, "cis", ("hh", "hv"), True,
    )  # fmt: skip
    own = [np.minimum(((np.arange(n) + 0.5) * ratio).astype(int), size - 1)
           for n, size in zip(scene.shape, (lines, samples), strict=True)]  # fmt: skip
    # Charts: the class of the pixel of the file under each centre.
    ids = variables["polygon_icechart"][1][own[0]][:, own[1]]
    sic = np.full(ids.shape, 255)
    for polygon, classes in scenes.CLASSES.items():
        sic[ids == polygon] = classes[0]
    np.testing.assert_array_equal(scene.chart()[0], sic)
    # Zones rise along the samples and are interpolated.
    zones = scene.distance()
    at = np.clip((np.arange(scene.shape[1]) + 0.5) * ratio - 0.5, 0, samples - 1)
    expected = np.interp(at, np.arange(samples), variables["distance_map"][1][0])
    np.testing.assert_allclose(zones, np.tile(expected, (scene.shape[0], 1)), atol=1e-4)
    # Cells of the file are 50 of its pixels, cells here 2 km: both by their centres, in metres from the corner.
    cells = scene.coarse("t2m")
    assert cells.shape == (scene.shape[0] * 40 // 2000, scene.shape[1] * 40 // 2000)
    stored = variables["t2m"][1]
    centres = [(np.arange(n) + 0.5) * 50 * side for n in stored.shape]
    wanted = [(np.arange(n) + 0.5) * 2000 for n in cells.shape]
    by_row = np.stack([np.interp(wanted[1], centres[1], row) for row in stored])
    by_both = np.stack([np.interp(wanted[0], centres[0], column) for column in by_row.T], axis=1)
    np.testing.assert_allclose(cells, by_both, rtol=1e-4)
    layers = next(read_layers(scene, [2]))
    assert layers.pixel_spacing == 80
    assert layers.coarse.shape[1:] == cells.shape


def test_a_raw_scene_of_550_m(tmp_path: Path) -> None:
    """It cannot give 80 m; the remedy, a multiple of 14, works."""
    path = raw_of(tmp_path / "scenes" / f"{scenes.RAW_NAME}.nc", 550.0)
    scene = opened(path)
    assert scene.pixel_spacing == 560
    with pytest.raises(SceneError, match=rf"{path}: factor 2 cannot be made of pixels of 560 m; set a multiple of 14"):
        next(read_layers(scene, [2]))
    assert next(read_layers(scene, [14])).pixel_spacing == 560


def test_the_manifest_says_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    raw_of(tmp_path / "scenes" / f"{scenes.RAW_NAME}.nc", 55.0)
    command = ["shards", "build", str(tmp_path / "scenes"), "--out", str(tmp_path / "out"), "--factors", "2"]
    assert main([*command, "--tile", "32", "--workers", "1"]) == 0
    (facts,) = json.loads((tmp_path / "out" / "manifest.json").read_text())["scenes"].values()
    assert any("resampled to 40 m" in text for text in facts["warnings"])
    assert capfd.readouterr().err.count("resampled to 40 m") == 1


def test_what_copies_the_file_refuses_and_the_remedy_works(tmp_path: Path) -> None:
    path = raw_of(tmp_path / "scenes" / f"{scenes.RAW_NAME}.nc", 55.0)
    with pytest.raises(SceneError, match=rf"^{path}: .*resampled to 40 m.*; correct its positions, or give it to"):
        write_ready(path, tmp_path / "out")
    # What the message tells the user to give it to takes it.
    command = ["shards", "build", str(tmp_path / "scenes"), "--out", str(tmp_path / "shards"), "--factors", "2"]
    assert main([*command, "--tile", "32", "--workers", "1"]) == 0
    # With its positions corrected, it is copied.
    raw_of(path, 40.0)
    (tmp_path / "out").mkdir()
    assert write_ready(path, tmp_path / "out")[0].is_file()


def test_a_scene_that_is_too_small_then(tmp_path: Path) -> None:
    path = rasters.write(tmp_path / rasters.NAME, np.full((60, 60), 0.01, np.float32), sides=(1.0, 1.0))
    with pytest.raises(SceneError, match=rf"^{path}: 60 x 60 pixels of 1\.00 x 1\.00 m are less than 2 pixels of 40 m"):
        open_scene(path)


def test_the_remedy_for_pixels_that_are_not_squares(tmp_path: Path) -> None:
    """`rio warp` as the message says, of a file in degrees at 70 N."""
    path = tmp_path / "a_HH.tif"
    rasters.write(
        path, np.full((300, 300), 0.01, np.float32), crs="EPSG:4326",
        transform=rasters.Affine(0.0004, 0, -30, 0, -0.0004, 70),
    )  # fmt: skip
    with pytest.raises(SceneError, match=r"pixels of 44\.\d x 15\.\d m are not squares") as caught:
        open_scene(path)
    command = str(caught.value).partition("(of a GeoTIFF: ")[2].rstrip(")").split()
    assert command[:2] == ["rio", "warp"]
    warped = tmp_path / "warped_HH.tif"
    given = {"rio": str(Path(sys.executable).with_name("rio")), "IN.tif": str(path), "OUT.tif": str(warped)}
    subprocess.run([given.get(word, word) for word in command], check=True, capture_output=True)
    scene = opened(warped)
    assert scene.pixel_spacing == pytest.approx(40, rel=0.02)
    assert np.nanmedian(scene.sar("hh")) == pytest.approx(-20, abs=1e-3)


def test_nothing_of_a_scene_is_forgotten(tmp_path: Path) -> None:
    """What a reader adds to `Scene` must be brought to the new pixels, or be said here to be the same on them."""
    same_code = {"chart", "note", "take_facts", "to_xarray"}
    methods = {name for name, value in vars(Scene).items() if callable(value) and not name.startswith("_")}
    assert methods - same_code <= set(vars(ResampledScene))
    path = raw_of(tmp_path / f"{scenes.RAW_NAME}.nc", 55.0)
    scene, source = opened(path), open_netcdf(path)
    facts = {name for name in Scene.__annotations__ if hasattr(source, name)}
    changed = {"shape", "pixel_spacing", "geo", "notes", "threads", "file_pixels"}
    assert {name for name in facts - changed if getattr(scene, name) != getattr(source, name)} == set()
    assert scene.indexed_chart().polygons == source.indexed_chart().polygons
    assert scene.to_xarray().sizes["line"] == scene.shape[0]
