"""Where shards lie: a local folder, a web server (http, https) or S3, behind one interface.

Credentials and endpoint of S3 come from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION,
AWS_ENDPOINT_URL and so on; without keys there, the machine's own role counts.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from arcticseg.data import stores
from arcticseg.data.stores import DeniedError, FinalError, MissingError, NoRangesError, Store, StoreError
from arcticseg.documents import DocumentError, read_bytes
from arcticseg.errors import ConfigError, ShardError
from arcticseg.shown import ADDRESSES, redacted, revealed
from arcticseg.system import why_unread

_SCHEMES = ("http://", "https://", "s3://")
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_PIECE = 1 << 22
_OPEN_FILES = 256

T = TypeVar("T")


class BrokenOffError(ShardError):
    """A file that has come in part only."""


class Source(Protocol):
    """A folder of shards; a copy in another process opens its own files and connections."""

    address: str

    def read(self, name: str, most: int) -> bytes:
        """A whole file of at most so many bytes.

        Raises:
            ShardError: it cannot be read, or is larger; the message names its address.
        """
        ...

    def read_range(self, name: str, start: int, size: int) -> bytes:
        """Bytes from `start` on: `size` of them, or fewer where the file ends.

        Raises:
            ShardError: they cannot be read.
        """
        ...

    def stream(self, name: str) -> Iterator[bytes]:
        """A whole file piece by piece.

        Raises:
            ShardError: it cannot be read to its end; the pieces before are of no use.
        """
        ...

    def close(self) -> None:
        """Close files and connections."""
        ...


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server.

    Attributes:
        seconds: of silence after which a request counts as failed.
        retries: further attempts after a failure, each after about twice the wait before it.
    """

    seconds: float = 60.0
    retries: int = 5


def is_remote(place: str) -> bool:
    """Whether a place is an address on a server; else it is a local folder."""
    return place.startswith(_SCHEMES)


def open_source(place: str, patience: Patience = Patience()) -> Source:
    """The source of an address or folder.

    Raises:
        ConfigError: the address is of another kind than http, https or s3, or its credentials are not known.
    """
    if is_remote(place):
        whole = revealed(place)
        if whole is None:
            raise ConfigError(
                f"key 'data.shards' has {place}, whose credentials are not kept; give the whole address again by "
                f"data.shards=..., or in the environment variable {ADDRESSES}"
            )
        return Remote(whole, patience)
    if "://" in place:
        kinds = ", ".join(_SCHEMES)
        raise ConfigError(f"key 'data.shards' is '{redacted(place)}'; give a folder or an address with {kinds}")
    return Folder(place)


class Folder:
    """A local folder; the files used last stay open."""

    def __init__(self, place: str | Path) -> None:
        self.address = str(place)
        self._files: OrderedDict[str, int] = OrderedDict()

    def _error(self, name: str, error: OSError) -> ShardError:
        return ShardError(f"{self.address}/{name}: {why_unread(error, 'restore it')}")

    def _file(self, name: str) -> int:
        if name not in self._files:
            self._files[name] = os.open(os.path.join(self.address, name), os.O_RDONLY)
            if len(self._files) > _OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
        self._files.move_to_end(name)
        return self._files[name]

    def read(self, name: str, most: int) -> bytes:
        try:
            return read_bytes(Path(self.address, name), most)
        except OSError as error:
            raise self._error(name, error) from error
        except DocumentError as error:
            raise ShardError(f"{self.address}/{name}: {error}; build the shards again") from error

    def expect(self, name: str, start: int, size: int) -> None:
        """Let the disk begin with what `read_range` will read; errors are left to `read_range`."""
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._file(name), start, size, os.POSIX_FADV_WILLNEED)

    def read_range(self, name: str, start: int, size: int) -> bytes:
        try:
            return os.pread(self._file(name), size, start)
        except OSError as error:
            raise self._error(name, error) from error

    def stream(self, name: str) -> Iterator[bytes]:
        try:
            with open(os.path.join(self.address, name), "rb") as file:
                while piece := file.read(_PIECE):
                    yield piece
        except OSError as error:
            raise self._error(name, error) from error

    def __getstate__(self) -> dict[str, object]:
        # Open files do not travel to another process.
        return {"address": self.address, "_files": OrderedDict()}

    def close(self) -> None:
        for file in self._files.values():
            os.close(file)
        self._files.clear()


class Remote:
    """A web server or S3.

    Attributes:
        address: as it is shown, without credentials.
    """

    def __init__(self, place: str, patience: Patience = Patience()) -> None:
        self._place = place.rstrip("/")
        self.address, self.patience = redacted(self._place), patience
        self._opened: Store | None = None

    def _store(self) -> Store:
        if self._opened is None:
            self._opened = stores.open_store(self._place, self.patience.seconds)
        return self._opened

    def _retried(self, name: str, attempt: Callable[[Store], T]) -> T:
        """Call `attempt` until it succeeds, with growing waits in between.

        Raises:
            ShardError: the last attempt fails, or more attempts would be in vain.
        """
        store, where, wait = self._store(), f"{self.address}/{name}", _FIRST_WAIT
        for left in range(self.patience.retries, -1, -1):
            try:
                return attempt(store)
            except StoreError as error:
                if isinstance(error, FinalError):
                    raise ShardError(f"{where}: {_remedy(error)}") from error
                if not left:
                    raise ShardError(
                        f"{where}: cannot be read after {self.patience.retries + 1} attempts ({error}); "
                        "repair the server, then go on with --resume"
                    ) from error
                warnings.warn(f"{where}: {error}; trying again", stacklevel=3)
            # Many ranks fail at once; unequal waits keep them from coming back at once.
            time.sleep(wait * (0.5 + _JITTER.random()))
            wait = min(2 * wait, _LONGEST_WAIT)
        raise AssertionError("unreachable")

    def read(self, name: str, most: int) -> bytes:
        def attempt(store: Store) -> bytes:
            size, pieces = store.get(name)
            if size is not None and size > most:
                raise FinalError(f"the server says {size:,} bytes, where {most:,} may come")
            return b"".join(stores.limited(pieces, most, self.patience.seconds))

        return self._retried(name, attempt)

    def read_range(self, name: str, start: int, size: int) -> bytes:
        def attempt(store: Store) -> bytes:
            _, pieces = store.get(name, (start, start + size))
            return b"".join(stores.limited(pieces, size, self.patience.seconds))

        return self._retried(name, attempt)

    def stream(self, name: str) -> Iterator[bytes]:
        _, pieces = self._retried(name, lambda store: store.get(name))
        try:
            yield from stores.limited(pieces, None, self.patience.seconds)
        except StoreError as error:
            raise BrokenOffError(f"{self.address}/{name}: broke off ({error}); repair the server") from error

    def __getstate__(self) -> dict[str, object]:
        return {"_place": self._place, "address": self.address, "patience": self.patience, "_opened": None}

    def close(self) -> None:
        self._opened = None


def _remedy(error: FinalError) -> str:
    """Why a request would fail again, and what to do."""
    if isinstance(error, MissingError):
        return "is not there; restore it, or correct the address in data.shards"
    if isinstance(error, DeniedError):
        return (
            f"access is refused ({error}); for S3 set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of an account that "
            "may read it, or AWS_SKIP_SIGNATURE=true if all may; for a web server give user and password in the address"
        )
    if isinstance(error, NoRangesError):
        return "the server gives no byte ranges; set data.cache, which needs none, or use another server"
    return f"{error}; repair the server, or correct the address in data.shards"


_JITTER = random.Random()
