"""Configs of tasks: which loss a chart has."""

from __future__ import annotations

from arcticseg import config
from arcticseg.models.config import HeadConfig
from arcticseg.tasks.config import (
    CrossEntropyConfig,
    DiceConfig,
    FocalConfig,
    LossConfig,
    SegmentConfig,
    SquaredErrorConfig,
)


def test_a_chart_has_the_loss_of_its_head_or_its_own() -> None:
    segment = config.build(SegmentConfig, {"losses": {"SIC": "cross_entropy"}})
    assert segment.chart_losses("SIC", "squared_error") == (CrossEntropyConfig(),)
    assert segment.chart_losses("SOD", "squared_error") == (SquaredErrorConfig(),)
    assert segment.weights == {"SIC": 1.0, "SOD": 1.0, "FLOE": 1.0}


def test_losses_of_a_chart_are_listed_or_merged_as_one() -> None:
    listed = {"losses": {"SOD": ["cross_entropy", {"name": "dice", "weight": 0.5}]}}
    segment = config.build(SegmentConfig, listed)
    assert segment.chart_losses("SOD", "focal") == (CrossEntropyConfig(), DiceConfig(weight=0.5))
    assert config.build(SegmentConfig, config.to_dict(segment)) == segment
    focal = {"losses": {"SOD": {"name": "focal", "gamma": 3}}}
    changed = config.combine(SegmentConfig, [focal, {"losses": {"SOD": {"gamma": 1}}}])
    assert config.build(SegmentConfig, changed).losses["SOD"] == FocalConfig(gamma=1.0)
    # A list is replaced whole, and replaces.
    assert config.combine(SegmentConfig, [focal, listed]) == listed
    assert config.combine(SegmentConfig, [listed, {"losses": {"SOD": "dice"}}])["losses"]["SOD"] == {"name": "dice"}


def test_every_head_has_a_loss_that_takes_it() -> None:
    for name, head in HeadConfig.table.items():
        loss = LossConfig.named(head.loss)  # type: ignore[attr-defined]
        assert not loss.heads or name in loss.heads
