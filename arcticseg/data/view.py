"""Where on its tile each pixel of the network's input lies, and what planes and coarse grids hold there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from arcticseg.data.batch import Batch


class Taps(NamedTuple):
    """Between which two points of a grid each coordinate lies.

    Attributes:
        low, high: int64 [B, S], the two points.
        share: float64 [B, S], weight of the upper point.
    """

    low: Tensor
    high: Tensor
    share: Tensor

    def of(self, rows: Tensor) -> Taps:
        """The taps of some of the samples."""
        return Taps(*(tensor[rows] for tensor in (self.low, self.high, self.share)))

    def dense(self, n: int) -> Tensor:
        """The weights of n points, float32 [B, S, n]."""
        weights = self.share.new_zeros(*self.share.shape, n)
        weights.scatter_(2, self.low[..., None], (1 - self.share)[..., None])
        return weights.scatter_add_(2, self.high[..., None], self.share[..., None]).float()


def taps(points: Tensor, at: Tensor, hold: bool) -> Taps:
    """Between which points coordinates lie.

    Args:
        points: float64 [B, n], n > 0, rising, infinite where a sample has fewer than n.
        at: float64 [B, S], the coordinates.
        hold: hold the edge values beyond the outermost points (2 km grid); else go on linearly (geolocation).
    """
    count = torch.isfinite(points).sum(dim=1)[:, None]
    low = torch.searchsorted(points, at, right=True) - 1
    low = torch.minimum(low, count - 2).clamp(min=0)
    high = torch.minimum(low + 1, count - 1).clamp(min=0)
    first, last = points.gather(1, low), points.gather(1, high)
    # A single point has no neighbour; where there is no point at all, the grid's cell holds nothing.
    share = torch.where(count > 1, (at - first) / (last - first), 0.0)
    return Taps(low, high, share.clamp(0, 1) if hold else share)


@contextmanager
def _exact_products() -> Iterator[None]:
    """Products of float32 in float32, though a network may be trained in TF32: that moves positions by kilometres."""
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True)
class View:
    """The crop, transposition and flips of each sample of a batch.

    Attributes:
        rows, cols: float64 [B, S], coordinates of the input's rows and columns on the (transposed) tile.
        transpose: bool [B]; None: the input is the tile.
        scaled: whether crops are brought to another size.
        by_runs: interpolate rows of the input by runs between the same lines of a grid, as is best on a CPU.
    """

    rows: Tensor
    cols: Tensor
    transpose: Tensor | None
    scaled: bool
    by_runs: bool = False

    @staticmethod
    def of(batch: Batch) -> View:
        """The view that was drawn for each sample of a batch."""
        size, draws, by_runs = batch.size, batch.draws, batch.hints is None
        at = torch.arange(size, dtype=torch.float64, device=batch.clock.device).expand(len(batch.clock), -1)
        if draws is None:
            return View(at.contiguous(), at.contiguous(), None, False, by_runs)
        rows, cols = (torch.where(flip[:, None], size - 1 - at, at) for flip in (draws.flip_rows, draws.flip_cols))
        if draws.crop is not None:
            first, edge = draws.crop[:, :2].double(), draws.crop[:, 2:].double()
            first = torch.where(draws.transpose[:, None], first.flip(1), first)
            # Output pixel r covers [r, r + 1) edge / size of the crop; coordinates count pixel centres.
            rows, cols = (first[:, i, None] + (x + 0.5) * edge / size - 0.5 for i, x in enumerate((rows, cols)))
        return View(rows, cols, draws.transpose, draws.crop is not None, by_runs)

    def __getitem__(self, rows: Tensor | slice) -> View:
        """The views of some of the samples."""
        transpose = None if self.transpose is None else self.transpose[rows]
        return View(self.rows[rows], self.cols[rows], transpose, self.scaled, self.by_runs)

    def _turned(self, planes: Tensor) -> Tensor:
        """Planes [B, C, n, n], transposed where the sample is."""
        if self.transpose is None:
            return planes
        return torch.where(self.transpose[:, None, None, None], planes.transpose(2, 3), planes)

    def pick(self, planes: Tensor) -> Tensor:
        """The nearest pixels of planes [B, C, S, S], as [B, C, S, S]."""
        if self.transpose is None or not planes.numel():
            return planes
        size = planes.shape[-1]
        rows, cols = ((x + 0.5).floor().long().clamp(0, size - 1) for x in (self.rows, self.cols))
        turned = self._turned(planes)
        turned = turned.gather(2, rows[:, None, :, None].expand_as(turned))
        return turned.gather(3, cols[:, None, None, :].expand_as(turned))

    def taps(self, rows: Tensor, cols: Tensor, hold: bool) -> tuple[Taps, Taps]:
        """Between which lines and samples of a grid the input's rows and columns lie.

        Args:
            rows, cols: float64 [B, n], tile coordinates of the grid's lines and samples.
            hold: as in `taps`.
        """
        if self.transpose is not None:
            turn = self.transpose[:, None]
            rows, cols = torch.where(turn, cols, rows), torch.where(turn, rows, cols)
        return taps(rows, self.rows, hold), taps(cols, self.cols, hold)

    def interpolate(self, grid: Tensor, rows: Taps, cols: Taps, out: Tensor | None = None) -> Tensor:
        """A grid interpolated to the input's pixels.

        Args:
            grid: [B, C, n, n].
            rows, cols: from `taps`.
            out: [B, C, S, S], perhaps planes of a larger tensor; None: a new tensor.
        """
        batch, channels, n, _ = grid.shape
        size = rows.low.shape[1]
        out = grid.new_empty(batch, channels, size, size) if out is None else out
        # Threads of a CPU share the setting.
        with nullcontext() if self.by_runs else _exact_products():
            # [B, C, n, S]: few lines, each as long as a row of the input.
            lines = self._turned(grid) @ cols.dense(n)[:, None].transpose(2, 3)
            if not self.by_runs or n * 4 > size:
                torch.matmul(rows.dense(n)[:, None], lines, out=out)
                return out
        # A CPU writes each pixel once: all rows between the same two lines at a time.
        share = rows.share.float()[:, None, :, None]
        for i in range(batch):
            lows, counts = torch.unique_consecutive(rows.low[i], return_counts=True)
            highs = rows.high[i, counts.cumsum(0) - 1]
            line, runs = lines[i].split(1, dim=1), counts.tolist()
            shares, pixels = share[i].split(runs, dim=1), out[i].split(runs, dim=1)
            for low, high, weight, target in zip(lows.tolist(), highs.tolist(), shares, pixels, strict=True):
                torch.lerp(line[low], line[high], weight, out=target)
        return out
