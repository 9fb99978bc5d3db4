"""YAML and overrides to dataclasses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from arcticseg import config
from arcticseg.errors import ConfigError, need


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    name: str | None = None

    def __post_init__(self) -> None:
        need(self.rate >= 0, "rate", self.rate, "set 0 or more")


@dataclass(frozen=True)
class Outer:
    count: int
    on: bool = True
    mode: Literal["a", "off"] = "a"
    stage: Literal[0, 1] = 0
    pair: tuple[float, float] = (0.0, 1.0)
    many: tuple[int, ...] = ()
    shares: dict[int, float] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


def build(**keys: Any) -> Outer:
    return config.build(Outer, {"count": 1} | keys)


def test_defaults_and_nested_keys() -> None:
    assert build() == Outer(1)
    assert build(inner={"rate": 2}, pair=[1, 2], many=[3, 4], shares={2: 1}) == Outer(
        1, pair=(1.0, 2.0), many=(3, 4), shares={2: 1.0}, inner=Inner(2.0)
    )
    assert isinstance(build(inner={"rate": 2}).inner.rate, float)
    assert build(inner={"name": None}).inner.name is None
    assert build(inner={"name": "x"}).inner.name == "x"


def tells(error: ConfigError, *parts: str) -> None:
    """See that a message has these parts, and one line."""
    assert [part for part in parts if part not in str(error)] == [], str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"coutn": 2}, ("'coutn'", "value 2", "did you mean 'count'")),
        ({"xyz": 2}, ("'xyz'", "value 2", "count, on, mode, stage, pair, many, shares, inner")),
        ({"inner": {"rat": 2}}, ("'inner.rat'", "value 2", "did you mean 'inner.rate'")),
        ({"count": "2"}, ("'count' is '2'", "a whole number")),
        ({"count": 2.0}, ("'count' is 2.0", "a whole number")),
        ({"count": True}, ("'count' is True", "a whole number")),
        ({"count": None}, ("'count' is None", "a whole number")),
        ({"on": 1}, ("'on' is 1", "true or false")),
        ({"on": "yes"}, ("'on' is 'yes'", "true or false")),
        ({"mode": "b"}, ("'mode' is 'b'", "a, off")),
        ({"mode": ["a"]}, ("'mode' is ['a']", "a, off")),
        ({"stage": True}, ("'stage' is True", "0, 1")),
        ({"pair": [1]}, ("'pair' is [1]", "a list of 2 values")),
        ({"pair": 1}, ("'pair' is 1", "a list")),
        ({"pair": [1, "x"]}, ("'pair[1]' is 'x'", "a number")),
        ({"many": "12"}, ("'many' is '12'", "a list")),
        ({"many": [1, 2.5]}, ("'many[1]' is 2.5", "a whole number")),
        ({"shares": [1]}, ("'shares' is [1]", "a mapping")),
        ({"shares": {"x": 1}}, ("'shares' is 'x'", "a whole number")),
        ({"shares": {2: "y"}}, ("'shares.2' is 'y'", "a number")),
        ({"inner": 3}, ("'inner' is 3", "a mapping")),
        ({"inner": {"rate": float("nan")}}, ("'inner.rate' is nan", "a finite number")),
        ({"inner": {"rate": float("inf")}}, ("'inner.rate' is inf", "a finite number")),
        ({"inner": {"name": 3}}, ("'inner.name' is 3", "a text")),
        ({"inner": {"rate": -1}}, ("'inner.rate' is -1.0", "set 0 or more")),
    ],
)
def test_wrong_keys_and_values_are_named(keys: dict[str, Any], told: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(**keys)
    tells(caught.value, *told)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"key 'count' is missing"):
        config.build(Outer, {})


def test_a_dataclass_may_complete_its_keys() -> None:
    @dataclass(frozen=True)
    class Square:
        width: int
        height: int

        @classmethod
        def completed(cls, keys: Mapping[str, Any]) -> dict[str, Any]:
            return {"height": keys["width"], **keys}

    assert config.build(Square, {"width": 2}) == Square(2, 2)
    assert config.build(Square, {"width": 2, "height": 3}) == Square(2, 3)


def test_a_literal_keeps_its_type() -> None:
    assert type(build(stage=1.0).stage) is int


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)


def test_bases_are_merged_under_the_keys_of_a_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        top="base: middle.yaml\ninner: {rate: 3}\n",
        middle="base: low.yaml\nmany: [1]\ninner: {name: middle}\n",
        low="count: 7\nmany: [1, 2, 3]\ninner: {rate: 1, name: low}\n",
    )
    merged = {"count": 7, "many": [1], "inner": {"rate": 3, "name": "middle"}}
    assert config.read(tmp_path / "top.yaml") == merged
    layers = config.layers(tmp_path / "top.yaml")
    assert [layer["inner"] for layer in layers] == [{"rate": 1, "name": "low"}, {"name": "middle"}, {"rate": 3}]
    assert not any("base" in layer for layer in layers)


def test_a_base_may_be_a_shipped_config(tmp_path: Path) -> None:
    name = config.shipped()[0]
    write(tmp_path, top=f"base: {name}\n")
    assert config.read(tmp_path / "top.yaml") == config.read(name)
    assert config.read(name.removesuffix(".yaml")) == config.read(name)


def test_a_base_beside_the_file_comes_before_one_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path, low="count: 1\n")
    write(tmp_path / "sub", low="count: 2\n", top="base: low.yaml\n")
    monkeypatch.chdir(tmp_path)
    assert config.read("sub/top.yaml") == {"count": 2}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- 1\n", ("top.yaml", "list")),
        ("", ("top.yaml", "NoneType")),
        ("a: [1\n", ("top.yaml", "YAML")),
        ("a: 1\na: 2\n", ("top.yaml", "'a'", "twice")),
        ("x: {b: 1, b: 2}\n", ("top.yaml", "'b'", "twice")),
        ("? [a]\n: 1\n", ("top.yaml", "['a']")),
        ("a: !!python/object:os.system 1\n", ("top.yaml", "YAML")),
        ("--- 1\n--- 2\n", ("top.yaml", "YAML")),
        ("base: top.yaml\n", ("top.yaml", "16 files", "'base'")),
        ("base: nowhere.yaml\n", ("'nowhere.yaml'", "give a path", "shipped")),
    ],
)
def test_files_that_are_no_configs(tmp_path: Path, text: str, told: tuple[str, ...]) -> None:
    write(tmp_path, top=text)
    with pytest.raises(ConfigError) as caught:
        config.read(tmp_path / "top.yaml")
    tells(caught.value, *told)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "top.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"top\.yaml: cannot be read"):
        config.read(tmp_path / "top.yaml")
    with pytest.raises(ConfigError, match=r"config '.*folder'.*shipped"):
        config.read(tmp_path / "folder")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ("False", False),
        ("off", "off"),
        ("no", "no"),
        ("on", "on"),
        ("null", None),
        ("", None),
        ("[1, 2e0]", [1, 2.0]),
        ("{a: 1}", {"a": 1}),
        ("a=b", "a=b"),
        ("1e4x", "1e4x"),
        ("runs/e5", "runs/e5"),
    ],
)
def test_values_of_overrides_are_yaml_as_people_mean_it(text: str, value: object) -> None:
    (nested,) = config.override_layers([f"a.b={text}"])
    assert nested == config.override({}, [f"a.b={text}"]) == {"a": {"b": value}}
    assert type(nested["a"]["b"]) is type(value)


def test_overrides_change_one_key_and_leave_the_rest() -> None:
    keys = {"count": 1, "inner": {"rate": 1.0, "name": "x"}, "shares": {2: 1.0, 4: 2.0}}
    changed = config.override(keys, ["inner.rate=2", "count=5", "inner.rate=3", "shares.2=9"])
    assert changed == {"count": 5, "inner": {"rate": 3, "name": "x"}, "shares": {2: 9, 4: 2.0}}
    assert keys["count"] == 1
    assert keys["inner"] == {"rate": 1.0, "name": "x"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("steps", ("'steps'", "key=value")),
        ("=3", ("'=3'", "key=value")),
        ("a=[1", ("'a=[1'", "YAML")),
    ],
)
@pytest.mark.parametrize("reader", [config.override_layers, config.override_layer])
def test_overrides_that_are_none(reader: Callable[[list[str]], Any], text: str, told: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        reader([text])
    tells(caught.value, *told)


def test_what_is_dumped_is_read_back(tmp_path: Path) -> None:
    cfg = build(mode="off", pair=[1e-9, 2], many=[1], shares={3: 0.5}, inner={"name": "no", "rate": 1e-5})
    (tmp_path / "a.yaml").write_text(config.dump(cfg))
    assert config.build(Outer, config.read(tmp_path / "a.yaml")) == cfg


def test_to_dict_holds_plain_values() -> None:
    assert config.to_dict(build(shares={2: 1}))["shares"] == {2: 1.0}
    assert config.to_dict(build())["pair"] == [0.0, 1.0]
