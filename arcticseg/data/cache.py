"""Whole shards kept in a local folder, shared by all processes of a machine and by runs one after another.

    HASH-BYTES.tar     a shard, verified; HASH is its xxh3-64 by the manifest, so a changed source has another name
    HASH-BYTES.part    a shard that is being downloaded
    HASH-BYTES.lock    the process that holds this lock downloads, the others wait
    lock               held while room is made

Locks are the kernel's (flock), so they end with their owner. A shard in use has a shared lock on its file; a shard that
can be locked exclusively is not in use, and after a while it may be removed for room, the longest unused first.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import fcntl
import math
import os
import stat
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import xxhash

from arcticseg.data.manifest import ShardEntry
from arcticseg.data.order import AT_ONCE
from arcticseg.data.source import BrokenOffError, Source
from arcticseg.errors import ShardError
from arcticseg.files import make_folder

# Shards that a process keeps open, and so in use. To open a shard again takes microseconds.
_OPEN = 2
# Seconds that a shard stays after its last use. Else, where there is room for fewer shards than are used in turn, each
# would push out the next before it is used again, and whole shards would be downloaded for single samples.
_LATELY = 60.0
# Seconds after which a shard that had no room is tried again.
_AGAIN = 10.0


class NoRoomError(Exception):
    """The cache has no room for a shard; the message says why."""


class Cache:
    """Whole shards in a local folder; a copy in another process or thread opens its own files.

    Args:
        folder: made where it is missing.
        limit: bytes that the files may take together; 0: all that the disk has.

    Raises:
        OutputError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, limit: int = 0) -> None:
        self.folder, self.limit = make_folder(folder), limit
        self._open: OrderedDict[Path, int] = OrderedDict()
        # File of a shard that had no room -> when to try again, in seconds of the monotonic clock.
        self._refused: dict[Path, float] = {}

    def path(self, shard: ShardEntry) -> Path:
        """Where a shard is or would be."""
        return self.folder / f"{shard.xxh3}-{shard.bytes}.tar"

    def read_range(self, source: Source, shard: ShardEntry, start: int, size: int) -> bytes | None:
        """Bytes of a shard, which is downloaded first where it is not here; None where the cache cannot hold it.

        Raises:
            ShardError: the source fails.
        """
        file = self._file(source, shard)
        try:
            return None if file is None else os.pread(file, size, start)
        except OSError as error:
            warnings.warn(f"{self.path(shard)}: {error.strerror}; reading {source.address}/{shard.name}", stacklevel=3)
            self.drop(shard)
            return None

    def fetch(self, source: Source, shard: ShardEntry) -> bool:
        """Download a shard unless it is here; False where the cache cannot hold it.

        Raises:
            ShardError: the source fails.
        """
        if self.path(shard).exists():
            return True
        file = self._file(source, shard)
        if file is not None:
            os.close(self._open.pop(self.path(shard)))
        return file is not None

    def drop(self, shard: ShardEntry) -> None:
        """Remove a shard that this disk has damaged; the next read downloads it again."""
        self.path(shard).unlink(missing_ok=True)
        if (file := self._open.pop(self.path(shard), None)) is not None:
            os.close(file)

    def _file(self, source: Source, shard: ShardEntry) -> int | None:
        path = self.path(shard)
        if path not in self._open:
            try:
                file = _open_locked(path)
                if file is None:
                    if time.monotonic() < self._refused.get(path, 0.0):
                        return None
                    file = self._download(source, shard)
            except (NoRoomError, _DiffersError) as error:
                if path not in self._refused:
                    text = f"{source.address}/{shard.name}: is not cached ({error}); reading it from there"
                    warnings.warn(text, stacklevel=4)
                # A shard that does not fit now may fit later; a shard that differs will always differ.
                self._refused[path] = math.inf if isinstance(error, _DiffersError) else time.monotonic() + _AGAIN
                return None
            self._open[path] = file
            if len(self._open) > _OPEN:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(path)
        return self._open[path]

    def _download(self, source: Source, shard: ShardEntry) -> int:
        """Download a shard, or wait until another process has done so; the open file, with its shared lock.

        Raises:
            NoRoomError: there is no space, and all shards are in use or were lately.
            _DiffersError: the source's shard is not the manifest's.
            ShardError: the source fails.
        """
        self.close()  # this process reads nothing meanwhile, and its open files may be what could make room
        path = self.path(shard)
        part = path.with_suffix(".part")
        with _locked(path.with_suffix(".lock")):
            while (opened := _open_locked(path)) is None:
                with _locked(part) as file:
                    if not _is_at(file, part):
                        continue  # another process has removed it as a file left behind
                    try:
                        self._reserve(file, shard)
                        _fill(file, source, shard)
                        # Who counts what is here must meet it under the one name or the other.
                        with _locked(self.folder / "lock"):
                            os.replace(part, path)
                    except BaseException:
                        part.unlink(missing_ok=True)
                        raise
        return opened

    def _reserve(self, file: int, shard: ShardEntry) -> None:
        """Make room for a shard and take it.

        Raises:
            NoRoomError: there is not enough.
        """
        if self.limit and shard.bytes > self.limit:
            raise NoRoomError(f"data.cache_bytes is {self.limit}, the shard has {shard.bytes}")
        with _locked(self.folder / "lock"), _disk_errors():
            others = [
                (facts.st_mtime, facts.st_size, path)
                for path in self.folder.iterdir()
                if path.suffix in (".tar", ".part")
                and (facts := _stat(path)) is not None
                and not os.path.samestat(facts, os.fstat(file))
            ]
            total = sum(size for _, size, _ in others)
            since = time.time() - _LATELY
            removed = (
                size
                for used, size, path in sorted(others)
                if (used < since or path.suffix == ".part") and _remove_unused(path)
            )
            while self.limit and total + shard.bytes > self.limit:
                size = next(removed, None)
                if size is None:
                    raise NoRoomError(f"data.cache_bytes is {self.limit}, and {total} bytes are in use")
                total -= size
            # What no removal makes room for shall push nothing out.
            disk = os.statvfs(self.folder)
            if shard.bytes > disk.f_bavail * disk.f_frsize + total:
                raise NoRoomError(f"data.cache: {os.strerror(errno.ENOSPC)} for {shard.bytes} bytes")
            # A full disk shows now and not after minutes; and other processes count these bytes as taken.
            while True:
                try:
                    os.posix_fallocate(file, 0, max(1, shard.bytes))
                    return
                except OSError as error:
                    if error.errno != errno.ENOSPC or next(removed, None) is None:
                        raise

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "limit": self.limit, "_open": OrderedDict(), "_refused": {}}

    def close(self) -> None:
        """Close the files; other processes may then remove them."""
        for file in self._open.values():
            os.close(file)
        self._open.clear()


class _DiffersError(Exception):
    """A downloaded shard is not the shard of the manifest."""


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn an error of the disk into a NoRoomError."""
    try:
        yield
    except OSError as error:
        raise NoRoomError(f"data.cache: {error.strerror}") from error


def _fill(file: int, source: Source, shard: ShardEntry) -> None:
    """Download into a file and verify; a shard that breaks off or differs is downloaded a second time.

    Raises:
        BrokenOffError, _DiffersError: so is the second.
    """
    failure: Exception | None = None
    for _ in range(2):
        digest, place = xxhash.xxh3_64(), 0
        try:
            for piece in source.stream(shard.name):
                if place + len(piece) > shard.bytes:
                    raise _DiffersError(f"the server sends more than the {shard.bytes} bytes of the manifest")
                digest.update(piece)
                with _disk_errors():
                    os.pwrite(file, piece, place)
                place += len(piece)
        except BrokenOffError as error:
            failure = error
            continue
        with _disk_errors():
            os.ftruncate(file, place)
            os.fsync(file)
        if place == shard.bytes and digest.hexdigest() == shard.xxh3:
            return
        failure = _DiffersError(
            f"{place} bytes of checksum {digest.hexdigest()}, the manifest says {shard.bytes} of {shard.xxh3}"
        )
    assert failure is not None
    raise failure


def _open_locked(path: Path) -> int | None:
    """Open a file and lock it against removal; None where there is no file."""
    try:
        file = _opened(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH)
    except OSError as error:
        os.close(file)
        raise NoRoomError(f"{path}: {error.strerror}") from error
    if not _is_at(file, path):
        os.close(file)  # removed before we had the lock
        return None
    with contextlib.suppress(OSError):
        os.utime(file)
    return file


def _opened(path: Path, flags: int) -> int:
    """Open a file of the cache, which may be shared: a link or a pipe that somebody has put there is not one.

    Raises:
        NoRoomError: it is none, or cannot be opened.
        FileNotFoundError: there is no file, and none is to be made.
    """
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NoRoomError(f"{path}: {error.strerror}") from error
    facts = os.fstat(file)
    # Written through another name of it, a file elsewhere would change.
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
        os.close(file)
        raise NoRoomError(f"{path}: is not a file of the cache; remove it")
    return file


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """An open file, made where it is missing, under a lock that only one process holds at a time."""
    file = _opened(path, os.O_RDWR | os.O_CREAT)
    try:
        with _disk_errors():
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def _remove_unused(path: Path) -> bool:
    """Remove a file unless a process uses it; whether it is removed."""
    try:
        file = _opened(path, os.O_RDONLY)
    except (OSError, NoRoomError):
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except OSError:
        return False
    finally:
        os.close(file)
    return True


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is still the file at a path."""
    facts = _stat(path)
    return facts is not None and os.path.samestat(facts, os.fstat(file))


class Prefetch:
    """Brings shards into a cache before their samples are needed, in a thread of its own.

    Args:
        cache: a copy of it is filled.
        needed: places in training -> source and shard of each.
        consumed: samples used by the training, kept up to date by the loader.
        ahead: how many places to look ahead.
    """

    def __init__(
        self, cache: Cache, needed: Callable[[range], Iterable[tuple[Source, ShardEntry]]], consumed: int, ahead: int
    ) -> None:
        # Open files belong to a single thread.
        self._cache = copy.copy(cache)
        self._needed, self.consumed, self._ahead = needed, consumed, ahead
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        place, known = self.consumed, ""
        while not self._stopped.is_set():
            place = max(place, self.consumed)
            end = min(place + AT_ONCE, self.consumed + self._ahead)
            if place >= end:
                self._stopped.wait(0.05)
                continue
            for position, (source, shard) in enumerate(self._needed(range(place, end)), place):
                # Shards of places that training has passed meanwhile have been fetched by their readers.
                if shard.xxh3 != known and position >= self.consumed and not self._stopped.is_set():
                    known = shard.xxh3
                    # Ignore failures: the reader that needs the shard reports them.
                    with contextlib.suppress(ShardError):
                        self._cache.fetch(source, shard)
            place = end

    def stop(self) -> None:
        """End after the shard that is being downloaded."""
        self._stopped.set()
        self._thread.join(1)
