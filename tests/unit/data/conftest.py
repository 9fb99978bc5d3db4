"""Batches, transforms and the loader need torch; the rest of this folder runs without it."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = (
    [] if find_spec("torch") else ["test_batch.py", "test_elastic.py", "test_loader.py", "test_transforms.py"]
)
