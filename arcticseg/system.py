"""What the operating system refuses, and what to do about it: the only such table."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from arcticseg.errors import ArcticSegError, OutputError

# A file system with less space than this is full.
_FULL = 1 << 20
# A library that fails at the limit of a file's size may have written whole blocks only.
_BLOCK = 1 << 16


class Refusal(NamedTuple):
    """Why the system refuses to open, read or write a file.

    Attributes:
        reason: of a file that cannot be read, in words; of one that cannot be written, the system's own say it.
        reading: what to do where a file cannot be read.
        writing: what to do where one cannot be written.
    """

    reason: str
    reading: str
    writing: str


_PERMISSION = Refusal(
    "you may not read it", "ask its owner for permission to read", "choose a folder that you may write to"
)
_FULL_DISK = Refusal("the disk is full", "free some space", "free some space or choose another output folder")
_QUOTA = Refusal(
    "the quota is used up", "free some space", "the quota is used up; free some space or choose another output folder"
)
_READ_ONLY = Refusal(
    "its file system is read-only", "copy it to another", "the file system is read-only; choose another output folder"
)
_TOO_LARGE = Refusal(
    "it is larger than this system can read",
    "use a 64-bit system",
    "it is larger than this system allows for a file; raise the limit (ulimit -f), or use a file system without it",
)
_TOO_MANY = Refusal(
    "too many files are open",
    "raise the limit (ulimit -n) or use fewer workers",
    "raise the limit (ulimit -n) or use fewer workers",
)
_TOO_MANY_HERE = Refusal(
    "too many files are open on this machine",
    "end other programs or use fewer workers",
    "end other programs or use fewer workers",
)
_NO_MEMORY = Refusal(
    "the memory of this machine is used up",
    "use a larger machine or fewer workers",
    "use a larger machine or fewer workers",
)
_NOT_THERE = Refusal(
    "it is not there any more",
    "give a file that stays",
    "there is no such folder; make it or choose another output folder",
)
_IN_THE_WAY = Refusal(
    "a file stands where a folder must be",
    "correct the path",
    "a file stands where a folder must be; remove it or choose another output folder",
)
_FOLDER = Refusal(
    "it is a folder", "give a file", "a folder stands where a file must be; remove it or choose another name"
)
_LONG_NAME = Refusal("its name is too long", "give it a shorter name", "choose a shorter name")
_CIRCLE = Refusal(
    "its links lead in a circle", "give the file itself", "its links lead in a circle; choose another output folder"
)
_LOCKED = Refusal(
    "another program has it open for writing and has locked it",
    "wait until that ends",
    "another program uses it; wait until that ends, or choose another name",
)
_FAILS = Refusal(
    "the disk or the file server fails",
    "try again, or get the file again",
    "the disk or the file server fails; choose another output folder",
)
REFUSALS: dict[int, Refusal] = {
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.ENOSPC: _FULL_DISK,
    errno.EDQUOT: _QUOTA,
    errno.EROFS: _READ_ONLY,
    errno.EFBIG: _TOO_LARGE,
    errno.EOVERFLOW: _TOO_LARGE,
    errno.EMFILE: _TOO_MANY,
    errno.ENFILE: _TOO_MANY_HERE,
    errno.ENOMEM: _NO_MEMORY,
    errno.ENOENT: _NOT_THERE,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.EISDIR: _FOLDER,
    errno.ENAMETOOLONG: _LONG_NAME,
    errno.ELOOP: _CIRCLE,
    errno.EAGAIN: _LOCKED,
    errno.EBUSY: _LOCKED,
    errno.ETXTBSY: _LOCKED,
    errno.EIO: _FAILS,
    errno.ESTALE: _FAILS,
    errno.ETIMEDOUT: _FAILS,
}
# What a library's number does not tell from a full disk or a read-only file system.
_VAGUE = (errno.EACCES, errno.EPERM)


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
        raise OutputError(f"{path}: cannot be written: {os.strerror(number)}; {REFUSALS[number].writing}") from error


def why_unread(error: OSError, otherwise: str) -> str:
    """Reason and remedy of a failure to read a file; `otherwise` is the remedy where it is missing or unforeseen."""
    refusal = REFUSALS.get(error.errno or 0)
    if refusal is None or error.errno == errno.ENOENT:
        return f"cannot be read ({error.strerror or error}); {otherwise}"
    return f"cannot be read ({refusal.reason}); {refusal.reading}"


def told(error: OSError) -> str | None:
    """A line for an error of the system that nobody has turned into one of ours; None: it is no refusal."""
    refusal = REFUSALS.get(error.errno or 0)
    if refusal is None:
        return None
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{os.strerror(error.errno or 0)}; {refusal.reading}"


def _reason(error: Exception, path: Path) -> int | None:
    """The system's error number for a failure to write `path`; None where the error is of another kind."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENOENT and path.parent.is_dir():
        return None  # something else is missing
    if number in REFUSALS and number not in _VAGUE:
        return number
    # HDF5 reports any failure as a bare "HDF error", or a full disk as "permission denied"; GDAL, torch and safetensors
    # raise errors without a number. So look at the system.
    if isinstance(error, (OSError, RuntimeError)):
        looked = _looked(path)
        if looked is not None:
            return looked
    said = f"{error} {error.__cause__} {error.__context__}"
    in_words = (known for known in REFUSALS if known not in _VAGUE and os.strerror(known) in said)
    return next(in_words, number if number in REFUSALS else None)


def _looked(path: Path) -> int | None:
    """Why nothing can be written to `path`, as far as the system shows it."""
    try:
        os.close(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        return error.errno if error.errno in (errno.EMFILE, errno.ENFILE) else None
    place = next((folder for folder in (path, *path.absolute().parents) if folder.exists()), None)
    if place is None:
        return None
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        return errno.EROFS
    if free_bytes(place) < _FULL:
        return errno.ENOSPC
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY:
        folder = place if place.is_dir() else place.parent
        if any(file.stat().st_size > limit - _BLOCK for file in folder.iterdir() if file.is_file()):
            return errno.EFBIG
    return None


def free_bytes(path: Path) -> int:
    """Free bytes on the file system of `path`, or of its nearest parent that exists; 0 where none exists."""
    for place in (path, *path.absolute().parents):
        if place.exists():
            stat = os.statvfs(place)
            return stat.f_bavail * stat.f_frsize
    return 0
