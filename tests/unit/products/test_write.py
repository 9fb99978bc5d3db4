from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from drawing import predictor

from arcticseg.errors import ConfigError, OutputError, SceneError
from arcticseg.files import write_text
from arcticseg.ice.scenes.scene import Scene
from arcticseg.products import table
from arcticseg.products.outcome import Outcome
from arcticseg.products.predictor import Progress
from arcticseg.products.product import Drawn, Product
from arcticseg.products.write import Options, SceneHooks, write_scenes
from tests import scenes


class Note(Product):
    """Writes the scene's name, and keeps what it was given."""

    extension = ".txt"

    def __init__(self, steps: list[object] | None = None) -> None:
        self.steps = [] if steps is None else steps
        self.given: list[Drawn] = []

    def write(self, path: Path, drawn: Drawn) -> None:
        path.write_text(drawn.scene.name)
        self.given.append(drawn)
        self.steps.append(self)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A scene with a chart and a scene without."""
    folder = tmp_path_factory.mktemp("archive")
    return [scenes.write_raw(folder / f"{name}.nc", lines=200, samples=220, chart=name == "a") for name in "ab"]


def test_every_product_gets_the_same_drawn_scene(archive: list[Path], tmp_path: Path) -> None:
    first, second = Note(), Note()
    folders = {first: tmp_path / "first", second: tmp_path / "second" / "deep"}
    products = {"first": first, "second": second}
    write_scenes(predictor(32, 4), archive, products, lambda name, product: folders[product] / f"{name}.txt")
    assert [path.read_text() for path in sorted((tmp_path / "second" / "deep").iterdir())] == ["a", "b"]
    charted, bare = first.given
    assert second.given[0] is charted
    assert second.given[1] is bare
    assert charted.network.name == "test"
    assert charted.seen.factor == 4
    assert charted.seen.shape == charted.fields["SIC"].shape[1:] == (50, 55)
    assert charted.layers.factor == 2
    assert charted.charts.shape == (3, 100, 110)
    assert charted.labels is charted.layers.labels
    assert charted.labels is not None
    assert bare.labels is None
    assert bare.scores is None


def test_hooks_are_called_at_each_step(archive: list[Path], tmp_path: Path) -> None:
    steps: list[object] = []
    labels = np.full((3, 100, 110), 4, np.uint8)

    @contextmanager
    def progress(scene: Scene) -> Iterator[Progress]:
        steps.append("begin")
        yield lambda done, total: steps.append((done, total))
        steps.append("end")

    def labels_of(path: Path, scene: Scene) -> np.ndarray:
        steps.append(path)
        return labels

    def scores(drawn: Drawn) -> dict[str, float | None]:
        assert drawn.labels is labels
        steps.append("scores")
        return {"SIC": 50.0}

    def written(drawn: Drawn, files: Mapping[str, Path]) -> None:
        assert drawn.scores == {"SIC": 50.0}
        steps.append(files)

    hooks = SceneHooks(progress, labels_of, lambda scene, groups: steps.append(groups), scores, written)
    note = Note(steps)
    # The names of the files do not tell the time.
    drawer = predictor(64, 4, ("nersc_sar_primary", "month"))
    options = Options(overlap=0, batch_size=8)
    write_scenes(drawer, archive[1:], {"note": note}, lambda name, _: tmp_path / f"{name}.txt", options, hooks)
    assert steps == ["begin", archive[1], ["time"], (1, 1), (1, 1), "scores", note, "end", {"note": tmp_path / "b.txt"}]


@pytest.fixture
def bad(tmp_path: Path) -> list[Path]:
    """Two files that are no scenes."""
    paths = [tmp_path / "empty.nc", tmp_path / "absent.nc"]
    paths[0].write_bytes(b"")
    return paths


def test_a_bad_scene_does_not_end_the_others(archive: list[Path], bad: list[Path], tmp_path: Path) -> None:
    note, failed = Note(), []
    hooks = SceneHooks(failed=lambda failure: failed.append((failure, len(note.given))))
    paths = [archive[1], bad[0], archive[0], bad[1]]
    outcome = write_scenes(predictor(64, 4), paths, {"note": note}, lambda name, _: tmp_path / name, hooks=hooks)
    assert [drawn.scene.name for drawn in note.given] == ["b", "a"]
    assert outcome.drawn == [archive[1], archive[0]]
    assert [failure.path for failure in outcome.failed] == bad
    # Told when it happens.
    assert failed == [(outcome.failed[0], 1), (outcome.failed[1], 2)]
    assert str(bad[0]) in outcome.failed[0].reason
    assert str(outcome) == "2 of 4 scenes are done"


def test_where_no_scene_can_be_used(bad: list[Path], tmp_path: Path) -> None:
    for paths, told in ((bad[1:], r"^[^ ]*absent\.nc: no such file"), (bad, r"none of 2 scenes .*empty\.nc: .*;")):
        with pytest.raises(SceneError, match=told):
            write_scenes(predictor(64, 4), paths, {"note": Note()}, lambda name, _: tmp_path / name)


class Fault(Note):
    """Fails for scene `a`."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, path: Path, drawn: Drawn) -> None:
        if drawn.scene.name == "a":
            raise self.error
        super().write(path, drawn)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("two\nlines"), r"a\.nc: ValueError two lines \(test_write\.py, line \d+\).*;"),
        (PermissionError(13, "Permission denied"), r"a\.nc: .*Permission denied;"),
        (MemoryError(), r"a\.nc: .*memory.*;"),
    ],
)
def test_any_failure_of_a_scene_is_a_line(error: Exception, told: str, archive: list[Path], tmp_path: Path) -> None:
    fault = Fault(error)
    outcome = write_scenes(predictor(64, 4), archive, {"note": fault}, lambda name, _: tmp_path / name)
    assert [path.stem for path in outcome.drawn] == ["b"]
    assert re.search(told, outcome.failed[0].reason)
    # Of the only scene a fault of the program keeps its traceback.
    expected = ValueError if isinstance(error, ValueError) else SceneError
    with pytest.raises(expected):
        write_scenes(predictor(64, 4), archive[:1], {"note": fault}, lambda name, _: tmp_path / name)


def test_only_an_output_that_fails_for_all_ends_the_loop(archive: list[Path], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()

    def write(path: Path, drawn: Drawn) -> None:
        write_text(path, drawn.scene.name)

    note = Note()
    note.write = write  # type: ignore[method-assign]
    outcome = write_scenes(predictor(64, 4), archive, {"note": note}, lambda name, _: tmp_path / name)
    assert [failure.path.stem for failure in outcome.failed] == ["a"]
    outcome = Outcome(2)
    full = Fault(OutputError("the disk is full; free some space"))
    with pytest.raises(OutputError, match="the disk is full"):
        write_scenes(predictor(64, 4), archive, {"note": full}, lambda name, _: tmp_path / name, outcome=outcome)
    assert not outcome.drawn


def test_products_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(table.choose(["map", "netcdf"])) == ["map", "netcdf"]
    with pytest.raises(ConfigError, match=r"'cog'.*netcdf, geotiff, map"):
        table.choose(["netcdf", "cog"])
    with pytest.raises(ConfigError, match="netcdf, geotiff, map"):
        table.choose([])
    monkeypatch.setitem(table.PRODUCTS, "picture", table.PRODUCTS["map"])
    with pytest.raises(ConfigError, match=r"'map'.*'picture'.*\.png"):
        table.choose(["map", "picture"])
