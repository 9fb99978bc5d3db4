"""Score a trained network on whole scenes at 80 m, with maps, products and baselines.

A scene that cannot be used is left out of the scores and named, and the status is 1. Scenes that are finished, with the
same weights and options, are not drawn again.

arcticseg evaluate runs/vit scenes --list lists/test.txt --out runs/vit/evaluation --baseline shards
arcticseg evaluate runs/vit test_scenes --reference test_references
arcticseg evaluate runs/vit scenes --part 2/4
arcticseg evaluate runs/fold_0 scenes --with runs/fold_1 --with runs/fold_2 --tta flips,turns --out evaluations/folds
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arcticseg.choice import import_modules
from arcticseg.errors import ConfigError
from launchers.imports import add_import_argument
from launchers.scenes import add_drawing_arguments, augmentations, contents, ended, left_out, load, load_once
from launchers.spread import (
    Told,
    add_part_argument,
    add_ray_argument,
    asked_share,
    draw_on_ray,
    shared_out,
    told,
)
from launchers.terminal import note

if TYPE_CHECKING:
    from arcticseg.products.ensemble import Ensemble
    from arcticseg.products.outcome import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg evaluate`."""
    parser.add_argument("run", type=Path, help="run folder, or weights file (.safetensors)")
    parser.add_argument("scenes", type=Path, help="folder of scenes with charts, or a single scene")
    parser.add_argument("--list", type=Path, dest="names", help="list of the scene names to use (default: all)")
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="FOLDER",
        help="reference charts (netCDF), for scenes without their own",
    )
    parser.add_argument("--out", type=Path, help="folder to write to (default: RUN/evaluation)")
    parser.add_argument("--name", help="name of the network in tables (default: that of the run folder)")
    parser.add_argument("--factor", type=int, help="downsampling factor (default: the finest of training)")
    parser.add_argument(
        "--baseline", type=Path, metavar="SHARDS", help="fit the logistic regression on these shards, too"
    )
    parser.add_argument("--no-maps", action="store_true", help="draw no pictures")
    parser.add_argument("--no-products", action="store_true", help="write no netCDF and GeoTIFF")
    parser.add_argument("--overlap", type=int, help="pixels that windows share (default: a quarter of a tile)")
    parser.add_argument("--batch-size", type=int, default=8, help="windows at a time (default 8)")
    add_drawing_arguments(parser)
    parser.add_argument(
        "--rules", choices=("autoice", "corrected"), default="autoice", help="chart rules (default autoice)"
    )
    add_import_argument(parser)
    parser.add_argument("--again", action="store_true", help="draw finished scenes again, too")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: the GPU where there is one)")
    add_part_argument(parser, "draws what is left and gives the scores")
    add_ray_argument(parser)


def main(arguments: argparse.Namespace) -> int:
    """Evaluate; PROBLEMS when some scenes failed."""
    from arcticseg.products.outcome import Outcome
    from shards.lists import pick_scenes

    import_modules(arguments.imports)
    augmentations(arguments.tta)
    if arguments.others and arguments.out is None:
        raise ConfigError("--with: several runs have no folder of their own; say by --out where to write")
    share = asked_share(arguments)
    scenes = shared_out(pick_scenes(arguments.scenes, arguments.names), share)
    outcome = Outcome(len(scenes), of_more=share is not None)
    arguments.contents = contents(arguments.imports)
    if arguments.ray is not None:
        return ended(outcome, lambda: _on_ray(arguments, scenes, outcome))
    return ended(outcome, lambda: _evaluate(arguments, scenes, outcome))


def _on_ray(arguments: argparse.Namespace, scenes: Sequence[Path], outcome: Outcome) -> None:
    """Draw on the machines of a cluster, and gather here what the records of the scenes say."""
    from arcticseg.products.outcome import Outcome

    draw_on_ray(arguments, score_scene, scenes, _out(arguments), outcome)
    gathered = Outcome(len(scenes), failed=outcome.failed)
    bad = {failure.path for failure in outcome.failed}
    here = argparse.Namespace(**{**vars(arguments), "again": False, "device": "cpu"})
    _evaluate(here, [path for path in scenes if path not in bad], gathered, report=lambda text: None)


def score_scene(path: Path, arguments: argparse.Namespace) -> Told:
    """Draw and count a scene of several, in a process that is given others later."""
    import_modules(arguments.imports)
    return told(lambda outcome: _evaluate(arguments, [path], outcome, load_once))


def _out(arguments: argparse.Namespace) -> Path:
    return Path(arguments.out or arguments.run / "evaluation")


def _evaluate(
    arguments: argparse.Namespace,
    scenes: Sequence[Path],
    outcome: Outcome,
    load: Callable[[argparse.Namespace], Ensemble] = load,
    report: Callable[[str], None] = note,
) -> None:
    """Give the scores; of a share of the scenes, or of a single one of several, only draw and count these."""
    # torch takes seconds to load: errors in the arguments are reported before.
    from arcticseg.evaluate import evaluate, score_scenes
    from arcticseg.ice.layers import LayerConfig
    from arcticseg.pictures.report import score_table
    from arcticseg.products.table import DEFAULT, PRODUCTS
    from arcticseg.products.write import Options
    from launchers.terminal import plain_warnings, show

    names = [name for name in DEFAULT if not (arguments.no_maps if name == "map" else arguments.no_products)]
    options = Options(
        rules=LayerConfig(rules=arguments.rules),
        overlap=arguments.overlap,
        batch_size=arguments.batch_size,
        tta=augmentations(arguments.tta),
        whole=arguments.whole,
    )
    how: dict[str, Any] = {
        "products": {name: PRODUCTS[name] for name in names},
        "baseline_shards": arguments.baseline,
        "reference": arguments.reference,
        "options": options,
        "report": report,
        "failed": left_out,
        "imports": arguments.contents,
        "again": arguments.again,
    }
    out = _out(arguments)
    with plain_warnings():
        drawer = load(arguments)
        if outcome.of_more:
            score_scenes(drawer, scenes, out, outcome, **how)
            if arguments.part is not None:
                show(f"part {arguments.part}: {outcome}; the same command without --part gives the scores of all")
            return
        run = arguments.run if arguments.run.is_dir() and not arguments.others else None
        path = evaluate(drawer, scenes, out, name=arguments.name, run=run, outcome=outcome, **how)
    show(score_table([path]))
    show(path)
