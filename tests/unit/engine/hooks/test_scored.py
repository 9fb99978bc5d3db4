"""Scores that a hook has of its own: told to all hooks, logged, and the best weights kept by each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file

from arcticseg.engine.hooks.best import Best
from arcticseg.engine.hooks.hook import Hook, Training, Values
from arcticseg.engine.hooks.logs import Logs
from arcticseg.run.folder import weights_path
from arcticseg.tracking import Jsonl
from tests.unit.engine.trainings import STEPS, trainer_of

# Step -> score.
GIVEN = {2: 5.0, 3: 7.0, 5: 6.0}


class Scoring(Hook):
    """Gives a score after some steps, and another that is never defined."""

    name = "scoring"

    def __init__(self) -> None:
        self.weights: dict[int, float] = {}

    def on_start(self, training: Training) -> None:
        self.module = training.engine.module

    def on_step(self, step: int, values: Values | None) -> None:
        self.weights[step] = self.module.weight.item()

    def scored(self, step: int) -> Mapping[str, float | None]:
        return {"own": GIVEN[step], "never": None} if step in GIVEN else {}


def test_scores_of_a_hook_are_logged_and_keep_the_best_weights(tmp_path: Path) -> None:
    scoring, best = Scoring(), Best()
    with pytest.warns(UserWarning, match="never: undefined at step 2") as told:
        trainer_of(tmp_path, [Logs([Jsonl(tmp_path)]), best, scoring]).train()
    assert sum("never: undefined at" in str(warning.message) for warning in told) == 1
    assert any("no best weights by never" in str(warning.message) for warning in told)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = {record["step"]: (record["own"], record["never"]) for record in records if record["kind"] == "scores"}
    assert logged == {step: (value, None) for step, value in GIVEN.items()}
    assert len(set(scoring.weights.values())) == STEPS
    assert load_file(weights_path(tmp_path, "best-own"))["weight"].item() == scoring.weights[3]
    assert not weights_path(tmp_path, "best-never").exists()
    assert best.scores["own"] == 7.0
    assert weights_path(tmp_path, "best-halving").exists()
