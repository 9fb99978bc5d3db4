"""One build at a time in a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from arcticseg.errors import OutputError
from arcticseg.system import output_errors

LOCK = ".build.lock"
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@contextlib.contextmanager
def folder_lock(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Keep other builds out of a folder; the system releases the lock when its owner ends, however it ends.

    Args:
        report: is told where the file system has no locks.

    Raises:
        OutputError: another build works in the folder; the message says which.
    """
    path = folder / LOCK
    with output_errors(path):
        file = _locked(path, report)
    try:
        os.truncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _locked(path: Path, report: Callable[[str], None]) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 200).decode(errors="replace") or "a process that has just begun"
            os.close(file)
            raise OutputError(
                f"{path.parent}: another build works here ({holder}); wait for its end, or choose another folder"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            report(f"warning: {path.parent}: this file system has no locks; see that no other build works here")
            return file
        # The previous owner may have removed the file between the two calls; then others would lock another file.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        os.close(file)
