"""What a training prints."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from arcticseg.engine.hooks.bar import Bar
from tests.unit.engine.trainings import STEPS, trainer_of


def test_rank_0_prints_validations_events_and_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer_of(tmp_path, [Bar("segment run")]).train()
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert all(line.startswith("segment run: ") for line in lines)
    assert re.search(r"validation at step 2: halving -\d+\.\d\d$", lines[0])
    assert any(re.search(rf"{STEPS}/{STEPS}.* loss \d+\.\d{{4}}.* samples/s", line) for line in lines)
    assert re.search(rf"summary at step {STEPS}: samples {STEPS}", lines[-1])


def test_details_of_scores_are_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar("segment run")
    bar.on_start(trainer_of(tmp_path, []).training)
    bar.on_validation(3, {"SOD": 12.345, "SOD/F1/old_ice": 1.0})
    bar.on_scores(4, {"probe_SIC": None})
    printed = capsys.readouterr().err.splitlines()
    assert printed[0] == "segment run: validation at step 3: SOD 12.35"
    assert printed[1] == "segment run: step 4: probe_SIC -"


def test_other_ranks_print_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar("segment run")
    training = trainer_of(tmp_path, []).training
    bar.on_start(dataclasses.replace(training, ranks=dataclasses.replace(training.ranks, rank=1)))
    bar.on_step(STEPS, {"loss": torch.tensor(1.0), "samples_per_s": 2.0})
    bar.on_validation(STEPS, {"SIC": None})
    bar.on_event(STEPS, "summary", {"samples": 3})
    bar.on_end(STEPS)
    assert capsys.readouterr() == ("", "")
