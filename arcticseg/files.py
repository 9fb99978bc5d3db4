"""Writing that leaves either the whole file or none.

A file is written beside its place under a hidden temporary name, flushed to disk and renamed, so a reader never sees
half of it, whatever kills the writer.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from arcticseg.errors import ArcticSegError, OutputError

_REMEDIES = {
    errno.ENOSPC: "free some space or choose another output folder",
    errno.EDQUOT: "the quota is used up; free some space or choose another output folder",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "the file system is read-only; choose another output folder",
    errno.ENOENT: "there is no such folder; make it or choose another output folder",
    errno.ENOTDIR: "a file stands where a folder must be; remove it or choose another output folder",
    errno.EEXIST: "a file stands where a folder must be; remove it or choose another output folder",
    errno.EISDIR: "a folder stands where a file must be; remove it or choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "the disk or the file server fails; choose another output folder",
}

# A file system with less space than this is full.
_FULL = 1 << 20


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn a failure to write `path` into an OutputError with a remedy; other errors pass through."""
    try:
        yield
    except ArcticSegError:
        raise
    except Exception as error:
        number = _reason(error, path)
        if number is None:
            raise
        raise OutputError(f"{path}: cannot be written: {os.strerror(number)}; {_REMEDIES[number]}") from error


def _reason(error: Exception, path: Path) -> int | None:
    """The system's error number for a failure to write `path`; None where the error is of another kind."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENOENT and path.parent.is_dir():
        return None  # something else is missing
    if number in _REMEDIES and number not in (errno.EACCES, errno.EPERM):
        return number
    # HDF5 reports any failure as a bare "HDF error", or a full disk as "permission denied"; GDAL, torch and safetensors
    # raise errors without a number. So look at the file system.
    place = next((folder for folder in (path, *path.absolute().parents) if folder.exists()), None)
    if isinstance(error, (OSError, RuntimeError)) and place is not None:
        if os.statvfs(place).f_flag & os.ST_RDONLY:
            return errno.EROFS
        if free_bytes(place) < _FULL:
            return errno.ENOSPC
    if os.strerror(errno.ENOSPC) in str(error):
        return errno.ENOSPC
    return number if number in _REMEDIES else None


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path with the same suffix; rename it to `path` when the block ends well.

    Raises:
        OutputError: the folder cannot be written to or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    with output_errors(path):
        try:
            yield temporary
            sync_file(temporary)
            # Some libraries make their files private; here the user's umask counts, so that a group can read them.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Flush a file to the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a new name in a folder to the disk, where the file system can do that."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(number)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file or none.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file.

    Raises:
        OutputError: it cannot be written.
    """
    with output_errors(path), open(path, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def make_folder(path: Path) -> Path:
    """Create a folder and its parents, and check that it can be written to.

    Raises:
        OutputError: a file is in the way, or the folder is not writable.
    """
    path = Path(path)
    with output_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe.{os.getpid()}"
        try:
            probe.touch()
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
    return path


def free_bytes(path: Path) -> int:
    """Free bytes on the file system of `path`, or of its nearest parent that exists; 0 where none exists."""
    for place in (path, *path.absolute().parents):
        if place.exists():
            stat = os.statvfs(place)
            return stat.f_bavail * stat.f_frsize
    return 0
