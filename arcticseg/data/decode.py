"""A sample's bytes decoded into arrays that exist already: no torch, no copies, light to import in worker processes.

A `Layout` says which arrays a run needs and how large they are at most. Windows of the coarse grids differ in size from
sample to sample; each is written into the corner of its array. What is left over is 0, its points are at infinity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import orjson
from numpy.typing import DTypeLike, NDArray

from arcticseg.data.sample import SCHEMA_VERSION, decompress, split_members, unpack
from arcticseg.errors import ShardError
from arcticseg.ice.channels import CHANNELS, COARSE, COARSE_SPACING, SAR
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX

# Points of a geolocation window along an edge; a whole scene of the archive has 21.
MAX_POINTS = 32

# Arrays start at multiples of a page, and so of any vector's width.
_PAGE = 4096

Arrays = Mapping[str, NDArray[Any]]


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

    @cached_property
    def coarse_index(self) -> list[int]:
        """Where the 2 km channels stand in the member `aux.b2`."""
        return [COARSE.index(name) for name in self.coarse]


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def clock(time: str | None) -> tuple[float, float]:
    """Month and day of the year of an ISO 8601 time; NaN where there is none."""
    if time is None:
        return math.nan, math.nan
    at = datetime.fromisoformat(time)
    return at.month, at.timetuple().tm_yday


def blank(row: Arrays) -> None:
    """Fill a sample's arrays with no data and masked labels."""
    for name, array in row.items():
        array[...] = 0
        if name.endswith(("_rows", "_cols")):
            array[...] = math.inf
    row["dist"][...] = IGNORE_INDEX
    row["clock"][...] = math.nan
    row["lab"][...] = IGNORE_INDEX


def _window(row: Arrays, name: str, rows: Sequence[float], cols: Sequence[float]) -> NDArray[Any]:
    """The corner of a coarse grid's array that a window fills; its points are written, the rest is emptied."""
    room = row[name].shape[1:]
    if len(rows) > room[0] or len(cols) > room[1]:
        raise ValueError(f"a window of {len(rows)} x {len(cols)} where there is room for {room[0]} x {room[1]}")
    for axis, points in (("rows", rows), ("cols", cols)):
        array = row[f"{name}_{axis}"]
        array[: len(points)] = points
        array[len(points) :] = math.inf
    row[name][:, len(rows) :] = 0
    row[name][:, : len(rows), len(cols) :] = 0
    window: NDArray[Any] = row[name][:, : len(rows), : len(cols)]
    return window


def decode_into(data: bytes, layout: Layout, row: Arrays) -> None:
    """Decode a sample, or its core where the layout needs no more, into one sample's arrays.

    Raises:
        ShardError: a member is missing, damaged, of another schema version or larger than the layout has room for.
    """
    key, members = split_members(data)
    name = "json"
    try:
        meta = orjson.loads(members[name])
        if meta["schema"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {meta['schema']}, this program reads {SCHEMA_VERSION}")
        if meta["size"] != [layout.tile, layout.tile]:
            raise ValueError(f"{meta['size']} pixels, the manifest says {layout.tile}")
        row["clock"][:] = clock(meta["time"])
        for sar in layout.sar:
            name = f"{sar}.b2"
            unpack(members[name], row[sar])
        if layout.dist:
            name = "dist.zst"
            decompress(members[name], row["dist"])
        if layout.coarse:
            name = "aux.b2"
            window = _window(row, "aux", meta["aux_rows"], meta["aux_cols"])
            if window.size:
                codes = np.empty((len(COARSE), *window.shape[1:]), np.uint16)
                unpack(members[name], codes)
                window[...] = codes if layout.coarse == COARSE else codes[layout.coarse_index]
        if layout.geo:
            name = "geo.bin"
            window = _window(row, "geo", meta["geo_rows"], meta["geo_cols"])
            window[...] = np.frombuffer(members[name], "<f4").reshape(window.shape)
        if layout.lab:
            name = "lab.zst"
            if name in members:
                decompress(members[name], row["lab"])
            else:
                row["lab"][...] = IGNORE_INDEX
    except Exception as error:  # each codec has errors of its own; all mean the same here
        raise ShardError(f"sample {key}: member {name} cannot be decoded ({error!r}); build the shards anew") from error
