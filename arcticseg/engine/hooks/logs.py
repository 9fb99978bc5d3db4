"""Values to metrics.jsonl, wandb and TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from arcticseg.engine.hooks.hook import Hook, Values, numbers
from arcticseg.tracking import Confusions, Tracker


class Logs(Hook):
    """Hands values to the trackers; ranks above 0 have none."""

    name = "logs"

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = trackers

    def _log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        for tracker in self.trackers:
            tracker.log(kind, step, values)

    def on_step(self, step: int, values: Values | None) -> None:
        if values is not None and self.trackers:
            read = numbers(values)
            # JSON has no NaN; a step that was left out may have no loss.
            self._log("train", step, {name: value if isfinite(value) else None for name, value in read.items()})

    def on_validation(self, step: int, scores: Mapping[str, float | None]) -> None:
        self._log("validation", step, scores)

    def on_confusions(self, step: int, confusions: Confusions) -> None:
        for tracker in self.trackers:
            tracker.confusions(step, confusions)

    def on_scores(self, step: int, scores: Mapping[str, float | None]) -> None:
        self._log("scores", step, scores)

    def on_event(self, step: int, event: str, values: Mapping[str, Any]) -> None:
        self._log("event", step, {"event": event, **values})

    def on_end(self, step: int) -> None:
        for tracker in self.trackers:
            tracker.close()


def trackers_of(hooks: Sequence[Hook]) -> list[Tracker]:
    """What takes what a run has to say, of its hooks."""
    return [tracker for hook in hooks if isinstance(hook, Logs) for tracker in hook.trackers]
