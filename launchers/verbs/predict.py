"""Draw charts of scenes: netCDF with positions, GeoTIFF with control points, a map.

Takes raw and ready-to-train netCDF, with or without a chart, and Sentinel-1 GeoTIFFs (sigma0) with control points or a
projection; channels that a scene lacks are given to the network as missing.

A scene that cannot be used does not end the others: it is named, and the status is 1. Scenes whose files are there,
whole and made by the same weights and options from the same scene, are not drawn again.

    arcticseg predict runs/vit scene.nc --out charts
    arcticseg predict runs/vit new_scenes --out charts
    arcticseg predict runs/vit crop.tif --out charts --products geotiff,map
    arcticseg predict runs/vit new_scenes --out charts --part 2/4
    arcticseg predict runs/fold_0 new_scenes --with runs/fold_1 --with runs/fold_2 --tta flips --out charts
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from arcticseg.choice import import_modules
from arcticseg.errors import ConfigError, SceneError
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

if TYPE_CHECKING:
    from arcticseg.products.ensemble import Ensemble
    from arcticseg.products.outcome import Outcome
    from arcticseg.products.product import Product


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg predict`."""
    parser.add_argument("run", type=Path, help="run folder, or weights file (.safetensors)")
    parser.add_argument("scenes", type=Path, nargs="+", help="scene files, or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    # The table of products is loaded only when the command runs.
    parser.add_argument(
        "--products", metavar="NAMES", default="netcdf,geotiff,map", help="what to write (default %(default)s)"
    )
    parser.add_argument("--no-map", action="store_true", help="draw no picture")
    add_import_argument(parser)
    parser.add_argument("--factor", type=int, help="downsampling factor (default: the finest of training)")
    parser.add_argument("--overlap", type=int, help="pixels that windows share (default: a quarter of a tile)")
    parser.add_argument("--batch-size", type=int, default=8, help="windows at a time (default 8)")
    add_drawing_arguments(parser)
    parser.add_argument("--polarisation", choices=("hh", "hv"), help="of a GeoTIFF that does not name it")
    parser.add_argument("--again", action="store_true", help="draw finished scenes again, too")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: the GPU where there is one)")
    add_part_argument(parser, "draws what is left")
    add_ray_argument(parser)


def main(arguments: argparse.Namespace) -> int:
    """Predict; PROBLEMS when some scenes failed."""
    from arcticseg.files import make_folder
    from arcticseg.products.outcome import Outcome

    products = _products(arguments)
    share = asked_share(arguments)
    outcome = Outcome(len(arguments.scenes))
    paths = _scenes(arguments.scenes, outcome)
    _check_names(paths, arguments.out, products)
    if share is not None:
        paths = shared_out(paths, share)
        outcome.total, outcome.of_more = len(paths) + len(outcome.failed), True
    make_folder(arguments.out)
    arguments.contents = contents(arguments.imports)
    if arguments.ray is not None:
        return ended(outcome, lambda: draw_on_ray(arguments, draw_scene, paths, arguments.out, outcome))
    return ended(outcome, lambda: _predict(arguments, paths, products, outcome))


def _products(arguments: argparse.Namespace) -> Mapping[str, Product]:
    """What is written of each scene."""
    from arcticseg.products.table import choose

    import_modules(arguments.imports)
    augmentations(arguments.tta)
    names = [name.strip() for name in arguments.products.split(",")]
    return choose(name for name in names if not (name == "map" and arguments.no_map))


def draw_scene(path: Path, arguments: argparse.Namespace) -> Told:
    """Draw a scene of several, in a process that is given others later."""
    products = _products(arguments)
    return told(lambda outcome: _predict(arguments, [path], products, outcome, load_once))


def _predict(
    arguments: argparse.Namespace,
    paths: Sequence[Path],
    products: Mapping[str, Product],
    outcome: Outcome,
    load: Callable[[argparse.Namespace], Ensemble] = load,
) -> None:
    # torch takes seconds to load: errors in the arguments are reported before.
    from arcticseg.products.records import Records
    from arcticseg.products.write import Options, SceneHooks, made_with, write_scenes
    from launchers.terminal import plain_warnings, progress, show

    with plain_warnings():
        drawer = load(arguments)
    options = Options(
        polarisation=arguments.polarisation,
        overlap=arguments.overlap,
        batch_size=arguments.batch_size,
        tta=augmentations(arguments.tta),
        whole=arguments.whole,
    )
    facts = {"verb": "predict", "imports": arguments.contents, **made_with(drawer, options)}
    out: Path = arguments.out
    hooks = SceneHooks(
        progress=lambda scene: progress(scene.name),
        missing=lambda scene, groups: show(f"{scene.name}: the scene has no {', '.join(groups)}"),
        written=lambda drawn, files: show(next(iter(files.values()))),
        kept=lambda path, finished: show(next(iter(finished.files.values()))),
        failed=left_out,
    )
    with plain_warnings():
        write_scenes(
            drawer,
            paths,
            products,
            lambda scene, product: _file(out, scene, product),
            options,
            hooks,
            Records(out, facts, again=arguments.again),
            outcome,
        )


def _scenes(places: Sequence[Path], outcome: Outcome) -> list[Path]:
    """The scene files of all places; a place that holds none is a failure.

    Raises:
        SceneError: it is the only place, or no place holds a scene.
    """
    from arcticseg.ice.scenes.open import list_scenes

    paths: list[Path] = []
    for place in places:
        try:
            paths += list_scenes(place)
        except SceneError as error:
            left_out(outcome.fail(place, error))
    if not paths:
        outcome.need_any()
    outcome.total = len(paths) + len(outcome.failed)
    return paths


def _file(out: Path, scene: str, product: Product) -> Path:
    return out / f"{scene}{product.mark}{product.extension}"


def _check_names(paths: Sequence[Path], out: Path, products: Mapping[str, Product]) -> None:
    """Raise ConfigError where charts would replace a scene, or those of another scene."""
    scenes = {path.resolve(): path for path in paths}
    seen: dict[str, Path] = {}
    for path in paths:
        for product in products.values():
            replaced = scenes.get(_file(out, path.stem, product).resolve())
            if replaced is not None:
                raise ConfigError(
                    f"--out is '{out}'; the charts of {path} would replace {replaced}; choose another folder"
                )
        if path.stem in seen:
            raise ConfigError(
                f"{path} and {seen[path.stem]} have the same name; draw each by a command with its own --out"
            )
        seen[path.stem] = path
