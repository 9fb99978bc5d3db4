"""Configs and lists of scenes from elsewhere: bounds, and one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arcticseg import config
from arcticseg.data.select import read_scene_list
from arcticseg.errors import ConfigError
from arcticseg.models.config import UNetConfig, ViTConfig
from arcticseg.run.config import load

BILLION = "a: &a [x, x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]"
    for before, name in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BILLION, "stands for more than 100,000 values"),
        ("a: &a [*a]", "holds itself"),
        ("[" * 100_000, "nested too deeply|nested more than"),
        ("[" * 40 + "]" * 40, "nested more than 32 deep"),
        ("a: !!python/object/apply:os.system ['true']", "is not YAML"),
        ("a: 2020-99-99", "a value that cannot be"),
        ("a: !!int 0b", "a value that cannot be"),
        (f"steps: 1{'0' * 5000}", "a value that cannot be"),
        (f"steps: 1{'0' * 400}", "set a finite number"),
        ("a: b\0", "byte 4 is NUL"),
        (f"a: {'x' * (2 << 20)}", "at most 1,048,576 are read"),
        ("base: /dev/zero", "no such file"),
        (f"base: {'x' * 5000}", "no such file"),
    ],
)
def test_a_hostile_config(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=reason) as caught:
        load(tmp_path / "a.yaml")
    assert len(str(caught.value)) < 1000


def test_aliases_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a [1, 2]\nb: *a\n")
    assert config.read(tmp_path / "a.yaml") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize("keys", [{"depth": 10**9}, {"embed_dim": 10**9}, {"patch_size": 1 << 20}])
def test_no_network_is_without_end(keys: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="set 16384 or less"):
        ViTConfig(**keys)
    with pytest.raises(ConfigError, match="filters"):
        UNetConfig(filters=(8, 10**9))


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.txt", "one\ntw\0o\n", "NUL"),
        ("a.txt", "one\n\x1b[2Jtwo\n", "not the name of a scene"),
        ("a.txt", "one\n/etc/passwd\n", "not the name of a scene"),
        ("a.txt", "../one\n", "not the name of a scene"),
        ("a.txt", "x" * 300, "not the name of a scene"),
        ("a.txt", "x\n" * 10_000_000, "at most 16,777,216 are read"),
        ("a.json", "[" * 200_000, "more than 1 objects and arrays"),
        ("a.json", '["a", 5]', "not the name of a scene"),
        ("a.json", '{"a": 1}', "an array"),
        ("a.json", "NaN", "NaN"),
    ],
)
def test_a_hostile_list_of_scenes(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=rf"{name}: is not a list of scenes \(.*{reason}") as caught:
        read_scene_list(tmp_path / name)
    assert str(caught.value).isprintable()


def test_binary_garbage_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(os.urandom(1000) + b"\xff")
    with pytest.raises(ConfigError, match=r"a\.txt: is not a list of scenes"):
        read_scene_list(tmp_path / "a.txt")
