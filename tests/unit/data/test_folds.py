"""Folds of the training scenes of shards, and the samples that a run with folds trains and validates on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from arcticseg import config
from arcticseg.data.config import DataConfig
from arcticseg.data.folds import folds
from arcticseg.data.select import ShardSet, open_set
from arcticseg.errors import ConfigError
from arcticseg.run.config import RunConfig
from tests.archive import scene_name

NAMES = [
    scene_name(f"2020{1 + i % 12:02d}0{1 + i // 12}T10{i % 2:02d}00", f"{1 + i // 2:06d}", "dmi") for i in range(20)
]


def a_set(scenes: Mapping[str, Mapping[str, Any]]) -> ShardSet:
    manifest = SimpleNamespace(scenes=scenes)
    return cast(ShardSet, SimpleNamespace(source=SimpleNamespace(address="shards"), manifest=manifest))


def facts(i: int, split: str = "train") -> dict[str, Any]:
    counts = {"4": {"SIC": [i, 100, *[3] * 10], "SOD": [5] * 7, "FLOE": [5] * 8}}
    return {"split": split, "time": None, "counts": counts if i % 3 else {}}


def test_folds_are_of_training_scenes_alone_and_keep_passes_whole() -> None:
    scenes = {name: facts(i) for i, name in enumerate(NAMES)}
    others = {
        scene_name("20210101T000000", "000500", "cis"): facts(0, "val"),
        "broken": {"split": "train", "error": "x"},
    }
    divided = folds([a_set(scenes | others)], 4)
    assert sorted(name for fold in divided for name in fold) == sorted(NAMES)
    assert {len(fold) for fold in divided} <= {4, 6}
    orbits = [{name[49:55] for name in fold} for fold in divided]
    assert sum(map(len, orbits)) == 10
    # The same from two sets that share scenes, in any order.
    halves = [a_set(dict(list(scenes.items())[:13])), a_set(dict(list(scenes.items())[7:]))]
    assert folds(halves, 4) == folds(halves[::-1], 4) == divided


def test_folds_of_a_list() -> None:
    one = a_set({name: facts(i) for i, name in enumerate(NAMES)})
    assert sorted(name for fold in folds([one], 2, NAMES[:6]) for name in fold) == sorted(NAMES[:6])
    with pytest.raises(ConfigError, match="lists nobody"):
        folds([one], 2, ["nobody"])
    with pytest.raises(ConfigError, match=r"'data\.fold' asks for 4 folds; shards has training scenes of 3 passes"):
        folds([one], 4, NAMES[:6])


def test_the_keys_are_checked() -> None:
    assert config.build(DataConfig, {"fold": [1, 5]}, "data.").fold == (1, 5)
    for wrong in ([5, 5], [-1, 5], [0, 1]):
        with pytest.raises(ConfigError, match=r"data\.fold"):
            config.build(DataConfig, {"fold": wrong}, "data.")
    with pytest.raises(ConfigError):
        config.build(DataConfig, {"fold": [1]}, "data.")


def test_each_training_scene_validates_in_one_fold(tiny_shards: Path) -> None:
    pytest.importorskip("torch")
    from arcticseg.run import build

    sets = [open_set(str(tiny_shards))]
    train = {name for name, facts in sets[0].manifest.scenes.items() if facts["split"] == "train"}
    held_out: list[str] = []
    for fold in range(3):
        data = {"shards": str(tiny_shards), "fold": [fold, 3]}
        cfg = config.build(RunConfig, {"steps": 1, "data": data})
        trained, validated = (build.selection_of(cfg, sets, split) for split in ("train", "val"))
        assert set(trained.scenes) | set(validated.scenes) == train
        assert not set(trained.scenes) & set(validated.scenes)
        held_out += validated.scenes
        assert build.validates(cfg, sets)
    assert sorted(held_out) == sorted(train)
