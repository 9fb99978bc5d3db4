"""The moving average of the weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file
from torch import Tensor

from arcticseg.engine import checkpoint
from arcticseg.engine.checkpoint import Checkpoint
from arcticseg.engine.hooks.ema import EMA
from arcticseg.engine.hooks.hook import Hook, Training
from arcticseg.run.folder import last_weights, weights_path
from tests.strict import strict
from tests.unit.engine.trainings import STEPS, StopAt, trainer_of


class Seen(Hook):
    """The weight after each step, and the scores of each validation."""

    name = "seen"

    def __init__(self) -> None:
        self.weights: list[float] = []
        self.scores: dict[int, Any] = {}

    def on_start(self, training: Training) -> None:
        self.network = training.engine.module
        self.start = float(self.network.weight.detach())

    def on_step(self, step: int, values: Any) -> None:
        self.weights.append(float(self.network.weight.detach()))

    def on_validation(self, step: int, scores: Any) -> None:
        self.scores[step] = dict(scores)


def followed(start: float, weights: list[float], decay: float, left_out: tuple[int, ...] = ()) -> float:
    """The average by its formula."""
    average, taken = start, 0
    for step, weight in enumerate(weights, start=1):
        if step not in left_out:
            d = min(decay, (1 + taken) / (10 + taken))
            average, taken = d * average + (1 - d) * weight, taken + 1
    return average


def written(folder: Path, name: str) -> Tensor:
    return load_file(weights_path(folder, name))["weight"]


@pytest.mark.parametrize("decay", [0.15, 0.9])
@pytest.mark.parametrize("bad", [(), (2, 5)], ids=["all_steps", "two_left_out"])
def test_it_follows_the_weights_by_its_formula(decay: float, bad: tuple[int, ...], tmp_path: Path) -> None:
    seen, ema = Seen(), EMA(decay, validate=False)
    assert trainer_of(tmp_path, [seen, ema], bad=bad).train()
    expected = followed(seen.start, seen.weights, decay, bad)
    assert float(written(tmp_path, "ema")) == pytest.approx(expected, rel=1e-6)
    assert abs(expected - seen.weights[-1]) > 1e-5
    assert float(load_file(last_weights(tmp_path))["weight"]) == seen.weights[-1]
    assert list(seen.scores[2]) == ["halving"]


def test_a_validation_scores_it_and_leaves_the_weights_alone(tmp_path: Path) -> None:
    """The score by hand: sum over both validation samples of (w x - x / 2)^2."""
    plain, seen = Seen(), Seen()
    trainer_of(tmp_path / "plain", [plain]).train()
    trainer_of(tmp_path / "scored", [seen, EMA(0.5, validate=True)]).train()
    assert seen.weights == plain.weights
    assert {step: scores["halving"] for step, scores in seen.scores.items()} == {
        step: scores["halving"] for step, scores in plain.scores.items()
    }
    samples = [1 + float(torch.sin(torch.tensor(float(place)))) for place in (100, 101)]
    averages = {}
    for step, scores in seen.scores.items():
        averages[step] = followed(seen.start, seen.weights[:step], 0.5)
        expected = -sum((averages[step] * x - x / 2) ** 2 for x in samples)
        assert scores["ema/halving"] == pytest.approx(expected, rel=1e-5)
    best = max(seen.scores, key=lambda step: seen.scores[step]["ema/halving"])
    assert float(written(tmp_path / "scored", "ema-best")) == pytest.approx(averages[best], rel=1e-6)


def test_a_resumed_training_goes_on_with_it_exactly(tmp_path: Path) -> None:
    trainer_of(tmp_path / "whole", [EMA(0.6, validate=True)]).train()
    out = tmp_path / "stopped"
    assert not trainer_of(out, [EMA(0.6, validate=True), StopAt(3)]).train()
    folder = checkpoint.newest(out, [].append)
    assert folder is not None
    saved = Checkpoint.open(folder)
    trainer = trainer_of(out, [EMA(0.6, validate=True)], position=saved.position)
    saved.load_module(trainer.training.engine.module)
    saved.load_step(trainer.step)
    saved.load_hooks(trainer.hooks)
    assert trainer.position.step < STEPS
    assert trainer.train()
    for name in ("ema", "ema-best", "last"):
        assert torch.equal(written(out, name), written(tmp_path / "whole", name))


def test_a_step_asks_the_device_for_nothing() -> None:
    ema = EMA(0.9, validate=True)
    ema._training = SimpleNamespace(step=SimpleNamespace(left_out=strict(torch.tensor(0.0))))  # type: ignore[assignment]
    ema._taken = strict(torch.zeros(1, dtype=torch.float64))
    ema._own, ema.average = {"a": strict(torch.ones(3))}, {"a": strict(torch.zeros(3))}
    ema.on_step(1, None)
    assert ema.average["a"].as_subclass(Tensor).tolist() == pytest.approx([0.9] * 3)
    assert ema._taken.as_subclass(Tensor).tolist() == [1.0]
