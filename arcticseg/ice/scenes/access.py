"""Why a file cannot be read: locked, not permitted, cut, or damaged, each with what to do."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from arcticseg.errors import ArcticSegError, SceneError, heed_interrupt
from arcticseg.system import REFUSALS

# How a file system says that it has no locks, which HDF5 asks for.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# What HDF5 says of a file that ends too early, and of one whose writer has not closed it.
_CUT = re.compile(r"truncated file: eof = (\d+), sblock->base_addr = \d+, stored_eof = (\d+)")
_UNCLOSED = re.compile(r"already open for write|file consistency flags|SWMR", re.IGNORECASE)


@contextmanager
def reading(path: Path, variable: str = "") -> Iterator[None]:
    """Turn an error of a library that reads a file into a SceneError: the file (and variable), the reason, the remedy.

    Raises:
        SceneError: the block raised an error of another kind than `ArcticSegError`.
    """
    try:
        yield
    except ArcticSegError:
        raise
    except MemoryError as error:
        raise SceneError(
            f"{path}: too large for the memory of this machine; use a larger one, or fewer workers"
        ) from error
    except Exception as error:  # the libraries' own errors have no common type; damage can raise any error
        heed_interrupt(error)
        reason, remedy = _diagnosis(path, error)
        what = f"{variable} cannot" if variable else "cannot"
        raise SceneError(f"{path}: {what} be read ({reason}); {remedy}") from error


def _diagnosis(path: Path, error: Exception) -> tuple[str, str]:
    """Reason and remedy of a failure to read a file."""
    # netCDF and HDF5 give numbers of their own, below zero, or none; so ask the system for the file.
    number = error.errno if isinstance(error, OSError) else None
    if number in REFUSALS:
        return REFUSALS[number].reason, REFUSALS[number].reading
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as refusal:
        if refusal.errno in REFUSALS:
            return REFUSALS[refusal.errno].reason, REFUSALS[refusal.errno].reading
        if refusal.errno in _NO_LOCKS:
            return "its file system gives no locks", "set HDF5_USE_FILE_LOCKING=FALSE, or copy the file to a local disk"
    else:
        if not size:
            return "it is empty", "wait until it is written, or get it again"
    said = f"{error} {_hdf5_error(path)}"
    cut = _CUT.search(said)
    if cut:
        return (
            f"it ends after {cut.group(1)} of {cut.group(2)} bytes",
            "it is cut, or still being copied; wait until that ends, or get it again",
        )
    if _UNCLOSED.search(said):
        return "its writer has not closed it", "wait until that ends, or get the file again"
    first_line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return first_line, "it is damaged or cut; get the file again"


def _hdf5_error(path: Path) -> str:
    """What HDF5 says when it opens the file; empty: nothing."""
    try:
        with h5py.File(os.path.abspath(path), "r"):
            return ""
    except Exception as error:  # damage can raise any error
        heed_interrupt(error)
        return str(error)
