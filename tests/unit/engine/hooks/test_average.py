"""The mean of the last weights."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from arcticseg.engine import checkpoint
from arcticseg.engine.checkpoint import Checkpoint
from arcticseg.engine.hooks.average import Average
from tests.unit.engine.hooks.test_ema import Seen, written
from tests.unit.engine.trainings import StopAt, trainer_of


@pytest.mark.parametrize(
    ("last", "every", "steps"),
    [(2, 0, [4, 6]), (9, 0, [2, 4, 6]), (3, 1, [4, 5, 6]), (3, 4, [4, 6]), (1, 5, [6])],
)
def test_it_is_the_mean_of_the_weights_of_those_steps(last: int, every: int, steps: list[int], tmp_path: Path) -> None:
    """Of validations, which are at each second step, or of every so many; those of the end always count."""
    seen = Seen()
    assert trainer_of(tmp_path, [seen, Average(last, every)]).train()
    expected = sum(seen.weights[step - 1] for step in steps) / len(steps)
    assert float(written(tmp_path, "average")) == pytest.approx(expected, rel=1e-6)
    assert len(set(seen.weights)) == len(seen.weights)


def test_a_resumed_training_goes_on_with_it_exactly(tmp_path: Path) -> None:
    trainer_of(tmp_path / "whole", [Average(3, 0)]).train()
    out = tmp_path / "stopped"
    assert not trainer_of(out, [Average(3, 0), StopAt(3)]).train()
    folder = checkpoint.newest(out, [].append)
    assert folder is not None
    saved = Checkpoint.open(folder)
    trainer = trainer_of(out, [Average(3, 0)], position=saved.position)
    saved.load_module(trainer.training.engine.module)
    saved.load_step(trainer.step)
    saved.load_hooks(trainer.hooks)
    assert trainer.train()
    assert torch.equal(written(out, "average"), written(tmp_path / "whole", "average"))
