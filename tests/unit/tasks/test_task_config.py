"""Configs of tasks: which loss a chart has."""

from __future__ import annotations

from arcticseg import config
from arcticseg.models.config import HeadConfig
from arcticseg.tasks.config import CrossEntropyConfig, LossConfig, SegmentConfig, SquaredErrorConfig


def test_a_chart_has_the_loss_of_its_head_or_its_own() -> None:
    segment = config.build(SegmentConfig, {"losses": {"SIC": "cross_entropy"}})
    assert segment.loss("SIC", "squared_error") == CrossEntropyConfig()
    assert segment.loss("SOD", "squared_error") == SquaredErrorConfig()
    assert segment.weights == {"SIC": 1.0, "SOD": 1.0, "FLOE": 1.0}


def test_every_head_has_a_loss_that_takes_it() -> None:
    for name, head in HeadConfig.table.items():
        loss = LossConfig.named(head.loss)  # type: ignore[attr-defined]
        assert not loss.heads or name in loss.heads
