"""Every name in a run folder, and what may change when a run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from arcticseg import config
from arcticseg.errors import ConfigError

# The resolved config.
CONFIG = "config.yaml"
# One line of JSON a logged step, validation or event.
METRICS = "metrics.jsonl"
# Under a sweep: what the training prints, and the file that is locked while a process of it lives.
LOG = "train.log"
LOCK = ".lock"
# Folder of the checkpoints.
CHECKPOINTS = "checkpoints"

# What may differ between a run and its resumption: key, with all keys below it -> whether it leaves unchanged what is
# learnt. Trials of a study that differ only in keys with True are the same.
CHANGEABLE: dict[str, bool] = {
    "out": True,
    "imports": False,
    "tracking": True,
    "validate_every": False,
    "checkpoint_every": True,
    "engine.global_batch_size": False,
    "engine.micro_batch_size": False,
    "engine.threads": True,
    "data.workers": True,
    "data.shards": False,
    "data.tail": False,
    "data.cache": True,
    "data.cache_bytes": True,
    "data.max_damaged": False,
    "data.patience": True,
    "data.retries": True,
}


def weights_path(folder: Path, name: str) -> Path:
    """Where a run keeps its weights: `last` are those of its end, `best-SCORE` those of its best validation."""
    return folder / "weights" / f"{name}.safetensors"


def last_weights(folder: Path) -> Path:
    """The weights that a run writes when it reaches its end."""
    return weights_path(folder, "last")


def finished(folder: Path) -> bool:
    """Whether the run has reached its end."""
    return last_weights(folder).is_file()


def weights_file(place: Path) -> Path:
    """The weights that a run folder or a file stands for.

    Of a run: the best by combined score or by reconstruction; the best by a chart where that is the only score; else
    the last.

    Raises:
        ConfigError: there are none.
    """
    if place.is_file():
        return place
    for name in ("combined", "reconstruction"):
        path = weights_path(place, f"best-{name}")
        if path.is_file():
            return path
    charts = list(weights_path(place, "best").parent.glob("best-*.safetensors"))
    if len(charts) == 1:
        return charts[0]
    if finished(place):
        return last_weights(place)
    raise ConfigError(f"{place}: holds no weights; give a run folder that has trained, or a .safetensors file")


def may_change(key: str) -> bool:
    """Whether a dotted key may differ between a run and its resumption."""
    return _changeable(key) is not None


def no_effect(key: str) -> bool:
    """Whether a dotted key leaves unchanged what is learnt."""
    return _changeable(key) is True


def _changeable(key: str) -> bool | None:
    for name, unchanged in CHANGEABLE.items():
        if key == name or key.startswith(f"{name}."):
            return unchanged
    return None


def differences(before: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """(dotted key, value before, value now) of each key in which two configs differ, in the order of the first."""
    return list(_differences(config.to_dict(before), config.to_dict(now), ""))


def _differences(before: Mapping[Any, Any], now: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any, Any]]:
    for key in [*before, *(key for key in now if key not in before)]:
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping) and old and new:
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}", old, new
