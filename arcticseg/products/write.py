"""From scenes to files: the one loop of prediction and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcticseg.errors import heed_interrupt
from arcticseg.files import make_folder
from arcticseg.ice.layers import LayerConfig
from arcticseg.ice.scenes.open import open_scene
from arcticseg.ice.scenes.scene import Scene
from arcticseg.products.charts import PRODUCT_FACTOR, fields_to_charts
from arcticseg.products.ensemble import Ensemble, ensemble
from arcticseg.products.outcome import Failure, Outcome
from arcticseg.products.predictor import Predictor, Progress, quiet
from arcticseg.products.product import Drawn, Product
from arcticseg.products.records import Finished, Records

Drawer = Predictor | Ensemble


@dataclass(frozen=True)
class Options:
    """How scenes are read and cut.

    Attributes:
        polarisation: `hh` or `hv`, of a GeoTIFF that does not name it.
        rules: how a scene is averaged.
        overlap: pixels that windows share; None: a quarter of a tile.
        batch_size: windows that go through the network at a time.
        tta: test-time augmentation, see `tta.NAMES`.
        whole: each scene as a single window.
    """

    polarisation: str | None = None
    rules: LayerConfig = LayerConfig()
    overlap: int | None = None
    batch_size: int = 8
    tta: tuple[str, ...] = ()
    whole: bool = False


@dataclass(frozen=True)
class SceneHooks:
    """Called at the steps of each scene, in this order; by default nothing is added.

    A scene that is finished already has the step `kept` alone; one that fails has `failed` as its last step.

    Attributes:
        progress: gives a context in which a scene is drawn, and which takes (windows done, windows in all).
        labels: charts at 80 m to compare with, uint8 [3, H, W]; None: those of the scene's layers, if it has any.
        missing: takes the channel groups that the network is trained with and the scene lacks, if there are any.
        scores: those of a drawn scene, before its products are written; None: it is not scored.
        written: takes product -> file, when all are written and the scene is closed; gives what `kept` is to know.
        kept: takes a scene that is finished already.
        failed: takes a scene that the others go on without.
    """

    progress: Callable[[Scene], AbstractContextManager[Progress]] = lambda scene: nullcontext(quiet)
    labels: Callable[[Path, Scene], NDArray[np.uint8] | None] = lambda path, scene: None
    missing: Callable[[Scene, list[str]], None] = lambda scene, groups: None
    scores: Callable[[Drawn], Mapping[str, float | None] | None] = lambda drawn: None
    written: Callable[[Drawn, Mapping[str, Path]], Mapping[str, Any] | None] = lambda drawn, files: None
    kept: Callable[[Path, Finished], None] = lambda path, finished: None
    failed: Callable[[Failure], None] = lambda failure: None


def made_with(predictor: Drawer, options: Options) -> dict[str, Any]:
    """What decides, beside a scene, what is drawn of it; device and batch size change no more than roundings."""
    try:
        program = version("arcticseg")
    except PackageNotFoundError:
        program = None
    drawer = ensemble(predictor)
    # Records of before these options were there say nothing of them.
    chosen = {key: getattr(options, key) for key in ("tta", "whole") if getattr(options, key)}
    return {
        "arcticseg": program,
        "weights": drawer.weights,
        "network": drawer.network.name,
        "factor": drawer.network.factor,
        "overlap": drawer.overlaps(options.overlap),
        "polarisation": options.polarisation,
        "rules": asdict(options.rules),
        **chosen,
    }


def write_scenes(
    predictor: Drawer,
    paths: Sequence[Path],
    products: Mapping[str, Product],
    place: Callable[[str, Product], Path],
    options: Options = Options(),
    hooks: SceneHooks = SceneHooks(),
    records: Records | None = None,
    outcome: Outcome | None = None,
) -> Outcome:
    """Draw each scene once and write its products, scene by scene; a scene that fails does not end the others.

    Args:
        place: the file of a scene's name and a product; its folder is made.
        records: which scenes are finished and not drawn again; None: all are drawn, and no record is kept.
        outcome: is filled, also where the loop is interrupted; None: a new outcome.

    Raises:
        ArcticSegError: the only scene fails, or all do.
        OutputError: no file can be written any more; the loop ends there.
    """
    outcome = Outcome(len(paths)) if outcome is None else outcome
    for path in paths:
        try:
            finished = None if records is None else records.finished(path, products)
            if finished is None:
                # In a function of its own: the arrays of a scene are freed before the next is read.
                _write_scene(ensemble(predictor), path, products, place, options, hooks, records)
                outcome.drawn.append(path)
            else:
                hooks.kept(path, finished)
                outcome.kept.append(path)
        except Exception as error:
            heed_interrupt(error)
            hooks.failed(outcome.fail(path, error))
    outcome.need_any()
    return outcome


def _write_scene(
    drawer: Ensemble,
    path: Path,
    products: Mapping[str, Product],
    place: Callable[[str, Product], Path],
    options: Options,
    hooks: SceneHooks,
    records: Records | None,
) -> None:
    # A file that is not there has no state; opening it says so.
    before = [] if records is None or not path.is_file() else records.state(path)
    with open_scene(path, options.polarisation) as scene, hooks.progress(scene) as progress:
        drawn = _draw(drawer, path, scene, options, hooks, progress)
        drawn = replace(drawn, scores=hooks.scores(drawn))
        files = {}
        for name, product in products.items():
            files[name] = place(scene.name, product)
            make_folder(files[name].parent)
            product.write(files[name], drawn)
    result = hooks.written(drawn, files)
    if records is not None:
        records.keep(path, before, files, result or {})


def _draw(drawer: Ensemble, path: Path, scene: Scene, options: Options, hooks: SceneHooks, progress: Progress) -> Drawn:
    """A scene with its charts, not yet scored."""
    labels = hooks.labels(path, scene)
    by_factor = drawer.read(scene, options.rules, options.tta)
    layers, network = by_factor[PRODUCT_FACTOR], drawer.network
    missing = drawer.missing(by_factor)
    if missing:
        hooks.missing(scene, missing)
    fields = drawer.fields(by_factor, options.overlap, options.batch_size, progress, options.tta, options.whole)
    return Drawn(
        scene=scene,
        seen=by_factor[network.factor],
        layers=layers,
        fields=fields,
        charts=fields_to_charts(fields, drawer.classes, network.factor, layers),
        labels=layers.labels if labels is None else labels,
        scores=None,
        network=network,
    )
