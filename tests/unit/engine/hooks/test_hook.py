"""Values of a step, and the hook that does nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from arcticseg.engine.hooks.hook import Hook, numbers
from tests.unit.engine.trainings import trainer_of


def test_values_are_read_at_once_and_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    tolist = torch.Tensor.tolist

    def counted(tensor: torch.Tensor) -> object:
        reads.append(len(tensor))
        return tolist(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    values = {"loss": torch.tensor(0.1), "lr": 2, "term": torch.tensor(3.0, dtype=torch.float64), "rate": 0.5}
    read = numbers(values)
    assert list(read) == ["loss", "lr", "term", "rate"]
    assert read == {"loss": pytest.approx(0.1), "lr": 2.0, "term": 3.0, "rate": 0.5}
    assert {type(value) for value in read.values()} == {float}
    assert reads == [2]
    assert numbers({"lr": 1}) == {"lr": 1.0}
    assert reads == [2]


def test_a_plain_hook_changes_nothing(tmp_path: Path) -> None:
    hook = Hook()
    assert trainer_of(tmp_path, [hook]).train()
    assert (hook.state(), hook.tensors(), hook.wants_stop()) == ({}, {}, False)
