"""Progress on the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from arcticseg.engine.hooks.hook import Hook, Training, Values, numbers


class Bar(Hook):
    """A progress bar with loss, samples a second and time left; plain lines where there is no terminal."""

    name = "bar"

    _LINE_SECONDS = 20.0

    def __init__(self, title: str) -> None:
        self._name = title

    def on_start(self, training: Training) -> None:
        """Show it, on rank 0."""
        self._shows = training.ranks.is_main
        if not self._shows:
            return
        first, total = training.first, training.last
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._total, self._shown, self._last_line = total, "", time.monotonic()
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
        self._task = self._bar.add_task(self._name, total=total, completed=first, shown="")
        self._began, self._first = time.monotonic(), first

    def on_step(self, step: int, values: Values | None) -> None:
        """Move the bar."""
        if not self._shows:
            return
        if values is not None:
            read = numbers({name: values[name] for name in ("loss", "samples_per_s")})
            self._shown = f"loss {read['loss']:.4f}  {read['samples_per_s']:.1f} samples/s"
        self._bar.update(self._task, completed=step, shown=self._shown)
        if self._bar.disable and (time.monotonic() - self._last_line > self._LINE_SECONDS or step == self._total):
            self._last_line = time.monotonic()
            left = (self._total - step) * (time.monotonic() - self._began) / max(1, step - self._first)
            self._console.print(
                f"{self._name}: step {step}/{self._total}  {self._shown}  {left:.0f} s left", highlight=False
            )

    def on_validation(self, step: int, scores: Mapping[str, float | None]) -> None:
        """Print the scores."""
        if not self._shows:
            return
        shown = "  ".join(f"{name} {'-' if value is None else f'{value:.2f}'}" for name, value in scores.items())
        self._console.print(f"{self._name}: validation at step {step}: {shown}", highlight=False, soft_wrap=True)

    def on_event(self, step: int, event: str, values: Mapping[str, Any]) -> None:
        """Print it."""
        if not self._shows:
            return
        shown = "  ".join(f"{name} {value}" for name, value in values.items())
        self._console.print(f"{self._name}: {event} at step {step}: {shown}", highlight=False, soft_wrap=True)

    def on_end(self, step: int) -> None:
        """Stop the bar."""
        if self._shows:
            self._bar.stop()
