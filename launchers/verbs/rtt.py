"""Make ready-to-train scenes (80 m, normalised, charts as classes) from raw scenes. Existing files are kept.

arcticseg rtt archive/scenes --out archive/ready --workers 4
"""

from __future__ import annotations

import argparse
from pathlib import Path

from launchers.status import DONE, PROBLEMS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg rtt`."""
    parser.add_argument("scenes", type=Path, help="folder of raw scenes, or a scene")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--list", type=Path, dest="names", help="list of the scene names to use (default: all)")
    parser.add_argument("--workers", type=int, default=1, help="scenes at a time (default 1)")
    parser.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="at a scene that cannot be read (default stop)"
    )
    parser.add_argument(
        "--strict", action="store_true", help="an ice code that no table lists is an error, not a warning"
    )


def main(arguments: argparse.Namespace) -> int:
    """Make them; PROBLEMS when a scene was skipped."""
    from launchers.terminal import note, progress, show
    from shards.lists import pick_scenes
    from shards.rtt import make_ready

    scenes = pick_scenes(arguments.scenes, arguments.names)
    with progress("ready-to-train") as bar:
        made, skipped = make_ready(
            scenes, arguments.out, arguments.workers, arguments.on_error, arguments.strict, note, bar
        )
    show(f"{len(made)} ready-to-train scenes in {arguments.out}, {len(skipped)} skipped")
    return PROBLEMS if skipped else DONE
