"""Work on scenes shared out among several machines: by the tasks of a job array, or by a Ray cluster."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from launchers.terminal import note

if TYPE_CHECKING:
    from shards.share import Share


def add_part_argument(parser: argparse.ArgumentParser, rest: str) -> None:
    """Add `--part I/N`; it comes as the text `part`.

    Args:
        rest: what the command without it does then.
    """
    parser.add_argument(
        "--part",
        metavar="I/N",
        help=f"work on share I of N of the scenes only, as a task of a job array; the same command without it {rest}",
    )


def asked_share(arguments: argparse.Namespace) -> Share | None:
    """The share of the scenes that is asked for; None: all of them.

    Raises:
        ConfigError: there is no such share.
    """
    if arguments.part is None:
        return None
    from shards.share import parse_share

    return parse_share(arguments.part)


def shared_out(scenes: list[Path], share: Share | None) -> list[Path]:
    """The scenes of a share; all where none is asked for."""
    if share is None:
        return scenes
    from shards.share import share_of

    mine = share_of(scenes, share)
    note(f"part {share}: {len(mine)} of {len(scenes)} scenes")
    return mine
