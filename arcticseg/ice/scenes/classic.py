"""netCDF-3 files that end too early: the netCDF library reads zeros where their bytes are missing, without a word.

The layout is that of the netCDF classic format specification (CDF-1, CDF-2, CDF-5; NetCDF Users' Guide, appendix B).
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from arcticseg.errors import SceneError

T = TypeVar("T")

_MAGIC = b"CDF"
# Bytes of a number of each type, from `byte` on.
_SIZES = dict(enumerate((1, 1, 2, 4, 4, 8, 1, 2, 4, 8, 8), start=1))
# More dimensions, attributes or variables, and longer names and attributes, than a scene has.
_MOST = 1 << 24


def check_whole(path: Path) -> None:
    """Refuse a netCDF-3 file that is shorter than its header says; other files pass.

    Raises:
        SceneError: it is cut.
        ValueError, struct.error: its header is damaged.
    """
    with open(path, "rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return
        needed = _Header(file).last_byte()
    size = os.path.getsize(path)
    if size < needed:
        raise SceneError(
            f"{path}: cannot be read (it ends after {size} of {needed} bytes); it is cut, or still being copied; wait "
            "until that ends, or get it again"
        )


class _Header:
    """Reads the header of a netCDF-3 file from behind its magic bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        version = file.read(1)[0]
        if version not in (1, 2, 5):
            raise ValueError(f"version {version} of netCDF")
        # Counts and offsets are of four bytes in the first format, and wider in those that came later.
        self._count = ">q" if version == 5 else ">i"
        self._offset = ">i" if version == 1 else ">q"

    def last_byte(self) -> int:
        """How long the file must be to hold all values."""
        n_records = self._number(self._count)
        lengths = list(self._list(self._dimension))
        self._attributes()
        fixed, records = [0], []
        for dims, kind, begin in self._list(self._variable):
            shape = [lengths[dim] for dim in dims]
            if shape and shape[0] == 0:
                records.append((begin, math.prod(shape[1:]) * _SIZES[kind]))
            else:
                fixed.append(begin + math.prod(shape) * _SIZES[kind])
        # Records are interleaved; each variable fills whole words, unless it is the only one. -1: written as a stream.
        stride = records[0][1] if len(records) == 1 else sum(-(-size // 4) * 4 for _, size in records)
        if n_records < 1:
            records = []
        return max(*fixed, *(begin + (n_records - 1) * stride + size for begin, size in records))

    def _dimension(self) -> int:
        """The length of a dimension; 0: it is endless."""
        self._text()
        return self._number(self._count)

    def _variable(self) -> tuple[list[int], int, int]:
        """Dimensions, type and first byte of a variable."""
        self._text()
        dims = [self._number(self._count) for _ in range(self._size())]
        self._attributes()
        kind = self._number(">i")
        self._number(self._count)
        return dims, kind, self._number(self._offset)

    def _attributes(self) -> None:
        list(self._list(self._attribute))

    def _attribute(self) -> None:
        self._text()
        size = _SIZES[self._number(">i")]
        self._skip(self._size() * size)

    def _list(self, read: Callable[[], T]) -> Iterator[T]:
        self._number(">i")
        for _ in range(self._size()):
            yield read()

    def _text(self) -> None:
        self._skip(self._size())

    def _skip(self, size: int) -> None:
        self._file.seek(-(-size // 4) * 4, os.SEEK_CUR)

    def _size(self) -> int:
        size = self._number(self._count)
        if not 0 <= size <= _MOST:
            raise ValueError(f"a length of {size}")
        return size

    def _number(self, form: str) -> int:
        number: int = struct.unpack(form, self._file.read(struct.calcsize(form)))[0]
        return number
