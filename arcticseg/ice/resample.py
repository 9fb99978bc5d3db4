"""Bringing rasters to coarser grids: means and label votes that know invalid pixels.

Blocks are k x k, aligned to the first pixel; rows and columns that fill no whole block are cut off.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import DTypeLike, NDArray

from arcticseg.ice.sigrid import IGNORE_INDEX

Float = NDArray[np.float32]
UInt8 = NDArray[np.uint8]

# Rows of blocks handled at once: keeps the temporaries of a 10,000 x 10,000 scene near 100 MB.
_BAND = 128


def coarse_shape(shape: tuple[int, int], factor: int) -> tuple[int, int]:
    """Rows and columns of whole factor x factor blocks in `shape`."""
    return shape[0] // factor, shape[1] // factor


def _blocks(array: NDArray, factor: int, first: int, last: int) -> NDArray:
    """View block rows [first, last) of [H, W] as [rows, factor, columns, factor]."""
    columns = array.shape[1] // factor
    band = array[first * factor : last * factor, : columns * factor]
    return band.reshape(last - first, factor, columns, factor)


def _reduce(blocks: NDArray, by: np.ufunc, dtype: DTypeLike | None = None) -> NDArray:
    """Reduce [rows, factor, columns, factor] to [rows, columns].

    Line meets line, then column meets column: long loops, many times as fast as `by` over both short axes at once.
    """
    lines = by.reduce(blocks, axis=1, dtype=dtype)
    return functools.reduce(by, (lines[:, :, column] for column in range(blocks.shape[3])))


def block_mean(values: NDArray, factor: int, min_valid: float = 0.5) -> Float:
    """Mean over the finite values of each block.

    Args:
        values: [H, W] float; NaN = no data.
        factor: block edge in pixels.
        min_valid: share of finite values from which on a block has a mean; at least one is always needed.

    Returns:
        float32 [H // factor, W // factor]; NaN where too few values are finite.
    """
    rows, columns = coarse_shape(values.shape, factor)
    out = np.empty((rows, columns), np.float32)
    # The tolerance keeps 0.07 x 100 from needing 8 pixels.
    needed = max(1, int(np.ceil(min_valid * factor * factor - 1e-9)))
    for first in range(0, rows, _BAND):
        last = min(first + _BAND, rows)
        blocks = _blocks(values, factor, first, last)
        finite = np.isfinite(blocks)
        count = _reduce(finite, np.add, np.int32)
        total = _reduce(np.where(finite, blocks, 0.0), np.add, np.float64)
        out[first:last] = np.where(count >= needed, total / np.maximum(count, 1), np.nan)
    return out


def block_mean_db(decibels: NDArray, factor: int, min_valid: float = 0.5, average: str = "linear") -> Float:
    """Mean backscatter of each block, in dB.

    Args:
        decibels: [H, W] dB; NaN = no data; -inf is zero power, which is data.
        average: `linear` averages power, which is what a coarser sensor would measure; `db` averages decibels,
            as the ready-to-train files were made (zero power is no data there: it has no decibels).
    """
    if average == "db":
        return block_mean(decibels, factor, min_valid)
    if average != "linear":
        raise ValueError(f"average must be 'linear' or 'db', not {average!r}")
    power = np.power(np.float32(10.0), np.asarray(decibels, np.float32) * np.float32(0.1))
    with np.errstate(divide="ignore"):
        return (10.0 * np.log10(block_mean(power, factor, min_valid))).astype(np.float32)


def block_majority(labels: NDArray[np.uint8], factor: int, n_classes: int) -> UInt8:
    """The most frequent class among the labelled pixels of each block; the lower class wins a tie.

    Args:
        labels: uint8 [H, W]; 255 = masked.

    Returns:
        uint8 [H // factor, W // factor]; 255 where no pixel of the block is labelled.
    """
    rows, columns = coarse_shape(labels.shape, factor)
    out = np.empty((rows, columns), np.uint8)
    for first in range(0, rows, _BAND):
        last = min(first + _BAND, rows)
        blocks = _blocks(labels, factor, first, last)
        lowest = _reduce(blocks, np.minimum)
        # Nearly all blocks of a chart are of one class; only the others need a vote.
        mixed = lowest != _reduce(blocks, np.maximum)
        out[first:last] = lowest
        out[first:last][mixed] = _vote(blocks.swapaxes(1, 2)[mixed].reshape(-1, factor * factor), n_classes)
    return out


def _vote(pixels: UInt8, n_classes: int) -> UInt8:
    """The most frequent class in each row of [N, pixels], the lower one on a tie; 255 where all are masked."""
    winner = np.full(len(pixels), IGNORE_INDEX, np.uint8)
    best = np.zeros(len(pixels), np.int32)
    for value in range(n_classes):
        votes = np.count_nonzero(pixels == value, axis=1)
        wins = votes > best
        winner[wins], best[wins] = value, votes[wins]
    return winner


def block_maximum(labels: NDArray[np.uint8], factor: int) -> UInt8:
    """The largest value of each block, so that one masked pixel (255) masks the block: the RTT recipe."""
    rows, _ = coarse_shape(labels.shape, factor)
    return _reduce(_blocks(labels, factor, 0, rows), np.maximum)


def block_nearest(labels: NDArray[np.uint8], factor: int) -> UInt8:
    """The pixel at the block's centre (the lower right of the four where the factor is even)."""
    rows, columns = coarse_shape(labels.shape, factor)
    centre = factor // 2
    return np.ascontiguousarray(labels[centre::factor, centre::factor][:rows, :columns])


def block_zone(zones: NDArray, factor: int) -> UInt8:
    """Mean distance zone of each block, rounded; 255 where no pixel has one.

    Args:
        zones: float [H, W], zone ids 0-41; NaN = no data.
    """
    mean = block_mean(zones, factor, min_valid=0.0)
    return np.where(np.isfinite(mean), np.rint(mean), IGNORE_INDEX).astype(np.uint8)
