"""From scenes to files: the one loop of prediction and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from arcticseg.files import make_folder
from arcticseg.ice.layers import LayerConfig
from arcticseg.ice.scenes.open import open_scene
from arcticseg.ice.scenes.scene import Scene
from arcticseg.products.charts import fields_to_charts
from arcticseg.products.predictor import Predictor, Progress, quiet
from arcticseg.products.product import Drawn, Product


@dataclass(frozen=True)
class Options:
    """How scenes are read and cut.

    Attributes:
        polarisation: `hh` or `hv`, of a GeoTIFF that does not name it.
        rules: how a scene is averaged.
        overlap: pixels that windows share; None: a quarter of a tile.
        batch_size: windows that go through the network at a time.
    """

    polarisation: str | None = None
    rules: LayerConfig = LayerConfig()
    overlap: int | None = None
    batch_size: int = 8


@dataclass(frozen=True)
class SceneHooks:
    """Called at the steps of each scene, in this order; by default nothing is added.

    Attributes:
        progress: gives a context in which a scene is drawn, and which takes (windows done, windows in all).
        labels: charts at 80 m to compare with, uint8 [3, H, W]; None: those of the scene's layers, if it has any.
        missing: takes the channel groups that the network is trained with and the scene lacks, if there are any.
        scores: those of a drawn scene, before its products are written; None: it is not scored.
        written: takes product -> file, when all are written and the scene is closed.
    """

    progress: Callable[[Scene], AbstractContextManager[Progress]] = lambda scene: nullcontext(quiet)
    labels: Callable[[Path, Scene], NDArray[np.uint8] | None] = lambda path, scene: None
    missing: Callable[[Scene, list[str]], None] = lambda scene, groups: None
    scores: Callable[[Drawn], Mapping[str, float | None] | None] = lambda drawn: None
    written: Callable[[Drawn, Mapping[str, Path]], None] = lambda drawn, files: None


def write_scenes(
    predictor: Predictor,
    paths: Iterable[Path],
    products: Mapping[str, Product],
    place: Callable[[str, Product], Path],
    options: Options = Options(),
    hooks: SceneHooks = SceneHooks(),
) -> None:
    """Draw each scene once and write its products, scene by scene.

    Args:
        place: the file of a scene's name and a product; its folder is made.

    Raises:
        SceneError, ConfigError, OutputError: a scene cannot be read, or a file cannot be written. The loop ends there.
    """
    for path in paths:
        # In a function of its own: the arrays of a scene are freed before the next is read.
        _write_scene(predictor, path, products, place, options, hooks)


def _write_scene(
    predictor: Predictor,
    path: Path,
    products: Mapping[str, Product],
    place: Callable[[str, Product], Path],
    options: Options,
    hooks: SceneHooks,
) -> None:
    with open_scene(path, options.polarisation) as scene, hooks.progress(scene) as progress:
        drawn = _draw(predictor, path, scene, options, hooks, progress)
        drawn = replace(drawn, scores=hooks.scores(drawn))
        files = {}
        for name, product in products.items():
            files[name] = place(scene.name, product)
            make_folder(files[name].parent)
            product.write(files[name], drawn)
    hooks.written(drawn, files)


def _draw(
    predictor: Predictor, path: Path, scene: Scene, options: Options, hooks: SceneHooks, progress: Progress
) -> Drawn:
    """A scene with its charts, not yet scored."""
    labels = hooks.labels(path, scene)
    seen, layers = predictor.read(scene, options.rules)
    missing = predictor.missing(seen)
    if missing:
        hooks.missing(scene, missing)
    fields = predictor.fields(seen, options.overlap, options.batch_size, progress)
    return Drawn(
        scene=scene,
        seen=seen,
        layers=layers,
        fields=fields,
        charts=fields_to_charts(fields, predictor.classes, predictor.network.factor, layers),
        labels=layers.labels if labels is None else labels,
        scores=None,
        network=predictor.network,
    )
