"""What commands show while they work."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Pace:
    """How long work will still take, at the mean pace since it was first told of.

    What was done before that, as by an interrupted run, says nothing of the pace.
    """

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None
        self._last = (0, 0, 0.0)

    def tell(self, done: int, total: int, now: float) -> None:
        """So much is done now."""
        self._first = self._first or (done, now)
        self._last = done, total, now

    def left(self, now: float) -> float | None:
        """Seconds left; None where nothing is known yet."""
        done, total, told = self._last
        before, began = self._first or (0, 0.0)
        if done >= total > 0:
            return 0.0
        if done <= before:
            return None
        return max(0.0, (total - done) * (told - began) / (done - before) - (now - told))

    def text(self, now: float) -> str:
        """Time left in words; empty where nothing is known yet."""
        seconds = self.left(now)
        return "" if seconds is None else f"{show_time(seconds)} left"


def show_time(seconds: float) -> str:
    """`45 s`, `12 min` or `3 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with time left on a terminal, else a line now and then; give it (done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    pace = Pace()

    class Left(ProgressColumn):
        """Rich's own column forgets what is more than 30 s ago, which is less than a scene may take."""

        def render(self, task: Task) -> Text:
            return Text(pace.text(time.monotonic()))

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Left())
    shown = [time.monotonic()]
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)

        def update(done: int, total: int) -> None:
            now = time.monotonic()
            pace.tell(done, total, now)
            bar.update(task, completed=done, total=total)
            if not console.is_terminal and (now - shown[0] > 20 or done == total):
                shown[0] = now
                left = ", ".join(filter(None, (f"{name}: {done}/{total}", pace.text(now))))
                console.print(left, highlight=False, soft_wrap=True)

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
