"""Progress on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arcticseg.bar import ProgressBar


class Bar:
    """A progress bar with loss, samples a second and time left; plain lines where there is no terminal."""

    def __init__(self, name: str, first: int, total: int) -> None:
        self._bar, self._total, self._shown = ProgressBar(name, "step"), total, ""
        if first < total:
            self._bar.update(first, total)

    def on_step(self, step: int, values: Mapping[str, float] | None) -> None:
        """Move the bar."""
        if values is not None:
            self._shown = f"loss {values['loss']:.4f}, {values['samples_per_s']:.1f} samples/s"
        self._bar.update(step, self._total, self._shown)

    def on_validation(self, step: int, scores: Mapping[str, float | None]) -> None:
        """Print the scores."""
        shown = "  ".join(f"{name} {'-' if value is None else f'{value:.2f}'}" for name, value in scores.items())
        self._bar.print(f"validation at step {step}: {shown}")

    def on_event(self, step: int, event: str, values: Mapping[str, Any]) -> None:
        """Print it."""
        shown = "  ".join(f"{name} {value}" for name, value in values.items())
        self._bar.print(f"{event} at step {step}: {shown}")

    def on_end(self, step: int) -> None:
        """Stop the bar."""
        self._bar.close()
