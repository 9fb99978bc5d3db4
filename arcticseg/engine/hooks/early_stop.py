"""Ends a training whose score no longer rises."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from arcticseg.engine.hooks.hook import Hook, Training
from arcticseg.engine.process_group import gather


class EarlyStop(Hook):
    """Ends the training after so many validations in which the mean of the last scores has not risen.

    A validation in which the score is undefined does not count.

    Args:
        score: None: that by which the task keeps its best weights first.
        patience: validations without a rise after which training ends.
        min_delta: by how much more than the highest mean is a rise.
        window: scores in a mean; no mean is taken before there are as many.
    """

    name = "early_stop"

    def __init__(self, score: str | None, patience: int, min_delta: float, window: int) -> None:
        self._score, self._patience, self._min_delta, self._window = score, patience, min_delta, window
        self._recent: list[float] = []
        self._highest: float | None = None
        self._since = 0

    def on_start(self, training: Training) -> None:
        self._score = self._score or training.task.best_by[0]

    def on_validation(self, step: int, scores: Mapping[str, float | None]) -> None:
        # Rank 0 decides: machines of several kinds may differ in the last digit.
        value = gather(scores[str(self._score)])[0]
        if value is None:
            return
        self._recent = [*self._recent, value][-self._window :]
        if len(self._recent) < self._window:
            return
        mean = fmean(self._recent)
        if self._highest is None or mean > self._highest + self._min_delta:
            self._highest, self._since = mean, 0
        else:
            self._since += 1

    def finished(self) -> str | None:
        if self._since < self._patience:
            return None
        what = f"the mean of the last {self._window} {self._score}" if self._window > 1 else str(self._score)
        return f"{what} has not risen above {self._highest:.3f} in {self._since} validations"

    def state(self) -> dict[str, Any]:
        return {"recent": self._recent, "highest": self._highest, "since": self._since}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._recent, self._highest, self._since = list(state["recent"]), state["highest"], state["since"]
