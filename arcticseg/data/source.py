"""Where shards lie: a local folder, a web server (http, https) or S3, behind one interface.

Credentials and endpoint of S3 come from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION,
AWS_ENDPOINT_URL and so on; without keys there, the machine's own role counts.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

from arcticseg.documents import DocumentError, read_bytes
from arcticseg.errors import ConfigError, ShardError

_SCHEMES = ("http://", "https://", "s3://")
_CONNECT_SECONDS = 20.0
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
        ConfigError: the address is of another kind than http, https or s3.
    """
    if is_remote(place):
        return Remote(place, patience)
    if "://" in place:
        raise ConfigError(f"key 'data.shards' is '{place}'; give a folder or an address with {', '.join(_SCHEMES)}")
    return Folder(place)


class Folder:
    """A local folder; the files used last stay open."""

    def __init__(self, place: str | Path) -> None:
        self.address = str(place)
        self._files: OrderedDict[str, int] = OrderedDict()

    def _error(self, name: str, error: OSError) -> ShardError:
        return ShardError(f"{self.address}/{name}: cannot be read ({error.strerror}); restore it")

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
    """A web server or S3, through obstore."""

    def __init__(self, address: str, patience: Patience = Patience()) -> None:
        self.address = address.rstrip("/")
        self.patience = patience
        self._opened: Any = None

    def _store(self) -> Any:
        if self._opened is None:
            self._opened = _open_store(self.address, self.patience)
        return self._opened

    def _retried(self, name: str, attempt: Callable[[Any], T]) -> T:
        """Call `attempt` until it succeeds, with growing waits in between.

        Raises:
            ShardError: the last attempt fails, or more attempts would be in vain.
        """
        store = self._store()
        from obstore.exceptions import BaseError

        where, wait = f"{self.address}/{name}", _FIRST_WAIT
        for left in range(self.patience.retries, -1, -1):
            try:
                return attempt(store)
            except FileNotFoundError as error:
                raise ShardError(f"{where}: is not there; restore it, or correct the address in data.shards") from error
            except BaseError as error:
                if _is_refusal(error):
                    raise ShardError(
                        f"{where}: access is refused ({_first_line(error)}); set AWS_ACCESS_KEY_ID and "
                        "AWS_SECRET_ACCESS_KEY of an account that may read it, or AWS_SKIP_SIGNATURE=true if all may"
                    ) from error
                if _is_no_range(error):
                    raise ShardError(
                        f"{where}: the server gives no byte ranges; set data.cache, which needs none, or use another "
                        "server"
                    ) from error
                if not left:
                    raise ShardError(
                        f"{where}: cannot be read after {self.patience.retries + 1} attempts ({_first_line(error)}); "
                        "repair the server, then go on with --resume"
                    ) from error
                warnings.warn(f"{where}: {_first_line(error)}; trying again", stacklevel=3)
            # Many ranks fail at once; unequal waits keep them from coming back at once.
            time.sleep(wait * (0.5 + _JITTER.random()))
            wait = min(2 * wait, _LONGEST_WAIT)
        raise AssertionError("unreachable")

    def read(self, name: str, most: int) -> bytes:
        return self._retried(name, lambda store: bytes(store.get(name).bytes()))

    def read_range(self, name: str, start: int, size: int) -> bytes:
        def attempt(store: Any) -> bytes:
            try:
                return bytes(store.get_range(name, start=start, length=size))
            except Exception as error:
                if _is_beyond_end(error):
                    return b""
                raise

        return self._retried(name, attempt)

    def stream(self, name: str) -> Iterator[bytes]:
        answer = self._retried(name, lambda store: store.get(name))
        from obstore.exceptions import BaseError

        try:
            for piece in answer.stream(min_chunk_size=_PIECE):
                yield bytes(piece)
        except BaseError as error:
            raise BrokenOffError(
                f"{self.address}/{name}: broke off ({_first_line(error)}); repair the server"
            ) from error

    def __getstate__(self) -> dict[str, object]:
        return {"address": self.address, "patience": self.patience, "_opened": None}

    def close(self) -> None:
        self._opened = None


_JITTER = random.Random()


def _open_store(address: str, patience: Patience) -> Any:
    try:
        from obstore.store import HTTPStore, S3Store
    except ImportError as error:
        raise ConfigError(
            f"{address}: obstore is not installed, which reads it; pip install 'arcticseg[train]'"
        ) from error
    options: Any = {
        "connect_timeout": timedelta(seconds=min(_CONNECT_SECONDS, patience.seconds)),
        # Of a silence, not of the whole answer: a shard may take long as long as bytes come.
        "read_timeout": timedelta(seconds=patience.seconds),
        "timeout": timedelta(days=1),
        "allow_http": True,
    }
    # The store's own retries know neither jitter nor our limit.
    never: Any = {"max_retries": 0, "retry_timeout": timedelta(days=1)}
    if not address.startswith("s3://"):
        return HTTPStore(address, client_options=options, retry_config=never)
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    return S3Store(bucket, prefix=prefix or None, client_options=options, retry_config=never)


def _first_line(error: Exception) -> str:
    """The message of obstore without address, times and nested causes."""
    text = re.sub(r"Error performing [A-Z]+ \S+ in \S+ - ", "", str(error).partition("Debug source:")[0])
    return " ".join(text.split()).rstrip(":") or type(error).__name__


def _is_beyond_end(error: Exception) -> bool:
    return "416 Range Not Satisfiable" in str(error)


def _is_refusal(error: Exception) -> bool:
    # Without keys the store asks an address inside Amazon's network for the machine's role.
    no_keys = "/latest/api/token" in str(error)
    return no_keys or type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError")


def _is_no_range(error: Exception) -> bool:
    return "Range request not supported" in str(error)
