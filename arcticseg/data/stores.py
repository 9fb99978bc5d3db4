"""Servers that files are read from: S3 and the web.

What a server sends is counted and timed as it comes, so that neither an answer without end nor one of a byte a second
holds a run up or fills its memory. Nothing is decompressed. No redirection takes credentials along: obstore's client
leaves the user and password of an address behind at another host, but tells that host the address it comes from, so an
address with a query, which may be a signature, is read by Python's own client, which follows none.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Protocol
from urllib.parse import SplitResult, quote, unquote, urlsplit

from arcticseg.errors import ConfigError
from arcticseg.shown import redacted, visible

_CONNECT_SECONDS = 20.0
# Bytes a second below which a server counts as one that does not answer.
_SLOWEST = 1024
_PIECE = 1 << 18

# First byte, and the byte behind the last.
Span = tuple[int, int]


class StoreError(Exception):
    """A request that failed, and may succeed when it is made again; the message does not name the address."""


class FinalError(StoreError):
    """A request that would fail again."""


class MissingError(FinalError):
    """The server has no such file."""


class DeniedError(FinalError):
    """The server refuses access."""


class NoRangesError(FinalError):
    """The server gives whole files only."""


class Store(Protocol):
    """What answers requests for the files below an address."""

    def get(self, name: str, span: Span | None = None) -> tuple[int | None, Iterator[bytes]]:
        """The size of a file, as far as the server says it, and its bytes, or those of a span of it.

        Raises:
            StoreError: so does the iterator.
        """
        ...


def open_store(address: str, seconds: float) -> Store:
    """What reads an address of http, https or s3, with the credentials in it.

    Args:
        seconds: of silence after which a request has failed.

    Raises:
        ConfigError: it is not an address, or obstore is not installed.
    """
    try:
        parts = urlsplit(address)
        good = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f"key 'data.shards' is '{redacted(address)}', which is not an address; correct it")
    if parts.scheme != "s3" and parts.query:
        return _Queried(parts, seconds)
    return _Obstore(parts, seconds)


def limited(pieces: Iterator[bytes], most: int | None, seconds: float) -> Iterator[bytes]:
    """Bytes as they come, at most so many, and within `seconds` not too few.

    Raises:
        FinalError: more come.
        StoreError: they come too slowly.
    """
    total = came = 0
    waited = 0.0
    while True:
        began = time.monotonic()
        piece = next(pieces, None)
        if piece is None:
            return
        waited += time.monotonic() - began
        came += len(piece)
        total += len(piece)
        if most is not None and total > most:
            raise FinalError(f"the server sends more than the {most:,} bytes that may come")
        if waited > seconds:
            if came < _SLOWEST * waited:
                raise StoreError(f"the server sends {came / waited:.1f} bytes a second")
            came, waited = 0, 0.0
        yield piece


class _Obstore:
    """A web server or S3, through obstore."""

    def __init__(self, parts: SplitResult, seconds: float) -> None:
        try:
            from obstore.store import HTTPStore, S3Store
        except ImportError as error:
            shown = redacted(parts.geturl())
            raise ConfigError(
                f"{shown}: obstore is not installed, which reads it; pip install 'arcticseg[train]'"
            ) from error
        options: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=min(_CONNECT_SECONDS, seconds)),
            # Of a silence, not of the whole answer: a shard may take long as long as bytes come.
            "read_timeout": timedelta(seconds=seconds),
            "timeout": timedelta(days=1),
            "allow_http": True,
        }
        # The store's own retries know neither jitter nor our limit.
        more: dict[str, Any] = {
            "client_options": options,
            "retry_config": {"max_retries": 0, "retry_timeout": timedelta(days=1)},
        }
        bare = parts.netloc.rpartition("@")[2]
        if parts.scheme == "s3":
            if parts.username:
                more |= {"access_key_id": unquote(parts.username), "secret_access_key": unquote(parts.password or "")}
            self._store: Any = S3Store(bare, prefix=parts.path.strip("/") or None, **more)
            return
        if parts.username:
            options["default_headers"] = {"Authorization": _basic(parts)}
        self._store = HTTPStore(parts._replace(netloc=bare).geturl(), **more)

    def get(self, name: str, span: Span | None = None) -> tuple[int | None, Iterator[bytes]]:
        from obstore.exceptions import BaseError

        try:
            answer = self._store.get(name, options={} if span is None else {"range": span})
        except FileNotFoundError as error:
            raise MissingError("is not there") from error
        except BaseError as error:
            if "416 Range Not Satisfiable" in str(error):
                return None, iter(())
            raise _translated(error) from error
        return (answer.meta["size"] if span is None else None), self._pieces(answer)

    def _pieces(self, answer: Any) -> Iterator[bytes]:
        from obstore.exceptions import BaseError

        try:
            # As they come: to collect more first would wait as long as bytes trickle in.
            for piece in answer.stream(min_chunk_size=1):
                yield bytes(piece)
        except BaseError as error:
            raise StoreError(_first_line(error)) from error


def _translated(error: Exception) -> StoreError:
    reason = _first_line(error)
    # Without keys the store asks an address inside Amazon's network for the machine's role.
    no_keys = "/latest/api/token" in str(error)
    if no_keys or type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError"):
        return DeniedError(reason)
    if "Range request not supported" in str(error):
        return NoRangesError(reason)
    return StoreError(reason)


def _first_line(error: Exception) -> str:
    """The message of obstore without address, times and nested causes."""
    text = re.sub(r"Error performing [A-Z]+ \S+ in \S+ - ", "", str(error).partition("Debug source:")[0])
    return visible(redacted(" ".join(text.split()).rstrip(":")))[:300] or type(error).__name__


class _Queried:
    """A web server that an address with a query names; no redirection is followed."""

    def __init__(self, parts: SplitResult, seconds: float) -> None:
        self._parts, self._seconds = parts, seconds

    def get(self, name: str, span: Span | None = None) -> tuple[int | None, Iterator[bytes]]:
        parts = self._parts
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(str(parts.hostname), parts.port, timeout=self._seconds)
        headers = {"Accept-Encoding": "identity"}
        headers |= {"Authorization": _basic(parts)} if parts.username else {}
        headers |= {"Range": f"bytes={span[0]}-{span[1] - 1}"} if span else {}
        path = f"{quote(parts.path.rstrip('/'), safe='/%')}/{quote(name)}?{parts.query}"
        try:
            with _cut_after(connection, self._seconds):
                connection.request("GET", path, headers=headers)
                answer = connection.getresponse()
        except (OSError, ValueError, http.client.HTTPException) as error:
            connection.close()
            raise StoreError(_plainly(error)) from error
        if answer.status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and span:
            connection.close()
            return None, iter(())
        try:
            return _size(answer, span), self._pieces(connection, answer)
        except StoreError:
            connection.close()
            raise

    def _pieces(self, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        expected, came = answer.length, 0
        try:
            while piece := answer.read1(_PIECE):
                came += len(piece)
                yield piece
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise StoreError(_plainly(error)) from error
        finally:
            connection.close()
        if expected is not None and came < expected:
            raise StoreError(f"broke off after {came} of {expected} bytes")


@contextlib.contextmanager
def _cut_after(connection: http.client.HTTPConnection, seconds: float) -> Iterator[None]:
    """End a request whose answer does not begin: the connection's own limit is one of silence."""

    def cut() -> None:
        # Unlike closing, it wakes the thread that waits for the answer.
        with contextlib.suppress(OSError, AttributeError):
            connection.sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _size(answer: http.client.HTTPResponse, span: Span | None) -> int | None:
    """The size of what a server answers with.

    Raises:
        StoreError: it answers with something else.
    """
    status = answer.status
    if status == http.HTTPStatus.NOT_FOUND:
        raise MissingError("is not there")
    if status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
        raise DeniedError(f"{status} {visible(answer.reason)[:80]}")
    if 300 <= status < 400:
        raise FinalError("the server redirects; an address with a query is read there alone, so give the other address")
    if status != (http.HTTPStatus.PARTIAL_CONTENT if span else http.HTTPStatus.OK):
        if span and status == http.HTTPStatus.OK:
            raise NoRangesError("no byte ranges")
        raise StoreError(f"{status} {visible(answer.reason)[:80]}")
    return answer.length


def _plainly(error: Exception) -> str:
    return visible(redacted(str(error)))[:200] or type(error).__name__


def _basic(parts: SplitResult) -> str:
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
