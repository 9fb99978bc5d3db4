"""What all ranks must have in common before the first step: config, samples and run folder."""

from __future__ import annotations

import contextlib
import secrets
import time
from pathlib import Path
from typing import Any

from arcticseg import config
from arcticseg.engine import process_group
from arcticseg.engine.process_group import Ranks
from arcticseg.errors import ArcticSegError, ConfigError
from arcticseg.run.config import RunConfig
from arcticseg.run.folder import differences
from arcticseg.system import output_errors

# Keys that may differ between ranks: where things are on a machine, and how it reads them.
_OWN = (
    "out",
    "data.shards",
    "data.workers",
    "data.cache",
    "data.cache_bytes",
    "data.patience",
    "data.retries",
    "engine.threads",
    "imports",
)
_SIGN = ".rank0-"
# Seconds in which a file that rank 0 has written must show on other machines.
_SHOWS = 20.0


def check_same(cfg: RunConfig, samples: str) -> None:
    """See that all ranks are to train the same; every rank must call it.

    Args:
        samples: fingerprint of the training samples.

    Raises:
        ConfigError: a rank has another config, or other samples; the same on all ranks.
    """
    told: list[tuple[dict[str, Any], str]] = process_group.gather((config.to_dict(cfg), samples))
    first, theirs = told[0]
    for rank, (keys, own) in enumerate(told):
        for key, here, there in differences(first, keys):
            if key not in _OWN:
                told_by = f"rank {rank} has {there!r} for key '{key}', rank 0 has {here!r}"
                raise _of(rank, f"{told_by}; start all ranks with the same config")
        if own != theirs:
            place = keys["data"]["shards"]
            raise _of(rank, f"key 'data.shards' is {place!r}, which has other samples on rank {rank} than on rank 0")


def check_folder(out: Path, ranks: Ranks) -> None:
    """See that the run folder is one for all ranks; every rank must call it, once rank 0 has made it.

    Raises:
        ConfigError: a rank does not see what rank 0 writes; the same on all ranks.
        OutputError: rank 0 cannot write.
    """
    if ranks.world_size == 1:
        return
    # A new name, since a file server's client remembers for a while that a name was not there.
    sign = out / f"{_SIGN}{process_group.gather(secrets.token_hex(8))[0]}"
    error: ArcticSegError | None = None
    if ranks.is_main:
        try:
            with output_errors(sign):
                for old in out.glob(f"{_SIGN}*"):
                    old.unlink()
                sign.touch()
        except ArcticSegError as caught:
            error = caught
    process_group.agree(error)
    try:
        if not shows(sign):
            remedy = "set an 'out' that all machines share"
            error = _of(
                ranks.rank, f"key 'out' is '{out}', where rank {ranks.rank} does not see rank 0's files; {remedy}"
            )
        process_group.agree(error)
    finally:
        if ranks.is_main:
            with contextlib.suppress(OSError):
                sign.unlink()


def shows(path: Path) -> bool:
    """Whether this machine sees what is there, within the time that a file server's clients may take."""
    until = time.monotonic() + _SHOWS
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def _of(rank: int, text: str) -> ConfigError:
    """An error that this rank tells."""
    error = ConfigError(text)
    error.met_by = rank
    return error
