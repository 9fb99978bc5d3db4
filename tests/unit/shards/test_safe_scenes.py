"""Sentinel-1 products through the commands: built, charted, split, simulated; and whose noise removal is remembered."""

import json
import warnings
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely

from arcticseg.data.manifest import read_manifest
from arcticseg.ice import denoising
from arcticseg.ice.layers import read_layers
from arcticseg.ice.scenes.open import list_scenes, open_scene
from arcticseg.ice.sigrid import CODE_COLUMNS
from launchers.cli import main
from shards import build as building
from shards import machines
from shards.part import build_part
from shards.simulation.safe import SafeForm
from tests import safes, scenes
from tests.archive import CONFIG, InThisProcess


@pytest.fixture(autouse=True)
def _without_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "Workers", InThisProcess)


def test_a_product_and_the_scene_that_it_is_of_give_the_same_shards_but_for_rounding(tmp_path: Path) -> None:
    root = safes.made(tmp_path)
    raw = tmp_path / "raw" / f"{scenes.RAW_NAME}.nc"
    facts = []
    for path in (raw, root):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            build_part(path, tmp_path / "part.tar", CONFIG)
        facts.append(json.loads((tmp_path / "part.json").read_text()))
    first, second = facts
    assert (first["denoising"], second["denoising"]) == ("nersc", "esa")
    for key in ("satellite", "orbit", "time", "shape"):
        assert first[key] == second[key]
    assert second["tiles"] == first["tiles"]
    with open_scene(raw) as scene, open_scene(root) as product:
        for theirs, ours in zip(*(next(read_layers(item, [2])).sar.values() for item in (scene, product)), strict=True):
            both = np.isfinite(theirs) & np.isfinite(ours)
            assert both.mean() > 0.9
            assert np.median(np.abs(theirs[both] - ours[both])) < 0.05


def test_builds_remember_the_noise_removal_and_warn_of_a_mix(tmp_path: Path) -> None:
    products = tmp_path / "scenes"
    safes.made(products)
    (products / "raw" / f"{scenes.RAW_NAME}.nc").rename(products / f"{scenes.RAW_NAME}.nc")
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        building.build({"train": list_scenes(products)}, tmp_path / "out", CONFIG, report=said.append)
    manifest = read_manifest(tmp_path / "out")
    assert {facts["denoising"] for facts in manifest.scenes.values()} == {"esa", "nersc"}
    assert {facts["orbit"] for facts in manifest.scenes.values()} == {22892}
    assert [text for text in said if "thermal noise was removed in different ways" in text]


def test_a_product_is_charted_to_a_raw_scene_that_keeps_its_noise_removal(tmp_path: Path) -> None:
    root = safes.made(tmp_path)
    with open_scene(root) as scene:
        geo, expected = scene.geo, scene.sar("hv")
    west, south, east, north = geo.longitude.min(), geo.latitude.min(), geo.longitude.max(), geo.latitude.max()
    chart = tmp_path / "chart.gpkg"
    fields = np.array(CODE_COLUMNS[1:], dtype=object)
    codes = dict.fromkeys(fields, "-9") | {"CT": "91", "SA": "93", "FA": "05", "POLY_TYPE": "I"}
    shapes = np.array([shapely.to_wkb(shapely.box(west, south, east, north))], dtype=object)
    columns = [np.array([codes[field]], dtype=object) for field in fields]
    pyogrio.raw.write(chart, shapes, columns, fields, geometry_type="Polygon", crs="EPSG:4326")
    assert main(["chart", str(root), str(chart), "--out", str(tmp_path / "own")]) == 0
    with open_scene(tmp_path / "own" / f"{root.stem}.nc") as scene:
        assert (scene.denoising, scene.orbit, scene.has_chart) == ("esa", 22892, True)
        assert np.array_equal(scene.sar("hv"), expected, equal_nan=True)
        labels = scene.chart()
        assert labels is not None
        assert (labels[0] == 10).mean() > 0.8


def test_simulate_writes_products_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["simulate", str(tmp_path / "raw"), "--n", "1", "--size", "500", "--safe", str(tmp_path / "safe")]
    assert main(command) == 0
    (raw,), (product,) = list_scenes(tmp_path / "raw"), list_scenes(tmp_path / "safe")
    assert raw.stem.startswith(product.stem)
    with open_scene(raw) as first, open_scene(product) as second:
        assert second.simulated
        assert (first.time, first.orbit) == (second.time, second.orbit)
        difference = np.abs(first.sar("hh") - second.sar("hh"))
        assert np.nanmedian(difference) < 0.05


def test_what_is_said_of_noise_removals() -> None:
    assert denoising.known(["esa", None, "x", ["esa"], "nersc", "esa"]) == ["esa", "nersc"]
    assert denoising.mix(["esa", None, "esa"]) is None
    assert "NERSC" in (denoising.mix(["esa", "nersc"]) or "")
    assert denoising.differing("esa", ["nersc"])
    for method, trained in (("esa", ["esa", "nersc"]), (None, ["nersc"]), ("esa", [])):
        assert denoising.differing(method, trained) is None


def test_a_product_without_noise_vectors_says_so_in_the_manifest(tmp_path: Path) -> None:
    root = safes.made(tmp_path, SafeForm(noise=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = build_part(root, tmp_path / "part.tar", CONFIG)
    facts = json.loads((tmp_path / "part.json").read_text())
    assert facts["denoising"] == "none"
    assert any("no thermal noise vectors of HH, HV" in text for text in said)
    assert any("no thermal noise vectors" in text for text in facts["notes"])
