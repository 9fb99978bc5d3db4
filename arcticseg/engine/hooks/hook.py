"""What the trainer asks of a hook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Hook(Protocol):
    """Called on rank 0."""

    def on_step(self, step: int, values: Mapping[str, float] | None) -> None:
        """After each optimiser step; with values every `tracking.every` steps."""
        ...

    def on_validation(self, step: int, scores: Mapping[str, float | None]) -> None:
        """After each validation."""
        ...

    def on_event(self, step: int, event: str, values: Mapping[str, Any]) -> None:
        """When a damaged sample is met, and, as `summary`, before the end."""
        ...

    def on_end(self, step: int) -> None:
        """When training stops, finished or not."""
        ...
