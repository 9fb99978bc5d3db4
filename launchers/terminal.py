"""What commands show while they work."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from arcticseg.bar import ProgressBar
from arcticseg.ranks import is_main_rank
from arcticseg.shown import shown

_OURS = ("arcticseg", "launchers", "shards")


def _foreign(filename: str) -> bool:
    """Whether a file belongs to a package of others."""
    parts = Path(filename).parts
    places = [place for place, part in enumerate(parts[:-1]) if part in ("site-packages", "dist-packages")]
    return bool(places) and parts[places[-1] + 1] not in _OURS


@contextmanager
def progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left on a terminal, else a line every 20 seconds; give it (done, total)."""
    bar = ProgressBar(name)
    try:
        yield bar.update
    finally:
        bar.close()


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show a warning of ours as a line on stderr, once, on rank 0, without the place in the code that gave it."""
    told: set[str] = set()
    theirs = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if _foreign(filename):
            theirs(message, category, filename, lineno, file, line)
        elif str(message) not in told and is_main_rank():
            note(f"arcticseg: warning: {message}")
        told.add(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def note(text: str) -> None:
    """Print lines on stderr."""
    print(shown(text), file=sys.stderr, flush=True)


def show(text: object, end: str = "\n") -> None:
    """Print what a command was asked for, on stdout."""
    print(shown(text), end=end, flush=True)
