"""Values to trackers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from arcticseg.engine.hooks.logs import Logs
from arcticseg.tracking import Jsonl
from tests.unit.engine.trainings import LOGGED, STEPS, trainer_of


def test_all_that_a_training_tells_is_logged_as_numbers(tmp_path: Path) -> None:
    trainer_of(tmp_path, [Logs([Jsonl(tmp_path)])]).train()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(record["kind"], record["step"]) for record in records] == [
        ("train", 2),
        ("validation", 2),
        ("train", 4),
        ("validation", 4),
        ("train", STEPS),
        ("validation", STEPS),
        ("event", STEPS),
    ]
    assert list(records[0]) == ["step", "kind", *LOGGED]
    assert all(isinstance(value, float) for key, value in records[0].items() if key not in ("step", "kind"))
    assert list(records[1]) == ["step", "kind", "halving"]
    assert records[-1] == {"step": STEPS, "kind": "event", "event": "summary", "samples": STEPS, "damaged": 0}


def test_a_rank_without_trackers_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(values: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr("arcticseg.engine.hooks.logs.numbers", fail)
    Logs([]).on_step(1, {"loss": torch.tensor(1.0)})
