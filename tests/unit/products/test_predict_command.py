"""`arcticseg predict` in this process."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import netCDF4
import pytest

pytest.importorskip("torch")

from drawing import write_weights

from arcticseg.products import table
from arcticseg.products.map import Map
from arcticseg.products.netcdf import NetCDF
from arcticseg.products.product import Drawn
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
    return sorted(path.name for path in folder.iterdir() if path.is_file())


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


@pytest.fixture
def three(scene: Path, tmp_path: Path) -> list[Path]:
    """Three copies of a scene, in a folder of their own."""
    (tmp_path / "in").mkdir()
    return [Path(shutil.copy(scene, tmp_path / "in" / f"{name}.nc")) for name in "abc"]


NETCDF = ("--products", "netcdf")


def test_ctrl_c_keeps_what_is_done(
    weights: Path,
    three: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = NetCDF.write

    def interrupted(self: NetCDF, path: Path, drawn: Drawn) -> None:
        if path.stem == "b":
            raise KeyboardInterrupt
        write(self, path, drawn)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(NetCDF, "write", interrupted)
        assert predict(weights, three[0].parent, "--out", out, *NETCDF) == 130
    assert "1 of 3 scenes are done" in capsys.readouterr().err
    assert names(out) == ["a.nc"]
    first = (out / "a.nc").stat().st_mtime_ns
    assert predict(weights, three[0].parent, "--out", out, *NETCDF) == 0
    printed = capsys.readouterr()
    assert printed.out.split() == [str(out / f"{name}.nc") for name in "abc"]
    assert "1 of 3 scenes were finished before" in printed.err
    assert (out / "a.nc").stat().st_mtime_ns == first


def test_what_draws_a_scene_again(weights: Path, three: list[Path], tmp_path: Path) -> None:
    out, scene = tmp_path / "out", three[0]
    own = Path(shutil.copy(weights, tmp_path / "own.safetensors"))

    def drawn(*options: object, products: str = "netcdf,geotiff") -> set[str]:
        """Suffixes of the files that a call writes."""
        before = {path: path.stat().st_mtime_ns for path in out.glob("a.*")}
        assert predict(own, scene, "--out", out, "--products", products, *options) == 0
        return {path.suffix for path in out.glob("a.*") if path.stat().st_mtime_ns != before.get(path)}

    both = {".nc", ".tif"}
    assert drawn() == both
    assert drawn() == set()
    # The same file at another place and time.
    os.utime(scene, ns=(0, 0))
    (tmp_path / "moved").mkdir()
    own = Path(shutil.move(own, tmp_path / "moved"))
    assert drawn() == set()
    assert drawn("--batch-size", 3, "--overlap", 8, "--device", "cpu") == set()
    assert drawn(products="geotiff") == set()
    assert drawn("--again") == both
    assert drawn("--factor", 8) == both
    assert drawn("--overlap", 4) == both
    assert drawn() == both
    # Products that were made before stay finished when others are added.
    (out / "a.nc").unlink()
    assert drawn(products="geotiff") == set()
    assert drawn(products="netcdf") == {".nc"}
    assert drawn() == set()
    # Not whole, or damaged.
    whole = (out / "a.nc").read_bytes()
    (out / "a.nc").write_bytes(whole[:-1])
    assert drawn() == both
    data = bytearray((out / "a.nc").read_bytes())
    data[len(data) // 2] ^= 1
    (out / "a.nc").write_bytes(data)
    assert drawn() == both
    for damage in (b"", b"[]", b"{}", (out / ".made" / "a.record").read_bytes().replace(b"made_with", b"made_wIth")):
        (out / ".made" / "a.record").write_bytes(damage)
        assert drawn() == both
    write_weights(own, seed=1)
    assert drawn() == both
    scenes.write_raw(scene, lines=200, samples=220, seed=5)
    assert drawn() == both
    assert drawn() == set()


def test_a_scene_that_changes_while_it_is_drawn_is_not_finished(
    weights: Path, three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = NetCDF.write

    def changing(self: NetCDF, path: Path, drawn: Drawn) -> None:
        write(self, path, drawn)
        os.utime(drawn.scene.path, ns=(0, 1))

    monkeypatch.setattr(NetCDF, "write", changing)
    assert predict(weights, three[0], "--out", tmp_path / "out", *NETCDF) == 0
    assert names(tmp_path / "out") == ["a.nc"]
    assert not (tmp_path / "out" / ".made").exists()


def test_a_place_without_a_scene_does_not_end_the_others(
    weights: Path, three: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, absent = tmp_path / "out", tmp_path / "absent.nc"
    assert predict(weights, absent, three[0], "--out", out, *NETCDF) == 1
    assert names(out) == ["a.nc"]
    assert f"left out: {absent}: " in capsys.readouterr().err
    assert predict(weights, absent, tmp_path / "other", "--out", out, *NETCDF) == 2
    assert str(absent) in capsys.readouterr().err.splitlines()[-1]
