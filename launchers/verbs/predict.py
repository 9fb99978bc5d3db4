"""Draw charts of scenes: netCDF with positions, GeoTIFF with control points, a map.

Takes raw and ready-to-train netCDF, with or without a chart, and Sentinel-1 GeoTIFFs (sigma0) with control points or a
projection; channels that a scene lacks are given to the network as missing.

    arcticseg predict runs/vit scene.nc --out charts
    arcticseg predict runs/vit crop.tif --out charts
"""

from __future__ import annotations

import argparse
from pathlib import Path

from arcticseg.choice import import_modules
from arcticseg.errors import ConfigError
from launchers.imports import add_import_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg predict`."""
    parser.add_argument("run", type=Path, help="run folder, or weights file (.safetensors)")
    parser.add_argument("scenes", type=Path, nargs="+", help="scene files, or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--factor", type=int, help="downsampling factor (default: the finest of training)")
    parser.add_argument("--overlap", type=int, help="pixels that windows share (default: a quarter of a tile)")
    parser.add_argument("--batch-size", type=int, default=8, help="windows at a time (default 8)")
    parser.add_argument("--polarisation", choices=("hh", "hv"), help="of a GeoTIFF that does not say it")
    parser.add_argument("--no-map", action="store_true", help="draw no picture")
    add_import_argument(parser)
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: the GPU where there is one)")


def _check_names(paths: list[Path], out: Path) -> None:
    """Raise ConfigError where charts would replace a scene, or those of another scene."""
    seen: dict[str, Path] = {}
    for path in paths:
        if path.resolve() == (out / f"{path.stem}.nc").resolve():
            raise ConfigError(f"--out is '{out}'; the charts of {path} would replace it; choose another folder")
        if path.stem in seen:
            raise ConfigError(
                f"{path} and {seen[path.stem]} have one name; give them one at a time, with an --out each"
            )
        seen[path.stem] = path


def main(arguments: argparse.Namespace) -> None:
    """Predict."""
    from arcticseg.files import make_folder
    from arcticseg.ice.scenes.open import list_scenes, open_scene
    from launchers.terminal import plain_warnings, progress

    paths = [path for place in arguments.scenes for path in list_scenes(place)]
    _check_names(paths, arguments.out)
    out = make_folder(arguments.out)

    # torch takes seconds to load; what is wrong with the arguments is said before.
    from arcticseg.evaluate import draw
    from arcticseg.products.geotiff import write_geotiff
    from arcticseg.products.netcdf import write_netcdf
    from arcticseg.products.predictor import load_predictor

    import_modules(arguments.imports)
    predictor = load_predictor(arguments.run, arguments.factor, arguments.device)
    for path in paths:
        with plain_warnings(), open_scene(path, arguments.polarisation) as scene, progress(scene.name) as bar:
            own, product = predictor.read(scene)
            missing = predictor.missing(own)
            if missing:
                print(f"{scene.name}: the scene has no {', '.join(missing)}")
            charts = predictor.charts(own, product, arguments.overlap, arguments.batch_size, bar)
            write_netcdf(out / f"{scene.name}.nc", scene, charts, predictor)
            write_geotiff(out / f"{scene.name}.charts.tif", scene, charts)
            if not arguments.no_map:
                draw(out / f"{scene.name}.png", scene, product, charts, product.labels, None, predictor)
        print(out / f"{scene.name}.nc")
