"""Progress on the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


class Bar:
    """A progress bar with loss, samples a second and time left; plain lines where there is no terminal."""

    _LINE_SECONDS = 20.0

    def __init__(self, name: str, first: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._total, self._name, self._shown, self._last_line = total, name, "", time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._bar.start()
        self._task = self._bar.add_task(name, total=total, completed=first, shown="")
        self._began, self._first = time.monotonic(), first

    def on_step(self, step: int, values: Mapping[str, float] | None) -> None:
        """Move the bar."""
        if values is not None:
            self._shown = f"loss {values['loss']:.4f}  {values['samples_per_s']:.1f} samples/s"
        self._bar.update(self._task, completed=step, shown=self._shown)
        if self._bar.disable and (time.monotonic() - self._last_line > self._LINE_SECONDS or step == self._total):
            self._last_line = time.monotonic()
            left = (self._total - step) * (time.monotonic() - self._began) / max(1, step - self._first)
            self._console.print(
                f"{self._name}: step {step}/{self._total}  {self._shown}  {left:.0f} s left", highlight=False
            )

    def on_validation(self, step: int, scores: Mapping[str, float | None]) -> None:
        """Print the scores."""
        shown = "  ".join(f"{name} {'-' if value is None else f'{value:.2f}'}" for name, value in scores.items())
        self._console.print(f"{self._name}: validation at step {step}: {shown}", highlight=False, soft_wrap=True)

    def on_event(self, step: int, event: str, values: Mapping[str, Any]) -> None:
        """Print it."""
        shown = "  ".join(f"{name} {value}" for name, value in values.items())
        self._console.print(f"{self._name}: {event} at step {step}: {shown}", highlight=False, soft_wrap=True)

    def on_end(self, step: int) -> None:
        """Stop the bar."""
        self._bar.stop()
