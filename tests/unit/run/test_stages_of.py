"""Where stages begin and end, and their learning rates."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

from arcticseg.engine.length import Length
from arcticseg.engine.optim import learning_rate
from arcticseg.errors import ConfigError
from arcticseg.run.config import RunConfig, build
from arcticseg.run.stages import stage_at, stages_of


def config_of(*stages: dict[str, Any], **keys: Any) -> RunConfig:
    return build([{"steps": 100, "stages": list(stages)} | keys])


HEADS_FIRST = ({"steps": 30, "frozen": "encoder"}, {"share": 0.5, "frozen": 2}, {})


def test_a_training_without_stages_is_one() -> None:
    cfg = build([{"steps": 100, "model": {"frozen": "encoder"}}])
    (stage,) = stages_of(cfg, Length(100, 0, 4))
    assert (stage.frozen, stage.start, stage.stop, stage.is_last) == ("encoder", 0, 100, True)
    assert stage_at([stage], 100.0, 0) == stage
    assert stage.last_step(70, 70, 100) == 100
    rates = [stage.rate(cfg.optim)(step, 100) for step in range(100)]
    assert rates == [learning_rate(step, 100, cfg.optim) for step in range(100)]


def test_stages_follow_each_other() -> None:
    stages = stages_of(config_of(*HEADS_FIRST), Length(100, 0, 4))
    assert [(s.frozen, s.start, s.stop) for s in stages] == [("encoder", 0, 30), (2, 30, 80), ("none", 80, 100)]
    assert [stage_at(stages, step, 0).number for step in (0, 29, 30, 79, 80, 99, 100)] == [0, 0, 1, 1, 2, 2, 2]
    assert [stage.last_step(step, step, 100) for stage, step in zip(stages, (0, 44, 80), strict=True)] == [30, 80, 100]


def test_a_training_never_goes_back_to_an_earlier_stage() -> None:
    """As where its length was doubled in a stage that began at half of it."""
    stages = stages_of(config_of({"share": 0.5, "frozen": "encoder"}, {}, steps=200), Length(200, 0, 4))
    assert stage_at(stages, 60, 1).number == 1
    assert stage_at(stages, 60, 0).number == 0


def test_a_length_in_samples_keeps_its_stages_with_another_batch_size() -> None:
    cfg = config_of({"share": 0.5, "frozen": "encoder"}, {}, steps=None, epochs=1)
    (first, _) = stages_of(cfg, Length(None, 400, 4))
    assert (first.stop, first.last_step(0, 0, 100)) == (50, 50)
    # 10 steps of 4, then of 8: the stage ends at sample 200, as before.
    length = Length(None, 400, 8)
    (first, _) = stages_of(cfg, length)
    assert first.last_step(10, length.schedule(10, 40)[0], 55) == 10 + 160 // 8


def test_a_stage_has_the_whole_curve_or_one_of_its_own() -> None:
    cfg = config_of({"steps": 40, "frozen": "encoder"}, {"lr": 0.5}, optim={"lr": 1.0, "warmup": 0.1, "final_lr": 0.0})
    first, second = stages_of(cfg, Length(100, 0, 4))
    rate = first.rate(cfg.optim)
    assert [rate(step, 100) for step in (0, 9, 39)] == [learning_rate(step, 100, cfg.optim) for step in (0, 9, 39)]
    rate = second.rate(cfg.optim)
    # 60 steps: 6 of warm-up, half way down at step 33 of its own.
    assert [rate(step, 100) for step in (40, 45, 40 + 33, 100)] == pytest.approx([0.5 / 6, 0.5, 0.25, 0.0])


@pytest.mark.parametrize(
    ("stages", "keys", "told"),
    [
        ([{}, {}], {}, r"'stages\[0\].steps' is None; set steps or share"),
        ([{"steps": 5}], {}, r"'stages\[0\].steps' is 5; leave it out: the last stage"),
        ([{"steps": 5, "share": 0.1}, {}], {}, r"'stages\[0\].share' is 0.1; set either steps or share"),
        ([{"share": 0.5}, {"share": 0.5}, {}], {}, r"'stages' is \[0.5, 0.5\]; set shares whose sum is less than 1"),
        ([{"steps": 100}, {}], {}, r"'stages' is \[100\]; set steps whose sum is less than that of the training"),
        ([{"steps": 5, "frozen": "heads"}, {}], {}, r"'stages\[0\].frozen' is 'heads'; set none, encoder, or a number"),
        ([{"steps": 5, "frozen": 0}, {}], {}, r"'stages\[0\].frozen' is 0; set none, encoder, or a number"),
        ([{"steps": 5}, {"lr": 0}], {}, r"'stages\[1\].lr' is 0"),
        ([{"steps": 5}, {}], {"model": {"frozen": 2}}, r"'model.frozen' is 2; set none: stages say"),
        ([{"steps": 5}, {}], {"task": "pretrain"}, r"'stages' is 2; leave them out: pretraining"),
        ([], {"task": "pretrain", "model": {"lora": {}}}, r"'model.lora' is .*; set null: pretraining"),
        ([], {"task": "pretrain", "model": {"frozen": "encoder"}}, r"'model.frozen' is 'encoder'; set none: pretr"),
        ([], {"model": {"lora": {"rank": 0}}}, r"'model.lora.rank' is 0"),
        ([], {"model": {"lora": {"dropout": 0.1}}}, r"unknown key 'model.lora.dropout'"),
        ([], {"optim": {"layer_decay": 0}}, r"'optim.layer_decay' is 0"),
        ([], {"optim": {"encoder_rate": 0}}, r"'optim.encoder_rate' is 0.*model.frozen"),
    ],
)
def test_what_cannot_be_is_refused(stages: list[dict[str, Any]], keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config_of(*stages, **keys)


def test_a_stage_without_a_step_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"'stages' is 2; leave each at least one of the training's 3 steps \(stage 1"
    ):
        stages_of(config_of({"share": 0.1}, {}, steps=3), Length(3, 0, 4))
    cfg = config_of({"steps": 10}, {}, steps=None, epochs=1)
    with pytest.raises(ConfigError, match=r"at least one of the training's 10 steps \(stage 2"):
        stages_of(cfg, Length(None, 40, 4))
