"""Every name in a run folder, and what may change when a run is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arcticseg.errors import ConfigError


def weights_file(place: Path) -> Path:
    """The weights that a run folder or a file stands for: the best by combined score, else the best, else the last.

    Raises:
        ConfigError: there are none.
    """
    if place.is_file():
        return place
    folder = place / "weights"
    for name in ("best-combined", "best-reconstruction", "last"):
        if (folder / f"{name}.safetensors").is_file():
            return folder / f"{name}.safetensors"
    raise ConfigError(f"{place}: holds no weights; give a run folder that has trained, or a .safetensors file")


CONFIG = "config.yaml"

# What may differ between a run and its resumption.
_MAY_CHANGE = (
    "out",
    "tracking",
    "validate_every",
    "checkpoint_every",
    "engine.global_batch_size",
    "engine.micro_batch_size",
    "engine.threads",
    "data.workers",
    "data.shards",
    "data.tail",
    "data.cache",
    "data.max_damaged",
    "data.patience",
    "data.retries",
)


def _differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    for key in a:
        if isinstance(a[key], dict) and isinstance(b[key], dict) and a[key].keys() == b[key].keys():
            found += _differences(a[key], b[key], f"{prefix}{key}.")
        elif a[key] != b[key]:
            found.append((f"{prefix}{key}", a[key], b[key]))
    return found
