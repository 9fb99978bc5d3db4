"""Put an ice chart on a scene: a SAR GeoTIFF, SAFE or raw netCDF and a SIGRID-3 vector chart to one raw scene.

It prints what was repaired in the chart, which total concentrations are ranges and what became of them, which codes are
masked, and the classes that the scene shows.

arcticseg chart S1B_EW_GRDM_1SDH_20200123T120618.tif chart.gpkg --out own
arcticseg chart scene.nc chart.shp --out own/scene.nc --ct-ranges mean
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg chart`."""
    parser.add_argument("scene", type=Path, help="SAR GeoTIFF, Sentinel-1 SAFE, or raw scene, whose chart is replaced")
    parser.add_argument("chart", type=Path, help="SIGRID-3 chart: shapefile or GeoPackage")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to, or file (.nc)")
    parser.add_argument(
        "--ct-ranges",
        choices=("mean", "mask"),
        default="mask",
        help="total concentrations that are ranges, such as 46: their middle, or masked (default mask)",
    )
    parser.add_argument("--polarisation", choices=("hh", "hv"), help="of a GeoTIFF that does not say it")


def main(arguments: argparse.Namespace) -> None:
    """Chart."""
    from launchers.terminal import plain_warnings, show
    from shards.chart import chart_scene

    with plain_warnings():
        made = chart_scene(arguments.scene, arguments.chart, arguments.out, arguments.ct_ranges, arguments.polarisation)
    for note in made.notes:
        show(note)
    show(made.path)
