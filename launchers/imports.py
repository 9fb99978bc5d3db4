"""`--import`: modules of the user's own, which add decoders, losses, hooks and the like."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable


def add_import_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--import MODULE`; the names come as the list `imports`."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="import this first: a dotted name, or the path of a .py file; can be given again",
    )


def absolute(names: Iterable[str]) -> tuple[str, ...]:
    """The same modules for a process that works elsewhere: paths of files made absolute."""
    return tuple(os.path.abspath(name) if name.endswith(".py") else name for name in names)
