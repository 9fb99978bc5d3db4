"""`arcticseg predict` in this process."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import netCDF4
import pytest

pytest.importorskip("torch")

from drawing import write_weights

from arcticseg.products import table
from arcticseg.products.map import Map
from launchers import cli
from tests import scenes

RECIPES = Path(__file__).parents[3] / "docs" / "recipes.md"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "unet.safetensors"
    write_weights(path)
    return path


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.write_raw(tmp_path_factory.mktemp("scene") / "a.nc", lines=200, samples=220)


def predict(*arguments: object) -> int:
    return cli.main(["predict", *map(str, arguments)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_of_a_scene(
    weights: Path,
    scene: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Map, "write", lambda self, path, drawn: path.touch())
    assert predict(weights, scene, "--out", tmp_path / "charts") == 0
    assert names(tmp_path / "charts") == ["a.charts.tif", "a.nc", "a.png"]
    assert capsys.readouterr().out == f"{tmp_path / 'charts' / 'a.nc'}\n"
    # The default is a text, since the table is loaded only when the command runs.
    assert cli.make_parser().parse_args(["predict", "r", "s", "--out", "o"]).products.split(",") == list(table.DEFAULT)


def test_the_product_of_the_recipes(
    weights: Path, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"^```python\n(\"{3}counts\.py.*?)^```$", RECIPES.read_text(), re.MULTILINE | re.DOTALL)
    module = tmp_path / "counts.py"
    module.write_text(code)
    monkeypatch.setattr(table, "PRODUCTS", dict(table.PRODUCTS))
    out = tmp_path / "charts"
    try:
        options = ("--import", module, "--products", "counts,netcdf,map", "--no-map")
        assert predict(weights, scene, "--out", out, *options) == 0
    finally:
        sys.modules.pop("counts", None)
    assert names(out) == ["a.csv", "a.nc"]
    counts = dict(line.split(",") for line in (out / "a.csv").read_text().split())
    with netCDF4.Dataset(out / "a.nc") as file:
        file.set_auto_maskandscale(False)
        assert int(counts["255"]) == (file["SIC"][:] == 255).sum()
    assert sum(map(int, counts.values())) == 100 * 110


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--products", "netcdf,cog"], ["'cog'", "netcdf, geotiff, map"]),
        (["--products", "map", "--no-map"], ["netcdf, geotiff, map"]),
        (["--import", "no_such_module"], ["--import no_such_module"]),
    ],
)
def test_wrong_options_are_errors_before_any_work(
    options: list[str], named: list[str], scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("no_weights", scene, "--out", tmp_path / "out", *options) == 2
    printed = capsys.readouterr().err
    assert all(text in printed for text in named), printed
    assert not (tmp_path / "out").exists()


def test_charts_replace_no_scene(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("no_weights", scene, "--out", scene.parent) == 2
    printed = capsys.readouterr().err
    assert f"--out is '{scene.parent}'" in printed
    assert f"replace {scene}" in printed
    twin = tmp_path / "twin" / "a.tif"
    twin.parent.mkdir()
    twin.touch()
    assert predict("no_weights", scene, twin, "--out", tmp_path / "out") == 2
    printed = capsys.readouterr().err
    assert str(scene) in printed
    assert str(twin) in printed
