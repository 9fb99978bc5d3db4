"""Keeps the weights that are best by each score."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from arcticseg.engine.hooks.hook import Hook, Training
from arcticseg.engine.weights import save_weights
from arcticseg.run.folder import weights_path


class Best(Hook):
    """Writes `weights/best-SCORE.safetensors` whenever a score of `Task.best_by` is higher than before."""

    name = "best"

    def __init__(self) -> None:
        self.scores: dict[str, float] = {}
        self._undefined: set[str] = set()

    def on_start(self, training: Training) -> None:
        self._training = training

    def on_validation(self, step: int, scores: Mapping[str, float | None]) -> None:
        self._tell_undefined(step, scores)
        for name in self._training.task.best_by:
            value = scores[name]
            if value is not None and value > self.scores.get(name, float("-inf")):
                self.scores[name] = value
                path = weights_path(self._training.out, f"best-{name}")
                save_weights(self._training.engine, path, self._training.metadata, step, self._training.ranks)

    def on_end(self, step: int) -> None:
        never = [name for name in self._training.task.best_by if name in self._undefined - self.scores.keys()]
        if never:
            warnings.warn(f"no best weights by {', '.join(never)}: undefined at each validation", stacklevel=2)

    def _tell_undefined(self, step: int, scores: Mapping[str, float | None]) -> None:
        """Say once of each score that it is undefined."""
        names = [name for name in self._training.task.best_by if scores[name] is None and name not in self._undefined]
        if names:
            self._undefined |= set(names)
            why = "no ice, or no labels, in the validation scenes"
            told = f"undefined at the validation of step {step} ({why}), so no best weights are kept by it"
            warnings.warn(f"{', '.join(names)}: {told}", stacklevel=2)

    def state(self) -> dict[str, Any]:
        return {"scores": self.scores}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.scores = dict(state["scores"])
