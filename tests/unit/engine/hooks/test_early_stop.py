"""The end of a training whose score no longer rises."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from arcticseg.engine import checkpoint
from arcticseg.engine.checkpoint import Checkpoint
from arcticseg.engine.config import EarlyStopConfig
from arcticseg.engine.hooks.early_stop import EarlyStop
from arcticseg.engine.hooks.hook import Hook
from arcticseg.run.folder import last_weights
from tests.unit.engine.trainings import StopAt, trainer_of


def stops_at(scores: Sequence[float | None], config: EarlyStopConfig, resumed_after: int | None = None) -> int | None:
    """The validation, from 1, after which the hook ends a training; None: it never does."""
    hook = config.make()
    for number, score in enumerate(scores, start=1):
        hook.on_validation(number, {"SIC": score})
        if hook.finished():
            return number
        if number == resumed_after:
            state, hook = hook.state(), config.make()
            hook.load_state(state)
    return None


def by_definition(scores: Sequence[float], config: EarlyStopConfig) -> int | None:
    """The first validation whose mean and those of the `patience - 1` before it are no rise above all earlier ones."""
    means = [np.mean(scores[n - config.window : n]) for n in range(config.window, len(scores) + 1)]
    highest, without = -np.inf, 0
    for number, mean in enumerate(means, start=config.window):
        rises = mean > highest + config.min_delta
        highest, without = (mean, 0) if rises else (highest, without + 1)
        if without == config.patience:
            return number
    return None


def test_patience_counts_validations_since_the_last_rise() -> None:
    config = EarlyStopConfig(score="SIC", patience=2)
    assert stops_at([1, 2, 2, 3, 3, 3, 9], config) == 6
    assert stops_at([1, 2, 2, 3, 2], config) is None
    assert stops_at([1, 1.5, 1.9, 2.5], EarlyStopConfig(score="SIC", patience=2, min_delta=1)) == 3


def test_an_undefined_score_does_not_count() -> None:
    config = EarlyStopConfig(score="SIC", patience=1)
    assert stops_at([None, None, 1, None, 2, None, 2], config) == 7
    assert stops_at([None] * 50, config) is None


def test_the_mean_of_a_window_bridges_a_lucky_validation() -> None:
    # By itself, 9 is never reached again; the mean of three still rises.
    scores = [1, 2, 9, 3, 4, 5, 6, 7]
    assert stops_at(scores, EarlyStopConfig(score="SIC", patience=3)) == 6
    assert stops_at(scores, EarlyStopConfig(score="SIC", patience=4, window=3)) is None


@pytest.mark.parametrize("seed", range(20))
def test_it_ends_where_its_definition_says_also_across_a_resumption(seed: int) -> None:
    draw = np.random.default_rng(seed)
    scores = np.sqrt(np.arange(40)) + draw.normal(0, 1, 40)
    config = EarlyStopConfig(
        "early_stop", "SIC", int(draw.integers(1, 5)), float(draw.choice([0, 0.2])), int(draw.integers(1, 5))
    )
    expected = by_definition(scores.tolist(), config)
    assert stops_at(scores.tolist(), config) == expected
    assert stops_at(scores.tolist(), config, resumed_after=int(draw.integers(1, 20))) == expected


def falling() -> EarlyStop:
    """One that takes every validation but the first as no rise."""
    return EarlyStop(None, patience=1, min_delta=1e9, window=1)


def test_an_early_end_is_an_end_with_weights(tmp_path: Path) -> None:
    told: list[object] = []

    class Notes(Hook):
        def on_event(self, step: int, event: str, values: object) -> None:
            told.append((step, event, values))

    assert trainer_of(tmp_path, [falling(), Notes()]).train()
    assert last_weights(tmp_path).exists()
    newest = checkpoint.newest(tmp_path, [].append)
    assert newest is not None
    # Validations are at steps 2 and 4.
    assert newest.name == "step-00000004"
    assert [(step, event) for step, event, _ in told] == [(4, "finished early"), (4, "summary")]


def test_a_training_that_has_ended_early_does_not_go_on_when_it_is_started_again(tmp_path: Path) -> None:
    trainer_of(tmp_path, [falling()]).train()
    newest = checkpoint.newest(tmp_path, [].append)
    assert newest is not None
    again = falling()
    trainer = trainer_of(tmp_path, [again])
    saved = Checkpoint.open(newest)
    trainer.position = saved.position
    saved.load_hooks([again])
    assert trainer.train()
    assert trainer.position.step == 4


def test_a_signal_before_it_still_asks_to_go_on(tmp_path: Path) -> None:
    assert not trainer_of(tmp_path, [falling(), StopAt(1)]).train()
    assert not last_weights(tmp_path).exists()
