"""Keeps the weights that are best by each score."""

from __future__ import annotations

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

    def on_start(self, training: Training) -> None:
        self._training = training

    def on_validation(self, step: int, scores: Mapping[str, float | None]) -> None:
        for name in self._training.task.best_by:
            value = scores[name]
            if value is not None and value > self.scores.get(name, float("-inf")):
                self.scores[name] = value
                path = weights_path(self._training.out, f"best-{name}")
                save_weights(self._training.engine, path, self._training.metadata, step)

    def state(self) -> dict[str, Any]:
        return {"scores": self.scores}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.scores = dict(state["scores"])
