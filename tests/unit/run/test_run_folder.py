"""Names in a run folder, what may change in it, and how two configs differ."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from arcticseg import config
from arcticseg.data.config import DataConfig
from arcticseg.errors import ConfigError
from arcticseg.models.config import ModelConfig, UNetConfig, ViTConfig
from arcticseg.run.config import RunConfig
from arcticseg.run.folder import (
    CHANGEABLE,
    differences,
    finished,
    last_weights,
    may_change,
    no_effect,
    weights_file,
    weights_path,
)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_folder_stands_for_its_best_weights_or_its_last(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path}: holds no weights"):
        weights_file(tmp_path)
    assert not finished(tmp_path)
    for name in ("last", "best-reconstruction", "best-combined"):
        path = touch(weights_path(tmp_path, name))
        assert weights_file(tmp_path) == path
    assert finished(tmp_path)
    assert last_weights(tmp_path) == tmp_path / "weights" / "last.safetensors"
    assert weights_file(last_weights(tmp_path)) == last_weights(tmp_path)


def test_some_keys_may_change_and_some_of_them_have_an_effect() -> None:
    assert may_change("tracking.every")
    assert no_effect("tracking.every")
    assert may_change("engine.global_batch_size")
    assert not no_effect("engine.global_batch_size")
    for key in ("seed", "model.encoder.depth", "data.shuffle", "data.cache_bytes_of_another", "outer"):
        assert not may_change(key)
        assert not no_effect(key)


def test_what_may_change_is_a_key_or_a_section() -> None:
    keys = config.to_dict(RunConfig(steps=1))
    for key in CHANGEABLE:
        section = keys
        for part in key.split("."):
            section = section[part]


def test_differences_are_told_leaf_by_leaf() -> None:
    before = RunConfig(steps=1)
    now = dataclasses.replace(before, steps=2, data=DataConfig(shards=("a", "b"), weights={}))
    assert differences(before, before) == []
    assert differences(before, now) == [("steps", 1, 2), ("data.shards", "shards", ["a", "b"])]


def test_a_key_of_another_kind_is_a_difference_too() -> None:
    vit = RunConfig(steps=1, model=ModelConfig(encoder=ViTConfig("vit_tiny_patch16_224")))
    unet = RunConfig(steps=1, model=ModelConfig(encoder=UNetConfig(filters=(4,))))
    told = {key: (old, new) for key, old, new in differences(vit, unet)}
    assert told["model.encoder.name"] == ("vit_tiny_patch16_224", "unet")
    assert told["model.encoder.filters"] == (None, [4])
    assert differences(unet, vit)[0] == ("model.encoder.name", "unet", "vit_tiny_patch16_224")
