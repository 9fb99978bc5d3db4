"""Batches, transforms and the loader need torch; the rest of this folder runs without it."""

from __future__ import annotations

from importlib.util import find_spec

_NEEDS_TORCH = ["batch", "damage", "elastic", "loader", "memory", "ring", "transforms"]
collect_ignore = [] if find_spec("torch") else [f"test_{name}.py" for name in _NEEDS_TORCH]
