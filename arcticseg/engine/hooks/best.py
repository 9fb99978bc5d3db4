"""Keeps the weights that are best by each score."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from arcticseg.engine.hooks.hook import Hook, Training
from arcticseg.engine.weights import save_weights
from arcticseg.run.folder import weights_path


class Best(Hook):
    """Writes `weights/best-SCORE.safetensors` whenever a score is higher than before.

    Scores are those of `Task.best_by`, and those that hooks have.
    """

    name = "best"

    def __init__(self) -> None:
        self.scores: dict[str, float] = {}
        self._undefined: set[str] = set()

    def on_start(self, training: Training) -> None:
        self._training = training

    def on_validation(self, step: int, scores: Mapping[str, float | None]) -> None:
        own = {name: scores[name] for name in self._training.task.best_by}
        why = "no ice, or no labels, in the validation scenes"
        self._tell_undefined(f"at the validation of step {step} ({why})", own)
        self._take(step, own)

    def on_scores(self, step: int, scores: Mapping[str, float | None]) -> None:
        self._tell_undefined(f"at step {step}", scores)
        # The weights before the first step are no result.
        if step > 0:
            self._take(step, scores)

    def _take(self, step: int, scores: Mapping[str, float | None]) -> None:
        for name, value in scores.items():
            if value is not None and value > self.scores.get(name, float("-inf")):
                self.scores[name] = value
                path = weights_path(self._training.out, f"best-{name}")
                save_weights(self._training.engine, path, self._training.metadata, step, self._training.ranks)

    def on_end(self, step: int) -> None:
        never = sorted(self._undefined - self.scores.keys())
        if never:
            warnings.warn(f"no best weights by {', '.join(never)}: undefined each time", stacklevel=2)

    def _tell_undefined(self, where: str, scores: Mapping[str, float | None]) -> None:
        """Say once of each score that it is undefined."""
        names = [name for name, value in scores.items() if value is None and name not in self._undefined]
        if names:
            self._undefined |= set(names)
            told = f"{', '.join(names)}: undefined {where}, so no best weights are kept by it"
            warnings.warn(told, stacklevel=2)

    def state(self) -> dict[str, Any]:
        return {"scores": self.scores}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.scores = dict(state["scores"])
