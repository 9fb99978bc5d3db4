"""Configs chosen by name, keys of choices laid over one another, modules from outside."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from arcticseg import config
from arcticseg.choice import Choice, import_modules
from arcticseg.errors import ConfigError, need
from tests.outside import forgotten


@dataclass(frozen=True)
class Tool(Choice):
    """What is chosen in these tests."""


@dataclass(frozen=True)
class Saw(Tool):
    name: str = "saw"
    teeth: int = 40

    implementation: ClassVar[str] = "builtins:dict"

    def __post_init__(self) -> None:
        need(self.teeth > 0, "teeth", self.teeth, "set 1 or more")


@dataclass(frozen=True)
class Drill(Tool):
    name: str = "drill_small"
    speed: float = 1.0
    bits: tuple[int, ...] = (3, 4)


Tool.table = {"saw": Saw, "drill_*": Drill}


@dataclass(frozen=True)
class Shop:
    first: Tool = field(default_factory=Saw)
    second: Tool | None = None
    by_user: dict[str, Tool] = field(default_factory=dict)
    all: tuple[Tool, ...] = ()


@dataclass(frozen=True)
class Town:
    size: int = 1
    shop: Shop = field(default_factory=Shop)


def shop(**keys: Any) -> Shop:
    return config.build(Shop, keys)


def test_a_choice_is_made_by_name_or_pattern() -> None:
    assert shop(first={"name": "drill_big", "speed": 2}).first == Drill("drill_big", 2.0)
    assert shop(first={"teeth": 3}).first == Saw(teeth=3)
    assert shop(second={"name": "saw"}).second == Saw()
    assert shop(by_user={"ann": {"name": "drill_x"}}).by_user == {"ann": Drill("drill_x")}
    assert shop(all=["saw", {"name": "drill_x", "bits": [1]}]).all == (Saw(), Drill("drill_x", bits=(1,)))
    assert Tool.named("drill_y") == Drill("drill_y")


def test_a_name_alone_stands_for_its_defaults() -> None:
    assert shop(first="drill_big", second="saw", by_user={"bob": "saw"}) == Shop(
        Drill("drill_big"), Saw(), {"bob": Saw()}
    )


def test_a_choice_is_dumped_and_read_back(tmp_path: Path) -> None:
    made = shop(first={"name": "drill_big", "bits": [9]}, all=["saw"], by_user={"ann": "saw"})
    (tmp_path / "a.yaml").write_text(config.dump(made))
    assert config.build(Shop, config.read(tmp_path / "a.yaml")) == made


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"first": "saw2"}, r"'first\.name' is 'saw2'; set one of saw, drill_\*.*--import"),
        ({"first": {"name": "saw", "speed": 1}}, r"'first\.speed' \(value 1\).*teeth"),
        ({"first": {"name": "saw", "teth": 1}}, r"'first\.teth' \(value 1\).*'first\.teeth'"),
        ({"first": {"speed": 1}}, r"'first\.speed'"),
        ({"first": {"name": "saw", "teeth": "x"}}, r"'first\.teeth' is 'x'; set a whole number"),
        ({"first": {"name": "saw", "teeth": 0}}, r"'first\.teeth' is 0; set 1 or more"),
        ({"first": 3}, r"'first' is 3; set a name"),
        ({"first": None}, r"'first' is None"),
        ({"second": {"teeth": 3}}, r"'second\.name' is None"),
        ({"by_user": {"ann": {"name": "drill_a", "teeth": 3}}}, r"'by_user\.ann\.teeth' \(value 3\)"),
        ({"all": ["saw", "axe"]}, r"'all\[1\]\.name' is 'axe'"),
    ],
)
def test_what_is_no_choice_is_named(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        shop(**keys)


def test_a_name_outside_a_config_is_refused_too() -> None:
    with pytest.raises(ConfigError, match=r"'name' is 'axe'; set one of saw, drill_\*"):
        Tool.named("axe")


def test_an_empty_table_asks_for_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tool, "table", {})
    with pytest.raises(ConfigError, match=r"'first\.name' is 'saw'; give its module by --import"):
        shop(first="saw")


def test_an_implementation_takes_the_keys_but_the_name() -> None:
    assert Saw(teeth=7).make() == {"teeth": 7}
    assert Saw().make({"made": 1}) == {"made": 1, "teeth": 40}


def combined(*parts: dict[str, Any]) -> dict[str, Any]:
    return config.combine(Shop, parts)


def test_keys_of_the_same_kind_stay_and_those_of_another_go() -> None:
    base = {"first": {"name": "drill_a", "speed": 5, "bits": [1]}}
    assert combined(base, {"first": {"name": "drill_b", "bits": [2]}}) == {
        "first": {"name": "drill_b", "speed": 5, "bits": [2]}
    }
    assert combined(base, {"first": "drill_b"})["first"] == {"name": "drill_b", "speed": 5, "bits": [1]}
    assert combined(base, {"first": {"speed": 6}})["first"] == {"name": "drill_a", "speed": 6, "bits": [1]}
    assert combined(base, {"first": "saw"})["first"] == {"name": "saw"}
    assert combined(base, {"first": "saw"}, {"first": {"name": "drill_c"}})["first"] == {"name": "drill_c"}


def test_the_default_says_of_what_kind_keys_without_a_name_are() -> None:
    assert combined({"first": {"teeth": 3}}, {"first": "drill_a"})["first"] == {"name": "drill_a"}
    assert combined({"first": {"teeth": 3}}, {"first": "saw"})["first"] == {"name": "saw", "teeth": 3}
    # Without a default they belong to what is chosen at last.
    assert combined({"second": {"speed": 3}}, {"second": "drill_a"})["second"] == {"name": "drill_a", "speed": 3}


def test_choices_in_mappings_are_laid_over_alike() -> None:
    base = {"by_user": {"ann": {"name": "drill_a", "speed": 5}, "bob": "saw"}}
    over = {"by_user": {"ann": "saw", "bob": {"name": "saw", "teeth": 2}}}
    assert combined(base, over)["by_user"] == {"ann": {"name": "saw"}, "bob": {"name": "saw", "teeth": 2}}


def test_other_keys_are_merged_as_ever_and_null_unsets() -> None:
    assert combined({"second": "saw"}, {"second": None})["second"] is None
    assert combined({"all": ["saw"]}, {"all": []})["all"] == []
    parts = [{"size": 2, "shop": {"first": {"teeth": 3}}}, {"shop": {"first": "drill_a", "odd": 1}}]
    assert config.combine(Town, parts) == {"size": 2, "shop": {"first": {"name": "drill_a"}, "odd": 1}}


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_overrides_of_a_choice_come_in_any_order(order: list[int]) -> None:
    texts = ["first.bits=[8]", "first=drill_a", "first.speed=2"]
    layer = config.override_layer([texts[i] for i in order])
    assert config.build(Shop, combined({"first": {"teeth": 3}}, layer)).first == Drill("drill_a", 2.0, (8,))


def test_later_overrides_win() -> None:
    assert config.override_layer(["first=saw", "first=drill_a", "second.a=1", "second.a=2"]) == {
        "first": "drill_a",
        "second": {"a": 2},
    }
    assert config.override_layer(["first.speed=1", "first=null"]) == {"first": None}


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder for modules; what they load and add is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    with forgotten(tmp_path, Tool):
        sys.path[:] = [place for place in sys.path if place]
        yield tmp_path


ADDS = """
from tests_of_choice import Tool, Saw
Tool.table[{name!r}] = Saw
"""


def test_modules_are_imported_by_dotted_name_and_by_file(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tests_of_choice", sys.modules[__name__])
    (outside / "my_tools").mkdir()
    (outside / "my_tools" / "__init__.py").touch()
    (outside / "my_tools" / "axes.py").write_text(ADDS.format(name="axe"))
    (outside / "else").mkdir()
    (outside / "else" / "my_hammers.py").write_text(ADDS.format(name="hammer"))
    import_modules(["my_tools.axes", "else/my_hammers.py"])
    assert shop(first="axe", second="hammer") == Shop(Saw("axe"), Saw("hammer"))
    # Once is enough.
    Tool.table.pop("hammer")
    import_modules(["else/my_hammers.py", str(outside / "else" / "my_hammers.py")])
    assert "hammer" not in Tool.table


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no_such_module", "--import no_such_module: .*ModuleNotFoundError"),
        ("no/such/file.py", "--import no/such/file.py: .*FileNotFoundError"),
        ("os.no_such_part", "--import os.no_such_part"),
        ("fails.py", "--import fails.py: .*ZeroDivisionError"),
        ("fails", "--import fails: .*ZeroDivisionError"),
        ("odd syntax.py", "--import odd syntax.py: .*SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(outside: Path, name: str, told: str) -> None:
    (outside / "fails.py").write_text("1 / 0\n")
    (outside / "odd syntax.py").write_text("def\n")
    loaded = dict(sys.modules)
    with pytest.raises(ConfigError, match=told):
        import_modules([name])
    assert {key for key in loaded if key not in sys.modules} == set()
    assert "fails" not in sys.modules


def test_a_file_does_not_pass_for_a_module_of_the_same_name(outside: Path) -> None:
    (outside / "json.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match=r"--import json\.py: .*module json .*rename"):
        import_modules(["json.py"])
