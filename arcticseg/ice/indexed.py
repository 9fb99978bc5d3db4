"""Charts as rasters of row numbers: from polygon ids and codes, and from planes of classes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcticseg.ice import threads
from arcticseg.ice.chart import PolygonCodes
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX, N_CLASSES

# Lines of a raster handled at once.
_BAND = 64


def _gather(table: NDArray, rows: NDArray[np.intp], out: NDArray) -> None:
    """out = table[rows], as fast as numpy can: the indices need no conversion, `out` needs no buffer."""
    np.take(table, rows, out=out, mode="clip")


@dataclass(frozen=True)
class IndexedChart:
    """An ice chart as a raster of row numbers: a single plane to vote over instead of three.

    Attributes:
        index: uint8 or uint16 [H, W], rows of `classes`.
        classes: uint8 [N, 3], SIC, SOD, FLOE; 255 = masked.
    """

    index: NDArray[np.unsignedinteger[Any]]
    classes: NDArray[np.uint8]

    def planes(self) -> NDArray[np.uint8]:
        """SIC, SOD, FLOE, uint8 [3, H, W]."""
        out = np.empty((3, *self.index.shape), np.uint8)
        for first in range(0, len(self.index), _BAND):
            rows = self.index[first : first + _BAND].astype(np.intp)
            for plane, of_row in zip(out, self.classes.T, strict=True):
                _gather(of_row, rows, plane[first : first + _BAND])
        return out


def index_planes(planes: NDArray[np.uint8]) -> IndexedChart:
    """The indexed chart of SIC, SOD and FLOE planes, uint8 [3, H, W] with classes or 255."""
    # A number in which each chart has a digit; the digit above the last class is masked.
    bases = [N_CLASSES[name] + 1 for name in CHARTS]
    number = np.zeros(planes.shape[1:], np.uint16)
    for plane, base in zip(planes, bases, strict=True):
        number *= base
        number += np.minimum(plane, base - 1)
    digits = np.indices(bases).reshape(len(bases), -1).T
    return IndexedChart(number, np.where(digits == np.array(bases) - 1, IGNORE_INDEX, digits).astype(np.uint8))


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
    masked = np.full((1, 3), IGNORE_INDEX, np.uint8)
    kinds, kind = np.unique(np.vstack([masked, classes]), axis=0, return_inverse=True)
    # A row of its own for ids without codes, so that they can be counted.
    unlisted = len(kinds)
    dtype = np.uint8 if unlisted < 256 else np.uint16
    # Ids 0 ... largest, then no chart.
    largest = int(table.ids.max(initial=0))
    nowhere = largest + 1
    lookup = np.full(nowhere + 1, unlisted, dtype)
    lookup[[nowhere, *table.ids]] = kind.ravel()
    index = np.empty(polygons.shape, dtype)

    def gather(first: int) -> int:
        """Index the lines from `first` on; the number of pixels whose id has no row."""
        band, out = polygons[first : first + _BAND], index[first : first + _BAND]
        inside = (band >= 0) & (band <= largest)
        number = np.where(inside, band, nowhere).astype(np.intp)
        _gather(lookup, number, out)
        out[(~inside | (number != band)) & np.isfinite(band)] = unlisted
        return int(np.count_nonzero(out == unlisted))

    lost = sum(threads.in_order(gather, range(0, len(polygons), _BAND), n_threads))
    if lost:
        warnings.warn(f"{source}: {lost} pixels have a polygon id without codes; they are masked", stacklevel=2)
    return IndexedChart(index, np.vstack([kinds, masked]))
