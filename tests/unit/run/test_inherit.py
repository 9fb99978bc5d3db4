"""An encoder's weights go into an encoder that computes the same; other inputs are told."""

from __future__ import annotations

from typing import Any

import pytest

from arcticseg.errors import ConfigError
from arcticseg.run.config import RunConfig, build
from arcticseg.run.inherit import Unseen, check_encoder, odd_facts, odd_inputs, odd_layout

ENCODER = {"name": "vit_tiny_patch16_224", "embed_dim": 32, "depth": 2, "num_heads": 2}


def config_of(encoder: dict[str, Any] | None = None, **data: Any) -> RunConfig:
    keys = {"task": "pretrain", "epochs": 1, "out": "run", "model": {"encoder": ENCODER | (encoder or {})}}
    return build([keys | {"data": {"shards": "shards"} | data}])


BEFORE = config_of(factors=[2, 4])


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (config_of({"num_heads": 4}), r"key 'model\.encoder\.num_heads' is 4; the run has 2: set the same"),
        (config_of({"num_heads": None}), r"num_heads' is None; the run has 2"),
        (config_of({"name": "vit_small_patch16_224"}), r"model\.encoder\.name"),
        (config_of({"patch_size": 8}), r"patch_size"),
        # In another order, which no shape tells.
        (config_of(channels=["hv", "hh"]), r"data\.channels"),
        (config_of(valid_plane=False), r"valid_plane' is False; the run has True"),
        (config_of(missing_planes=True), r"missing_planes' is True; the run has False"),
    ],
)
def test_another_computation_is_refused_by_its_key(now: RunConfig, told: str) -> None:
    before = config_of(channels=["hh", "hv"]) if "channels" in told else BEFORE
    with pytest.raises(ConfigError, match=told):
        check_encoder(before.model, before.data, now, "the run")


def test_what_matters_while_it_learns_only_may_change() -> None:
    check_encoder(BEFORE.model, BEFORE.data, config_of({"drop_path": 0.2}, factors=[2]), "the run")


def test_other_planes_may_be_adapted_where_a_key_says_so() -> None:
    model = {"encoder": ENCODER, "init_from": "x", "init_adapt": "zero"}
    keys = {"task": "pretrain", "epochs": 1, "out": "run", "model": model}
    data = {"shards": "shards", "channels": ["hv", "hh"], "valid_plane": False}
    before = config_of(channels=["hh", "hv"])
    check_encoder(before.model, before.data, build([keys | {"data": data}]), "the run")


def test_heads_and_norms_that_are_published_otherwise_are_told() -> None:
    assert not list(odd_layout(Unseen(None, None), Unseen(3, 1e-6), "w.pth"))
    assert not list(odd_layout(Unseen(3, 1e-6), Unseen(3, 1e-6), "w.pth"))
    heads, eps = odd_layout(Unseen(12, 1e-5), Unseen(3, 1e-6), "w.pth")
    assert "has 3 attention heads; networks like w.pth are published with 12" in heads
    assert "norms add 1e-06 to the variance; those of w.pth add 1e-05" in eps


def test_factors_of_the_samples_are_compared() -> None:
    facts = {"statistics": {}, "tile": 64, "factors": [2, 4]}
    assert not list(odd_facts(facts, {}, 64, "the run", [4]))
    (text,) = odd_facts(facts, {}, 64, "the run", [2, 5])
    assert "downsampling factors [5]; the run has learnt from [2, 4]" in text


def test_other_statistics_and_pixels_are_told() -> None:
    assert not list(odd_inputs(BEFORE.data, config_of(factors=[4]).data, "the run"))
    (text,) = odd_inputs(BEFORE.data, config_of(factors=[2], statistics="shards").data, "the run")
    assert "data.statistics" in text
    assert "the run ('published')" in text
    (text,) = odd_inputs(BEFORE.data, config_of(factors=[2, 10]).data, "the run")
    assert "data.factors" in text
    assert "[2, 4]" in text


def test_statistics_that_are_far_off_and_another_tile_are_told() -> None:
    facts = {"statistics": {"a": [1.0, 2.0], "b": [0.0, 1.0]}, "tile": 64}
    assert not list(odd_facts(facts, {"a": (1.09, 2.09), "c": (9.0, 9.0)}, 64, "the run"))
    for moved in ({"a": (1.2, 2.0)}, {"a": (1.0, 1.8)}, {"b": (0.06, 1.0)}):
        (text,) = odd_facts(facts, moved, 64, "the run")
        assert f"in 1 channels ({next(iter(moved))}: " in text
    assert "tiles have 32 pixels; the run has learnt from tiles of 64" in list(odd_facts(facts, {}, 32, "the run"))
    assert not list(odd_facts({"statistics": {}, "tile": 64}, {"a": (5.0, 5.0)}, 64, "the run"))
