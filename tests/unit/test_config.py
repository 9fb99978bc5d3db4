from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from arcticseg import config
from arcticseg.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    name: str | None = None


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


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"coutn": 2}, "unknown key 'coutn' (value 2); did you mean 'count'?"),
        ({"xyz": 2}, "unknown key 'xyz' (value 2); known: count, on, mode, stage, pair, many, shares, inner"),
        ({"inner": {"rat": 2}}, "unknown key 'inner.rat' (value 2); did you mean 'inner.rate'?"),
        ({"count": "2"}, "key 'count' is '2'; set a whole number"),
        ({"count": 2.0}, "key 'count' is 2.0; set a whole number"),
        ({"count": True}, "key 'count' is True; set a whole number"),
        ({"count": None}, "key 'count' is None; set a whole number"),
        ({"on": 1}, "key 'on' is 1; set true or false"),
        ({"on": "yes"}, "key 'on' is 'yes'; set true or false"),
        ({"mode": "b"}, "key 'mode' is 'b'; set one of a, off"),
        ({"mode": ["a"]}, "key 'mode' is ['a']; set one of a, off"),
        ({"stage": True}, "key 'stage' is True; set one of 0, 1"),
        ({"pair": [1]}, "key 'pair' is [1]; set a list of 2 values"),
        ({"pair": 1}, "key 'pair' is 1; set a list, such as [a, b]"),
        ({"pair": [1, "x"]}, "key 'pair[1]' is 'x'; set a number"),
        ({"many": "12"}, "key 'many' is '12'; set a list, such as [a, b]"),
        ({"many": [1, 2.5]}, "key 'many[1]' is 2.5; set a whole number"),
        ({"shares": [1]}, "key 'shares' is [1]; set a mapping of keys"),
        ({"shares": {"x": 1}}, "key 'shares' is 'x'; set a whole number"),
        ({"shares": {2: "y"}}, "key 'shares.2' is 'y'; set a number"),
        ({"inner": 3}, "key 'inner' is 3; set a mapping of keys"),
        ({"inner": {"rate": float("nan")}}, "key 'inner.rate' is nan; set a finite number"),
        ({"inner": {"rate": float("inf")}}, "key 'inner.rate' is inf; set a finite number"),
        ({"inner": {"name": 3}}, "key 'inner.name' is 3; set a text"),
    ],
)
def test_wrong_keys_and_values_are_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(**keys)
    assert str(caught.value) == message


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^key 'count' is missing; set it$"):
        config.build(Outer, {})


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
    found = config.read(tmp_path / "top.yaml")
    assert found == {"count": 7, "many": [1], "inner": {"rate": 3, "name": "middle"}}


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
    ("text", "message"),
    [
        ("- 1\n", "top.yaml: holds list, not keys and values; mend it"),
        ("", "top.yaml: holds NoneType, not keys and values; mend it"),
        ("a: [1\n", "top.yaml: is no YAML ("),
        ("a: 1\na: 2\n", "top.yaml: key 'a' stands twice; leave one out"),
        ("x: {b: 1, b: 2}\n", "top.yaml: key 'b' stands twice; leave one out"),
        ("? [a]\n: 1\n", "top.yaml: ['a'] is no key; write a name before the colon"),
        ("a: !!python/object:os.system 1\n", "top.yaml: is no YAML ("),
        ("--- 1\n--- 2\n", "top.yaml: is no YAML ("),
        ("base: top.yaml\n", "top.yaml: more than 16 files extend each other; repair 'base'"),
        ("base: nowhere.yaml\n", "config 'nowhere.yaml': no such file; give a path, or one of the shipped "),
    ],
)
def test_files_that_are_no_configs(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, top=text)
    with pytest.raises(ConfigError) as caught:
        config.read(tmp_path / "top.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "top.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"top\.yaml: cannot be read .*; give a YAML file"):
        config.read(tmp_path / "top.yaml")
    with pytest.raises(ConfigError, match=r"^config '.*folder': no such file; give a path, or one of the shipped"):
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
    found = config.override({}, [f"a.b={text}"])
    assert found == {"a": {"b": value}}
    assert type(found["a"]["b"]) is type(value)


def test_overrides_change_one_key_and_leave_the_rest() -> None:
    keys = {"count": 1, "inner": {"rate": 1.0, "name": "x"}, "shares": {2: 1.0, 4: 2.0}}
    found = config.override(keys, ["inner.rate=2", "count=5", "inner.rate=3", "shares.2=9"])
    assert found == {"count": 5, "inner": {"rate": 3, "name": "x"}, "shares": {2: 9, 4: 2.0}}
    assert keys["count"] == 1
    assert keys["inner"] == {"rate": 1.0, "name": "x"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps", "override 'steps': expected key=value, such as optim.lr=1e-4"),
        ("=3", "override '=3': expected key=value"),
        ("a=[1", "override 'a=[1': is no YAML"),
    ],
)
def test_overrides_that_are_none(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.override({}, [text])
    assert message in str(caught.value)


def test_what_is_dumped_is_read_back(tmp_path: Path) -> None:
    cfg = build(mode="off", pair=[1e-9, 2], many=[1], shares={3: 0.5}, inner={"name": "no", "rate": 1e-5})
    (tmp_path / "a.yaml").write_text(config.dump(cfg))
    assert config.build(Outer, config.read(tmp_path / "a.yaml")) == cfg


def test_to_dict_holds_plain_values() -> None:
    assert config.to_dict(build(shares={2: 1}))["shares"] == {2: 1.0}
    assert config.to_dict(build())["pair"] == [0.0, 1.0]
