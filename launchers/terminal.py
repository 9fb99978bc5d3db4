"""What commands show while they work."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with time left on a terminal, else a line now and then; give it (done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    began = time.monotonic()
    shown = [began]
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            now = time.monotonic()
            if not console.is_terminal and (now - shown[0] > 20 or done == total):
                shown[0] = now
                left = f", {(total - done) * (now - began) / done:.0f} s left" if done else ""
                console.print(f"{name}: {done}/{total}{left}", highlight=False, soft_wrap=True)

        yield update


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show warnings as one line on stderr, without the place in the code that gave them."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        print(f"arcticseg: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def note(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr, flush=True)
