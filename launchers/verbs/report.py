"""A self-contained page of evaluations: scores, curves, confusion matrices, maps.

arcticseg report runs/vit/evaluation runs/unet/evaluation --out report.html
"""

from __future__ import annotations

import argparse
from pathlib import Path

from launchers.terminal import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg report`."""
    parser.add_argument(
        "evaluations", type=Path, nargs="+", help="folders of `arcticseg evaluate`, or their evaluation.json"
    )
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="page to write (default report.html)")
    parser.add_argument(
        "--run",
        type=Path,
        action="append",
        default=[],
        help="further run folders for the curves, such as a pretraining",
    )


def main(arguments: argparse.Namespace) -> None:
    """Write the report."""
    from arcticseg.pictures.report import score_table, write_report

    written = write_report(arguments.evaluations, arguments.out, arguments.run)
    show(score_table(arguments.evaluations))
    show(written)
