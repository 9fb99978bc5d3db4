"""Progress on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arcticseg.bar import ProgressBar
from arcticseg.engine.hooks.hook import Hook, Training, Values, numbers


class Bar(Hook):
    """On rank 0 a bar with loss, samples a second and time left; plain lines where there is no terminal.

    Args:
        title: of the run.
    """

    name = "bar"

    def __init__(self, title: str) -> None:
        self._title, self._total, self._shown = title, 0, ""
        self._bar: ProgressBar | None = None

    def on_start(self, training: Training) -> None:
        if training.ranks.is_main:
            self._bar, self._total = self._bar or ProgressBar(self._title, "step"), training.last
            if training.first < training.last:
                self._bar.update(training.first, training.last)

    def on_step(self, step: int, values: Values | None) -> None:
        if self._bar is not None:
            if values is not None:
                read = numbers({name: values[name] for name in ("loss", "samples_per_s")})
                self._shown = f"loss {read['loss']:.4f}, {read['samples_per_s']:.1f} samples/s"
            self._bar.update(step, self._total, self._shown)

    def on_validation(self, step: int, scores: Mapping[str, float | None]) -> None:
        self._print(f"validation at step {step}: {_shown(scores)}")

    def on_scores(self, step: int, scores: Mapping[str, float | None]) -> None:
        self._print(f"step {step}: {_shown(scores)}")

    def on_event(self, step: int, event: str, values: Mapping[str, Any]) -> None:
        shown = "  ".join(f"{name} {value}" for name, value in values.items())
        self._print(f"{event} at step {step}: {shown}")

    def on_end(self, step: int) -> None:
        if self._bar is not None:
            self._bar.close()

    def _print(self, text: str) -> None:
        if self._bar is not None:
            self._bar.print(text)


def _shown(scores: Mapping[str, float | None]) -> str:
    """Scores in a line, without their details."""
    whole = {name: value for name, value in scores.items() if "/" not in name}
    return "  ".join(f"{name} {'-' if value is None else f'{value:.2f}'}" for name, value in whole.items())
