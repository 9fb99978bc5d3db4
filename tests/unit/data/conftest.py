"""Batches, transforms and loaders need torch; the other tests of this folder run without it."""

from __future__ import annotations

from importlib.util import find_spec

_NEEDS_TORCH = ["augment", "batch", "damage", "elastic", "loader", "memory", "ring", "transforms", "validation"]
collect_ignore = [] if find_spec("torch") else [f"test_{name}.py" for name in _NEEDS_TORCH]
