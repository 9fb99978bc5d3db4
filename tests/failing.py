"""Scenes that cannot be used, and what a command that fails must leave: status 2, a line that says why, no debris."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyogrio
import shapely

from tests import scenes
from tests.forked import Result

TILE = 32


def assert_fails(done: Result, *parts: object) -> str:
    """Status 2 and exactly one line of error, with all parts in it and a remedy behind a semicolon."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    errors = [line for line in lines if "error" in line.lower()]
    assert len(errors) == 1, done.stderr
    assert errors[0] == lines[-1]
    assert errors[0].startswith("arcticseg: error: ")
    for part in parts:
        assert str(part) in errors[0]
    assert len(errors[0].rpartition(";")[2].split()) >= 2, "no remedy"
    return errors[0]


def assert_no_debris(folder: Path) -> None:
    """No file but whole parts of an interrupted build, which the next attempt goes on with."""
    if not folder.is_dir():
        return
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.parent.name == ".parts", path
            assert not path.name.startswith("."), path
            assert path.with_suffix(".json").is_file(), path


def build(place: Path, out: Path) -> list[str]:
    """Arguments that build small shards."""
    size = ["--factors", "2", "--tile", str(TILE), "--shard-mb", "0.5"]
    return ["shards", "build", str(place), "--out", str(out), *size]


def good(folder: Path, name: str = "good") -> Path:
    """A scene that can be used."""
    return scenes.write_raw(folder / f"{name}.nc", lines=300, samples=350)


def truncated(folder: Path) -> Path:
    """The first half of a file."""
    path = good(folder, "truncated")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def without_variable(folder: Path) -> Path:
    """A scene that lacks HV."""
    variables = scenes.raw(300, 350)
    del variables["nersc_sar_secondary"]
    return scenes.write(folder / "lacking.nc", variables)


def of_wrong_shape(folder: Path) -> Path:
    """A scene with fewer lines in HV than in HH."""
    variables = scenes.raw(300, 350)
    dims, values = variables["nersc_sar_secondary"]
    variables["nersc_sar_secondary"] = (dims, values[:-7])
    return scenes.write(folder / "shape.nc", variables)


def all_nan(folder: Path) -> Path:
    """A scene without a valid pixel."""
    variables = scenes.raw(300, 350)
    for name in ("nersc_sar_primary", "nersc_sar_secondary"):
        variables[name][1][:] = np.nan
    return scenes.write(folder / "nan.nc", variables)


def damaged_inside(folder: Path) -> Path:
    """Opens well; the fault shows when HH, the only large variable, is read."""
    variables = scenes.raw(300, 350)
    variables["nersc_sar_primary"][1][:] = np.random.default_rng(0).normal(-14, 4, (300, 350))
    for name in ("nersc_sar_secondary", "distance_map", "polygon_icechart"):
        variables[name][1][:] = 11
    path = scenes.write(folder / "damaged.nc", variables)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    path.write_bytes(data)
    return path


def not_netcdf(folder: Path) -> Path:
    """A text under the name of a scene."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.nc").write_text("not netCDF")
    return folder / "text.nc"


# What makes a bad scene -> what the error says of it.
BAD_SCENES = {
    truncated: "it is cut",
    without_variable: "nersc_sar_secondary",
    of_wrong_shape: "(293, 350), expected (300, 350)",
    all_nan: "hh, hv",
    damaged_inside: "damaged or cut",
    not_netcdf: "damaged or cut",
}


def empty_and_absent(folder: Path) -> list[Path]:
    """A folder without input, and one that is not there."""
    (folder / "empty").mkdir()
    (folder / "empty" / "readme.txt").write_text("not a scene")
    return [folder / "empty", folder / "absent"]


def vector_chart(path: Path) -> Path:
    """A chart of a polygon that covers the scenes that tests make."""
    codes = dict.fromkeys(("CB", "SB", "FB", "CC", "SC", "FC"), "-9") | {"CT": "92", "CA": "92", "SA": "95", "FA": "06"}
    pyogrio.raw.write(
        path,
        np.array([shapely.to_wkb(shapely.box(-90, 60, -30, 85))], dtype=object),
        [np.array([code], dtype=object) for code in codes.values()],
        np.array(list(codes), dtype=object),
        geometry_type="Polygon",
        crs="EPSG:4326",
    )
    return path
