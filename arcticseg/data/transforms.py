"""Codes to network input: dequantise, normalise, interpolate, augment; batched, on the device of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from arcticseg.data.batch import Batch
from arcticseg.data.sample import SAR_LOW, SAR_STEP
from arcticseg.ice.channels import CHANNELS, COARSE, GROUPS
from arcticseg.ice.sigrid import IGNORE_INDEX


@dataclass(frozen=True)
class Inputs:
    """What a network and its loss see.

    Attributes:
        place: int64 [B].
        x: float32 [B, C, H, W], normalised; 0 where there is no data.
        data: bool [B, C, H, W], where x holds data.
        dropped: bool [B, C], planes that channel dropout takes from the network, though not from its targets.
        labels: uint8 [B, 3, H, W]; 255 = masked.
    """

    place: Tensor
    x: Tensor
    data: Tensor
    dropped: Tensor
    labels: Tensor

    @property
    def seen(self) -> Tensor:
        """x as the network sees it, dropped planes 0."""
        return self.x * ~self.dropped[:, :, None, None]


class Assemble:
    """Batch -> Inputs for the channels that a config asks for.

    Args:
        channels: channel names in input order.
        valid_plane: add one plane that is 1 where some polarisation has data.
        statistics: channel -> (mean, std); channels left out use the published ones.
    """

    def __init__(
        self,
        channels: Sequence[str],
        valid_plane: bool = False,
        statistics: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.channels = tuple(channels)
        self.valid_plane = valid_plane
        known = {name: (channel.mean, channel.std) for name, channel in CHANNELS.items()}
        self.statistics = known | dict(statistics or {})
        self.coarse = [name for name in COARSE if name in self.channels]

    @property
    def n_planes(self) -> int:
        """C of the network's input."""
        return len(self.channels) + self.valid_plane

    def _normalise(self, name: str, values: Tensor) -> Tensor:
        mean, std = self.statistics[name]
        # A channel that is constant over the training scenes carries nothing and must not divide by zero.
        return (values - mean) / (std if std > 0 else 1.0)

    def _sar(self, name: str, codes: Tensor) -> tuple[Tensor, Tensor]:
        return self._normalise(name, SAR_LOW + SAR_STEP * (codes.float() - 1)), codes > 0

    def _coarse(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        if not self.coarse or not batch.aux.shape[-1]:
            return {}
        index = [batch.coarse.index(name) for name in self.coarse]
        codes = batch.aux[:, index].int() & 0xFFFF  # the bits of uint16, which torch can hardly compute with
        values = torch.stack(
            [
                self._normalise(name, CHANNELS[name].offset + CHANNELS[name].scale * (codes[:, i] - 1).float())
                for i, name in enumerate(self.coarse)
            ],
            dim=1,
        )
        there = (codes > 0).float()
        # Mean of the valid neighbours, weighted as bilinear interpolation weights them.
        weights = [linear_weights(points, batch.size, hold=True) for points in (batch.aux_rows, batch.aux_cols)]
        total = _interpolate(values * there, *weights)
        weight = _interpolate(there, *weights)
        found = weight > 1e-6
        fields = torch.where(found, total / weight.clamp(min=1e-6), 0.0)
        return {name: (fields[:, i], found[:, i]) for i, name in enumerate(self.coarse)}

    def _geo(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        wanted = {"sar_incidenceangle", "sar_grid_latitude", "sar_grid_longitude"} & set(self.channels)
        if not wanted:
            return {}
        latitude, longitude = torch.deg2rad(batch.geo[:, :2].double()).unbind(1)
        flat = torch.cos(latitude)
        vectors = [flat * torch.cos(longitude), flat * torch.sin(longitude), torch.sin(latitude)]
        # What fills a window up meets weight 0 only; a missing angle must stay missing through the product.
        angle = torch.isfinite(batch.geo[:, 2])
        grid = torch.stack([*vectors, torch.where(angle, batch.geo[:, 2], 0.0), angle], dim=1).float()
        weights = [linear_weights(points, batch.size, hold=False) for points in (batch.geo_rows, batch.geo_cols)]
        x, y, z, incidence, known = _interpolate(grid, *weights).unbind(1)
        everywhere = torch.ones_like(x, dtype=torch.bool)
        fields = {
            "sar_grid_latitude": (torch.rad2deg(torch.atan2(z, torch.hypot(x, y))), everywhere),
            "sar_grid_longitude": (torch.rad2deg(torch.atan2(y, x)), everywhere),
            # All points that take part are known where their weights add up to 1; extrapolation has some beyond 1.
            "sar_incidenceangle": (incidence, (known - 1).abs() < 1e-3),
        }
        return {name: (self._normalise(name, fields[name][0]), fields[name][1]) for name in wanted}

    def __call__(self, batch: Batch) -> Inputs:
        """Assemble the planes, then turn and flip planes and labels together."""
        shape = (len(batch), batch.size, batch.size)
        fields = {
            "nersc_sar_primary": self._sar("nersc_sar_primary", batch.hh),
            "nersc_sar_secondary": self._sar("nersc_sar_secondary", batch.hv),
            "distance_map": (self._normalise("distance_map", batch.dist.float()), batch.dist != IGNORE_INDEX),
        }
        fields |= self._coarse(batch) | self._geo(batch)
        for i, name in enumerate(("month", "day")):
            clock = batch.clock[:, i, None, None].expand(shape)
            fields[name] = (self._normalise(name, clock), torch.isfinite(clock))
        nothing = (
            torch.zeros(shape, device=batch.clock.device),
            torch.zeros(shape, dtype=torch.bool, device=batch.clock.device),
        )
        planes, data = zip(*(fields.get(name, nothing) for name in self.channels), strict=True)
        x, there = torch.stack(planes, dim=1), torch.stack(data, dim=1)  # [B, C, H, W]
        x = torch.where(there, x, 0.0)
        group = torch.tensor([GROUPS.index(CHANNELS[name].group) for name in self.channels], device=x.device)
        dropped = (
            batch.draws.drop[:, group] if batch.draws else torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        )
        if self.valid_plane:
            valid = ((batch.hh > 0) | (batch.hv > 0))[:, None]
            x, there = torch.cat([x, valid.float()], dim=1), torch.cat([there, torch.ones_like(valid)], dim=1)
            dropped = torch.cat([dropped, torch.zeros_like(dropped[:, :1])], dim=1)
        return Inputs(batch.place, _turn(x, batch), _turn(there, batch), dropped, _turn(batch.lab, batch))


def _interpolate(grid: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """[B, C, h, w] to [B, C, H, W] with matrices [B, H, h] and [B, W, w]."""
    return rows[:, None] @ grid @ cols[:, None].transpose(2, 3)


def linear_weights(points: Tensor, size: int, hold: bool) -> Tensor:
    """Weights float32 [B, size, n] that bring values at `points` [B, n] to 0 .. size - 1 by linear interpolation.

    Args:
        points: rising, infinite where a sample has fewer than n; those get no weight.
        hold: hold the edge values beyond the outermost points (2 km grid); else go on linearly (geolocation).
    """
    count = torch.isfinite(points).sum(dim=1)[:, None]  # [B, 1]
    at = torch.arange(size, dtype=points.dtype, device=points.device).expand(len(points), -1).contiguous()
    low = torch.searchsorted(points, at, right=True) - 1
    low = torch.minimum(low, count - 2).clamp(min=0)  # [B, size]
    high = torch.minimum(low + 1, count - 1).clamp(min=0)
    first, last = points.gather(1, low), points.gather(1, high)
    # One point, or none, has no distance to a neighbour.
    share = torch.where(count > 1, (at - first) / (last - first), 0.0)
    share = share.clamp(0, 1) if hold else share
    weights = torch.zeros(*at.shape, points.shape[1], dtype=points.dtype, device=points.device)
    weights.scatter_(2, low[..., None], ((1 - share) * (count > 0))[..., None])
    weights.scatter_add_(2, high[..., None], share[..., None])
    return weights.float()


def _turn(planes: Tensor, batch: Batch) -> Tensor:
    """Transpose and flip each sample of [B, C, H, W] as drawn."""
    if batch.draws is None or not planes.numel():
        return planes
    draws = batch.draws
    flags = (flag[:, None, None, None] for flag in (draws.transpose, draws.flip_rows, draws.flip_cols))
    transpose, flip_rows, flip_cols = flags
    planes = torch.where(transpose, planes.transpose(2, 3), planes)
    planes = torch.where(flip_rows, planes.flip(2), planes)
    return torch.where(flip_cols, planes.flip(3), planes)
