"""Modules from outside the package, in tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arcticseg.choice import Choice


@contextmanager
def forgotten(folder: Path, *bases: type[Choice]) -> Iterator[None]:
    """Forget afterwards the modules of a folder, its place in the path, and what was added to the tables."""
    path, tables = list(sys.path), [dict(base.table) for base in bases]
    try:
        yield
    finally:
        sys.path[:] = path
        for base, table in zip(bases, tables, strict=True):
            base.table.clear()
            base.table.update(table)
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "/").is_relative_to(folder):
                del sys.modules[name]
