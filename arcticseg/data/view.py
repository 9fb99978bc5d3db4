"""Where on its tile each pixel of the network's input lies, and what planes and coarse grids hold there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from arcticseg.data.batch import Batch, Draws


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
    """The crop, transposition and flips of each sample of a batch; `FreeView` also turns by any angle and zooms.

    Attributes:
        rows, cols: float64 [B, S], coordinates of the input's rows and columns on the (transposed) tile.
        transpose: bool [B]; None: the input is the tile.
        scaled: whether the input's pixels lie between the tile's.
        by_runs: interpolate rows of the input by runs between the same lines of a grid, as is best on a CPU.
        inside: bool [B, S, S], which pixels of the input are on the tile; None: all.
    """

    rows: Tensor
    cols: Tensor
    transpose: Tensor | None
    scaled: bool
    by_runs: bool = False
    inside: Tensor | None = None

    @staticmethod
    def of(batch: Batch) -> View:
        """The view that was drawn for each sample of a batch."""
        size, draws, by_runs = batch.size, batch.draws, batch.hints is None
        if draws is not None and draws.free:
            return FreeView.drawn(batch, draws)
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

    def pick(self, planes: Tensor, outside: int) -> Tensor:
        """The nearest pixels of planes [B, C, S, S], as [B, C, S, S]; `outside` where the input is not on the tile."""
        if self.transpose is None or not planes.numel():
            return planes
        size = planes.shape[-1]
        rows, cols = ((x + 0.5).floor().long().clamp(0, size - 1) for x in (self.rows, self.cols))
        turned = self._turned(planes)
        turned = turned.gather(2, rows[:, None, :, None].expand_as(turned))
        return turned.gather(3, cols[:, None, None, :].expand_as(turned))

    def pixel_taps(self, size: int) -> tuple[Taps, Taps]:
        """Between which pixels of the tile, of S = `size`, the input's rows and columns lie."""
        every = torch.arange(size, dtype=torch.float64, device=self.rows.device).expand(len(self.rows), -1)
        return self.taps(every.contiguous(), every.contiguous(), hold=True)

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


def pixel_scale(batch: Batch) -> Tensor | None:
    """Pixels of the tile along an edge of a pixel of the input, float64 [B]; None: 1."""
    draws = batch.draws
    if draws is None or (draws.crop is None and draws.zoom is None):
        return None
    scale = torch.ones(len(batch.clock), dtype=torch.float64, device=batch.clock.device)
    if draws.crop is not None:
        scale = scale * draws.crop[:, 2].double() / batch.size
    return scale if draws.zoom is None else scale * draws.zoom


@dataclass(frozen=True)
class FreeView(View):
    """A view in which a sample is also turned by any angle and zoomed out, about its centre.

    Its pixels lie anywhere on the tile, or beside it. `rows` and `cols` are float64 [B, S, S], coordinates on the tile
    as it is; `transpose` is None. Taps have P = S * S coordinates a sample.
    """

    @staticmethod
    def drawn(batch: Batch, draws: Draws) -> FreeView:
        """The view of draws with an angle or a zoom."""
        size, device = batch.size, batch.clock.device
        none = torch.zeros(len(batch.clock), dtype=torch.float64, device=device)
        at = torch.arange(size, dtype=torch.float64, device=device) - (size - 1) / 2
        angle = none if draws.angle is None else torch.deg2rad(draws.angle)
        cos, sin = torch.cos(angle), torch.sin(angle)
        # From the input's rows and columns, counted from its centre, to the tile's: flips are undone, then the
        # transposition, then the turn. Turned counter-clockwise, rows downwards, what is at (r, c) comes from
        # (r cos + c sin, c cos - r sin).
        down, right = (torch.where(flip, -1.0, 1.0).double() for flip in (draws.flip_rows, draws.flip_cols))
        scale = pixel_scale(batch)
        centre = (none + size / 2, none + size / 2)
        if draws.crop is not None:
            edge, first = draws.crop[:, 2].double(), draws.crop[:, :2].double()
            centre = (first[:, 0] + edge / 2, first[:, 1] + edge / 2)
        places = []
        for by_row, by_col, middle in ((cos, sin, centre[0]), (-sin, cos, centre[1])):
            of_row, of_col = (torch.where(draws.transpose, *pair) for pair in ((by_col, by_row), (by_row, by_col)))
            of_row, of_col = (x if scale is None else x * scale for x in (of_row * down, of_col * right))
            along_row, along_col = of_row[:, None, None] * at[:, None], of_col[:, None, None] * at
            places.append(along_row + along_col + (middle - 0.5)[:, None, None])
        rows, cols = places
        inside = (rows >= -0.5) & (rows < size - 0.5) & (cols >= -0.5) & (cols < size - 0.5)
        return FreeView(rows, cols, None, True, batch.hints is None, inside)

    def __getitem__(self, rows: Tensor | slice) -> FreeView:
        assert self.inside is not None
        return FreeView(self.rows[rows], self.cols[rows], None, True, self.by_runs, self.inside[rows])

    def pick(self, planes: Tensor, outside: int) -> Tensor:
        if not planes.numel():
            return planes
        assert self.inside is not None
        size = planes.shape[-1]
        rows, cols = ((x + 0.5).floor().long().clamp(0, size - 1) for x in (self.rows, self.cols))
        at = (rows * size + cols).flatten(1)[:, None].expand(-1, planes.shape[1], -1)
        picked = planes.flatten(2).gather(2, at).view(*planes.shape[:2], *self.rows.shape[1:])
        return picked.masked_fill(~self.inside[:, None], outside)

    def pixel_taps(self, size: int) -> tuple[Taps, Taps]:
        def between(at: Tensor) -> Taps:
            at = at.flatten(1).clamp(0, size - 1)
            low = at.floor().long().clamp(max=max(size - 2, 0))
            return Taps(low, (low + 1).clamp(max=size - 1), at - low)

        return between(self.rows), between(self.cols)

    def taps(self, rows: Tensor, cols: Tensor, hold: bool) -> tuple[Taps, Taps]:
        return taps(rows, self.rows.flatten(1), hold), taps(cols, self.cols.flatten(1), hold)

    def interpolate(self, grid: Tensor, rows: Taps, cols: Taps, out: Tensor | None = None) -> Tensor:
        batch, channels, _, n = grid.shape
        size = self.rows.shape[1]
        out = grid.new_empty(batch, channels, size, size) if out is None else out
        corners = [line * n + sample for line in (rows.low, rows.high) for sample in (cols.low, cols.high)]
        down, right = rows.share.float(), cols.share.float()
        flat = grid.flatten(2)
        # A channel at a time fits in the caches of a CPU, and takes little memory on a GPU.
        for channel in range(channels):
            first, second, third, last = (flat[:, channel].gather(1, corner) for corner in corners)
            upper, lower = torch.lerp(first, second, right), torch.lerp(third, last, right)
            out[:, channel] = torch.lerp(upper, lower, down).view(batch, size, size)
        return out
