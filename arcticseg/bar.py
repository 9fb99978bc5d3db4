"""Progress on the terminal: a bar with the time left; plain lines where there is no terminal."""

from __future__ import annotations

import time
from typing import Any

from arcticseg.shown import redacted, visible

# Without a terminal: seconds between lines.
_LINE_SECONDS = 20.0


class Pace:
    """How long work will still take, at the mean pace since the first `tell`.

    What an interrupted run did before that says nothing about the pace.
    """

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None
        self._last = (0, 0, 0.0)

    def tell(self, done: int, total: int, now: float) -> None:
        """Take what is done at a time, in seconds."""
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


class ProgressBar:
    """A bar on stderr; on a file or pipe a line every 20 seconds and at the end.

    Args:
        name: of the work, before the numbers.
        unit: before the numbers of a plain line, such as `step`.
    """

    def __init__(self, name: str, unit: str = "") -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
        from rich.text import Text

        pace = Pace()

        class Left(ProgressColumn):
            """Rich's own column forgets what is more than 30 s ago, which is less than a scene may take."""

            def render(self, task: Task) -> Text:
                return Text(pace.text(time.monotonic()))

        self._name, self._unit, self._pace = name, f"{unit} " if unit else "", pace
        self._console = Console(stderr=True)
        columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
        columns += [TextColumn("{task.fields[shown]}"), Left()]
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._bar.start()
        self._task = self._bar.add_task(name, total=None, shown="")
        self._last_line = time.monotonic()

    def update(self, done: int, total: int, shown: str = "") -> None:
        """Move the bar; the first call says where the work begins. `shown` is text behind the numbers."""
        now = time.monotonic()
        self._pace.tell(done, total, now)
        self._bar.update(self._task, completed=done, total=total, shown=visible(shown))
        if not self._console.is_terminal and (now - self._last_line > _LINE_SECONDS or done == total):
            self._last_line = now
            self.print(", ".join(filter(None, (f"{self._unit}{done}/{total}", shown, self._pace.text(now)))))

    def print(self, text: str) -> None:
        """Print a line under the name of the work, above the bar."""
        self._console.print(
            visible(redacted(f"{self._name}: {text}")), emoji=False, highlight=False, markup=False, soft_wrap=True
        )

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()
