"""Running statistics of BatchNorm: all ranks score with those of rank 0, which a checkpoint keeps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn

from arcticseg.engine import step
from arcticseg.engine.step import DeepSpeedStep
from arcticseg.models.batch_norm import batch_norm


@pytest.mark.parametrize("mode", [True, False])
def test_statistics_come_from_rank_0_before_scores(mode: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), batch_norm(2), nn.Sequential(batch_norm(3)))
    taken: list[Any] = []
    monkeypatch.setattr(step, "take_from_main", taken.extend)
    monkeypatch.setattr(step, "Guard", lambda *_: None)
    engine = SimpleNamespace(module=network, train=network.train, optimizer=SimpleNamespace(param_groups=[]))
    DeepSpeedStep(engine, SimpleNamespace(), torch.float32, 2, 0.0).train(mode)  # type: ignore[arg-type]
    assert network.training is mode
    kept = [network[1].running_mean, network[1].running_var, network[2][0].running_mean, network[2][0].running_var]
    assert [id(value) for value in taken] == ([] if mode else [id(value) for value in kept])
