"""Where each pixel of the input finds its pixel of the tile, and the cells around it, by arithmetic on indices."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from arcticseg.data.batch import Batch
from arcticseg.data.view import Taps, View
from arcticseg.ice.sigrid import IGNORE_INDEX


class Between(NamedTuple):
    """The lines (or samples) of a grid between which each row (or column) of the input lies.

    Attributes:
        low, high: int32 [B, S].
        share: float32 [B, S], weight of the upper one.
    """

    low: Tensor
    high: Tensor
    share: Tensor


class Places(NamedTuple):
    """Where rows and columns of the input lie, on the transposed tile where a sample is transposed.

    Under a free view, each pixel lies anywhere on the tile as it is: all [B, S] here are [B, S, S] then.

    Attributes:
        rows, cols: int32 [B, S], nearest pixels.
        full, coarse, geo: rows and columns between pixels (of crops only), 2 km cells and points; None: not needed.
        vectors: float32 [B, 3, m, m], positions as unit vectors: towards 0 N 0 E, 0 N 90 E and the pole.
        inside: bool [B, S, S], which pixels are on the tile; None: all.
    """

    rows: Tensor
    cols: Tensor
    full: tuple[Between, Between] | None
    coarse: tuple[Between, Between] | None
    geo: tuple[Between, Between] | None
    vectors: Tensor | None
    inside: Tensor | None


def places_of(batch: Batch, grids: frozenset[str]) -> Places:
    """What rows and columns of the input have in common, for layers of some grids."""
    view = View.of(batch)
    last = batch.size - 1
    rows, cols = ((x + 0.5).floor().clamp(0, last).int() for x in (view.rows, view.cols))

    def between(points: tuple[Tensor, Tensor], hold: bool) -> tuple[Between, Between]:
        taps = view.taps(*points, hold=hold)
        return shaped(taps)

    def shaped(taps: tuple[Taps, Taps]) -> tuple[Between, Between]:
        parts = (Between(tap.low.int(), tap.high.int(), tap.share.float()) for tap in taps)
        first, second = (Between(*(part.view(rows.shape) for part in between)) for between in parts)
        return first, second

    full, coarse, geo, vectors = None, None, None, None
    if view.scaled:
        full = shaped(view.pixel_taps(batch.size))
    if "2km" in grids and batch.aux.numel():
        coarse = between((batch.aux_rows, batch.aux_cols), hold=True)
    if "geo" in grids:
        geo = between((batch.geo_rows, batch.geo_cols), hold=False)
        latitude, longitude = torch.deg2rad(batch.geo[:, :2].double()).unbind(1)
        flat = torch.cos(latitude)
        parts = [flat * torch.cos(longitude), flat * torch.sin(longitude), torch.sin(latitude)]
        vectors = torch.stack(parts, dim=1).float()
    return Places(rows, cols, full, coarse, geo, vectors, view.inside)


class Look:
    """Looks things up for each pixel [B, S, S]."""

    def __init__(self, batch: Batch, places: Places) -> None:
        draws, self._places = batch.draws, places
        samples, size = places.rows.shape[:2]
        device = places.rows.device
        self._b = torch.arange(samples, dtype=torch.int32, device=device)[:, None, None]
        at = torch.arange(size, dtype=torch.int32, device=device)
        self._y, self._x = at[:, None], at
        self._mixed = draws is not None and draws.mix is not None
        if draws is not None and draws.mix is not None:
            top, bottom, left, right = draws.mix[:, :, None, None].unbind(1)
            inside = (top <= self._y) & (self._y < bottom) & (left <= self._x) & (self._x < right)
            self._b = torch.where(inside, self._b ^ 1, self._b)
        self._turned = None
        if draws is not None and not draws.free:
            self._turned = self.of_sample(draws.transpose)
        self.inside = None if places.inside is None else self._of_pixel(places.inside)
        self.number = self._y * size + self._x

    def of_sample(self, values: Tensor) -> Tensor:
        """Of values [B]."""
        return at(values, self._b) if self._mixed else values[:, None, None]

    def _of_pixel(self, values: Tensor) -> Tensor:
        """Of values [B, S, S]."""
        return at(values, self._b, self._y, self._x) if self._mixed else values

    def _of_row(self, values: Tensor) -> Tensor:
        """Of values [B, S] for each row."""
        if values.dim() == 3:
            return self._of_pixel(values)
        return at(values, self._b, self._y) if self._mixed else values[:, :, None]

    def _of_column(self, values: Tensor) -> Tensor:
        """Of values [B, S] for each column."""
        if values.dim() == 3:
            return self._of_pixel(values)
        return at(values, self._b, self._x) if self._mixed else values[:, None, :]

    def _unturned(self, row: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column of the tile itself, where a sample is transposed."""
        if self._turned is None:
            return row, col
        return torch.where(self._turned, col, row), torch.where(self._turned, row, col)

    def cell(self, grid: Tensor, row: Tensor, col: Tensor) -> Tensor:
        """Of a grid [B, n, n], at rows and columns of the transposed grid where a sample is transposed."""
        return at(grid, self._b, *self._unturned(row, col))

    def nearest(self, pixels: Tensor, outside: int) -> Tensor:
        """Of pixels [B, S, S]; `outside` beside the tile."""
        picked = self.cell(pixels, self._of_row(self._places.rows), self._of_column(self._places.cols))
        return picked if self.inside is None else picked.masked_fill(~self.inside, outside)

    def on_tile(self, there: Tensor) -> Tensor:
        """What is there, less what is beside the tile."""
        return there if self.inside is None else there & self.inside

    def charts(self, labels: Tensor) -> Tensor:
        """Nearest pixels of labels [B, 3, S, S], as [B, 3, S, S]."""
        row, col = self._unturned(self._of_row(self._places.rows), self._of_column(self._places.cols))
        chart = torch.arange(labels.shape[1], dtype=torch.int32, device=labels.device)[:, None, None]
        picked = at(labels, self._b[:, None], chart, row[:, None], col[:, None])
        return picked if self.inside is None else picked.masked_fill(~self.inside[:, None], IGNORE_INDEX)

    def around(self, between: tuple[Between, Between]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Row, column and weight of the four cells around each pixel."""
        rows = Between(*map(self._of_row, between[0]))
        cols = Between(*map(self._of_column, between[1]))
        return [
            (row, col, of_row * of_col)
            for row, of_row in ((rows.low, 1 - rows.share), (rows.high, rows.share))
            for col, of_col in ((cols.low, 1 - cols.share), (cols.high, cols.share))
        ]


def at(values: Tensor, *indices: Tensor) -> Tensor:
    """values[indices], all of them in range: nothing is checked."""
    found: Tensor = torch.ops.aten._unsafe_index(values, list(indices))
    return found
