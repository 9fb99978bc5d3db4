"""What goes wrong with input, output and the machine: one line that names the file and the remedy, status 2, no debris.

All of it through the real command in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from launchers.cli import main
from tests import scenes

ROOT = Path(__file__).parents[2]
TILE = 32

Command = Callable[[Path, Path], list[str]]


# Forks a process for each command that it reads, a line of JSON each, so that all share one import of torch.
SERVER = """
import json, os, sys
import arcticseg.evaluate, arcticseg.predict
from launchers.cli import main
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if not child:
        for number, place in ((1, order["stdout"]), (2, order["stderr"])):
            os.dup2(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        status = 1
        try:
            status = main(order["arguments"])
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(ended), flush=True)
"""

Result = subprocess.CompletedProcess[str]
Runner = Callable[..., Result]


def environment() -> dict[str, str]:
    found = {**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    found.pop("RANK", None)
    return found


def run(*arguments: object, timeout: float = 300) -> Result:
    """The `arcticseg` command."""
    return subprocess.run(
        [sys.executable, "-m", "launchers.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
        timeout=timeout,
    )


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """Runs the commands that need torch, each in a process of its own."""
    folder = tmp_path_factory.mktemp("server")
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def order(*arguments: object) -> Result:
            assert server.stdin is not None
            assert server.stdout is not None
            files = {name: str(folder / name) for name in ("stdout", "stderr")}
            server.stdin.write(json.dumps({"arguments": [str(part) for part in arguments], **files}) + "\n")
            server.stdin.flush()
            status = int(server.stdout.readline())
            said = {name: Path(place).read_text() for name, place in files.items()}
            return subprocess.CompletedProcess(arguments, status, **said)

        yield order
        server.stdin.close()


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


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts file systems in memory: options -> folder."""
    folders: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"mount{len(folders)}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"mount is not permitted here: {done.stderr.strip()}")
        folders.append(folder)
        return folder

    try:
        yield mount
    finally:
        for folder in folders:
            subprocess.run(["umount", folder], check=True)


# Scenes that cannot be used ------------------------------------------------------------------------------------------


def good(folder: Path, name: str = "good") -> Path:
    return scenes.write_raw(folder / f"{name}.nc", lines=300, samples=350)


def truncated(folder: Path) -> Path:
    path = good(folder, "truncated")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def without_variable(folder: Path) -> Path:
    variables = scenes.raw(300, 350)
    del variables["nersc_sar_secondary"]
    return scenes.write(folder / "lacking.nc", variables)


def of_wrong_shape(folder: Path) -> Path:
    variables = scenes.raw(300, 350)
    dims, values = variables["nersc_sar_secondary"]
    variables["nersc_sar_secondary"] = (dims, values[:-7])
    return scenes.write(folder / "shape.nc", variables)


def all_nan(folder: Path) -> Path:
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


def no_netcdf(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.nc").write_text("no netCDF")
    return folder / "text.nc"


BAD_SCENES = {
    truncated: "damaged or cut; get the file anew",
    without_variable: "variable nersc_sar_secondary is missing",
    of_wrong_shape: "nersc_sar_secondary has shape (293, 350), expected (300, 350); get the file anew",
    all_nan: "no valid pixel in hh, hv; leave the file out",
    damaged_inside: "damaged or cut; get the file anew",
    no_netcdf: "damaged or cut; get the file anew",
}


def build(place: Path, out: Path) -> list[str]:
    return [
        "shards",
        "build",
        str(place),
        "--out",
        str(out),
        "--factors",
        "2",
        "--tile",
        str(TILE),
        "--shard-mb",
        "0.5",
    ]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A UNet of random weights in the form of a trained one."""
    from safetensors.torch import save_file

    from arcticseg import config
    from arcticseg.models.config import ModelConfig
    from arcticseg.run.build import build_model
    from arcticseg.run.config import RunConfig

    cfg = RunConfig(steps=1, model=ModelConfig(encoder="unet", unet_filters=(4, 8)))
    facts = {"config": config.to_dict(cfg), "statistics": {}, "tile": TILE, "factors": [4], "simulated": True}
    path = tmp_path_factory.mktemp("weights") / "unet.safetensors"
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    save_file(build_model(cfg, TILE).state_dict(), path, metadata=metadata)
    return path


@pytest.mark.parametrize("make", BAD_SCENES, ids=lambda make: make.__name__)
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
def test_predicting_on_a_bad_scene(
    network: Runner, tmp_path: Path, weights: Path, make: Callable[[Path], Path]
) -> None:
    bad = make(tmp_path)
    assert_fails(network("predict", weights, bad, "--out", tmp_path / "out"), bad, BAD_SCENES[make])
    assert_no_debris(tmp_path / "out")


def test_evaluating_on_a_bad_scene(network: Runner, tmp_path: Path, weights: Path) -> None:
    bad = damaged_inside(tmp_path / "scenes")
    assert_fails(network("evaluate", weights, tmp_path / "scenes", "--out", tmp_path / "out"), bad, "get the file anew")
    assert_no_debris(tmp_path / "out")


def test_evaluating_on_a_scene_without_a_chart(network: Runner, tmp_path: Path, weights: Path) -> None:
    path = scenes.write_raw(tmp_path / "scenes" / "test.nc", lines=300, samples=350, chart=False)
    done = network("evaluate", weights, tmp_path / "scenes", "--out", tmp_path / "out")
    assert_fails(done, path, "has no ice chart to score against")
    assert_no_debris(tmp_path / "out")


# Folders without input -----------------------------------------------------------------------------------------------


def empty_and_absent(tmp_path: Path) -> list[Path]:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("no scene")
    return [tmp_path / "empty", tmp_path / "absent"]


def test_folders_without_scenes(tmp_path: Path) -> None:
    for place in empty_and_absent(tmp_path):
        assert_fails(run(*build(place, tmp_path / "out")), place, "give a folder of")
        assert_fails(run("shards", "split", place, "--out", tmp_path / "out"), place, "give a folder of")
        assert not (tmp_path / "out").exists()


def test_folders_without_scenes_for_a_network(network: Runner, tmp_path: Path, weights: Path) -> None:
    for place in empty_and_absent(tmp_path):
        assert_fails(network("predict", weights, place, "--out", tmp_path / "out"), place, "give a folder of")
        assert_fails(network("evaluate", weights, place, "--out", tmp_path / "out"), place, "give a folder of")
        assert_no_debris(tmp_path / "out")


def test_folders_without_shards(network: Runner, tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text("steps: 1\n")
    train = ["train", "--config", tmp_path / "plain.yaml", f"out={tmp_path / 'run'}"]
    for place in empty_and_absent(tmp_path):
        for command in (["shards", "check", place], ["shards", "stats", place], [*train, f"data.shards={place}"]):
            assert_fails(network(*command), place, "give a folder that `arcticseg shards build` has finished")
    assert not (tmp_path / "run").exists()


def test_folders_without_a_network(network: Runner, tmp_path: Path) -> None:
    scene = good(tmp_path)
    for place in empty_and_absent(tmp_path):
        assert_fails(
            network("predict", place, scene, "--out", tmp_path / "out"), place, "give a run folder that has trained"
        )
        assert_no_debris(tmp_path / "out")


# Output that cannot be written ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shard_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    good(folder / "scenes")
    done = run(*build(folder / "scenes", folder / "shards"))
    assert done.returncode == 0, done.stderr
    return folder / "shards"


@pytest.fixture(scope="module")
def commands(shard_folder: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    """What writes; OUT stands for where to."""
    folder = tmp_path_factory.mktemp("input")
    good(folder / "scenes")
    (folder / "unet.yaml").write_text(
        "steps: 2\nmodel: {encoder: unet, unet_filters: [8, 16]}\ntracking: {wandb: 'off'}\n"
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


def vector_chart(path: Path) -> Path:
    """A chart of one polygon, all over the place of the scenes that tests make."""
    import numpy as np
    import pyogrio
    import shapely

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


WRITERS = ("simulate", "build", "rtt", "chart", "split", "train", "predict", "evaluate")


def write_to(out: Path, verb: str, commands: dict[str, list[object]], network: Runner) -> Result:
    """Run a command that writes to `out`; those that start processes are started plainly."""
    command = [str(part).replace("OUT", str(out)) for part in commands[verb]]
    return (run if verb in ("build", "rtt", "train") else network)(*command)


@pytest.mark.parametrize("verb", WRITERS)
def test_a_file_where_a_folder_must_be(
    network: Runner, tmp_path: Path, commands: dict[str, list[object]], verb: str
) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert_fails(
            write_to(out, verb, commands, network), out, "a file stands where a folder must be; remove it or choose"
        )
        assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("verb", WRITERS)
def test_a_read_only_mount(
    network: Runner, mounted: Callable[[str], Path], commands: dict[str, list[object]], verb: str
) -> None:
    folder = mounted("ro,size=1m")
    for out in (folder, folder / "below"):
        assert_fails(
            write_to(out, verb, commands, network), out, "the file system is read-only; choose another output folder"
        )


# File systems so small that the verb's first large file does not fit.
SIZES = {"simulate": "300k", "build": "200k", "rtt": "100k", "chart": "200k", "predict": "16k", "evaluate": "16k"}


@pytest.mark.parametrize("verb", SIZES)
def test_a_full_disk(
    network: Runner, mounted: Callable[[str], Path], commands: dict[str, list[object]], verb: str
) -> None:
    folder = mounted(f"size={SIZES[verb]}")
    # A build knows beforehand.
    why = "are needed for parts and shards" if verb == "build" else "No space left on device"
    assert_fails(write_to(folder / "out", verb, commands, network), folder / "out", why, "; free some space")
    assert_no_debris(folder / "out")


@pytest.mark.parametrize(("size", "file"), [("4k", "metrics.jsonl"), ("100k", "checkpoints")])
def test_a_disk_that_fills_up_while_training(
    network: Runner, mounted: Callable[[str], Path], commands: dict[str, list[object]], size: str, file: str
) -> None:
    """The config fits and the log does not; both fit and the checkpoint does not."""
    folder = mounted(f"size={size}")
    done = write_to(folder / "out", "train", commands, network)
    assert_fails(done, folder / "out" / file, "No space left on device; free some space")
    assert not list(folder.rglob("step-*"))
    assert not list(folder.rglob("*.safetensors"))
    assert not [path for path in folder.rglob(".*") if ".tmp" in path.name]


def test_each_file_of_a_prediction_is_whole_or_absent(
    network: Runner, mounted: Callable[[str], Path], weights: Path, tmp_path: Path
) -> None:
    """The disk fills up while the first, the second or the third file is written, a page earlier or later."""
    scene = good(tmp_path)
    done = network("predict", weights, scene, "--out", tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    whole = {path.name: path.stat().st_size for path in (tmp_path / "whole").iterdir()}
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
        done = network("predict", weights, scene, "--out", folder / "out")
        assert_fails(done, folder / "out" / order[n_whole], "No space left on device; free some space")
        found = {path.name: path.stat().st_size for path in (folder / "out").iterdir()}
        assert found == {name: whole[name] for name in order[:n_whole]}


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
    assert "No space left on device; free some space" in capsys.readouterr().err
    assert_no_debris(out)
    assert len(list((out / ".parts").glob("*.tar"))) == 1
    assert_fails(run(*build(tmp_path / "scenes", out)), out, "are needed for parts and shards", "; free some space")
    subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
    done = run(*build(tmp_path / "scenes", out))
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == {path.name for path in shard_folder.iterdir()}
    for path in shard_folder.glob("*.tar"):
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_a_report_of_nothing(tmp_path: Path) -> None:
    assert_fails(run("report", tmp_path / "none", "--out", tmp_path / "a.html"), tmp_path / "none")
    assert not (tmp_path / "a.html").exists()


def test_charts_never_replace_a_scene(network: Runner, tmp_path: Path, weights: Path) -> None:
    scene, other = good(tmp_path / "a"), good(tmp_path / "b")
    before = scene.read_bytes()
    assert_fails(network("predict", weights, scene, "--out", scene.parent), scene, "choose another folder")
    assert scene.read_bytes() == before
    assert_fails(network("predict", weights, scene, other, "--out", tmp_path / "c"), other, "one at a time")
    assert not (tmp_path / "c").exists()


# Ice codes that are not listed ---------------------------------------------------------------------------------------


def test_an_unlisted_ice_code_is_masked_counted_and_told(tmp_path: Path) -> None:
    rows = [scenes.ROWS[0].replace(";91;90;", ";94;90;"), *scenes.ROWS[1:]]
    path = scenes.write_raw(tmp_path / "scenes" / "odd.nc", lines=300, samples=350, rows=rows)
    done = run(*build(tmp_path / "scenes", tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "warning" in line]
    assert len(told) == 1
    assert (
        f"{path.name}: 1 of 5 polygons have codes that the SIGRID-3 tables do not list (CT 94); they are masked"
        in told[0]
    )
    facts = json.loads((tmp_path / "out" / "manifest.json").read_text())["scenes"]["odd"]
    assert facts["warnings"] == [told[0].removeprefix("warning: ")]

    # The polygon is masked: the other scene, where it is listed, has more labelled pixels.
    scenes.write_raw(tmp_path / "listed" / "odd.nc", lines=300, samples=350)
    assert run(*build(tmp_path / "listed", tmp_path / "other")).returncode == 0
    listed = json.loads((tmp_path / "other" / "manifest.json").read_text())["scenes"]["odd"]
    assert facts["counts"]["2"]["SIC"][-1] > listed["counts"]["2"]["SIC"][-1]
    assert listed["warnings"] == []

    done = run(*build(tmp_path / "scenes", tmp_path / "strict"), "--strict")
    assert_fails(done, path, "CT 94", "mend the chart, or leave out --strict to mask these polygons")
    assert not (tmp_path / "strict").exists()
