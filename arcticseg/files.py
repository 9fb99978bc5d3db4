"""Writing that leaves either the whole file or none.

A file is written beside its place under a hidden temporary name, flushed to disk and renamed, so a reader never sees
half of it, whatever kills the writer.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from arcticseg.system import output_errors

# Processes of several machines, whose numbers may be the same, can write to one folder.
_MACHINE = f"{secrets.randbelow(10**9):09d}"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path with the same suffix; rename it to `path` when the block ends well.

    Raises:
        OutputError: the folder cannot be written to or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{_MACHINE}.tmp{path.suffix}")
    try:
        # Why it fails may show in the temporary file.
        with output_errors(path):
            yield temporary
            sync_file(temporary)
            # Some libraries make their files private; here the user's umask counts, so that a group can read them.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
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


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock of a file (flock), as far as its file system has locks that reach here."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        # Shared: others may look at the same time.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(file)
    return False
