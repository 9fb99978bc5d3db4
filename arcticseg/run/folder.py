"""Every name in a run folder, and what may change when a run goes on."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from arcticseg import config
from arcticseg.errors import ConfigError
from arcticseg.files import is_locked, make_folder
from arcticseg.system import output_errors

# The resolved config.
CONFIG = "config.yaml"
# One line of JSON a logged step, validation or event.
METRICS = "metrics.jsonl"
# Which wandb run it is; of a run that is logged to wandb.
WANDB = "wandb.json"
# Event files for TensorBoard, where they are asked for.
TENSORBOARD = "tensorboard"
# Under a sweep: what the training prints, and the file that is locked while a process of it lives.
LOG = "train.log"
LOCK = ".lock"
# Locked by the training that works in the folder; it holds a line once a checkpoint was written.
TRAINING = ".training"
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
    "engine.zero_stage": True,
    "engine.offload": True,
    "engine.compile": True,
    "engine.max_skipped": True,
    "engine.threads": True,
    "engine.hang_seconds": True,
    "data.workers": True,
    "data.shards": False,
    "data.tail": False,
    "data.cache": True,
    "data.cache_bytes": True,
    "data.max_damaged": False,
    "data.patience": True,
    "data.retries": True,
}


# Seconds that a training which was killed has to end.
_ENDING = 5.0
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@contextlib.contextmanager
def held(folder: Path, report: Callable[[str], None], seconds: float = _ENDING) -> Iterator[None]:
    """Keep other trainings out of a run folder; the system ends this when the process ends, however it ends.

    Args:
        report: is told where the file system has no locks.
        seconds: to wait for a training that holds it.

    Raises:
        ConfigError: another training works in the folder.
        OutputError: the folder cannot be written to.
    """
    path = make_folder(folder) / TRAINING
    with output_errors(path):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with output_errors(path):
            until = time.monotonic() + seconds
            while not _locked(file, folder, report):
                if time.monotonic() > until:
                    raise ConfigError(
                        f"key 'out' is '{folder}', where another training works; wait for its end, or set another"
                    )
                time.sleep(0.1)
        yield
    finally:
        os.close(file)


def in_use(folder: Path) -> bool:
    """Whether a training works in a run folder, as far as its file system has locks that reach here."""
    return is_locked(folder / TRAINING)


def _locked(file: int, folder: Path, report: Callable[[str], None]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        report(f"{folder}: this file system has no locks; see that no other training works here")
    return True


def note_checkpoint(folder: Path) -> None:
    """Note that the run has had a checkpoint, so that none is missed when all are lost."""
    if not had_checkpoint(folder):
        with contextlib.suppress(OSError):
            (folder / TRAINING).write_text("this run has had a checkpoint\n")


def forget_checkpoint(folder: Path) -> None:
    """Note that the run begins, and has no checkpoint yet."""
    if had_checkpoint(folder):
        with output_errors(folder / TRAINING):
            os.truncate(folder / TRAINING, 0)


def forget_wandb(folder: Path) -> None:
    """Note that the run begins: what may be left of another has nothing to do with it."""
    with output_errors(folder / WANDB):
        (folder / WANDB).unlink(missing_ok=True)


def had_checkpoint(folder: Path) -> bool:
    """Whether the run has noted that it had a checkpoint."""
    path = folder / TRAINING
    return path.is_file() and path.stat().st_size > 0


def holds_run(folder: Path) -> bool:
    """Whether anything of a run is in a folder."""
    parts = (folder / CHECKPOINTS, last_weights(folder).parent)
    return any((folder / name).exists() for name in (METRICS, CONFIG)) or any(
        part.is_dir() and any(part.iterdir()) for part in parts
    )


def weights_path(folder: Path, name: str) -> Path:
    """Where a run keeps its weights: `last` are those of its end, `best-SCORE` those of its best validation."""
    return folder / "weights" / f"{name}.safetensors"


def picture_path(folder: Path, step: int) -> Path:
    """Where a run keeps its picture of validation samples after a step."""
    return folder / "pictures" / f"step-{step:08d}.png"


def skipped_path(folder: Path) -> Path:
    """Where a run writes down the samples of steps that it left out for NaN or infinity."""
    return folder / "skipped.jsonl"


def last_weights(folder: Path) -> Path:
    """The weights that a run writes when it reaches its end."""
    return weights_path(folder, "last")


def finished(folder: Path) -> bool:
    """Whether the run has reached its end."""
    return last_weights(folder).is_file()


def weights_file(place: Path) -> Path:
    """The weights that a run folder or a file stands for.

    Of a run: the best by combined score or by reconstruction; the best by a chart where that is the only score; else
    the last. Where it is not the best by the run's first score, a warning says so.

    Raises:
        ConfigError: there are none.
    """
    if place.is_file():
        return place
    best = [weights_path(place, f"best-{name}") for name in ("combined", "reconstruction")]
    charts = list(weights_path(place, "best").parent.glob("best-*.safetensors"))
    candidates = [*best, *(charts if len(charts) == 1 else []), last_weights(place)]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise ConfigError(f"{place}: holds no weights; give a run folder that has trained, or a .safetensors file")
    score = _first_score(place)
    if path.stem not in (f"best-{score}" if score else "best-combined", "best-reconstruction"):
        missing = f"no best weights by {score or 'combined'} ({_why_missing(place, score or 'combined')})"
        warnings.warn(f"{place}: {missing}; using {path.relative_to(place)}", stacklevel=2)
    return path


def _first_score(place: Path) -> str | None:
    """The score that a run's best weights are best by; None: its config cannot be read."""
    try:
        keys = config.read(place / CONFIG)
        charts = keys.get("model", {}).get("charts", ())
        return "reconstruction" if keys["task"] == "pretrain" else charts[0] if len(charts) == 1 else "combined"
    except (ConfigError, AttributeError, KeyError, TypeError):
        return None


def _why_missing(place: Path, score: str) -> str:
    """Why a run has no best weights by a score, as far as its metrics tell."""
    try:
        lines = (place / METRICS).read_text(encoding="utf-8").splitlines()
        scores = [line[score] for line in map(json.loads, lines) if line["kind"] == "validation" and score in line]
    except (OSError, ValueError, KeyError, TypeError):
        return "its metrics do not tell why"
    if not scores:
        return "no validation has given it"
    if all(value is None for value in scores):
        return "undefined at each validation: no ice, or no labels, in the validation scenes"
    return "the file has gone"


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
