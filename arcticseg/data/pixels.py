"""Codes to network input by one formula for each pixel, to be compiled for a GPU: each plane is written once.

What `planes` does in passes over whole planes, for CPUs and where nothing is compiled, is done here in one: a pixel of
the input finds its pixel of the tile, or the four cells around it, by arithmetic on indices; flips, turns, crops and
CutMix are such arithmetic, too. `look.places_of` gives what is the same along a row or column, `_write` the planes. The
host need not look at a batch first: whether a cell is known is looked up beside its value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from arcticseg.data import vectors
from arcticseg.data.batch import Batch
from arcticseg.data.look import Look, Places, places_of
from arcticseg.data.planes import POLARISATION, scene_values
from arcticseg.data.radiometry import MEAN_ANGLE, normals
from arcticseg.data.tile import SAR_STEP
from arcticseg.ice.channels import GROUPS, INPUTS, POSITION, SAR

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


class Layer(NamedTuple):
    """An input plane.

    Attributes:
        name: of its channel; "": where some polarisation has data, or a group has none.
        scale, shift: normalised value = scale x code + shift.
        group: which group that is; "": none.
    """

    name: str
    scale: float
    shift: float
    group: str = ""

    @property
    def grid(self) -> str:
        """See `ice.channels.Channel`."""
        return INPUTS[self.name].grid if self.name else "scene" if self.group else "sar"


def _pixels(batch: Batch, places: Places, layers: Sequence[Layer]) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Value and whether there is one, of each layer; None: it is everywhere."""
    look = Look(batch, places)
    sar = {name: look.nearest(getattr(batch, name), 0) for name in SAR if getattr(batch, name).numel()}
    full, coarse, geo = (
        None if between is None else look.around(between) for between in (places.full, places.coarse, places.geo)
    )
    jitter = _jitter(look, batch, geo)
    known: dict[str, Tensor | None] = {}
    there: Tensor | None
    for layer in layers:
        grid = layer.grid
        if layer.group:
            yield _missing(look, batch, known.get(layer.group), layer.group), None
            continue
        if not layer.name:
            yield ((sar["hh"] | sar["hv"]) != 0).float(), None
            continue
        if grid == "sar":
            value, there = _full(look, batch, sar, full, jitter, layer)
        elif grid == "2km" and coarse is None:
            value = torch.zeros_like(look.of_sample(batch.clock[:, 0]))
            there = value != 0
        elif grid == "2km":
            codes, weight = _sums(look, vectors.codes_of(batch, layer.name), coarse)
            there = look.on_tile(weight > 1e-6)
            value = _where(there, codes / weight.clamp(min=1e-6), layer)
        elif grid == "geo":
            value, there = _geo(look, batch, places, geo, layer)
        else:
            number = look.of_sample(scene_values(batch, layer.name))
            there = torch.isfinite(number)
            value = _where(there, number, layer)
        group = INPUTS[layer.name].group
        before = known.get(group, there)
        known[group] = None if before is None or there is None else before | there
        yield value, there


def _missing(look: Look, batch: Batch, known: Tensor | None, group: str) -> Tensor:
    """1.0 where a group has no value or the sample loses it; the sample itself, not what it takes of its partner."""
    missing = torch.zeros_like(look.number, dtype=torch.bool) if known is None else ~known
    if batch.draws is not None:
        missing = missing | batch.draws.drop[:, GROUPS.index(group), None, None]
    return missing.float()


def _full(look: Look, batch: Batch, sar: Any, full: Any, jitter: Any, layer: Layer) -> tuple[Tensor, Tensor]:
    """A channel that has a value for every pixel of the tile."""
    if layer.name not in POLARISATION:
        zone = look.nearest(batch.dist, 255)
        return _where(zone != 255, zone.float(), layer), zone != 255
    name = POLARISATION[layer.name]
    there, value = sar[name] != 0, sar[name].float()
    if full is not None:
        value, weight = _sums(look, getattr(batch, name), full)
        value = value / weight.clamp(min=1e-6)
    if name in jitter:
        value = value + jitter[name] / SAR_STEP
    return _where(there, value, layer), there


def _jitter(look: Look, batch: Batch, geo: Any) -> dict[str, Tensor]:
    """Polarisation -> dB that augmentation adds to backscatter; empty: nothing."""
    draws = batch.draws
    added: dict[str, Tensor] = {}
    if draws is None:
        return added
    if draws.trend is not None and geo is not None:
        angle, there = _angle(look, batch, geo)
        tilt = torch.where(there, angle - MEAN_ANGLE, 0.0)
        added |= {name: tilt * look.of_sample(draws.trend[:, i]) for i, name in enumerate(SAR)}
    if draws.speckle is not None and draws.noise is not None:
        both = normals(look.of_sample(draws.noise), look.number.long())
        for name, noise in zip(SAR, both, strict=True):
            noise = noise * look.of_sample(draws.speckle)
            added[name] = noise if name not in added else added[name] + noise
    return added


def _where(there: Tensor | None, value: Tensor, layer: Layer) -> Tensor:
    values = value * layer.scale + layer.shift
    return values if there is None else torch.where(there, values, 0.0)


def _sums(look: Look, codes: Tensor, around: Any) -> tuple[Tensor, Tensor]:
    """Weighted sum of the known codes around each pixel, and of their weights; code 0 is unknown."""
    bits = codes.dtype in (torch.int16, torch.int32)
    parts = ((look.cell(codes, row, col), weight) for row, col, weight in around)
    cells = [(part.int() & 0xFFFF if bits else part, weight) for part, weight in parts]
    values = sum(code.float() * weight for code, weight in cells)
    weights = sum(torch.where(code > 0, weight, 0.0) for code, weight in cells)
    return values, weights  # type: ignore[return-value]


def _angle(look: Look, batch: Batch, around: Any) -> tuple[Tensor, Tensor]:
    """Incidence angle in degrees, and where it is known."""
    angles = [(look.cell(batch.geo[:, 2], row, col), weight) for row, col, weight in around]
    # All points with a weight are known where the weights add up to 1; extrapolation has weights above 1.
    known: Any = sum(torch.where(torch.isfinite(angle), weight, 0.0) for angle, weight in angles)
    value: Any = sum(torch.where(torch.isfinite(angle), angle, 0.0) * weight for angle, weight in angles)
    return value, (known - 1).abs() < 1e-3


def _geo(look: Look, batch: Batch, places: Places, around: Any, layer: Layer) -> tuple[Tensor, Tensor | None]:
    if layer.name == "sar_incidenceangle":
        value, known = _angle(look, batch, around)
        there = look.on_tile(known)
        return _where(there, value, layer), there
    assert places.vectors is not None
    parts: list[Any] = [
        sum(look.cell(part, row, col) * weight for row, col, weight in around) for part in places.vectors.unbind(1)
    ]
    east, north, up = parts
    flat = torch.hypot(east, north)
    if layer.name in POSITION:
        value = parts[POSITION.index(layer.name)] / torch.hypot(flat, up)
    else:
        latitude = layer.name == "sar_grid_latitude"
        value = torch.rad2deg(torch.atan2(up, flat) if latitude else torch.atan2(north, east))
    return _where(look.inside, value, layer), look.inside


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
    return Look(batch, places).charts(batch.lab) if batch.lab.numel() else batch.lab


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
            labels: Tensor = self._write(batch, self._placed(batch, self._layers, tilted=True), *out)
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

    def _placed(self, batch: Batch, layers: Sequence[Layer], tilted: bool = False) -> Places:
        """Places for layers, and for the trend of backscatter if they are written."""
        grids = frozenset(layer.grid for layer in layers)
        if tilted and batch.draws is not None and batch.draws.trend is not None:
            grids |= {"geo"}
        if grids not in self._places:
            self._places[grids] = _compiled(lambda batch: places_of(batch, grids))
        return self._places[grids](batch)
