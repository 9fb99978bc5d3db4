"""The part of itself that DeepSpeed compiles where there is no GPU: where it is kept, and locks that killed ones leave.

torch compiles under a lock file, which it waits for without a word and without an end. A process that is killed
meanwhile leaves the file behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import sys
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

_NAME = "deepspeed_shm_comm"
_FOLDER = "TORCH_EXTENSIONS_DIR"
# A lock that no process of this machine holds may be that of another machine, which compiles for a minute.
_STALE = 120.0
# Seconds before a rank says that it waits.
_TELL = 15.0
_POLL = 0.5


def load() -> None:
    """Compile DeepSpeed's part, or load it where that is done; stale locks do not matter."""
    os.environ.setdefault(_FOLDER, str(_own_folder()))
    from deepspeed.comm.torch import build_shm_op

    # It prints to stdout that it has compiled, which is not output of ours.
    with _watched(Path(os.environ[_FOLDER]) / _NAME / "lock"), contextlib.redirect_stdout(io.StringIO()):
        build_shm_op()


def _own_folder() -> Path:
    """A cache of this environment alone: what others compile does not fit, and is compiled again by each in turn."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    what = " ".join((sys.prefix, sys.version, version("torch"), version("deepspeed")))
    return Path(base) / "arcticseg" / "extensions" / hashlib.sha256(what.encode()).hexdigest()[:12]


@contextlib.contextmanager
def _watched(lock: Path) -> Iterator[None]:
    """Meanwhile, say what is waited for, and remove a lock that nobody holds."""
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(lock, done), daemon=True)
    watch.start()
    try:
        yield
    finally:
        done.set()
        watch.join()


def _watch(lock: Path, done: threading.Event) -> None:
    began, told = time.monotonic(), False
    while not done.is_set():
        age = _age(lock)
        if age is not None and not is_open(lock):
            if age >= _STALE:
                with contextlib.suppress(OSError):
                    lock.unlink()
                    _note(f"removed the lock {lock}, which a compilation that was killed has left")
            elif not told and time.monotonic() - began > _TELL:
                left = f"unless it goes, it is removed in {_STALE - age:.0f} s"
                _note(f"waits for the lock {lock}, which no process of this machine holds; {left}")
                told = True
        elif age is not None and not told and time.monotonic() - began > _TELL:
            _note(f"waits while a part of DeepSpeed is compiled, once (lock {lock})")
            told = True
        done.wait(_POLL)


def _age(lock: Path) -> float | None:
    """Seconds since a file was written; None: it is not there."""
    try:
        return time.time() - lock.stat().st_mtime
    except OSError:
        return None


def is_open(path: Path) -> bool:
    """Whether a process of this machine that we may look at has a file open, or is unknown."""
    target = os.path.realpath(path)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(entry) == target for entry in (process / "fd").iterdir()):
                return True
        except OSError:
            continue
    return False


def _note(text: str) -> None:
    print(f"arcticseg: {text}", file=sys.stderr, flush=True)
