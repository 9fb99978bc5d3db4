"""Values to metrics.jsonl and wandb."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from arcticseg.tracking import Tracker


class Logs:
    """Hands values to the trackers."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = trackers

    def _log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        for tracker in self.trackers:
            tracker.log(kind, step, values)

    def on_step(self, step: int, values: Mapping[str, float] | None) -> None:
        """Log the values of a step."""
        if values is not None:
            self._log("train", step, values)

    def on_validation(self, step: int, scores: Mapping[str, float | None]) -> None:
        """Log scores."""
        self._log("validation", step, scores)

    def on_event(self, step: int, event: str, values: Mapping[str, Any]) -> None:
        """Log it."""
        self._log("event", step, {"event": event, **values})

    def on_end(self, step: int) -> None:
        """Close the trackers."""
        for tracker in self.trackers:
            tracker.close()
