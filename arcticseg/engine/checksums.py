"""What makes a checkpoint's folder whole: `state.json`, written last, with size and checksum of each other file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from arcticseg.errors import ArcticSegError
from arcticseg.files import sync_file, sync_folder, write_text

STATE = "state.json"
# Keys of `state.json`: file -> (size, checksum), and the checksum of all other keys.
_FILES, _OWN = "files", "xxh3"
# What `state.json` held before it had checksums.
_UNSEALED = (
    {"step", "loader", "best", "world_size", "zero_stage"},
    {"step", "loader", "hooks", "world_size", "zero_stage"},
)

_CHUNK = 1 << 24


class DamagedError(ArcticSegError):
    """A checkpoint that is not whole; the message names its file."""


def sync_tree(folder: Path) -> None:
    """Flush all files below a folder, and their names, to the disk."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            sync_file(path)


def seal(folder: Path, state: Mapping[str, Any]) -> None:
    """Write `state.json` with the checksums of all files of a folder that are on the disk already.

    Raises:
        OutputError: it cannot be written.
    """
    files = {
        str(path.relative_to(folder)): [path.stat().st_size, _checksum(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / STATE
    }
    kept = {key: value for key, value in state.items() if key not in (_FILES, _OWN)} | {_FILES: files}
    write_text(folder / STATE, json.dumps(kept | {_OWN: _print(json.loads(json.dumps(kept)))}))


def read_state(folder: Path) -> dict[str, Any]:
    """What `state.json` holds.

    Raises:
        DamagedError: it is missing, or other than it was written.
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
    if own != _print(state) and not (own is None and state.keys() in _UNSEALED):
        raise DamagedError(f"{folder}: is damaged: checksum of {STATE}")
    return state


def is_sealed(state: Mapping[str, Any]) -> bool:
    """Whether a state has checksums; that of a checkpoint of version 0.1 has none."""
    return _FILES in state


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
            if _checksum(path) != checksum:
                raise DamagedError(f"{folder}: is damaged: checksum of {name}")
        except OSError as error:
            raise DamagedError(f"{folder}: is damaged: {name} cannot be read ({error.strerror})") from error
    return state


def seems_whole(folder: Path) -> bool:
    """Whether `state.json` is as it was written and each file as long as it was, without reading the files."""
    try:
        files = read_state(folder).get(_FILES, {})
        return all((folder / name).stat().st_size == size for name, (size, _) in files.items())
    except (DamagedError, OSError):
        return False


def remove(path: Path) -> None:
    """Remove a folder or a file, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _checksum(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _print(state: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(state, sort_keys=True).encode())
