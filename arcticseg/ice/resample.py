"""Rasters on coarser grids: means and label votes that know invalid pixels, for many factors in one pass.

Blocks are k x k, aligned to the first pixel; rows and columns that fill no whole block are cut off. A factor that is a
multiple of another goes on from the other's sums and counts, not from the pixels, so every mean is the exact mean over
the block's valid pixels, never a mean of means.

The raster is worked on window by window: the edge of a window is a multiple of its factors, so windows share no block,
any number of threads can work on them, and intermediate results stay small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from arcticseg.ice import threads
from arcticseg.ice.indexed import IndexedChart, combination
from arcticseg.ice.sigrid import IGNORE_INDEX

Float = NDArray[np.float32]
UInt8 = NDArray[np.uint8]

# Edge of a window in pixels, at most: its rasters stay in the cache, and many threads need little memory.
_WINDOW = 1080
# Factors share a window up to this least common multiple: of 2 to 10, all but 7.
_SHARED = 360
# Lines that are folded at once: they are still in the cache when their columns are folded.
_LINES = 128


def coarse_shape(shape: tuple[int, int], factor: int) -> tuple[int, int]:
    """Rows and columns of whole factor x factor blocks in `shape`."""
    return shape[0] // factor, shape[1] // factor


def parents(factors: Iterable[int]) -> dict[int, int]:
    """Each factor, ascending -> the largest smaller factor that divides it; 1, the pixels, where there is none."""
    ordered = sorted(set(factors))
    return {factor: max((f for f in ordered if f < factor and factor % f == 0), default=1) for factor in ordered}


def _shared_windows(factors: Iterable[int]) -> list[list[int]]:
    """Factors in groups that share a window, each with its parent unless the window grows too large."""
    groups: list[list[int]] = []
    for factor, parent in parents(factors).items():
        fitting = [group for group in groups if math.lcm(*group, factor) <= _SHARED]
        home = next((group for group in fitting if parent in group), fitting[0] if fitting else None)
        if home is None:
            groups.append(home := [])
        home.append(factor)
    return groups


def _fold(blocks: NDArray, factor: int, by: np.ufunc, dtype: DTypeLike) -> NDArray:
    """Reduce the whole factor x factor blocks of [H, W] by a ufunc, to `dtype` [H // factor, W // factor].

    Lines are reduced with lines, then columns with columns: long loops, many times as fast as a reduction over short
    axes.
    """
    rows, columns = coarse_shape(blocks.shape, factor)
    if factor == 1:
        return blocks.astype(dtype, copy=False)
    out = np.empty((rows, columns), dtype)
    step = max(1, _LINES // factor)
    for first in range(0, rows, step):
        target = out[first : first + step]
        band = blocks[first * factor : (first + len(target)) * factor, : columns * factor]
        lines = by(band[0::factor], band[1::factor], dtype=dtype)
        for line in range(2, factor):
            by(lines, band[line::factor], out=lines)
        by(lines[:, 0::factor], lines[:, 1::factor], out=target)
        for column in range(2, factor):
            by(target, lines[:, column::factor], out=target)
    return out


def _by_window(
    shape: tuple[int, int],
    factors: Iterable[int],
    work: Callable[[tuple[slice, slice], list[int]], Mapping[int, NDArray]],
    out: Mapping[int, NDArray],
    n_threads: int,
) -> None:
    """Give each window of [H, W] and its factors to `work`; put its results by factor into `out` [..., h, w]."""
    jobs = []
    for group in _shared_windows(factors):
        edge = math.lcm(*group) * max(1, _WINDOW // math.lcm(*group))
        jobs += [(row, column, edge, group) for row, column in product(*(range(0, n, edge) for n in shape))]

    def run(job: tuple[int, int, int, list[int]]) -> None:
        row, column, edge, group = job
        for factor, blocks in work((slice(row, row + edge), slice(column, column + edge)), group).items():
            height, width = blocks.shape[-2:]
            top, left = row // factor, column // factor
            out[factor][..., top : top + height, left : left + width] = blocks

    for _ in threads.in_order(run, jobs, n_threads):
        pass


def block_means(
    values: NDArray,
    factors: Iterable[int],
    min_valid: float = 0.5,
    prepare: Callable[[NDArray], NDArray] | None = None,
    finish: Callable[[NDArray], NDArray] | None = None,
    dtype: DTypeLike = np.float32,
    n_threads: int = 1,
) -> dict[int, NDArray]:
    """Means over the finite values of blocks, for each factor.

    Args:
        values: [H, W] float; NaN = no data.
        factors: block edges in pixels.
        min_valid: share of finite values that a block needs to have a mean; it always needs a finite value.
        prepare: turns a window of values into a new array, which is averaged; None: the values are.
        finish: turns means (float64, NaN where too few values are finite) into results; None: the means are.
        dtype: of the results.
        n_threads: the result does not depend on it.

    Returns:
        factor -> `dtype` [H // factor, W // factor].
    """
    shape = (values.shape[0], values.shape[1])
    steps = sorted(set(factors))
    out = {factor: np.empty(coarse_shape(shape, factor), dtype) for factor in steps}

    def work(window: tuple[slice, slice], group: list[int]) -> dict[int, NDArray]:
        prepared = values[window] if prepare is None else prepare(values[window])
        finite = np.isfinite(prepared)
        whole = finite.all()
        sums: dict[int, NDArray] = {1: prepared if whole else np.where(finite, prepared, 0)}
        counts: dict[int, NDArray] = {1: finite.view(np.uint8)}
        means = {}
        for factor, parent in parents(group).items():
            sums[factor] = _fold(sums[parent], factor // parent, np.add, np.float64)
            if whole:
                mean = sums[factor] / (factor * factor)
            else:
                counts[factor] = _fold(counts[parent], factor // parent, np.add, np.int32)
                # The tolerance keeps 0.07 x 100 from needing 8 pixels.
                needed = max(1, math.ceil(min_valid * factor * factor - 1e-9))
                mean = np.where(counts[factor] >= needed, sums[factor] / np.maximum(counts[factor], 1), np.nan)
            means[factor] = mean if finish is None else finish(mean)
        return means

    _by_window(shape, steps, work, out, n_threads)
    return out


def db_to_power(decibels: NDArray) -> Float:
    """Linear power of decibels; zero for -inf."""
    power = np.multiply(decibels, np.float32(math.log(10) / 10), dtype=np.float32)
    with np.errstate(over="ignore"):
        return np.exp(power, out=power)


def power_to_db(power: NDArray) -> Float:
    """Decibels of linear power; -inf for zero."""
    with np.errstate(divide="ignore"):
        return np.log(power.astype(np.float32)) * np.float32(10 / math.log(10))


def block_means_db(
    decibels: NDArray, factors: Iterable[int], min_valid: float = 0.5, average: str = "linear", n_threads: int = 1
) -> dict[int, Float]:
    """Mean backscatter of blocks in dB, for each factor.

    Args:
        decibels: [H, W] dB; NaN = no data; -inf is zero power, which is data.
        average: `linear` averages power, as a coarser sensor would measure it; `db` averages decibels, as in the
            ready-to-train files (zero power is no data there: it has no decibels).
        factors, min_valid, n_threads: as in `block_means`.

    Returns:
        factor -> float32 [H // factor, W // factor].
    """
    if average == "db":
        return block_means(decibels, factors, min_valid, n_threads=n_threads)
    if average != "linear":
        raise ValueError(f"average must be 'linear' or 'db', not {average!r}")
    return block_means(decibels, factors, min_valid, db_to_power, power_to_db, n_threads=n_threads)


def block_zones(zones: NDArray, factors: Iterable[int], n_threads: int = 1) -> dict[int, UInt8]:
    """Mean distance zone of blocks, rounded, for each factor; 255 where no pixel has a zone.

    Args:
        zones: float [H, W], zone ids 0-41; NaN = no data.
        factors, n_threads: as in `block_means`.

    Returns:
        factor -> uint8 [H // factor, W // factor].
    """
    return block_means(zones, factors, 0.0, finish=_rounded, dtype=np.uint8, n_threads=n_threads)


def _rounded(means: NDArray) -> NDArray:
    """Means to the nearest whole number; NaN -> 255."""
    return np.where(np.isnan(means), IGNORE_INDEX, np.rint(means))


def block_any(flags: NDArray[np.bool_], factors: Iterable[int], n_threads: int = 1) -> dict[int, NDArray[np.bool_]]:
    """Whether any pixel of a block is set, for each factor.

    Args:
        flags: bool [H, W].
        factors, n_threads: as in `block_means`.

    Returns:
        factor -> bool [H // factor, W // factor].
    """
    shape = (flags.shape[0], flags.shape[1])
    steps = sorted(set(factors))
    out = {factor: np.empty(coarse_shape(shape, factor), bool) for factor in steps}

    def work(window: tuple[slice, slice], group: list[int]) -> dict[int, NDArray]:
        folded = {1: flags[window]}
        for factor, parent in parents(group).items():
            folded[factor] = _fold(folded[parent], factor // parent, np.logical_or, bool)
        return {factor: folded[factor] for factor in group}

    _by_window(shape, steps, work, out, n_threads)
    return out


def block_charts(
    chart: IndexedChart, factors: Iterable[int], how: str = "majority", n_threads: int = 1
) -> dict[int, IndexedChart]:
    """A chart on blocks, for each factor: the labels by `how`, chart by chart, and the polygon that they are of.

    A block's row is that of the polygon with most pixels in it, the lower row on a tie, among those that have all three
    labels of the block; where none has, as the votes came from several polygons, that of the combination of labels.

    Args:
        chart: of H x W pixels.
        how: `majority`, the most frequent class among the labelled pixels, the lower class on a tie, and 255 where none
            is labelled; `nearest`, the pixel at the centre (the lower right of the four where the factor is even);
            `maximum`, so that a masked pixel masks the block: the rule of the ready-to-train files.
        factors, n_threads: as in `block_means`.

    Returns:
        factor -> chart of H // factor x W // factor blocks.
    """
    index, classes = chart.index, chart.classes
    shape = (index.shape[0], index.shape[1])
    steps = sorted(set(factors))
    dtype = np.min_scalar_type(len(classes) - 1)
    out = {factor: np.empty(coarse_shape(shape, factor), dtype) for factor in steps}
    charts = {factor: replace(chart, index=rows) for factor, rows in out.items()}
    if how == "nearest":
        for factor, target in out.items():
            rows, columns = target.shape
            target[...] = index[factor // 2 :: factor, factor // 2 :: factor][:rows, :columns]
        return charts
    vote = _Vote(chart, {"majority": _most_frequent, "maximum": _largest}[how])

    def work(window: tuple[slice, slice], group: list[int]) -> dict[int, NDArray]:
        pixels = index[window]
        lowest, highest = {1: pixels}, {1: pixels}
        result = {}
        for factor, parent in parents(group).items():
            lowest[factor] = _fold(lowest[parent], factor // parent, np.minimum, index.dtype)
            highest[factor] = _fold(highest[parent], factor // parent, np.maximum, index.dtype)
            result[factor] = lowest[factor].astype(dtype)
            # Nearly all blocks lie in a single polygon; only the others need a vote.
            mixed = lowest[factor] != highest[factor]
            rows, columns = mixed.shape
            blocks = pixels[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
            result[factor][mixed] = vote(blocks.swapaxes(1, 2)[mixed].reshape(-1, factor * factor))
        return result

    _by_window(shape, steps, work, out, n_threads)
    return charts


class _Vote:
    """The row of blocks by the rows of their pixels; see `block_charts`.

    Args:
        chart: whose rows these are.
        resolve: the label of blocks by those of their pixels.
    """

    def __init__(self, chart: IndexedChart, resolve: Callable[[NDArray, NDArray], NDArray]) -> None:
        self._chart, self._resolve = chart, resolve
        # What may occur, since each value costs time: without polygons, all combinations.
        self._values = [np.unique(of_row[: chart.nothing + 1 if chart.nothing else None]) for of_row in chart.classes.T]
        self._combinations = combination(chart.classes.T)

    def __call__(self, pixels: NDArray[np.unsignedinteger[Any]]) -> NDArray:
        """unsigned [N, pixels] -> [N]."""
        planes = np.stack([
            self._resolve(np.take(of_row, pixels), values)
            for of_row, values in zip(self._chart.classes.T, self._values, strict=True)
        ])  # fmt: skip
        wanted = combination(planes)
        rows = self._chart.nothing + wanted.astype(np.intp)
        if not self._chart.nothing:
            return rows
        fits = np.take(self._combinations, pixels) == wanted[:, None]
        none = len(self._combinations)
        return _winners(np.where(fits, pixels.astype(np.min_scalar_type(none)), none), np.unique(pixels), rows)


def _winners(pixels: NDArray, values: NDArray, otherwise: NDArray) -> NDArray:
    """The most frequent of some values in each row of [N, pixels], the first on a tie; `otherwise`: where none is."""
    winner = otherwise.copy()
    best = np.zeros(len(pixels), np.intp)
    for value in values:
        votes = np.count_nonzero(pixels == value, axis=1)
        wins = votes > best
        winner[wins], best[wins] = value, votes[wins]
    return winner


def _most_frequent(pixels: UInt8, classes: UInt8) -> UInt8:
    """The most frequent class in each row of [N, pixels], the lower class on a tie; 255 where all are masked.

    classes: those that may occur, ascending.
    """
    masked = np.full(len(pixels), IGNORE_INDEX, np.uint8)
    return _winners(pixels, classes[classes != IGNORE_INDEX], masked)


def _largest(pixels: UInt8, classes: UInt8) -> UInt8:
    """The largest class in each row of [N, pixels]; 255, masked, is the largest of all."""
    return pixels.max(axis=1, initial=0)
