"""Output that cannot be written: a line of error that names the place and the remedy, status 2, no debris."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from launchers.cli import main
from tests.failing import assert_fails, assert_no_debris, build, good, vector_chart
from tests.forked import Result, run

Commands = dict[str, list[object]]


@pytest.fixture(scope="module")
def commands(shard_folder: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """What writes; OUT stands for where to."""
    folder = tmp_path_factory.mktemp("input")
    good(folder / "scenes")
    (folder / "unet.yaml").write_text(
        "steps: 2\nmodel: {encoder: {name: unet, filters: [8, 16]}}\ntracking: {wandb: 'off'}\n"
        "engine: {global_batch_size: 2, threads: 1}\n"
    )
    return {
        "simulate": ["simulate", "OUT", "--n", "1", "--size", "500"],
        "build": build(folder / "scenes", Path("OUT")),
        "rtt": ["rtt", folder / "scenes", "--out", "OUT"],
        "chart": ["chart", folder / "scenes" / "good.nc", vector_chart(folder / "chart.gpkg"), "--out", "OUT"],
        "split": ["shards", "split", folder / "scenes", "--out", "OUT", "--val=0", "--test=0"],
        "train": ["train", "--config", folder / "unet.yaml", f"data.shards={shard_folder}", "out=OUT"],
        "predict": ["predict", weights, folder / "scenes", "--out", "OUT"],
        "evaluate": ["evaluate", weights, folder / "scenes", "--out", "OUT"],
    }


WRITERS = ("simulate", "build", "rtt", "chart", "split", "train", "predict", "evaluate")


def write_to(out: Path, verb: str, commands: Commands) -> Result:
    """Run a command that writes to `out`."""
    return run(*(str(part).replace("OUT", str(out)) for part in commands[verb]))


@pytest.mark.parametrize("verb", WRITERS)
def test_a_file_where_a_folder_must_be(tmp_path: Path, commands: Commands, verb: str) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert_fails(write_to(out, verb, commands), out, "a file stands")
        assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("verb", WRITERS)
def test_a_read_only_mount(mounted: Callable[[str], Path], commands: Commands, verb: str) -> None:
    folder = mounted("ro,size=1m")
    for out in (folder, folder / "below"):
        assert_fails(write_to(out, verb, commands), out, "read-only")


# File systems so small that the verb's first large file does not fit.
SIZES = {"simulate": "300k", "build": "200k", "rtt": "100k", "chart": "200k", "predict": "16k", "evaluate": "16k"}


@pytest.mark.parametrize("verb", SIZES)
def test_a_full_disk(mounted: Callable[[str], Path], commands: Commands, verb: str) -> None:
    folder = mounted(f"size={SIZES[verb]}")
    # A build knows beforehand.
    why = "parts and shards" if verb == "build" else "No space left on device"
    assert_fails(write_to(folder / "out", verb, commands), folder / "out", why, "free some space")
    assert_no_debris(folder / "out")


@pytest.mark.parametrize(("size", "file"), [("4k", "metrics.jsonl"), ("100k", "checkpoints")])
def test_a_disk_that_fills_up_while_training(
    mounted: Callable[[str], Path], commands: Commands, size: str, file: str
) -> None:
    """The config fits and the log does not; both fit and the checkpoint does not."""
    folder = mounted(f"size={size}")
    done = write_to(folder / "out", "train", commands)
    assert_fails(done, folder / "out" / file, "No space left on device")
    assert not list(folder.rglob("step-*"))
    assert not list(folder.rglob("*.safetensors"))
    assert not [path for path in folder.rglob(".*") if ".tmp" in path.name]


def test_each_file_of_a_prediction_is_whole_or_absent(
    mounted: Callable[[str], Path], weights: Path, tmp_path: Path
) -> None:
    """The disk fills up while the first, the second or the third file is written, a page earlier or later."""
    scene = good(tmp_path)
    done = run("predict", weights, scene, "--out", tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    whole = {path.name: path.stat().st_size for path in (tmp_path / "whole").iterdir() if path.is_file()}
    order = ["good.nc", "good.charts.tif", "good.png"]
    assert set(whole) == set(order)
    pages = [-(-whole[name] // 4096) for name in order]
    for n_whole, free in (
        (0, 1),
        (0, pages[0] - 1),
        (1, pages[0]),
        (1, pages[0] + 1),
        (1, sum(pages[:2]) - 1),
        (2, 40),
    ):
        folder = mounted(f"size={4 * free}k")
        done = run("predict", weights, scene, "--out", folder / "out")
        assert_fails(done, folder / "out" / order[n_whole], "No space left on device")
        written = {path.name: path.stat().st_size for path in (folder / "out").iterdir()}
        assert written == {name: whole[name] for name in order[:n_whole]}


def test_a_disk_that_holds_the_parts_and_not_the_shards(
    mounted: Callable[[str], Path],
    tmp_path: Path,
    shard_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The build fails late, and goes on from its parts once there is space."""
    good(tmp_path / "scenes")
    size = sum(path.stat().st_size for path in shard_folder.glob("*.tar"))
    folder = mounted(f"size={int(size * 1.6 / 4096) * 4}k")
    out = folder / "out"
    with monkeypatch.context() as patch:
        # The space that others take meanwhile.
        patch.setattr("shards.build.free_bytes", lambda path: 1 << 40)
        assert main(build(tmp_path / "scenes", out)) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert_no_debris(out)
    assert len(list((out / ".parts").glob("*.tar"))) == 1
    assert_fails(run(*build(tmp_path / "scenes", out)), out, "parts and shards", "free some space")
    subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
    done = run(*build(tmp_path / "scenes", out))
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == {path.name for path in shard_folder.iterdir()}
    for path in shard_folder.glob("*.tar"):
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_charts_never_replace_a_scene(tmp_path: Path, weights: Path) -> None:
    scene, other = good(tmp_path / "a"), good(tmp_path / "b")
    before = scene.read_bytes()
    assert_fails(run("predict", weights, scene, "--out", scene.parent), scene)
    assert scene.read_bytes() == before
    assert_fails(run("predict", weights, scene, other, "--out", tmp_path / "c"), other)
    assert not (tmp_path / "c").exists()
