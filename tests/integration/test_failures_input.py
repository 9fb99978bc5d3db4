"""Input that cannot be used: a line of error that names the file and the remedy, status 2, no debris."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import scenes
from tests.failing import (
    BAD_SCENES,
    assert_fails,
    assert_no_debris,
    build,
    damaged_inside,
    empty_and_absent,
    good,
    truncated,
)
from tests.forked import run


def test_the_command_ends_so_when_a_shell_starts_it(tmp_path: Path) -> None:
    bad = truncated(tmp_path / "scenes")
    command = [sys.executable, "-m", "launchers.cli", *build(tmp_path / "scenes", tmp_path / "out")]
    assert_fails(subprocess.run(command, capture_output=True, text=True, check=False), bad, BAD_SCENES[truncated])
    assert not (tmp_path / "out").exists()


# Scenes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [make for make in BAD_SCENES if make != truncated], ids=lambda make: make.__name__)
def test_building_from_a_bad_scene(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    bad = make(tmp_path / "scenes")
    assert_fails(run(*build(tmp_path / "scenes", tmp_path / "out")), bad, BAD_SCENES[make])
    assert not (tmp_path / "out").exists()


def test_building_from_a_folder_with_one_bad_scene(tmp_path: Path) -> None:
    good(tmp_path / "scenes")
    bad = truncated(tmp_path / "scenes")
    assert_fails(run(*build(tmp_path / "scenes", tmp_path / "out")), bad)
    assert_no_debris(tmp_path / "out")
    done = run(*build(tmp_path / "scenes", tmp_path / "out"), "--on-error", "skip")
    assert done.returncode == 0, done.stderr
    assert f"skipped: {bad}: cannot be read" in done.stderr
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["scenes"]["truncated"]["error"]
    assert run("shards", "check", tmp_path / "out").returncode == 0


@pytest.mark.parametrize("make", BAD_SCENES, ids=lambda make: make.__name__)
def test_predicting_on_a_bad_scene(tmp_path: Path, weights: Path, make: Callable[[Path], Path]) -> None:
    bad = make(tmp_path)
    assert_fails(run("predict", weights, bad, "--out", tmp_path / "out"), bad, BAD_SCENES[make])
    assert_no_debris(tmp_path / "out")


def test_evaluating_on_a_bad_scene(tmp_path: Path, weights: Path) -> None:
    bad = damaged_inside(tmp_path / "scenes")
    assert_fails(run("evaluate", weights, tmp_path / "scenes", "--out", tmp_path / "out"), bad)
    assert_no_debris(tmp_path / "out")


def test_evaluating_on_a_scene_without_a_chart(tmp_path: Path, weights: Path) -> None:
    path = scenes.write_raw(tmp_path / "scenes" / "test.nc", lines=300, samples=350, chart=False)
    done = run("evaluate", weights, tmp_path / "scenes", "--out", tmp_path / "out")
    assert_fails(done, path, "ice chart")
    assert_no_debris(tmp_path / "out")


# Folders -------------------------------------------------------------------------------------------------------------


def test_folders_without_scenes(tmp_path: Path, weights: Path) -> None:
    for place in empty_and_absent(tmp_path):
        out = tmp_path / "out"
        assert_fails(run(*build(place, out)), place)
        assert_fails(run("shards", "split", place, "--out", out), place)
        assert not out.exists()
        assert_fails(run("predict", weights, place, "--out", out), place)
        assert_fails(run("evaluate", weights, place, "--out", out), place)
        assert_no_debris(out)


def test_folders_without_shards(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text("steps: 1\n")
    train = ["train", "--config", tmp_path / "plain.yaml", f"out={tmp_path / 'run'}"]
    for place in empty_and_absent(tmp_path):
        for command in (["shards", "check", place], ["shards", "stats", place], [*train, f"data.shards={place}"]):
            assert_fails(run(*command), place, "manifest.json", "arcticseg shards build")
    assert not (tmp_path / "run").exists()


def test_folders_without_a_network(tmp_path: Path) -> None:
    scene = good(tmp_path)
    for place in empty_and_absent(tmp_path):
        done = run("predict", place, scene, "--out", tmp_path / "out")
        assert_fails(done, place, "weights")
        assert_no_debris(tmp_path / "out")


def test_a_report_of_nothing(tmp_path: Path) -> None:
    assert_fails(run("report", tmp_path / "none", "--out", tmp_path / "a.html"), tmp_path / "none")
    assert not (tmp_path / "a.html").exists()


# Ice codes that are not listed ---------------------------------------------------------------------------------------


def test_an_unlisted_ice_code_is_masked_counted_and_told(tmp_path: Path) -> None:
    rows = [scenes.ROWS[0].replace(";91;90;", ";94;90;"), *scenes.ROWS[1:]]
    path = scenes.write_raw(tmp_path / "scenes" / "odd.nc", lines=300, samples=350, rows=rows)
    done = run(*build(tmp_path / "scenes", tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "warning" in line]
    assert len(told) == 1
    for part in (path.name, "1 of 5 polygons", "CT 94", "masked"):
        assert part in told[0]
    facts = json.loads((tmp_path / "out" / "manifest.json").read_text())["scenes"]["odd"]
    assert facts["warnings"] == [told[0].removeprefix("warning: ")]

    # The polygon is masked: the other scene, where it is listed, has more labelled pixels.
    scenes.write_raw(tmp_path / "listed" / "odd.nc", lines=300, samples=350)
    assert run(*build(tmp_path / "listed", tmp_path / "other")).returncode == 0
    listed = json.loads((tmp_path / "other" / "manifest.json").read_text())["scenes"]["odd"]
    assert facts["counts"]["2"]["SIC"][-1] > listed["counts"]["2"]["SIC"][-1]
    assert listed["warnings"] == []

    done = run(*build(tmp_path / "scenes", tmp_path / "strict"), "--strict")
    assert_fails(done, path, "CT 94", "--strict")
    assert not (tmp_path / "strict").exists()
