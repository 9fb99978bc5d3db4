"""Make simulated raw AI4Arctic scenes; every file says that it is simulated.

Land, ice polygons with SIGRID-3 codes, backscatter by ice class, speckle, AMSR2 and ERA5 are drawn from a seed; with
--chart the polygons and codes are those of a real vector chart (shapefile or GeoPackage). Started again, it keeps the
scenes that are complete. The folder `truth` in OUT gets reference files of the ice that is really in each pixel, which
`arcticseg evaluate --reference` takes.

    arcticseg simulate scenes --n 20 --size 2000
    arcticseg simulate scenes --n 3 --safe products
    arcticseg simulate scenes --n 1 --chart chart.gpkg --center=-60,70 --date 20201102
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from arcticseg.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg simulate`."""
    parser.add_argument("out", type=Path, help="folder to write scenes to")
    parser.add_argument("--n", type=int, default=10, help="number of scenes (default 10)")
    parser.add_argument("--size", default="2000", help="pixels of 40 m, N or LINESxSAMPLES, from 500 on (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    parser.add_argument("--workers", type=int, default=1, help="scenes made at a time (default 1)")
    parser.add_argument("--chart", type=Path, help="a real SIGRID-3 vector chart to take polygons and codes from")
    parser.add_argument(
        "--ct-ranges",
        choices=("mean", "mask"),
        default="mask",
        help="total concentrations of the chart that are ranges, such as 46: their middle, or masked (default mask)",
    )
    parser.add_argument("--center", metavar="LON,LAT", help="middle of the scene in the chart (default: in its ice)")
    parser.add_argument("--date", metavar="YYYYMMDD", help="day of the scene (default: drawn, or the chart's own)")
    parser.add_argument(
        "--safe", type=Path, metavar="FOLDER", help="also write the SAR of each scene as a Sentinel-1 product (SAFE)"
    )
    parser.add_argument("--unlabelled", action="store_true", help="write no chart, as in raw test scenes")
    parser.add_argument("--no-truth", action="store_true", help="write no files of the ice in each pixel (OUT/truth)")


def parse_size(text: str) -> tuple[int, int]:
    """Lines and samples of `N` or `LINESxSAMPLES`.

    Raises:
        ConfigError: neither, or under 500.
    """
    try:
        numbers = [int(part) for part in text.lower().split("x")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers) < 500:
        raise ConfigError(f"--size is '{text}'; set N or LINESxSAMPLES of at least 500, such as 2000 or 10000x10400")
    return numbers[0], numbers[-1]


def _date(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise ConfigError(f"--date is '{text}'; set YYYYMMDD, such as 20201102") from error


def _center(text: str) -> tuple[float, float]:
    try:
        longitude, latitude = map(float, text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--center is '{text}'; set LON,LAT in degrees, such as -60.5,70 (write --center=-60.5,70)"
        ) from error
    return longitude, latitude


def main(arguments: argparse.Namespace) -> None:
    """Simulate."""
    from launchers.terminal import plain_warnings, progress, show
    from shards.simulate import simulate_archive

    if arguments.n < 1:
        raise ConfigError(f"--n is {arguments.n}; set 1 or more")
    with plain_warnings(), progress("simulated scenes") as on_progress:
        written = simulate_archive(
            arguments.out,
            arguments.n,
            arguments.seed,
            parse_size(arguments.size),
            chart=arguments.chart,
            window=_center(arguments.center) if arguments.center else None,
            date=_date(arguments.date) if arguments.date else None,
            labelled=not arguments.unlabelled,
            workers=arguments.workers,
            progress=on_progress,
            ct_ranges=arguments.ct_ranges,
            truth=not arguments.no_truth,
        )
    show(f"{len(written)} simulated scenes in {arguments.out}")
    if arguments.safe is not None:
        from shards.simulation.safe import write_products

        with plain_warnings(), progress("simulated products") as on_progress:
            write_products(written, arguments.safe, on_progress)
        show(f"{len(written)} simulated products in {arguments.safe}")
