"""Put an ice chart on a scene: a SAR GeoTIFF, SAFE or raw netCDF and a vector chart to one raw scene.

The chart has SIGRID-3 columns (CT, CA, SA ...), ICECODE strings, or MET Norway's classes. The command prints how the
chart was read and what was repaired in it, which total concentrations are ranges and what became of them, which codes
have no class, and the classes that the scene shows.

arcticseg chart S1B_EW_GRDM_1SDH_20200123T120618.tif chart.gpkg --out own
arcticseg chart scene.nc chart.shp --out own/scene.nc --ct-ranges mean
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg chart`."""
    parser.add_argument("scene", type=Path, help="SAR GeoTIFF, Sentinel-1 SAFE, or raw scene, whose chart is replaced")
    parser.add_argument("chart", type=Path, help="ice chart: shapefile or GeoPackage")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to, or file (.nc)")
    parser.add_argument(
        "--ct-ranges",
        choices=("mean", "mask"),
        default="mask",
        help="total concentrations that are ranges, such as 46: their middle, or masked (default mask)",
    )
    parser.add_argument("--layer", help="layer of a GeoPackage (default: the first with ice codes)")
    parser.add_argument(
        "--max-lost",
        type=float,
        metavar="PERCENT",
        help="refuse a chart of whose area, or features, repairs lose or leave in doubt more (default: tell only)",
    )
    parser.add_argument("--polarisation", choices=("hh", "hv"), help="of a GeoTIFF that does not say it")


def main(arguments: argparse.Namespace) -> None:
    """Chart."""
    from launchers.terminal import plain_warnings, show
    from shards.chart import chart_scene

    with plain_warnings():
        made = chart_scene(
            arguments.scene,
            arguments.chart,
            arguments.out,
            arguments.ct_ranges,
            arguments.polarisation,
            arguments.layer,
            arguments.max_lost,
        )
    for note in made.notes:
        show(note)
    show(made.path)
