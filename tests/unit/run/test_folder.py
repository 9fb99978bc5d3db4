"""Names in a run folder, and what may change on resume."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from arcticseg import config
from arcticseg.data.config import DataConfig
from arcticseg.errors import ConfigError
from arcticseg.models.config import UNetConfig
from arcticseg.run import folder
from arcticseg.run.config import RunConfig

# Written out: keys that leave unchanged what is learnt; keys that may change on resume though they do not.
SAME = {
    "out",
    "checkpoint_every",
    "engine.threads",
    "data.workers",
    "data.cache",
    "data.cache_bytes",
    "data.patience",
    "data.retries",
    "tracking.wandb",
    "tracking.project",
    "tracking.group",
    "tracking.every",
}
OTHER = {
    "imports",
    "validate_every",
    "engine.global_batch_size",
    "engine.micro_batch_size",
    "data.shards",
    "data.tail",
    "data.max_damaged",
}


def leaves(keys: dict, prefix: str = "") -> list[str]:
    return [
        leaf
        for key, value in keys.items()
        for leaf in (leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [f"{prefix}{key}"])
    ]


def test_every_key_may_change_or_not_and_has_an_effect_or_not() -> None:
    keys = leaves(config.to_dict(RunConfig(steps=1)))
    assert set(keys) >= SAME | OTHER
    assert {key for key in keys if folder.no_effect(key)} == SAME
    assert {key for key in keys if folder.may_change(key)} == SAME | OTHER
    # A key that only begins like another.
    assert not folder.may_change("output")
    assert not folder.may_change("data.cached")


def test_differences_name_the_innermost_key() -> None:
    before = RunConfig(steps=1)
    assert folder.differences(before, before) == []
    data = DataConfig(shards="elsewhere", factors=(2, 4), weights={2: 1.0, 4: 2.0}, mix="weights")
    now = dataclasses.replace(before, seed=1, data=data)
    assert sorted(folder.differences(before, now)) == [
        ("data.factors", [], [2, 4]),
        ("data.mix", "auto", "weights"),
        ("data.shards", before.data.shards, "elsewhere"),
        ("data.weights", {}, {2: 1.0, 4: 2.0}),
        ("seed", 0, 1),
    ]
    (name, *_, filters) = folder.differences(before.model.encoder, UNetConfig())
    assert name == ("name", "vit_base_patch16_224", "unet")
    assert filters == ("filters", None, [16, 32, 64, 64])


def test_weights_of_a_run_are_the_best_else_the_last(tmp_path: Path) -> None:
    assert not folder.finished(tmp_path)
    with pytest.raises(ConfigError, match=str(tmp_path)):
        folder.weights_file(tmp_path)
    (tmp_path / "weights").mkdir()
    for name in ("last", "best-SIC", "best-reconstruction", "best-combined"):
        folder.weights_path(tmp_path, name).touch()
        expected = "last" if name == "best-SIC" else name
        assert folder.weights_file(tmp_path) == tmp_path / "weights" / f"{expected}.safetensors"
    assert folder.finished(tmp_path)
    file = tmp_path / "weights" / "best-SIC.safetensors"
    assert folder.weights_file(file) == file
