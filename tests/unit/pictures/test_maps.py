"""Colours, exact pixels, and the scene map as a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from arcticseg.ice.sigrid import CLASS_NAMES, N_CLASSES
from arcticseg.pictures.colours import chart_colours
from arcticseg.pictures.maps import chart_rgb, difference_rgb, sar_rgb, scene_map

WATER = (150, 200, 255)
MASKED = (214, 214, 214)
LAND = (233, 224, 205)
NO_DATA = (58, 60, 64)


@pytest.mark.parametrize("chart", ["SIC", "SOD", "FLOE"])
def test_every_class_has_its_own_colour(chart: str) -> None:
    colours = chart_colours(chart)
    assert [name for name, _ in colours] == list(CLASS_NAMES[chart])
    seen = {rgb for _, rgb in colours} | {MASKED, LAND}
    assert len(seen) == N_CLASSES[chart] + 2
    assert all(0 <= value <= 255 for _, rgb in colours for value in rgb)


def test_colours_of_the_international_code() -> None:
    # WMO/TD-No. 1215: under 1/10, 1-3/10, 4-6/10, 7-8/10, 9-10/10; new, young, thin and thick first-year, old ice.
    sic = [rgb for _, rgb in chart_colours("SIC")]
    assert {sic[0]} == {WATER}
    assert {(140, 255, 160)} <= set(sic[1:4])
    assert {(255, 255, 0)} <= set(sic[4:7])
    assert {(255, 125, 7)} <= set(sic[7:9])
    assert {(255, 0, 0)} <= set(sic[9:11])
    expected = [WATER, (240, 210, 250), (170, 40, 240), (155, 210, 0), (0, 120, 0), (180, 100, 50)]
    assert [rgb for _, rgb in chart_colours("SOD")] == expected


def test_chart_rgb_paints_classes_mask_and_land() -> None:
    classes = np.array([[0, 1, 2], [5, 255, 4]], np.uint8)
    land = np.array([[False, False, False], [False, False, True]])
    rgb = chart_rgb("SOD", classes, land)
    assert rgb.dtype == np.uint8
    expected = [[WATER, (240, 210, 250), (170, 40, 240)], [(180, 100, 50), MASKED, LAND]]
    np.testing.assert_array_equal(rgb, expected)
    assert classes[1, 2] == 4
    np.testing.assert_array_equal(chart_rgb("SOD", classes)[1, 2], (0, 120, 0))


def test_chart_rgb_refuses_an_unknown_class() -> None:
    with pytest.raises(ValueError, match=r"SOD .* 6"):
        chart_rgb("SOD", np.array([[6]], np.uint8))


def test_difference_is_signed_for_sic_and_plain_for_the_others() -> None:
    truth = np.array([[5, 5, 5, 255, 5]], np.uint8)
    guess = np.array([[5, 8, 2, 5, 255]], np.uint8)
    equal, high, low, *masked = difference_rgb("SIC", truth, guess)[0].astype(int)
    assert max(equal) - min(equal) < 10
    assert high[0] > high[2] + 30
    assert low[2] > low[0] + 30
    np.testing.assert_array_equal(masked, [MASKED, MASKED])
    right, wrong, *_ = difference_rgb("SOD", np.array([[1, 1]], np.uint8), np.array([[1, 2]], np.uint8))[0].astype(int)
    assert right[1] > right[0]
    assert wrong[0] > wrong[1] + 100


def test_sar_rgb_of_one_and_two_polarisations() -> None:
    ramp = np.linspace(-30, -10, 10_000, dtype=np.float32).reshape(100, 100)
    ramp[0, 0] = np.nan
    grey = sar_rgb(ramp, None)
    assert grey.shape == (100, 100, 3)
    assert (grey[1:, :, 0] == grey[1:, :, 1]).all()
    assert tuple(grey[0, 0]) == NO_DATA
    # 1st and 99th percentile of a ramp: the outermost hundredth is black and white, the middle is grey.
    assert (grey[0, 1:90] == 0).all()
    assert (grey[99, 10:] == 255).all()
    assert abs(int(grey[50, 0, 0]) - 128) <= 2
    np.testing.assert_array_equal(sar_rgb(None, ramp), grey)

    colour = sar_rgb(ramp, ramp[::-1].copy()).astype(int)
    # HH grows downwards and is blue; HV grows upwards and is red.
    assert colour[90, 50, 2] > colour[90, 50, 0] + 100
    assert colour[10, 50, 0] > colour[10, 50, 2] + 100
    assert tuple(colour[99, 0]) == NO_DATA


def test_sar_rgb_without_valid_pixels_or_input() -> None:
    rgb = sar_rgb(np.full((4, 5), np.nan, np.float32), None)
    assert (rgb == NO_DATA).all()
    with pytest.raises(ValueError, match="hh"):
        sar_rgb(None, None)


def _scene(height: int = 120, width: int = 150) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    hh = rng.normal(-15, 2, (height, width)).astype(np.float32)
    chart = np.zeros((3, height, width), np.uint8)
    chart[0, :, : width // 2] = 9
    chart[1, :, : width // 2] = 4
    chart[2, :, : width // 2] = 5
    chart[:, :20] = 255
    land = np.zeros((height, width), bool)
    land[-20:] = True
    return {
        "title": "S1A_EW_TEST\na model",
        "hh": hh,
        "hv": hh - 8,
        "chart": chart,
        "prediction": np.where(chart == 255, 0, chart).astype(np.uint8),
        "land": land,
        "pixel_spacing": 80.0,
    }


def _read(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")), dict(image.text)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, dict[str, str]]:
    """Pixels and metadata of the map of `_scene`."""
    folder = tmp_path_factory.mktemp("plain")
    scene_map(folder / "a.png", **_scene(), scores={"SIC": 78.1, "SOD": None, "FLOE": 70.0, "combined": None})
    assert [p.name for p in folder.iterdir()] == ["a.png"]
    return _read(folder / "a.png")


def test_scene_map_shows_all_classes_in_their_colours(plain: tuple[np.ndarray, dict[str, str]]) -> None:
    pixels, metadata = plain
    for chart, k in (("SIC", 9), ("SOD", 4), ("FLOE", 5)):
        colour = chart_colours(chart)[k][1]
        # Chart and prediction panels are 627 x 501 pixels, and about half of each has the class.
        assert (pixels == colour).all(axis=-1).sum() > 200_000, chart
    # A sixth of nine panels, less the coast.
    assert (pixels == LAND).all(axis=-1).sum() > 400_000
    assert metadata["Title"] == "S1A_EW_TEST, a model"
    assert "SIMULATED" not in metadata["Description"]


def test_a_simulated_scene_is_marked_on_its_face_and_in_its_metadata(
    tmp_path: Path, plain: tuple[np.ndarray, dict[str, str]]
) -> None:
    scene_map(tmp_path / "simulated.png", **_scene(), simulated=True)
    real, _ = plain
    marked, metadata = _read(tmp_path / "simulated.png")
    assert metadata["Description"].startswith("SIMULATED SCENE")
    assert real.shape == marked.shape
    badge = (marked == (179, 18, 58)).all(axis=-1) & (real == 255).all(axis=-1)
    assert badge.sum() > 10_000
    rows = np.flatnonzero(badge.any(axis=1))
    assert rows.min() < 160


@pytest.mark.parametrize("missing", ["hh", "hv"])
def test_scene_map_without_chart_land_or_one_polarisation(tmp_path: Path, missing: str) -> None:
    scene = {**_scene(), "chart": None, "land": None, missing: None}
    scene_map(tmp_path / "a.png", **scene)
    pixels, _ = _read(tmp_path / "a.png")
    assert (pixels == chart_colours("SOD")[4][1]).all(axis=-1).sum() > 100_000
    assert (pixels == LAND).all(axis=-1).sum() == 0
    with pytest.raises(ValueError, match="hh"):
        scene_map(tmp_path / "b.png", **{**scene, "hh": None, "hv": None})


def test_graticule_crosses_the_date_line(tmp_path: Path, plain: tuple[np.ndarray, dict[str, str]]) -> None:
    rows, columns = np.mgrid[0:21, 0:21] / 20
    longitude = (178 + 6 * columns + 180) % 360 - 180
    scene_map(tmp_path / "lines.png", **_scene(), latitude=75 - 2 * rows, longitude=longitude)
    changed = (plain[0] != _read(tmp_path / "lines.png")[0]).any(axis=-1)
    assert 0 < changed.mean() < 0.05
    # A jump at the date line would be drawn as a bundle of all meridians in one place.
    assert changed.mean(axis=0).max() < 0.8


def test_a_large_scene_is_reduced_before_it_is_drawn(tmp_path: Path, plain: tuple[np.ndarray, dict[str, str]]) -> None:
    scene_map(tmp_path / "large.png", **_scene(1201, 1499))
    small, large = plain[0].shape, _read(tmp_path / "large.png")[0].shape
    assert max(abs(a - b) for a, b in zip(small, large, strict=True)) <= 8


def test_maps_leave_pyplot_and_torch_alone() -> None:
    code = (
        "import sys, arcticseg.pictures.maps, arcticseg.pictures.report\n"
        "print({'torch', 'ray', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
