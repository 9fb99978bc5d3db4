from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from drawing import predictor

from arcticseg.errors import ConfigError, SceneError
from arcticseg.ice.scenes.scene import Scene
from arcticseg.products import table
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


def test_a_bad_scene_ends_the_loop(archive: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.nc"
    bad.write_bytes(b"")
    note = Note()
    with pytest.raises(SceneError, match=r"bad\.nc"):
        write_scenes(predictor(64, 4), [archive[1], bad, archive[0]], {"note": note}, lambda name, _: tmp_path / name)
    assert [drawn.scene.name for drawn in note.given] == ["b"]


def test_products_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(table.choose(["map", "netcdf"])) == ["map", "netcdf"]
    with pytest.raises(ConfigError, match=r"'cog'.*netcdf, geotiff, map"):
        table.choose(["netcdf", "cog"])
    with pytest.raises(ConfigError, match="netcdf, geotiff, map"):
        table.choose([])
    monkeypatch.setitem(table.PRODUCTS, "picture", table.PRODUCTS["map"])
    with pytest.raises(ConfigError, match=r"'map'.*'picture'.*\.png"):
        table.choose(["map", "picture"])
