"""Where on its tile each pixel of the network's input lies, and how planes and coarse grids are brought there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from arcticseg.data.batch import Batch


class Weights(NamedTuple):
    """Interpolation weights float32 [B, S, n] of rows and columns.

    `used` is how many of the n points each sample has at most along an edge, known on the CPU only.
    """

    rows: Tensor
    cols: Tensor
    used: list[int] | None

    def of(self, chosen: Tensor) -> Weights:
        """Of some of the samples, int64 [K]."""
        used = None if self.used is None else [self.used[i] for i in chosen.tolist()]
        return Weights(self.rows[chosen], self.cols[chosen], used)


def linear_weights(points: Tensor, at: Tensor, hold: bool) -> Tensor:
    """Weights float32 [B, S, n] that bring values at `points` to `at` by linear interpolation.

    Args:
        points: float64 [B, n], rising, infinite where a sample has fewer than n; those get no weight.
        at: float64 [B, S].
        hold: hold the edge values beyond the outermost points (2 km grid); else go on linearly (geolocation).
    """
    count = torch.isfinite(points).sum(dim=1)[:, None]
    low = torch.searchsorted(points, at, right=True) - 1
    low = torch.minimum(low, count - 2).clamp(min=0)
    high = torch.minimum(low + 1, count - 1).clamp(min=0)
    first, last = points.gather(1, low), points.gather(1, high)
    # A single point has no distance to a neighbour.
    share = torch.where(count > 1, (at - first) / (last - first), 0.0)
    share = share.clamp(0, 1) if hold else share
    weights = points.new_zeros(*at.shape, points.shape[1])
    weights.scatter_(2, low[..., None], ((1 - share) * (count > 0))[..., None])
    weights.scatter_add_(2, high[..., None], share[..., None])
    return weights.float()


@dataclass(frozen=True)
class View:
    """The crop, transposition and flips of each sample of a batch.

    Attributes:
        rows, cols: float64 [B, S], coordinates on the (transposed) tile of the input's rows and columns.
        transpose: bool [B]; None: the input is the tile.
        scaled: whether crops are brought to another size.
    """

    rows: Tensor
    cols: Tensor
    transpose: Tensor | None
    scaled: bool

    @staticmethod
    def of(batch: Batch) -> View:
        """What was drawn for a batch."""
        size, draws = batch.size, batch.draws
        at = torch.arange(size, dtype=torch.float64, device=batch.clock.device).expand(len(batch), -1)
        if draws is None:
            return View(at.contiguous(), at.contiguous(), None, False)
        rows, cols = (torch.where(flip[:, None], size - 1 - at, at) for flip in (draws.flip_rows, draws.flip_cols))
        if draws.crop is not None:
            first, edge = draws.crop[:, :2].double(), draws.crop[:, 2:].double()
            first = torch.where(draws.transpose[:, None], first.flip(1), first)
            # Output pixel r covers [r, r + 1) edge / size of the crop; coordinates count pixel centres.
            rows, cols = (first[:, i, None] + (x + 0.5) * edge / size - 0.5 for i, x in enumerate((rows, cols)))
        return View(rows, cols, draws.transpose, draws.crop is not None)

    def of_samples(self, chosen: Tensor) -> View:
        """Of some of the samples, int64 [K]."""
        transpose = None if self.transpose is None else self.transpose[chosen]
        return View(self.rows[chosen], self.cols[chosen], transpose, self.scaled)

    def _turned(self, planes: Tensor) -> Tensor:
        """[B, C, n, n], transposed where the sample is."""
        if self.transpose is None:
            return planes
        return torch.where(self.transpose[:, None, None, None], planes.transpose(2, 3), planes)

    def pick(self, planes: Tensor) -> Tensor:
        """The nearest pixels of planes [B, C, S, S], [B, C, S, S]."""
        if self.transpose is None or not planes.numel():
            return planes
        size = planes.shape[-1]
        rows, cols = ((x + 0.5).floor().long().clamp(0, size - 1) for x in (self.rows, self.cols))
        turned = self._turned(planes)
        turned = turned.gather(2, rows[:, None, :, None].expand_as(turned))
        return turned.gather(3, cols[:, None, None, :].expand_as(turned))

    def weights(self, rows: Tensor, cols: Tensor, hold: bool) -> Weights:
        """Interpolation weights [B, S, n] of a grid whose lines and samples stand at tile coordinates [B, n]."""
        if self.transpose is not None:
            turn = self.transpose[:, None]
            rows, cols = torch.where(turn, cols, rows), torch.where(turn, rows, cols)
        used = None
        if rows.device.type == "cpu":
            used = (torch.isfinite(rows) | torch.isfinite(cols)).sum(dim=1).tolist()
        return Weights(linear_weights(rows, self.rows, hold), linear_weights(cols, self.cols, hold), used)

    def interpolate(self, grid: Tensor, weights: Weights, out: Tensor | None = None) -> Tensor:
        """A grid [B, C, n, n] brought to the input's pixels, [B, C, S, S]; `out` may be planes of a larger tensor."""
        batch, channels, n, _ = grid.shape
        size = weights.rows.shape[1]
        out = grid.new_empty(batch, channels, size, size) if out is None else out
        grid = self._turned(grid)
        if weights.used is None:
            lines = (weights.rows[:, None] @ grid).view(batch, channels * size, n)
            torch.bmm(lines, weights.cols.transpose(1, 2), out=out.view(batch, channels * size, size))
            return out
        # The work of a CPU is proportional to n, and most windows are much smaller than the largest.
        for i, m in enumerate(weights.used):
            lines = (weights.rows[i, :, :m] @ grid[i, :, :m, :m]).view(channels * size, m)
            torch.mm(lines, weights.cols[i, :, :m].T, out=out[i].view(channels * size, size))
        return out
