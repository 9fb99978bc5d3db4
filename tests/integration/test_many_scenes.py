"""`predict` and `evaluate` over many scenes: bad scenes are named, the others are done, Ctrl-C keeps what is done."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import netCDF4
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.failing import BAD_SCENES, assert_fails, assert_no_debris, good, not_netcdf, of_wrong_shape, truncated
from tests.forked import Forked, Result, run

NETCDF = ("--products", "netcdf")


def assert_went_on(done: Result, n: int, *bad: Path) -> None:
    """Status 1; each bad scene is named when it fails and in the list at the end."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert sorted(line.partition(": left out: ")[2] for line in lines if ": left out: " in line) == sorted(
        line[2:] for line in lines[-len(bad) :]
    )
    assert f"{len(bad)} of {n} scenes failed:" in lines
    for path in bad:
        assert sum(str(path) in line for line in lines) == 2, done.stderr


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.nc")}


@pytest.mark.parametrize("make", BAD_SCENES, ids=lambda make: make.__name__)
def test_a_bad_scene_among_three(tmp_path: Path, weights: Path, make: Callable[[Path], Path]) -> None:
    good(tmp_path / "in", "a"), good(tmp_path / "in", "z")
    bad = make(tmp_path / "in")
    command = ("predict", weights, tmp_path / "in", "--out", tmp_path / "out", *NETCDF)
    assert_went_on(run(*command), 3, bad)
    drawn = times(tmp_path / "out")
    assert drawn.keys() == {"a.nc", "z.nc"}
    # A second call does only what failed, also when that is repaired.
    assert_went_on(run(*command), 3, bad)
    assert times(tmp_path / "out") == drawn
    shutil.copy(tmp_path / "in" / "a.nc", bad)
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert "2 of 3 scenes were finished before" in done.stderr
    after = times(tmp_path / "out")
    assert after.pop(bad.name)
    assert after == drawn


def test_scenes_that_cannot_be_opened(tmp_path: Path, weights: Path) -> None:
    good(tmp_path / "in", "a")
    locked, dangling = good(tmp_path / "in", "locked"), tmp_path / "in" / "dangling.nc"
    dangling.symlink_to("nowhere.nc")
    (tmp_path / "in" / "folder.nc").mkdir()
    with netCDF4.Dataset(locked, "a"):
        done = run("predict", weights, tmp_path / "in", "--out", tmp_path / "out", *NETCDF)
    assert_went_on(done, 4, dangling, tmp_path / "in" / "folder.nc", locked)
    assert times(tmp_path / "out").keys() == {"a.nc"}


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_where_all_scenes_are_bad(tmp_path: Path, weights: Path, verb: str) -> None:
    bad = [of_wrong_shape(tmp_path / "in"), not_netcdf(tmp_path / "in")]
    done = run(verb, weights, tmp_path / "in", "--out", tmp_path / "out")
    assert_fails(done, "none of 2 scenes", bad[0])
    assert f"left out: {bad[1]}: " in done.stderr
    assert_no_debris(tmp_path / "out")


def test_evaluating_on_three_of_which_one_is_bad(tmp_path: Path, weights: Path) -> None:
    good(tmp_path / "in", "a"), good(tmp_path / "in", "z")
    bad = truncated(tmp_path / "in")
    command = ("evaluate", weights, tmp_path / "in", "--out", tmp_path / "out", "--no-maps")
    assert_went_on(run(*command), 3, bad)
    drawn = times(tmp_path / "out")
    first = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert first["n_scenes"] == 2
    assert [failure["scene"] for failure in first["failed"]] == ["truncated"]
    assert_went_on(run(*command), 3, bad)
    second = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert times(tmp_path / "out") == drawn
    assert {**first, "created": 0, "seconds": 0} == {**second, "created": 0, "seconds": 0}


def test_ctrl_c(tmp_path: Path, weights: Path) -> None:
    n, out = 40, tmp_path / "out"
    scene = good(tmp_path, "first")
    (tmp_path / "in").mkdir()
    for i in range(n):
        shutil.copy(scene, tmp_path / "in" / f"{i:02d}.nc")
    command = ("predict", weights, tmp_path / "in", "--out", out, *NETCDF)
    process = Forked("launchers.cli", command)
    end = time.monotonic() + 120
    while not (out / "02.nc").exists() and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert f" of {n} scenes are done" in stderr.splitlines()[-1]
    n_done = int(stderr.splitlines()[-1].split("stopped; ")[1].split(" of ")[0])
    drawn = times(out)
    assert 2 <= n_done <= len(drawn) <= n_done + 1 < n
    assert not [path for path in out.rglob("*") if ".tmp" in path.name]
    for name in drawn:
        with netCDF4.Dataset(out / name) as file:
            assert file["SIC"][:].size
    done = run(*command)
    assert done.returncode == 0, done.stderr
    after = times(out)
    assert len(after) == n
    assert sum(after[name] == drawn[name] for name in drawn) >= n_done


@pytest.mark.parametrize("number", ["nan", "inf"])
@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_weights_that_are_no_numbers(tmp_path: Path, weights: Path, verb: str, number: str) -> None:
    tensors = load_file(weights)
    name = sorted(name for name in tensors if name.startswith("heads."))[0]
    tensors[name].view(-1)[0] = float(number)
    with safe_open(weights, framework="pt") as file:
        save_file(tensors, tmp_path / "bad.safetensors", file.metadata())
    good(tmp_path / "in", "a"), good(tmp_path / "in", "z")
    done = run(verb, tmp_path / "bad.safetensors", tmp_path / "in", "--out", tmp_path / "out")
    assert_fails(done, tmp_path / "bad.safetensors", name)
    assert_no_debris(tmp_path / "out")
