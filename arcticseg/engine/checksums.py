"""What makes a checkpoint's folder whole: `state.json`, written last, with size and checksum of each other file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from arcticseg.engine.progress import alive
from arcticseg.errors import ArcticSegError
from arcticseg.files import write_text

STATE = "state.json"
# Keys of `state.json`: file -> (size, checksum), and the checksum of all other keys.
_FILES, _OWN = "files", "xxh3"
# Key of the format's number, which is missing where DeepSpeed wrote the tensors, as up to version 0.1.
_FORMAT, FORMAT = "format", 2

_CHUNK = 1 << 24


class DamagedError(ArcticSegError):
    """A checkpoint that is not whole; the message names its file."""


class OldFormatError(ArcticSegError):
    """A checkpoint of a version that is no longer read."""


def seal(folder: Path, state: Mapping[str, Any], files: Mapping[str, tuple[int, str]]) -> None:
    """Write `state.json`, which makes a folder whole.

    Args:
        files: name -> (size, checksum) of each other file, which is on the disk already.

    Raises:
        OutputError: it cannot be written.
    """
    kept = {**state, _FORMAT: FORMAT, _FILES: dict(files)}
    write_text(folder / STATE, json.dumps(kept | {_OWN: _print(json.loads(json.dumps(kept)))}))


def read_state(folder: Path) -> dict[str, Any]:
    """What `state.json` holds.

    Raises:
        DamagedError: it is missing, or other than it was written.
        OldFormatError: another version wrote it.
    """
    path = folder / STATE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DamagedError(f"{folder}: is damaged: {STATE} is missing") from None
    except (OSError, ValueError) as error:
        raise DamagedError(f"{folder}: is damaged: {STATE} cannot be read ({error})") from error
    if not isinstance(state, dict):
        raise DamagedError(f"{folder}: is damaged: {STATE} holds {type(state).__name__}")
    own = state.pop(_OWN, None)
    if _FORMAT not in state and {"step", "loader", "zero_stage"} <= state.keys():
        raise OldFormatError(
            f"{folder}: is of version 0.1, whose checkpoints are pickles of DeepSpeed, which are not read; start "
            "another 'out' from the weights of this run by model.init_from, or finish it with version 0.1"
        )
    if own != _print(state):
        raise DamagedError(f"{folder}: is damaged: checksum of {STATE}")
    if state[_FORMAT] != FORMAT:
        raise OldFormatError(f"{folder}: has format {state[_FORMAT]}, this version reads {FORMAT}; use a newer version")
    return state


def verify(folder: Path) -> dict[str, Any]:
    """Read each file of a checkpoint; what `state.json` holds.

    Raises:
        DamagedError: a file is missing, or other than it was written; the message names it.
    """
    state = read_state(folder)
    for name, (size, checksum) in state.get(_FILES, {}).items():
        path = folder / name
        try:
            if path.stat().st_size != size:
                raise DamagedError(f"{folder}: is damaged: {name} has {path.stat().st_size} bytes, not {size}")
            if checksum_of(path)[1] != checksum:
                raise DamagedError(f"{folder}: is damaged: checksum of {name}")
        except OSError as error:
            raise DamagedError(f"{folder}: is damaged: {name} cannot be read ({error.strerror})") from error
    return state


def seems_whole(folder: Path) -> bool:
    """Whether `state.json` is as it was written and each file as long as it was, without reading the files."""
    try:
        files = read_state(folder).get(_FILES, {})
        return all((folder / name).stat().st_size == size for name, (size, _) in files.items())
    except (DamagedError, OldFormatError, OSError):
        return False


def remove(path: Path) -> None:
    """Remove a folder or a file, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def checksum_of(path: Path, flush: bool = False) -> tuple[int, str]:
    """Size and xxh3-128 of a file; `flush`: see that it is on the disk.

    Raises:
        OSError: it cannot be read.
    """
    digest = xxhash.xxh3_128()
    size = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            alive()
            size += len(chunk)
        if flush:
            os.fsync(file.fileno())
    return size, digest.hexdigest()


def _print(state: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(state, sort_keys=True).encode())
