"""A sample's bytes decoded into arrays that exist already: no torch, no copies, light to import in worker processes.

A `Layout` says which arrays a run needs and how large they are at most. Windows of the coarse grids differ in size from
sample to sample; each is written into the corner of its array. What is left over is 0, its points are at infinity.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import orjson
from numpy.typing import DTypeLike, NDArray

from arcticseg.data.sample import SCHEMA_VERSION, Bytes, decompress, flat, split_members, unpack
from arcticseg.errors import ShardError
from arcticseg.ice.channels import CHANNELS, COARSE, COARSE_SPACING, SAR
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX

# Points of a geolocation window along an edge; a whole scene of the archive has 21.
MAX_POINTS = 32

# Arrays start at multiples of a page, and so of any vector's width.
_PAGE = 4096

Arrays = Mapping[str, NDArray[Any]]
# A member to be decoded: its name, how, its bytes and where to.
_Step = tuple[str, Callable[[Bytes, NDArray[Any]], None], Bytes, NDArray[Any]]


@dataclass(frozen=True)
class Layout:
    """The arrays of one sample.

    Attributes:
        tile: edge of a tile in pixels.
        cells: edge of the largest 2 km window, in cells.
        sar: which of `hh` and `hv`.
        coarse: names of the 2 km channels, in the order of `channels.COARSE`.
        dist, geo, lab: whether distance zones, positions and angles, and labels are needed.
    """

    tile: int
    cells: int
    sar: tuple[str, ...] = tuple(SAR)
    coarse: tuple[str, ...] = COARSE
    dist: bool = True
    geo: bool = True
    lab: bool = True

    @staticmethod
    def of(
        tile: int, factors: Iterable[int], channels: Sequence[str], valid_plane: bool = True, labels: bool = True
    ) -> Layout:
        """What channels (single names) ask for, of tiles at the factors given."""
        # Cells between the first and the last pixel's centre, and one on either side.
        cells = math.ceil((tile - 1) * 40 * max(factors) / COARSE_SPACING) + 3
        grids = {CHANNELS[name].grid for name in channels}
        return Layout(
            tile,
            cells,
            sar=tuple(sar for sar, name in SAR.items() if valid_plane or name in channels),
            coarse=tuple(name for name in COARSE if name in channels),
            dist="distance_map" in channels,
            geo="geo" in grids,
            lab=labels,
        )

    @property
    def core_only(self) -> bool:
        """Whether the part of a sample with SAR, metadata and labels holds all that is needed."""
        return not (self.coarse or self.dist or self.geo)

    @cached_property
    def fields(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Name -> dtype and shape of each array; what is not needed has no elements."""
        plane = (self.tile, self.tile)
        none = (0, 0)
        cells, points = (self.cells if self.coarse else 0), (MAX_POINTS if self.geo else 0)
        shapes: dict[str, tuple[DTypeLike, tuple[int, ...]]] = {
            "hh": (np.uint16, plane if "hh" in self.sar else none),
            "hv": (np.uint16, plane if "hv" in self.sar else none),
            "dist": (np.uint8, plane if self.dist else none),
            "aux": (np.uint16, (len(self.coarse), cells, cells)),
            "aux_rows": (np.float64, (cells,)),
            "aux_cols": (np.float64, (cells,)),
            "geo": (np.float32, (3, points, points)),
            "geo_rows": (np.float64, (points,)),
            "geo_cols": (np.float64, (points,)),
            "clock": (np.float32, (2,)),
            "lab": (np.uint8, (len(CHARTS), *(plane if self.lab else none))),
        }
        return {name: (np.dtype(dtype), shape) for name, (dtype, shape) in shapes.items()}

    def bytes(self, samples: int) -> int:
        """Memory that `views` needs, a multiple of a page."""
        sizes = (samples * math.prod(shape) * dtype.itemsize for dtype, shape in self.fields.values())
        return sum(map(_pages, sizes))

    def views(self, memory: memoryview, samples: int) -> dict[str, NDArray[Any]]:
        """The arrays [samples, ...], one after another in a piece of memory."""
        arrays, offset = {}, 0
        for name, (dtype, shape) in self.fields.items():
            count = samples * math.prod(shape)
            arrays[name] = np.frombuffer(memory, dtype, count, offset).reshape(samples, *shape)
            offset += _pages(count * dtype.itemsize)
        return arrays

    def rows(self, views: Arrays) -> list[Row]:
        """The samples of such arrays."""
        return [Row(self, {name: array[i] for name, array in views.items()}) for i in range(len(views["clock"]))]


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


@lru_cache(maxsize=4096)
def clock(time: str | None) -> tuple[float, float]:
    """Month and day of the year of an ISO 8601 time; NaN where there is none."""
    if time is None:
        return math.nan, math.nan
    at = datetime.fromisoformat(time)
    return at.month, at.timetuple().tm_yday


class _Grid:
    """A coarse grid's array of one sample, and its points, infinite where there are no more."""

    def __init__(self, arrays: Arrays, name: str) -> None:
        self._array = arrays[name]
        self._lines, self._samples = (arrays[f"{name}_{axis}"].data for axis in ("rows", "cols"))

    def window(self, rows: list[float], cols: list[float]) -> NDArray[Any]:
        """The corner that a window fills; its points are written, the rest is emptied.

        Raises:
            ValueError: there is no room for it.
        """
        height, width = len(rows), len(cols)
        room = len(self._lines), len(self._samples)
        if height > room[0] or width > room[1]:
            raise ValueError(f"a window of {height} x {width} where there is room for {room[0]} x {room[1]}")
        # Only what the sample before it filled has to be emptied; its points say how far that goes. They change after
        # the emptying and before the window, so that they are never too few, wherever a process is killed.
        last_line, last_sample = bisect_left(self._lines, math.inf), bisect_left(self._samples, math.inf)
        if last_line > height:
            self._array[:, height:last_line, :last_sample] = 0
        if last_sample > width:
            self._array[:, :height, width:last_sample] = 0
        for points, values in ((self._lines, rows), (self._samples, cols)):
            points[:] = array("d", values + [math.inf] * (len(points) - len(values)))
        found: NDArray[Any] = self._array[:, :height, :width]
        return found


class Row:
    """One sample's arrays, and how a sample is decoded into them.

    Decoders let go of the interpreter's lock and leave nothing else in a core's caches. So several samples are opened
    first, and then their large members are decoded one after another.

    Args:
        arrays: hold zeros, or what a sample before left there.
    """

    def __init__(self, layout: Layout, arrays: Arrays) -> None:
        self._layout, self._arrays = layout, arrays
        self._bytes = {name: flat(arrays[name]) for name in ("hh", "hv", "dist", "lab")}
        self._aux, self._geo = (_Grid(arrays, name) for name in ("aux", "geo"))
        self._planes = None if layout.coarse == COARSE else [COARSE.index(name) for name in layout.coarse]
        self._key = ""
        self._left: list[_Step] = []

    def blank(self) -> None:
        """No data and masked labels."""
        for name, values in self._arrays.items():
            values[...] = math.inf if name.endswith(("_rows", "_cols")) else 0
        self._arrays["dist"][...] = IGNORE_INDEX
        self._arrays["clock"][...] = math.nan
        self._arrays["lab"][...] = IGNORE_INDEX

    def open(self, data: bytes) -> None:
        """Decode what is small of a sample, or of its core where the layout needs no more.

        Raises:
            ShardError: a member is missing, damaged, of another schema version or larger than there is room for.
        """
        layout = self._layout
        self._key, members = split_members(data)
        name = "json"
        try:
            meta = orjson.loads(members[name])
            if meta["schema"] != SCHEMA_VERSION:
                raise ValueError(f"schema version {meta['schema']}, this program reads {SCHEMA_VERSION}")
            if meta["size"] != [layout.tile, layout.tile]:
                raise ValueError(f"{meta['size']} pixels, the manifest says {layout.tile}")
            self._arrays["clock"][:] = clock(meta["time"])
            left: list[_Step] = []
            for sar in layout.sar:
                name = f"{sar}.b2"
                left.append((name, unpack, members[name], self._bytes[sar]))
            if layout.dist:
                name = "dist.zst"
                left.append((name, decompress, members[name], self._bytes["dist"]))
            if layout.coarse:
                name = "aux.b2"
                window = self._aux.window(meta["aux_rows"], meta["aux_cols"])
                left.append((name, self._unpack_coarse, members[name], window))
            if layout.geo:
                name = "geo.bin"
                window = self._geo.window(meta["geo_rows"], meta["geo_cols"])
                window[...] = np.frombuffer(members[name], "<f4").reshape(window.shape)
            name = "lab.zst"
            if layout.lab and name in members:
                left.append((name, decompress, members[name], self._bytes["lab"]))
            else:
                self._bytes["lab"][...] = IGNORE_INDEX
        except Exception as error:  # each codec has errors of its own; all mean the same here
            raise self._error(name, error) from error
        self._left = left

    def finish(self) -> None:
        """Decode the large members of the sample that was opened.

        Raises:
            ShardError: one is damaged, or of another size.
        """
        for name, decode, data, out in self._left:
            try:
                decode(data, out)
            except Exception as error:
                raise self._error(name, error) from error
        self._left = []

    def _unpack_coarse(self, data: Bytes, window: NDArray[np.uint16]) -> None:
        if window.size:
            codes = np.empty((len(COARSE), *window.shape[1:]), np.uint16)
            unpack(data, flat(codes))
            window[...] = codes if self._planes is None else codes[self._planes]

    def _error(self, member: str, error: Exception) -> ShardError:
        return ShardError(f"sample {self._key}: member {member} cannot be decoded ({error!r}); build the shards anew")
