"""What commands show while they work."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from arcticseg.bar import ProgressBar
from arcticseg.ranks import is_main_rank


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
    """Show a warning as a line on stderr (of rank 0), without the place in the code that gave it."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        if is_main_rank():
            print(f"arcticseg: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def note(text: str) -> None:
    """Print a line on stderr."""
    print(text, file=sys.stderr, flush=True)
