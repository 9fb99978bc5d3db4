"""Charts as rasters of row numbers: from polygon ids and codes, and from planes of classes.

The rows are the chart's polygons and, behind them, every combination of labels, of which the first is masked
throughout. So each pixel and each block of pixels has a row, also a block whose labels no single polygon has.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcticseg.ice import threads
from arcticseg.ice.chart import PolygonCodes
from arcticseg.ice.partials import PolygonRow, polygon_rows
from arcticseg.ice.sigrid import CHARTS, N_CLASSES

# Lines of a raster handled at once.
_BAND = 64

# A combination's number has a digit for each chart: 0, masked, or 1 more than the class.
_BASES = tuple(N_CLASSES[chart] + 1 for chart in CHARTS)
# uint8 [672, 3]: all combinations of labels by their numbers. 0 - 1 is 255, masked.
COMBINATIONS = np.indices(_BASES, np.uint8).reshape(len(_BASES), -1).T - np.uint8(1)


def combination(planes: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """The number in `COMBINATIONS` of labels, uint8 [3, ...] with classes or 255; uint16 [...]."""
    number = np.zeros(planes.shape[1:], np.uint16)
    for plane, base in zip(planes, _BASES, strict=True):
        number *= base
        number += plane + np.uint8(1)  # 255 + 1 is 0
    return number


def _gather(table: NDArray, rows: NDArray[np.intp], out: NDArray) -> None:
    """out = table[rows], as fast as numpy can: the indices need no conversion, `out` needs no buffer."""
    np.take(table, rows, out=out, mode="clip")


@dataclass(frozen=True)
class IndexedChart:
    """An ice chart as a raster of row numbers: a single plane to vote over instead of three.

    Attributes:
        index: unsigned [H, W], rows of `classes`; `nothing` where there is no chart.
        classes: uint8 [P + 672, 3], SIC, SOD, FLOE of the P polygons and of `COMBINATIONS`; 255 = masked.
        polygons: P rows; None: the chart came as classes, whose polygons are not known.
    """

    index: NDArray[np.unsignedinteger[Any]]
    classes: NDArray[np.uint8]
    polygons: tuple[PolygonRow, ...] | None = None

    @property
    def nothing(self) -> int:
        """The row that is masked throughout: the first behind the polygons."""
        return len(self.classes) - len(COMBINATIONS)

    def row(self, number: int) -> PolygonRow:
        """A row: a polygon, or a combination of labels."""
        if self.polygons is not None and number < len(self.polygons):
            return self.polygons[number]
        sic, sod, floe = map(int, self.classes[number])
        return PolygonRow((sic, sod, floe))

    def planes(self) -> NDArray[np.uint8]:
        """SIC, SOD, FLOE, uint8 [3, H, W]."""
        return self.of_rows(self.classes.T)

    def of_rows(self, tables: NDArray) -> NDArray:
        """What tables [..., N] say of each pixel's row: [..., H, W]."""
        flat = np.ascontiguousarray(tables.reshape(-1, tables.shape[-1]))
        out = np.empty((len(flat), *self.index.shape), tables.dtype)
        for first in range(0, len(self.index), _BAND):
            rows = self.index[first : first + _BAND].astype(np.intp)
            for plane, of_row in zip(out, flat, strict=True):
                _gather(of_row, rows, plane[first : first + _BAND])
        return out.reshape(*tables.shape[:-1], *self.index.shape)


def index_planes(planes: NDArray[np.uint8]) -> IndexedChart:
    """The indexed chart of SIC, SOD and FLOE planes, uint8 [3, H, W] with classes or 255."""
    return IndexedChart(combination(planes), COMBINATIONS)


def rasterise(
    polygons: NDArray, table: PolygonCodes, classes: NDArray[np.uint8], source: str = "chart", n_threads: int = 1
) -> IndexedChart:
    """The chart of a raster of polygon ids: a single gather from a table, whatever the number of polygons.

    Args:
        polygons: float [H, W], polygon ids; NaN = no chart.
        table: the codes of P polygons.
        classes: uint8 [P, 3].
        source: file name for messages.
        n_threads: the result does not depend on it.

    Returns:
        The chart; masked where there is no polygon, or where the id has no row in the table (a warning says so).
    """
    nothing = len(table.ids)
    dtype = np.min_scalar_type(nothing)
    # Ids 0 ... largest, then no chart.
    largest = int(table.ids.max(initial=0))
    nowhere = largest + 1
    lookup = np.full(nowhere + 1, nothing, dtype)
    lookup[table.ids] = np.arange(nothing)
    index = np.empty(polygons.shape, dtype)

    def gather(first: int) -> int:
        """Index the lines from `first` on; the number of pixels whose id has no row."""
        band, out = polygons[first : first + _BAND], index[first : first + _BAND]
        number = np.where((band >= 0) & (band <= largest), band, nowhere).astype(np.intp)
        _gather(lookup, number, out)
        out[number != band] = nothing
        return int(np.count_nonzero((out == nothing) & np.isfinite(band)))

    lost = sum(threads.in_order(gather, range(0, len(polygons), _BAND), n_threads))
    if lost:
        warnings.warn(f"{source}: {lost} pixels have a polygon id without codes; they are masked", stacklevel=2)
    return IndexedChart(index, np.vstack([classes, COMBINATIONS]), polygon_rows(table, classes))
