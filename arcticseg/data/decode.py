"""A sample's bytes decoded into arrays that exist already: no torch, no copies, light to import in worker processes.

A `Layout` says which arrays a run needs and how large they are at most. Windows of the coarse grids differ in size from
sample to sample; each is written into the corner of its array. The rest of the array is 0, its points are at infinity.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from arcticseg.data.sample import Sample, split_members
from arcticseg.data.tile import row_type
from arcticseg.ice.channels import COARSE, COARSE_SPACING, INPUTS, RAW_SPACING, SAR
from arcticseg.ice.partials import PolygonRow
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX
from arcticseg.ice.soft import WIDTH, shares_of

# Points of a geolocation window along an edge; a whole scene of the archive has 21.
MAX_POINTS = 32

# Rows of the table of polygons; pixels of rows behind them count as without a polygon. Polygons stand first in a
# sample's table, and the rest are combinations of labels, which say nothing of partials.
MAX_ROWS = IGNORE_INDEX

# Arrays start at multiples of a page, and so of any vector's width.
_PAGE = 4096

# Array -> member of a sample that fills it.
_MEMBERS = {"hh": "hh.b2", "hv": "hv.b2", "dist": "dist.zst"}

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Layout:
    """The arrays of a sample.

    Attributes:
        tile: edge of a tile in pixels.
        cells: edge of the largest 2 km window, in cells.
        sar: which of `hh` and `hv`.
        coarse: names of the 2 km channels, in the order of `channels.COARSE`.
        dist, geo, lab: whether distance zones, positions and angles, and labels are needed.
        poly: whether polygons are needed: a fourth plane of the labels holds their rows, which are turned, cropped and
            mixed as labels are; 255 = none.
    """

    tile: int
    cells: int
    sar: tuple[str, ...] = tuple(SAR)
    coarse: tuple[str, ...] = COARSE
    dist: bool = True
    geo: bool = True
    lab: bool = True
    poly: bool = False

    @staticmethod
    def of(
        tile: int,
        factors: Iterable[int],
        channels: Sequence[str],
        valid_plane: bool = True,
        labels: bool = True,
        polygons: bool = False,
        angles: bool = False,
    ) -> Layout:
        """The layout for tiles at some factors, of `tile` x `tile` pixels.

        Args:
            channels: names of the channels that the network sees.
            valid_plane: the network also sees where there is SAR data, so both polarisations are needed.
            labels: the labels are needed.
            polygons: what charts say of polygons is needed, too.
            angles: incidence angles are needed, whatever the network sees.
        """
        # Cells between the centres of the first and the last pixel, and one more on either side.
        cells = math.ceil((tile - 1) * RAW_SPACING * max(factors) / COARSE_SPACING) + 3
        grids = {INPUTS[name].grid for name in channels}
        return Layout(
            tile,
            cells,
            sar=tuple(sar for sar, name in SAR.items() if valid_plane or name in channels),
            coarse=tuple(name for name in COARSE if name in channels),
            dist="distance_map" in channels,
            geo=angles or "geo" in grids,
            lab=labels,
            poly=polygons,
        )

    @property
    def core_only(self) -> bool:
        """Whether the core of a sample (SAR, metadata and labels) holds all that is needed."""
        return not (self.coarse or self.dist or self.geo or self.poly)

    @cached_property
    def fields(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Name -> dtype and shape of each array; an array that is not needed has no elements."""
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
            "spacing": (np.float32, (1,)),
            "lab": (np.uint8, (len(CHARTS) + self.poly, *(plane if self.lab else none))),
            "shares": (np.float32, (MAX_ROWS if self.poly else 0, WIDTH)),
        }
        return {name: (np.dtype(dtype), shape) for name, (dtype, shape) in shapes.items()}

    def bytes(self, samples: int) -> int:
        """Bytes of memory that `views` needs, a multiple of a page."""
        sizes = (samples * math.prod(shape) * dtype.itemsize for dtype, shape in self.fields.values())
        return sum(map(_pages, sizes))

    def views(self, memory: memoryview, samples: int) -> dict[str, NDArray[Any]]:
        """The arrays [samples, ...], one after another in the memory."""
        arrays, offset = {}, 0
        for name, (dtype, shape) in self.fields.items():
            count = samples * math.prod(shape)
            arrays[name] = np.frombuffer(memory, dtype, count, offset).reshape(samples, *shape)
            offset += _pages(count * dtype.itemsize)
        return arrays

    def decoders(self, views: Arrays) -> list[Decoder]:
        """A decoder for each sample of arrays [samples, ...]."""
        return [Decoder(self, {name: array[i] for name, array in views.items()}) for i in range(len(views["clock"]))]


def _pages(size: int) -> int:
    """Bytes of the whole pages that hold `size` bytes."""
    return -(-size // _PAGE) * _PAGE


@lru_cache(maxsize=4096)
def clock(time: str | None) -> tuple[float, float]:
    """Month and day of the year of an ISO 8601 time; NaN for None."""
    if time is None:
        return math.nan, math.nan
    moment = datetime.fromisoformat(time)
    return moment.month, moment.timetuple().tm_yday


class _Grid:
    """A coarse grid's array of a sample, and its points, infinite where there are no more."""

    def __init__(self, arrays: Arrays, name: str) -> None:
        self._array = arrays[name]
        self._lines, self._samples = (arrays[f"{name}_{axis}"].data for axis in ("rows", "cols"))

    def window(self, rows: list[float], cols: list[float]) -> NDArray[Any]:
        """The corner that a window fills; its points are written, the rest of the array is emptied.

        Raises:
            ValueError: there is no room for it.
        """
        height, width = len(rows), len(cols)
        room = len(self._lines), len(self._samples)
        if height > room[0] or width > room[1]:
            raise ValueError(f"a window of {height} x {width} where there is room for {room[0]} x {room[1]}")
        # Only what the previous sample filled has to be emptied; its points say how far that goes. They change after
        # the emptying and before the window, so that they are never too few, wherever a process is killed.
        last_line, last_sample = bisect_left(self._lines, math.inf), bisect_left(self._samples, math.inf)
        if last_line > height:
            self._array[:, height:last_line, :last_sample] = 0
        if last_sample > width:
            self._array[:, :height, width:last_sample] = 0
        for points, values in ((self._lines, rows), (self._samples, cols)):
            points[:] = array("d", values + [math.inf] * (len(points) - len(values)))
        corner: NDArray[Any] = self._array[:, :height, :width]
        return corner


class Decoder:
    """Decodes samples into the arrays of one row of a batch, one sample after another.

    The codecs let go of the interpreter's lock and leave nothing else in a core's caches. So several samples are opened
    first, each by a decoder of its own, and then their large members are decoded one after another.

    Args:
        layout: of the arrays.
        arrays: hold zeros, or what an earlier sample left there.
    """

    def __init__(self, layout: Layout, arrays: Arrays) -> None:
        self._layout, self._arrays = layout, arrays
        names = (*layout.sar, "dist") if layout.dist else layout.sar
        self._planes = [(_MEMBERS[name], arrays[name]) for name in names]
        self._aux, self._geo = (_Grid(arrays, name) for name in ("aux", "geo"))
        self._coarse = None if layout.coarse == COARSE else [COARSE.index(name) for name in layout.coarse]
        self._sample: Sample | None = None
        self._window: NDArray[np.uint16] | None = None

    def blank(self) -> None:
        """Leave no data and masked labels."""
        for name, values in self._arrays.items():
            values[...] = math.inf if name.endswith(("_rows", "_cols")) else 0
        self._arrays["dist"][...] = IGNORE_INDEX
        for name in ("clock", "spacing"):
            self._arrays[name][...] = math.nan
        self._arrays["lab"][...] = IGNORE_INDEX

    def open(self, data: bytes) -> None:
        """Decode what is small of a sample, or of its core where the layout needs no more.

        Raises:
            ShardError: a member is missing, damaged, of another schema version or larger than there is room for.
        """
        layout = self._layout
        self._sample = sample = Sample(*split_members(data))
        with sample:
            if sample.shape != (layout.tile, layout.tile):
                raise ValueError(f"{sample.shape} pixels, the manifest says {layout.tile}")
            self._arrays["clock"][:] = clock(sample.facts["time"])
            self._arrays["spacing"][:] = sample.facts["pixel_spacing"]
            if layout.coarse:
                self._window = self._aux.window(*sample.window("aux.b2"))
            if layout.geo:
                window = self._geo.window(*sample.window("geo.bin"))
                window[...] = sample.geo(window.shape[1:])

    def finish(self) -> None:
        """Decode the large members of the sample that was opened.

        Raises:
            ShardError: a member is missing, damaged or of another size.
        """
        sample, self._sample = self._sample, None
        assert sample is not None
        with sample:
            for member, plane in self._planes:
                sample.decode(member, plane)
            if self._window is not None:
                codes = sample.array("aux.b2", (len(COARSE), *self._window.shape[1:]), np.uint16)
                self._window[...] = codes if self._coarse is None else codes[self._coarse]
            labels = self._arrays["lab"]
            if self._layout.lab and "lab.zst" in sample:
                sample.decode("lab.zst", labels[: len(CHARTS)])
            else:
                labels[...] = IGNORE_INDEX
            if self._layout.poly:
                self._polygons(sample, labels[-1])

    def _polygons(self, sample: Sample, plane: NDArray[np.uint8]) -> None:
        """Decode the rows of polygons, and fill the table with what they say."""
        table = self._arrays["shares"]
        table[...] = 0
        if "aux_poly.zst" not in sample:
            plane[...] = IGNORE_INDEX
            return
        rows = sample.facts["polygons"]
        fits = shares_of([PolygonRow.from_json(row) for row in rows[:MAX_ROWS]])
        table[: len(fits)] = fits
        if row_type(len(rows)) is np.uint8:
            sample.decode("aux_poly.zst", plane)
        else:
            plane[...] = np.minimum(sample.array("aux_poly.zst", sample.shape, np.uint16), MAX_ROWS)
