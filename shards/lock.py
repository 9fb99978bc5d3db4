"""Who works in a folder: one build, or several parts of one.

Each has a file there that it keeps locked and writes to every few seconds, and looks for the files of those that it
must not meet. The lock ends with its owner, however that ends; on file systems whose locks hold on one machine only,
the writing tells other machines that the owner lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from arcticseg.errors import OutputError
from arcticseg.files import is_locked
from arcticseg.system import output_errors
from shards.share import Share

LOCK = ".build.lock"
_OF_PARTS = ".build.*-of-*.lock"
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
# Seconds between two writes of an owner; and after which one of another machine that has not written counts as gone.
_BEAT = 10.0
_PATIENCE = 35.0

Report = Callable[[str], None]


@contextlib.contextmanager
def folder_lock(folder: Path, report: Report, share: Share | None = None) -> Iterator[None]:
    """Keep others out of a folder: of a build all others, of a share of a build the whole build and the same share.

    Args:
        report: is told where the file system has no locks, and why it waits.
        share: the share of a build that is to be done here; None: the build itself.

    Raises:
        OutputError: another works in the folder; the message says which.
    """
    path = folder / _name(share)
    with output_errors(path):
        file = _locked(path, report)
    stop = threading.Event()
    beats = threading.Thread(target=_beat, args=(file, stop), daemon=True)
    try:
        _sign(file, 0)
        beats.start()
        others = folder.glob(_OF_PARTS) if share is None else [folder / LOCK]
        met = [other for other in others if _is_held(other, report)]
        if met:
            raise _refused(met[0], _holder(met[0]))
        yield
        if share is None:
            # What killed parts have left.
            for other in folder.glob(_OF_PARTS):
                other.unlink(missing_ok=True)
    finally:
        stop.set()
        if beats.ident is not None:
            # It must not write to another file that gets the number of this one.
            beats.join()
        path.unlink(missing_ok=True)
        os.close(file)


def _name(share: Share | None) -> str:
    return LOCK if share is None else f".build.{share.number}-of-{share.of}.lock"


def _refused(path: Path, holder: str) -> OutputError:
    name = path.name.removeprefix(".build.").removesuffix(".lock").replace("-of-", "/")
    who = "another build works" if path.name == LOCK else f"part {name} of a build works"
    return OutputError(f"{path.parent}: {who} here ({holder}); wait for its end, or choose another folder")


def _locked(path: Path, report: Report) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise _refused(path, _holder(path)) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            report(f"warning: {path.parent}: this file system has no locks; see that no other build works here")
        if _lives(path, report):
            os.close(file)
            raise _refused(path, _holder(path))
        # The previous owner may have removed the file between the two calls; then others would lock another file.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        os.close(file)


def _is_held(path: Path, report: Report) -> bool:
    """Whether the owner of a file lives."""
    return is_locked(path) or _lives(path, report)


def _lives(path: Path, report: Report) -> bool:
    """Whether the owner of a file that is not locked for this machine works on another, and still writes to it."""
    first = _read(path)
    words = first.split()
    if not words or words[-2:-1] == [_machine()]:
        return False
    report(f"{path.parent}: {_holder(path)} has begun here; looking for up to {_PATIENCE:g} s whether it still works")
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        time.sleep(min(1.0, _PATIENCE / 10))
        now = _read(path)
        if now != first:
            # Without its file it has ended.
            return bool(now)
    return False


def _sign(file: int, beat: int) -> None:
    """Say whose the file is, on which machine, and how often it has said so."""
    line = f"process {os.getpid()} on {socket.gethostname()}\n{_machine()} {beat:09d}\n".encode()
    os.ftruncate(file, len(line))
    os.pwrite(file, line, 0)
    os.fsync(file)


def _beat(file: int, stop: threading.Event) -> None:
    beat = 0
    while not stop.wait(_BEAT):
        beat += 1
        with contextlib.suppress(OSError):
            _sign(file, beat)


def _read(path: Path) -> str:
    """What stands in a file; opened each time, since network file systems only then look at the server."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _holder(path: Path) -> str:
    return (_read(path).splitlines() or ["a process that has just begun"])[0]


def _machine() -> str:
    """Of this machine, and of no other; within it, file systems do have locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()
