"""No import circles, no file and no function too long to read in one sitting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import house


def write(root: Path, **sources: str) -> None:
    """A package `room` of these modules."""
    folder = root / "room"
    folder.mkdir()
    for name, source in {"__init__": "", **sources}.items():
        (folder / f"{name}.py").write_text(source)


def circles(root: Path) -> list[str]:
    return house.circles(house.import_graph(root, ["room"]))


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return house.import_graph(house.ROOT)


def test_no_circle_of_imports(graph: dict[str, set[str]]) -> None:
    text = "\n".join(house.circles(graph))
    assert not text, text
    # The search sees late imports, whole packages by name, and helper modules of tests.
    assert "launchers.terminal" in graph["launchers.verbs.predict"]
    assert "launchers.verbs.train" in graph["launchers.cli"]
    assert "tests.unit.data.made" in graph["tests.unit.data.test_ring"]


def test_a_trial_knows_no_verb(graph: dict[str, set[str]]) -> None:
    reached = house.reachable(graph, "launchers.sweep.trial")
    assert {"launchers.command", "launchers.guard"} <= reached
    assert [module for module in reached if module.startswith("launchers.verbs")] == []


@pytest.mark.parametrize("measure", [house.long_files, house.long_functions])
def test_nothing_is_too_long(measure: Callable[[Path], list[str]]) -> None:
    text = "\n".join(measure(house.ROOT))
    assert not text, text


@pytest.mark.parametrize(
    "source",
    [
        "from room import left",
        "import room.left",
        "from .left import Left",
        "from . import left",
        "def late():\n    from room.left import Left",
        "class Late:\n    def method(self):\n        if self:\n            import room.left as other",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import room.left",
        "import importlib\nmodule = importlib.import_module('room.left')",
        "from importlib import import_module\nmodule = import_module(f'room.{name}')",
    ],
)
def test_a_circle_is_told_as_a_chain(source: str, tmp_path: Path) -> None:
    write(tmp_path, left="from room.middle import Middle", middle="from room.right import Right", right=source)
    assert circles(tmp_path) == ["room.left -> room.middle -> room.right -> room.left"]


@pytest.mark.parametrize(
    "source",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from room.left import Left",
        "import typing\nif typing.TYPE_CHECKING:\n    import room.left",
        "from room import __doc__",
        "from elsewhere import left",
        "text = 'import room.left'",
    ],
)
def test_what_closes_no_circle(source: str, tmp_path: Path) -> None:
    write(tmp_path, left="from room.right import Right", right=source)
    assert circles(tmp_path) == []


def test_a_package_is_a_module_too(tmp_path: Path) -> None:
    write(tmp_path, __init__="from room.left import Left", left="from room import Left")
    assert circles(tmp_path) == ["room -> room.left -> room"]
    # A package may import its modules, which need the package's name only to find each other.
    (tmp_path / "room" / "left.py").write_text("from room import right")
    (tmp_path / "room" / "right.py").write_text("")
    assert circles(tmp_path) == []
    # Another package's `__init__` runs on the way to its module.
    (tmp_path / "room" / "inner").mkdir()
    (tmp_path / "room" / "inner" / "__init__.py").write_text("import room.right")
    (tmp_path / "room" / "inner" / "deep.py").write_text("")
    (tmp_path / "room" / "right.py").write_text("import room.inner.deep")
    assert circles(tmp_path) == ["room.inner -> room.right -> room.inner"]


def test_a_neighbour_by_its_bare_name(tmp_path: Path) -> None:
    write(tmp_path, left="import right", right="from left import Left")
    assert circles(tmp_path) == ["room.left -> room.right -> room.left"]


def test_two_circles_are_two_chains(tmp_path: Path) -> None:
    write(tmp_path, a="import room.b", b="import room.a", c="import room.d, room.a", d="import room.c")
    assert circles(tmp_path) == ["room.a -> room.b -> room.a", "room.c -> room.d -> room.c"]


def test_files_are_measured(tmp_path: Path) -> None:
    write(tmp_path, fits="\n" * house.FILE_LINES, long="\n" * (house.FILE_LINES + 1))
    assert house.long_files(tmp_path, ["room"]) == ["room/long.py: 401 lines"]


@pytest.mark.parametrize("lines", [house.FUNCTION_LINES, house.FUNCTION_LINES + 1])
@pytest.mark.parametrize(
    ("head", "counted"),
    [
        ("def long():\n", 0),
        ("async def long():\n", 0),
        ('def long(\n    a,\n    b,\n):\n    """What it does.\n\n    More.\n    """\n\n', 0),
        ("def long():\n    if True:\n\n        pass\n", 2),
        ("def long():\n    @staticmethod\n    def inner(\n    ):\n        pass\n\n", 4),
    ],
)
def test_functions_are_measured(head: str, counted: int, lines: int, tmp_path: Path) -> None:
    write(tmp_path, code=f"class Long:\n    pass\n\n\n{head}" + "    x = 1\n" * (lines - counted))
    expected = [f"room/code.py:5 long: {lines} lines"] if lines > house.FUNCTION_LINES else []
    assert house.long_functions(tmp_path, ["room"]) == expected


def test_a_function_of_a_docstring_alone_is_empty(tmp_path: Path) -> None:
    write(tmp_path, code='def empty():\n    """' + "Much.\n" * 99 + '"""\n')
    assert house.long_functions(tmp_path, ["room"]) == []
