"""Codes to network input by one formula for each pixel, to be compiled for a GPU: each plane is written once.

What `planes` does in passes over whole planes, for CPUs and where nothing is compiled, is done here in one: a pixel of
the input finds its pixel of the tile, or the four cells around it, by arithmetic on indices; flips, turns, crops and
CutMix are such arithmetic, too. `_places` gives what is the same along a row or column, `_write` the planes. The host
need not look at a batch first: whether a cell is known is looked up beside its value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from arcticseg.data import vectors
from arcticseg.data.batch import Batch
from arcticseg.data.planes import POLARISATION
from arcticseg.data.view import View
from arcticseg.ice.channels import CHANNELS, SAR

# A plane as a whole is never an intermediate result: as often as it is needed it is computed from codes again. A kernel
# writes two of them: where it writes eight or more, its registers no longer do (looked at in code for sm_90).
# Trials of several block sizes would need copies of all that is written.
_OPTIONS: dict[str, Any] = {
    "realize_reads_threshold": 10_000,
    "realize_acc_reads_threshold": 10_000,
    "realize_opcount_threshold": 10_000,
    "max_fusion_size": 2,
    "triton.autotune_pointwise": False,
}


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

    Attributes:
        rows, cols: int32 [B, S], nearest pixels.
        full, coarse, geo: rows and columns between pixels (of crops only), 2 km cells and points; None: not needed.
        vectors: float32 [B, 3, m, m], positions as unit vectors: towards 0 N 0 E, 0 N 90 E and the pole.
    """

    rows: Tensor
    cols: Tensor
    full: tuple[Between, Between] | None
    coarse: tuple[Between, Between] | None
    geo: tuple[Between, Between] | None
    vectors: Tensor | None


class Layer(NamedTuple):
    """An input plane.

    Attributes:
        name: of its channel; "": where some polarisation has data.
        scale, shift: normalised value = scale x code + shift.
    """

    name: str
    scale: float
    shift: float

    @property
    def grid(self) -> str:
        """See `ice.channels.Channel`."""
        return CHANNELS[self.name].grid if self.name else "sar"


def _places(batch: Batch, grids: frozenset[str]) -> Places:
    """What rows and columns of the input have in common, for layers of some grids."""
    view = View.of(batch)
    last = batch.size - 1
    rows, cols = ((x + 0.5).floor().clamp(0, last).int() for x in (view.rows, view.cols))

    def between(points: tuple[Tensor, Tensor], hold: bool) -> tuple[Between, Between]:
        taps = view.taps(*points, hold=hold)
        first, second = (Between(tap.low.int(), tap.high.int(), tap.share.float()) for tap in taps)
        return first, second

    full, coarse, geo, vectors = None, None, None, None
    if view.scaled:
        every = torch.arange(batch.size, dtype=torch.float64, device=rows.device).expand(len(rows), -1).contiguous()
        full = between((every, every), hold=True)
    if "2km" in grids and batch.aux.numel():
        coarse = between((batch.aux_rows, batch.aux_cols), hold=True)
    if "geo" in grids:
        geo = between((batch.geo_rows, batch.geo_cols), hold=False)
        latitude, longitude = torch.deg2rad(batch.geo[:, :2].double()).unbind(1)
        flat = torch.cos(latitude)
        parts = [flat * torch.cos(longitude), flat * torch.sin(longitude), torch.sin(latitude)]
        vectors = torch.stack(parts, dim=1).float()
    return Places(rows, cols, full, coarse, geo, vectors)


class _Look:
    """Looks things up for each pixel [B, S, S]."""

    def __init__(self, batch: Batch, places: Places) -> None:
        draws, self._places = batch.draws, places
        samples, size = places.rows.shape
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
        if draws is not None:
            self._turned = self.of_sample(draws.transpose)

    def of_sample(self, values: Tensor) -> Tensor:
        """Of values [B]."""
        return _at(values, self._b) if self._mixed else values[:, None, None]

    def _of_row(self, values: Tensor) -> Tensor:
        """Of values [B, S] for each row."""
        return _at(values, self._b, self._y) if self._mixed else values[:, :, None]

    def _of_column(self, values: Tensor) -> Tensor:
        """Of values [B, S] for each column."""
        return _at(values, self._b, self._x) if self._mixed else values[:, None, :]

    def _unturned(self, row: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column of the tile itself, where a sample is transposed."""
        if self._turned is None:
            return row, col
        return torch.where(self._turned, col, row), torch.where(self._turned, row, col)

    def cell(self, grid: Tensor, row: Tensor, col: Tensor) -> Tensor:
        """Of a grid [B, n, n], at rows and columns of the transposed grid where a sample is transposed."""
        return _at(grid, self._b, *self._unturned(row, col))

    def nearest(self, pixels: Tensor) -> Tensor:
        """Of pixels [B, S, S]."""
        return self.cell(pixels, self._of_row(self._places.rows), self._of_column(self._places.cols))

    def charts(self, labels: Tensor) -> Tensor:
        """Nearest pixels of labels [B, 3, S, S], as [B, 3, S, S]."""
        row, col = self._unturned(self._of_row(self._places.rows), self._of_column(self._places.cols))
        chart = torch.arange(labels.shape[1], dtype=torch.int32, device=labels.device)[:, None, None]
        return _at(labels, self._b[:, None], chart, row[:, None], col[:, None])

    def around(self, between: tuple[Between, Between]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Row, column and weight of the four cells around each pixel."""
        rows = Between(*map(self._of_row, between[0]))
        cols = Between(*map(self._of_column, between[1]))
        return [
            (row, col, of_row * of_col)
            for row, of_row in ((rows.low, 1 - rows.share), (rows.high, rows.share))
            for col, of_col in ((cols.low, 1 - cols.share), (cols.high, cols.share))
        ]


def _at(values: Tensor, *indices: Tensor) -> Tensor:
    """values[indices], all of them in range: nothing is checked."""
    found: Tensor = torch.ops.aten._unsafe_index(values, list(indices))
    return found


def _pixels(batch: Batch, places: Places, layers: Sequence[Layer]) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Value and whether there is one, of each layer; None: it is everywhere."""
    look = _Look(batch, places)
    sar = {name: look.nearest(getattr(batch, name)) for name in SAR if getattr(batch, name).numel()}
    full, coarse, geo = (
        None if between is None else look.around(between) for between in (places.full, places.coarse, places.geo)
    )
    for layer in layers:
        grid = layer.grid
        if not layer.name:
            yield ((sar["hh"] | sar["hv"]) != 0).float(), None
        elif grid == "sar" and layer.name in POLARISATION:
            name = POLARISATION[layer.name]
            there, value = sar[name] != 0, sar[name].float()
            if full is not None:
                value, weight = _sums(look, getattr(batch, name), full)
                value = value / weight.clamp(min=1e-6)
            yield _where(there, value, layer), there
        elif grid == "sar":
            zone = look.nearest(batch.dist)
            yield _where(zone != 255, zone.float(), layer), zone != 255
        elif grid == "2km" and coarse is None:
            zero = torch.zeros_like(look.of_sample(batch.clock[:, 0]))
            yield zero, zero != 0
        elif grid == "2km":
            value, weight = _sums(look, vectors.codes_of(batch, layer.name), coarse)
            yield _where(weight > 1e-6, value / weight.clamp(min=1e-6), layer), weight > 1e-6
        elif grid == "geo":
            yield _geo(look, batch, places, geo, layer)
        else:
            value = look.of_sample(batch.clock[:, ("month", "day").index(layer.name)])
            yield _where(torch.isfinite(value), value, layer), torch.isfinite(value)


def _where(there: Tensor, value: Tensor, layer: Layer) -> Tensor:
    return torch.where(there, value * layer.scale + layer.shift, 0.0)


def _sums(look: _Look, codes: Tensor, around: Any) -> tuple[Tensor, Tensor]:
    """Weighted sum of the known codes around each pixel, and of their weights; code 0 is unknown."""
    cells = [(look.cell(codes, row, col).int() & 0xFFFF, weight) for row, col, weight in around]
    values = sum(code.float() * weight for code, weight in cells)
    weights = sum(torch.where(code > 0, weight, 0.0) for code, weight in cells)
    return values, weights  # type: ignore[return-value]


def _geo(look: _Look, batch: Batch, places: Places, around: Any, layer: Layer) -> tuple[Tensor, Tensor | None]:
    if layer.name == "sar_incidenceangle":
        angles = [(look.cell(batch.geo[:, 2], row, col), weight) for row, col, weight in around]
        # All points with a weight are known where the weights add up to 1; extrapolation has weights above 1.
        known: Any = sum(torch.where(torch.isfinite(angle), weight, 0.0) for angle, weight in angles)
        value: Any = sum(torch.where(torch.isfinite(angle), angle, 0.0) * weight for angle, weight in angles)
        there = (known - 1).abs() < 1e-3
        return _where(there, value, layer), there
    assert places.vectors is not None
    parts: list[Any] = [
        sum(look.cell(part, row, col) * weight for row, col, weight in around) for part in places.vectors.unbind(1)
    ]
    east, north, up = parts
    latitude = layer.name == "sar_grid_latitude"
    angle = torch.atan2(up, torch.hypot(east, north)) if latitude else torch.atan2(north, east)
    return torch.rad2deg(angle) * layer.scale + layer.shift, None


def _write(batch: Batch, places: Places, layers: Sequence[Layer], targets: Sequence[int] | None, out: Any) -> Tensor:
    """Write all planes, and give the labels.

    Args:
        targets: planes that are targets; None: data of all planes is written.
        out: x, data and target as lists of planes [B, S * S]: so the compiler sees that they do not overlap.
    """
    x, data, target = out

    def put(plane: Tensor, value: Tensor) -> None:
        plane.copy_(value.expand(shape).reshape(plane.shape))

    shape = (len(places.rows), batch.size, batch.size)
    one = torch.ones((), dtype=torch.bool, device=places.rows.device)
    for plane, (value, there) in enumerate(_pixels(batch, places, layers)):
        put(x[plane], value)
        at = plane if targets is None else targets.index(plane) if plane in targets else None
        if at is not None:
            put(data[at], one if there is None else there)
        if at is not None and targets is not None:
            put(target[at], value)
    return _labels(batch, places)


def _labels(batch: Batch, places: Places) -> Tensor:
    """Labels as augmented, uint8 [B, 3, S, S]."""
    return _Look(batch, places).charts(batch.lab) if batch.lab.numel() else batch.lab


def _valid(batch: Batch, places: Places, layers: Sequence[Layer]) -> Tensor:
    """Where layers hold data, bool [B, layers, S, S]."""
    shape = (len(places.rows), batch.size, batch.size)
    one = torch.ones((), dtype=torch.bool, device=places.rows.device)
    there = [(one if there is None else there).expand(shape) for _, there in _pixels(batch, places, layers)]
    return torch.stack(there, dim=1)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function compiled for batches of one shape."""
    # Code of its own: the compiler counts variants by code, and gives up after a few.
    own = FunctionType(function.__code__.replace(), globals(), function.__name__, None, function.__closure__)
    compiled: Callable[..., Any] = torch.compile(own, fullgraph=True, dynamic=False, options=_OPTIONS)
    return compiled


class Pixels:
    """The compiled functions of some input planes.

    Args:
        layers: the planes.
        targets: see `inputs.Want`.
    """

    def __init__(self, layers: Sequence[Layer], targets: Sequence[int] | None) -> None:
        self._layers = tuple(layers)
        planes = None if targets is None else tuple(targets)
        self._places: dict[frozenset[str], Callable[..., Places]] = {}
        self._valid: dict[tuple[Layer, ...], Callable[..., Tensor]] = {}
        self._write = _compiled(lambda batch, places, *out: _write(batch, places, self._layers, planes, out))
        self._labels = _compiled(_labels)

    def write(self, batch: Batch, x: Tensor, data: Tensor, target: Tensor | None) -> Tensor:
        """Write planes into memory [B, C, S, S] (see `transforms.Planes`), and give the labels, uint8 [B, 3, S, S]."""
        out = [[] if part is None else list(part.flatten(2).unbind(1)) for part in (x, data, target)]
        with torch.no_grad():
            labels: Tensor = self._write(batch, self._placed(batch, self._layers), *out)
        return labels

    def labels(self, batch: Batch) -> Tensor:
        """The labels alone."""
        with torch.no_grad():
            labels: Tensor = self._labels(batch, self._placed(batch, ()))
        return labels

    def valid(self, batch: Batch, planes: Sequence[int]) -> Tensor:
        """Where some planes will hold data, bool [B, planes, S, S]."""
        layers = tuple(self._layers[plane] for plane in planes)
        if layers not in self._valid:
            self._valid[layers] = _compiled(lambda batch, places: _valid(batch, places, layers))
        with torch.no_grad():
            return self._valid[layers](batch, self._placed(batch, layers))

    def _placed(self, batch: Batch, layers: Sequence[Layer]) -> Places:
        grids = frozenset(layer.grid for layer in layers)
        if grids not in self._places:
            self._places[grids] = _compiled(lambda batch: _places(batch, grids))
        return self._places[grids](batch)
