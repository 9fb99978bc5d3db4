"""Files of facts from elsewhere, read within bounds and checked before anything is done with them.

A check takes a value and raises a DocumentError where it is not what it should be; `record`, `mapping` and `each` make
checks of nested values out of checks of their parts, so that a schema is a table.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from arcticseg.shown import brief, visible

Check = Callable[[Any], None]

# Levels of nesting in any file that is read.
DEPTH = 64
# The largest whole number that files of facts may hold, and the longest text.
LARGEST, LONGEST = (1 << 63) - 1, 1 << 16


class DocumentError(ValueError):
    """What is wrong with a file's content, and at which place in it; the message does not name the file."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason, self.place = reason, ""

    def within(self, place: str) -> DocumentError:
        """The same error, seen from the value that holds the one that is wrong."""
        self.place = f"{place}.{self.place}" if self.place else place
        return self

    def __str__(self) -> str:
        return f"{self.place} {self.reason}" if self.place else self.reason


def misfit(value: Any, wanted: str) -> DocumentError:
    """The error of a value that is something else than wanted."""
    return DocumentError(f"is {brief(value)}, not {wanted}")


def read_bytes(path: Path, most: int) -> bytes:
    """A whole file of at most so many bytes; a pipe, a device or a folder is no file.

    Raises:
        DocumentError: it is not a file, or it is larger.
        OSError: it cannot be read.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(number, "rb") as file:
        facts = os.fstat(number)
        if not stat.S_ISREG(facts.st_mode):
            raise DocumentError("is not a plain file")
        if facts.st_size > most:
            raise too_large(facts.st_size, most)
        data = file.read(most + 1)
    if len(data) > most:
        raise too_large(len(data), most)
    return data


def too_large(size: int, most: int) -> DocumentError:
    """The error of a file with more bytes than are read."""
    return DocumentError(f"has {size:,} bytes; at most {most:,} are read")


def read_text(path: Path, most: int) -> str:
    """A whole text file in UTF-8, of at most so many bytes.

    Raises:
        DocumentError: see `read_bytes`; or it is not UTF-8, or holds NUL.
        OSError: it cannot be read.
    """
    data = read_bytes(path, most)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(f"is not text in UTF-8 (byte {error.start} is 0x{data[error.start]:02x})") from error
    if "\0" in text:
        raise DocumentError(f"is not text (byte {data.index(0)} is NUL)")
    return text


def parse_json(data: bytes | str, containers: int) -> Any:
    """JSON as the standard has it: no key twice, no NaN, at most so many objects and arrays.

    Raises:
        DocumentError: it is not that.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        # An empty array takes 20 times its bytes in memory.
        if text.count("[") + text.count("{") > containers:
            raise DocumentError(f"holds more than {containers:,} objects and arrays")
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except DocumentError:
        raise
    except UnicodeDecodeError as error:
        raise DocumentError(f"is not text in UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise DocumentError("is nested too deeply") from error
    except ValueError as error:
        raise DocumentError(f"is not JSON: {visible(str(error))}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise DocumentError(f"key {brief(twice)} stands twice")
    return unique


def _no_constant(name: str) -> Any:
    raise DocumentError(f"holds {name}, which is not a number")


def whole(low: int = 0, high: int = LARGEST) -> Check:
    """A whole number of a range."""

    def check(value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            raise misfit(value, f"a whole number from {low} to {high}")

    return check


def number(low: float = -math.inf, high: float = math.inf) -> Check:
    """A finite number of a range."""

    def check(value: Any) -> None:
        # A whole number of many digits is beyond what a float holds.
        if type(value) not in (int, float) or not (low <= value <= high and abs(value) < 1e300):
            raise misfit(value, "a finite number" if low == -math.inf else f"a number from {low:g} to {high:g}")

    return check


def flag(value: Any) -> None:
    """True or false."""
    if type(value) is not bool:
        raise misfit(value, "true or false")


def text(pattern: str = r"[^\0]*", wanted: str = "a text", longest: int = LONGEST) -> Check:
    """A text of which the whole follows a pattern."""
    compiled = re.compile(pattern, re.DOTALL)

    def check(value: Any) -> None:
        if type(value) is not str or len(value) > longest or not compiled.fullmatch(value):
            raise misfit(value, wanted)

    return check


def hexadecimal(digits: int) -> Check:
    """A checksum of so many digits."""
    return text(f"[0-9a-f]{{{digits}}}", f"a checksum of {digits} hexadecimal digits")


def optional(check: Check) -> Check:
    """Null, or what a check asks for."""

    def of(value: Any) -> None:
        if value is not None:
            check(value)

    return of


def each(check: Check, least: int = 0, most: int = LARGEST) -> Check:
    """An array of so many values that each fulfil a check."""

    def of(value: Any) -> None:
        if type(value) is not list or not least <= len(value) <= most:
            raise misfit(value, f"an array of {least}" + (f" to {most} values" if most < LARGEST else " or more"))
        for place, item in enumerate(value):
            try:
                check(item)
            except DocumentError as error:
                raise error.within(f"[{place}]") from None

    return of


def counts(length: int | None = None) -> Check:
    """An array of numbers of things, of a length if one is given; fast, since there may be millions."""

    def of(value: Any) -> None:
        good = type(value) is list and (length is None or len(value) == length)
        if not good or (value and not (set(map(type, value)) == {int} and min(value) >= 0 and max(value) <= LARGEST)):
            raise misfit(value, f"an array of {'' if length is None else f'{length} '}whole numbers from 0 on")

    return of


def mapping(keys: Check, values: Check) -> Check:
    """An object whose keys and values fulfil checks."""

    def of(value: Any) -> None:
        if type(value) is not dict:
            raise misfit(value, "an object")
        for key, item in value.items():
            try:
                keys(key)
            except DocumentError as error:
                raise error.within("a key") from None
            try:
                values(item)
            except DocumentError as error:
                raise error.within(brief(key)) from None

    return of


def record(required: Mapping[str, Check], others: Check | None = None) -> Check:
    """An object with these keys; more of them only where `others` says what these hold."""

    def of(value: Any) -> None:
        if type(value) is not dict:
            raise misfit(value, "an object")
        if missing := required.keys() - value.keys():
            raise DocumentError(f"lacks {_named(missing)}")
        surplus = value.keys() - required.keys()
        if surplus and others is None:
            raise DocumentError(f"holds {_named(surplus)}, which it should not")
        for key, item in value.items():
            try:
                required.get(key, others)(item)  # type: ignore[misc]
            except DocumentError as error:
                raise error.within(key if key in required else brief(key)) from None

    return of


def _named(keys: Iterable[str]) -> str:
    return ", ".join(brief(key) for key in sorted(keys)[:12])


def any_of(*checks: Check) -> Check:
    """What one of the checks asks for."""

    def of(value: Any) -> None:
        for check in checks:
            try:
                return check(value)
            except DocumentError as error:
                last = error
        raise last

    return of


def plain(value: Any, depth: int = 8) -> None:
    """Any JSON of little depth whose numbers are finite and whose texts are not endless."""
    if depth == 0:
        raise misfit(value, "nested less deeply")
    if type(value) is dict:
        mapping(_some_text, lambda item: plain(item, depth - 1))(value)
    elif type(value) is list:
        each(lambda item: plain(item, depth - 1))(value)
    elif value is not None and type(value) is not bool:
        _scalar(value)


_some_text = text()
_scalar = any_of(_some_text, whole(-LARGEST), number())
