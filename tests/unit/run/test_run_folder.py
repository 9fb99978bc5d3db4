"""Names in a run folder, what may change in it, and how two configs differ."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from arcticseg import config
from arcticseg.data.config import DataConfig
from arcticseg.errors import ConfigError
from arcticseg.models.config import ModelConfig, UNetConfig, ViTConfig
from arcticseg.run.config import RunConfig
from arcticseg.run.folder import (
    CHANGEABLE,
    CONFIG,
    METRICS,
    differences,
    finished,
    forget_checkpoint,
    had_checkpoint,
    held,
    holds_run,
    last_weights,
    may_change,
    no_effect,
    note_checkpoint,
    weights_file,
    weights_path,
)

# Written out: keys that leave unchanged what is learnt; keys that may change on resume though they do not.
SAME = {
    "out",
    "checkpoint_every",
    "engine.zero_stage",
    "engine.offload",
    "engine.compile",
    "engine.max_skipped",
    "engine.threads",
    "engine.hang_seconds",
    "data.workers",
    "data.cache",
    "data.cache_bytes",
    "data.patience",
    "data.retries",
    "tracking.tensorboard",
    "tracking.wandb",
    "tracking.project",
    "tracking.group",
    "tracking.mfu",
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


def run_folder(folder: Path, weights: Sequence[str], scores: Sequence[float | None], keys: str) -> Path:
    """A run folder with empty weights, and `combined` of its validations."""
    for name in weights:
        touch(weights_path(folder, name))
    (folder / CONFIG).write_text(keys)
    lines = [{"step": n, "kind": "validation", "combined": score} for n, score in enumerate(scores)]
    (folder / METRICS).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


@pytest.mark.parametrize(
    ("weights", "scores", "keys", "used", "reason"),
    [
        (["last"], [None, None], "task: segment", "last", "by combined (undefined at each validation"),
        (["last", "best-SOD"], [None], "task: segment", "best-SOD", "by combined (undefined at each validation"),
        (["last"], [], "task: segment", "last", "by combined (no validation has given it"),
        (["last"], [], "task: pretrain", "last", "by reconstruction (no validation has given it"),
        (["last"], [1.0], "task: segment", "last", "by combined (the file has gone"),
        (["last"], [], "task: segment\nmodel: {charts: [SIC]}", "last", "by SIC (no validation"),
        (["last"], [1.0], "task: [", "last", "by combined (the file has gone"),
    ],
)
def test_weights_other_than_the_best_are_named_with_the_reason(
    weights: Sequence[str], scores: Sequence[float | None], keys: str, used: str, reason: str, tmp_path: Path
) -> None:
    folder = run_folder(tmp_path, weights, scores, keys)
    told = rf"{folder}: no best weights {reason}"
    with pytest.warns(UserWarning, match=f"{re.escape(told)}.*; using weights/{used}.safetensors"):
        assert weights_file(folder) == weights_path(folder, used)


@pytest.mark.parametrize(
    ("best", "keys"),
    [
        ("best-combined", "task: segment"),
        ("best-reconstruction", "task: pretrain"),
        ("best-SIC", "task: segment\nmodel: {charts: [SIC]}"),
        ("best-combined", "task: ["),
    ],
)
@pytest.mark.filterwarnings("error")
def test_the_best_weights_are_used_without_a_word(best: str, keys: str, tmp_path: Path) -> None:
    folder = run_folder(tmp_path, ["last", best], [50.0], keys)
    assert weights_file(folder) == weights_path(folder, best)


def test_every_key_may_change_or_not_and_has_an_effect_or_not() -> None:
    keys = leaves(config.to_dict(RunConfig(steps=1)))
    assert set(keys) >= SAME | OTHER
    assert {key for key in keys if no_effect(key)} == SAME
    assert {key for key in keys if may_change(key)} == SAME | OTHER
    # A key that only begins like another.
    assert not may_change("output")
    assert not may_change("data.cached")


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


def test_the_best_of_a_single_chart_goes_before_the_last(tmp_path: Path) -> None:
    for name in ("last", "best-SIC"):
        path = weights_path(tmp_path, name)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert weights_file(tmp_path) == weights_path(tmp_path, "best-SIC")
    weights_path(tmp_path, "best-SOD").touch()
    assert weights_file(tmp_path) == last_weights(tmp_path)


def test_a_folder_is_held_by_a_single_training(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with held(folder, [].append):
        with pytest.raises(ConfigError, match=f"'out' is '{folder}'"), held(folder, [].append, seconds=0.2):
            pass
        with held(tmp_path / "other", [].append):
            pass
    with held(folder, [].append, seconds=0):
        assert not holds_run(folder)


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    told: list[str] = []
    with held(tmp_path, told.append):
        pass
    assert str(tmp_path) in told[0]


@pytest.mark.parametrize(
    "name", ["config.yaml", "metrics.jsonl", "checkpoints/step-00000003", "weights/best-SIC.safetensors"]
)
def test_any_part_of_a_run_is_a_run(tmp_path: Path, name: str) -> None:
    for folder in ("checkpoints", "weights"):
        (tmp_path / folder).mkdir()
    (tmp_path / "train.log").touch()
    assert not holds_run(tmp_path)
    touch(tmp_path / name)
    assert holds_run(tmp_path)


def test_a_run_notes_that_it_had_a_checkpoint(tmp_path: Path) -> None:
    with held(tmp_path, [].append):
        assert not had_checkpoint(tmp_path)
        note_checkpoint(tmp_path)
        with pytest.raises(ConfigError), held(tmp_path, [].append, seconds=0):
            pass
    assert had_checkpoint(tmp_path)
    assert not holds_run(tmp_path)
    forget_checkpoint(tmp_path)
    assert not had_checkpoint(tmp_path)
