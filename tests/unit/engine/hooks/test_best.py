"""The best weights by each score."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file

from arcticseg.engine.hooks.best import Best
from arcticseg.run.folder import weights_path
from tests.unit.engine.trainings import trainer_of


def validated(best: Best, weight: float, scores: Mapping[str, float | None]) -> None:
    """Tell scores of a network of this weight."""
    torch.nn.init.constant_(best._training.engine.module.weight, weight)
    best.on_validation(int(weight), scores)


@pytest.fixture
def best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Best:
    training = trainer_of(tmp_path, []).training
    monkeypatch.setattr(training.task, "best_by", ("SIC", "SOD"))
    hook = Best()
    hook.on_start(training)
    return hook


def kept(folder: Path) -> dict[str, float]:
    """Score -> weight of the network that was best by it."""
    names = {"SIC": weights_path(folder, "best-SIC"), "SOD": weights_path(folder, "best-SOD")}
    return {name: load_file(path)["weight"].item() for name, path in names.items() if path.exists()}


def test_each_score_keeps_its_best(tmp_path: Path, best: Best) -> None:
    with pytest.warns(UserWarning, match="SOD: undefined"):
        validated(best, 1, {"SIC": 10.0, "SOD": None, "other": 99.0})
    assert kept(tmp_path) == {"SIC": 1}
    validated(best, 2, {"SIC": 9.0, "SOD": -3.0})
    assert kept(tmp_path) == {"SIC": 1, "SOD": 2}
    validated(best, 3, {"SIC": 11.0, "SOD": -3.0})
    assert kept(tmp_path) == {"SIC": 3, "SOD": 2}
    assert best.state() == {"scores": {"SIC": 11.0, "SOD": -3.0}}


def test_scores_of_before_count_after_a_resumption(tmp_path: Path, best: Best) -> None:
    validated(best, 1, {"SIC": 10.0, "SOD": 5.0})
    again = Best()
    again.load_state(best.state())
    again.on_start(best._training)
    validated(again, 2, {"SIC": 9.0, "SOD": 6.0})
    assert kept(tmp_path) == {"SIC": 1, "SOD": 2}
    # What a checkpoint keeps does not change with the hook that it came from.
    assert best.scores == {"SIC": 10.0, "SOD": 5.0}


def test_a_score_that_is_undefined_is_said_once_and_again_at_the_end(best: Best) -> None:
    with pytest.warns(UserWarning, match="SIC, SOD: undefined at the validation of step 1") as told:
        validated(best, 1, {"SIC": None, "SOD": None})
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        validated(best, 2, {"SIC": None, "SOD": 4.0})
    with pytest.warns(UserWarning, match="no best weights by SIC: undefined") as told:
        best.on_end(2)
    assert len(told) == 1
