"""Configs chosen by name from a table, and modules from outside that add to the tables."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from arcticseg.errors import BadValueError, ConfigError

C = TypeVar("C", bound="Choice")


@dataclasses.dataclass(frozen=True)
class Choice:
    """A config chosen by its `name`; in YAML `{name: NAME, key: value}`, or NAME alone.

    A room's own base class has the `table`, each class in it the `implementation`.
    """

    name: str

    # Name, or pattern of names such as `vit_*`, -> class.
    table: ClassVar[dict[str, type[Choice]]]
    # "module:name" of what `make` calls: a text, since configs load no torch.
    implementation: ClassVar[str]

    @classmethod
    def choose(cls: type[C], name: object) -> type[C] | None:
        """The class of a name; None: the table has none."""
        kind = next((kind for pattern, kind in cls.table.items() if fnmatchcase(str(name), pattern)), None)
        return cast("type[C] | None", kind)

    @classmethod
    def named(cls: type[C], name: str) -> C:
        """The config of a name, all else by default."""
        kind = cls.choose(name)
        if kind is None:
            raise BadValueError("name", name, f"set one of {', '.join(cls.table)}")
        return kind(name)

    def arguments(self) -> dict[str, Any]:
        """What the implementation takes by keyword: all keys but the name."""
        names = (field.name for field in dataclasses.fields(self) if field.name != "name")
        return {name: getattr(self, name) for name in names}

    def make(self, *positional: Any) -> Any:
        """Call the implementation with these arguments and the config's own."""
        module, _, name = self.implementation.partition(":")
        return getattr(importlib.import_module(module), name)(*positional, **self.arguments())


def import_modules(names: Sequence[str]) -> None:
    """Import modules that add to the tables: dotted names, or paths of `.py` files.

    Names are looked up in the working folder first, as by `python -m`. A file becomes a module of its own name.

    Raises:
        ConfigError: there is no such module, it fails, or its name is taken.
    """
    for name in names:
        try:
            if name.endswith(".py"):
                _import_file(Path(name).resolve())
            else:
                if "" not in sys.path and str(Path.cwd()) not in sys.path:
                    sys.path.insert(0, str(Path.cwd()))
                importlib.import_module(name)
        except Exception as error:
            raise ConfigError(
                f"--import {name}: cannot be imported ({type(error).__name__}: {error}); give the dotted name of a "
                "module, or the path of a .py file"
            ) from error


def _import_file(path: Path) -> None:
    present = sys.modules.get(path.stem)
    if present is not None:
        place = getattr(present, "__file__", None)
        if place is None or Path(place).resolve() != path:
            raise ImportError(f"a module {path.stem} is there already; rename the file")
        return
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
