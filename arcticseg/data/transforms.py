"""Codes to network input: augment, interpolate, dequantise, normalise; batched, on the device of the batch.

Crops, flips and turns are applied to codes and to the coordinates at which coarse grids are interpolated, before
anything has full resolution. So positions and coarse channels are right by construction, and each plane of the input is
written once, in place: on a CPU, memory takes the time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from arcticseg.data.batch import Batch
from arcticseg.data.memory import Pool
from arcticseg.data.tile import SAR_LOW, SAR_STEP
from arcticseg.data.view import Taps, View
from arcticseg.ice.channels import CHANNELS, GROUPS, SAR

# Samples that a CPU thread assembles at once: with fewer, the interpreter takes the time, with more the memory.
_TOGETHER = 2

_POLARISATION = {name: sar for sar, name in SAR.items()}


@dataclass(frozen=True)
class Inputs:
    """What a network and its loss see.

    Attributes:
        place: int64 [B], on the CPU.
        x: float32 [B, C, H, W], normalised; 0 where there is no data.
        data: bool [B, C, H, W], where x holds data.
        dropped: bool [B, C], planes that channel dropout takes from the network, but not from its targets.
        labels: uint8 [B, 3, H, W]; 255 = masked.
        seeds: int64 [B], of each sample's drop path in training; None: nothing is dropped.
    """

    place: Tensor
    x: Tensor
    data: Tensor
    dropped: Tensor
    labels: Tensor
    seeds: Tensor | None = None

    @property
    def seen(self) -> Tensor:
        """float32 [B, C, H, W]: x as the network sees it, dropped planes 0."""
        return self.x * ~self.dropped[:, :, None, None]


class Assemble:
    """Batch -> Inputs of some channels.

    Args:
        channels: channel names in input order.
        valid_plane: add a plane that is 1 where some polarisation has data.
        statistics: channel -> (mean, std); other channels use the published statistics.
    """

    def __init__(
        self,
        channels: Sequence[str],
        valid_plane: bool = False,
        statistics: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.channels = tuple(channels)
        self.valid_plane = valid_plane
        published = {name: (channel.mean, channel.std) for name, channel in CHANNELS.items()}
        self.statistics = published | dict(statistics or {})
        self._pool = Pool()
        self._threads: ThreadPoolExecutor | None = None

    @property
    def n_planes(self) -> int:
        """C of the network's input."""
        return len(self.channels) + self.valid_plane

    def __call__(self, batch: Batch) -> Inputs:
        """The input planes and labels of a batch, augmented as drawn, on the batch's device."""
        device, shape = batch.clock.device, (len(batch), self.n_planes, batch.size, batch.size)
        x, data = self._empty(shape, torch.float32, device), self._empty(shape, torch.bool, device)
        if device.type == "cpu":
            self._fill_apart(batch, x, data)
        else:
            self._fill(batch, x, data)
        labels = View.of(batch).pick(batch.lab)
        if batch.draws is not None and batch.draws.mix is not None:
            x, data, labels = (_mixed(planes, batch.draws.mix) for planes in (x, data, labels))
        return Inputs(batch.place, x, data, self._dropped(batch), labels)

    def _fill_apart(self, batch: Batch, x: Tensor, data: Tensor) -> None:
        """Write all planes on a CPU, each thread a few samples at a time, so that no thread waits before the end.

        Intermediate results fit in the caches, and cost what the samples' own 2 km windows cost, not the largest.
        """
        count = torch.get_num_threads()
        if self._threads is None:
            self._threads = ThreadPoolExecutor(count, "assemble", torch.set_num_threads, (1,))
        inference = torch.is_inference_mode_enabled()
        together = min(_TOGETHER, math.ceil(len(batch) / count))

        def fill(first: int) -> None:
            with torch.inference_mode(inference):
                part = slice(first, first + together)
                self._fill(_trimmed(batch.part(part)), x[part], data[part])

        list(self._threads.map(fill, range(0, len(batch), together)))

    def _fill(self, batch: Batch, x: Tensor, data: Tensor) -> None:
        """Write all planes, x and data [B, C, H, W], before samples are mixed."""
        view = View.of(batch)
        sar = {name: view.pick(getattr(batch, name)[:, None]) for name in SAR}
        first = 0
        for grid, run in groupby(self.channels, key=lambda name: CHANNELS[name].grid):
            names = list(run)
            planes = slice(first, first + len(names))
            first += len(names)
            if grid == "2km":
                self._coarse(batch, view, names, x[:, planes], data[:, planes])
            elif grid == "geo":
                self._geo(batch, view, names, x[:, planes], data[:, planes])
            elif grid == "sar":
                self._full(batch, view, sar, names, x[:, planes], data[:, planes])
            else:
                self._clock(batch, names, x[:, planes], data[:, planes])
        if self.valid_plane:
            x[:, -1:] = (sar["hh"] | sar["hv"]).bool().view(torch.uint8)
            data[:, -1] = True

    def _empty(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        if device.type == "cpu":
            return self._pool.empty(shape, dtype)
        return torch.empty(*shape, dtype=dtype, device=device)

    def _linear(self, name: str, offset: float = 0.0, scale: float = 1.0) -> tuple[float, float]:
        """(a, b) such that a x code + b is the normalised value of offset + scale x code."""
        mean, std = self.statistics[name]
        # A channel that is constant over the training scenes has a standard deviation of 0.
        std = std if std > 0 else 1.0
        return scale / std, (offset - mean) / std

    def _full(
        self, batch: Batch, view: View, sar: Mapping[str, Tensor], names: list[str], x: Tensor, data: Tensor
    ) -> None:
        """Channels with a value for every pixel of the tile: x, data [B, names, H, W]."""
        for i, name in enumerate(names):
            x_, data_ = x[:, i : i + 1], data[:, i : i + 1]
            polarisation = _POLARISATION.get(name)
            if polarisation is None:
                codes = view.pick(batch.dist[:, None])
                data_.copy_(codes + 1)  # 255, no data, becomes 0
                scale, shift = self._linear(name)
            else:
                codes = sar[polarisation]
                # In a crop, too, the nearest pixel says where there is data: so data and labels agree.
                data_.copy_(codes)
                scale, shift = self._linear(name, SAR_LOW - SAR_STEP, SAR_STEP)
            if polarisation and view.scaled:
                self._enlarge(getattr(batch, polarisation)[:, None], view, x_)
            else:
                x_.copy_(codes)
            _keep(x_.mul_(scale).add_(shift), data_)

    def _enlarge(self, codes: Tensor, view: View, out: Tensor) -> None:
        """Crops of SAR codes [B, 1, S, S], enlarged to the tile's size by the mean of the valid neighbours."""
        every = torch.arange(codes.shape[-1], dtype=torch.float64, device=codes.device).expand(len(codes), -1)
        rows, cols = view.taps(every.contiguous(), every.contiguous(), hold=True)
        # Code 0 adds nothing to the sum.
        view.interpolate(codes.float(), rows, cols, out)
        out.div_(view.interpolate((codes > 0).float(), rows, cols).clamp_(min=1e-6))

    def _coarse(self, batch: Batch, view: View, names: list[str], x: Tensor, data: Tensor) -> None:
        """Channels of the 2 km grid, x, data [B, names, H, W]: mean of the valid neighbours, with bilinear weights."""
        if not batch.aux.numel():
            x.zero_(), data.zero_()
            return
        codes = batch.aux[:, [batch.coarse.index(name) for name in names]].int() & 0xFFFF  # the bits of uint16
        linear = [self._linear(n, CHANNELS[n].offset - CHANNELS[n].scale, CHANNELS[n].scale) for n in names]
        scale, shift = torch.tensor(linear, device=x.device)[:, :, None, None].unbind(1)
        known = codes > 0
        rows, cols = view.taps(batch.aux_rows, batch.aux_cols, hold=True)
        view.interpolate((codes * scale + shift) * known, rows, cols, x)
        data.fill_(True)
        # Most planes lack no cell, and their weights add up to 1; only the others must be divided by their weights.
        cells = torch.isfinite(batch.aux_rows)[:, :, None] & torch.isfinite(batch.aux_cols)[:, None]
        holes = (cells[:, None] & ~known).any(dim=(2, 3)) | ~cells.any(dim=(1, 2))[:, None]
        b, c = holes.nonzero(as_tuple=True)
        if len(b):
            weight = view[b].interpolate(known[b, c][:, None].float(), rows.of(b), cols.of(b))[:, 0]
            has_data = weight > 1e-6
            x[b, c] = torch.where(has_data, x[b, c] / weight.clamp(min=1e-6), 0.0)
            data[b, c] = has_data

    def _geo(self, batch: Batch, view: View, names: list[str], x: Tensor, data: Tensor) -> None:
        """Positions, interpolated as unit vectors, and incidence angles: x, data [B, names, H, W]."""
        data.fill_(True)
        rows, cols = view.taps(batch.geo_rows, batch.geo_cols, hold=False)
        if names != ["sar_incidenceangle"]:
            latitude, longitude = torch.deg2rad(batch.geo[:, :2].double()).unbind(1)
            flat = torch.cos(latitude)
            vectors = [flat * torch.cos(longitude), flat * torch.sin(longitude), torch.sin(latitude)]
            east, north, up = view.interpolate(torch.stack(vectors, dim=1).float(), rows, cols).unbind(1)
        for i, name in enumerate(names):
            scale, shift = self._linear(name)
            if name == "sar_grid_latitude":
                x[:, i] = torch.rad2deg(torch.atan2(up, torch.hypot(east, north)))
            elif name == "sar_grid_longitude":
                x[:, i] = torch.rad2deg(torch.atan2(north, east))
            else:
                self._angle(batch, view, rows, cols, x[:, i : i + 1], data[:, i : i + 1])
            x[:, i].mul_(scale).add_(shift)
        _keep(x, data)

    def _angle(self, batch: Batch, view: View, rows: Taps, cols: Taps, x: Tensor, data: Tensor) -> None:
        """Incidence angles in degrees; where a missing angle has a weight there is no data."""
        angle = batch.geo[:, 2:]
        known = torch.isfinite(angle)
        # Points beyond a window have no weight; they are finite, so that they have no effect either.
        view.interpolate(torch.where(known, angle, 0.0), rows, cols, x)
        (b,) = (~known).flatten(1).any(dim=1).nonzero(as_tuple=True)
        if len(b):
            weight = view[b].interpolate(known[b].float(), rows.of(b), cols.of(b))
            # All points with a weight are known where the weights add up to 1; extrapolation has weights above 1.
            data[b] = (weight - 1).abs() < 1e-3

    def _clock(self, batch: Batch, names: list[str], x: Tensor, data: Tensor) -> None:
        """Month and day, the same for every pixel: x, data [B, names, H, W]."""
        for i, name in enumerate(names):
            value = batch.clock[:, ("month", "day").index(name), None, None]
            scale, shift = self._linear(name)
            data[:, i] = torch.isfinite(value)
            x[:, i] = torch.where(torch.isfinite(value), value * scale + shift, 0.0)

    def _dropped(self, batch: Batch) -> Tensor:
        """bool [B, C]; the valid plane is never dropped."""
        if batch.draws is None:
            return torch.zeros(len(batch), self.n_planes, dtype=torch.bool, device=batch.clock.device)
        drop = batch.draws.drop
        dropped = drop[:, [GROUPS.index(CHANNELS[name].group) for name in self.channels]]
        return torch.cat([dropped, torch.zeros_like(drop[:, : self.valid_plane])], dim=1)


def _keep(x: Tensor, data: Tensor) -> None:
    """Set x to 0 where there is no data. A CPU multiplies by bytes several times as fast as by booleans."""
    x.mul_(data.view(torch.uint8))


def _trimmed(batch: Batch) -> Batch:
    """A batch on the CPU whose 2 km arrays are cut to the largest window."""
    n = int((torch.isfinite(batch.aux_rows) | torch.isfinite(batch.aux_cols)).sum(dim=1).max())
    rows, cols = (points[:, :n].contiguous() for points in (batch.aux_rows, batch.aux_cols))
    return replace(batch, aux=batch.aux[..., :n, :n], aux_rows=rows, aux_cols=cols)


def _mixed(planes: Tensor, box: Tensor) -> Tensor:
    """CutMix: planes [B, C, H, W] with the box [B, 4] of each sample taken from its partner."""
    size = planes.shape[-1]
    if not planes.numel():
        return planes
    at = torch.arange(size, device=planes.device)
    top, bottom, left, right = box[:, :, None].unbind(1)
    rows, cols = (top <= at) & (at < bottom), (left <= at) & (at < right)
    inside = (rows[:, :, None] & cols[:, None, :])[:, None]
    partners = planes.view(-1, 2, *planes.shape[1:]).flip(1).view_as(planes)
    return torch.where(inside, partners, planes)
