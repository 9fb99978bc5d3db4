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
        index = [COARSE.index(name) for name in self.coarse]
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
        total = _interpolate(values * there, batch.aux_rows, batch.aux_cols)
        weight = _interpolate(there, batch.aux_rows, batch.aux_cols)
        found = weight > 1e-6
        fields = torch.where(found, total / weight.clamp(min=1e-6), 0.0)
        return {name: (fields[:, i], found[:, i]) for i, name in enumerate(self.coarse)}

    def _geo(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        wanted = {"sar_incidenceangle", "sar_grid_latitude", "sar_grid_longitude"} & set(self.channels)
        if not wanted:
            return {}
        # Padding meets weight 0 only; a missing angle must stay missing through the product.
        angle = torch.isfinite(batch.geo[:, 3:])
        grid = torch.cat([batch.geo[:, :3], torch.where(angle, batch.geo[:, 3:], 0.0), angle.float()], dim=1)
        x, y, z, incidence, known = _interpolate(grid, batch.geo_rows, batch.geo_cols).unbind(1)
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
        fields = {
            "nersc_sar_primary": self._sar("nersc_sar_primary", batch.hh),
            "nersc_sar_secondary": self._sar("nersc_sar_secondary", batch.hv),
            "distance_map": (self._normalise("distance_map", batch.dist.float()), batch.dist != IGNORE_INDEX),
        }
        fields |= self._coarse(batch) | self._geo(batch)
        for i, name in enumerate(("month", "day")):
            clock = batch.clock[:, i, None, None].expand(batch.hh.shape)
            fields[name] = (self._normalise(name, clock), torch.isfinite(clock))
        nothing = (torch.zeros(batch.hh.shape, device=batch.hh.device), torch.zeros_like(batch.hh, dtype=torch.bool))
        planes, data = zip(*(fields.get(name, nothing) for name in self.channels), strict=True)
        x, there = torch.stack(planes, dim=1), torch.stack(data, dim=1)  # [B, C, H, W]
        x = torch.where(there, x, 0.0)
        group = torch.tensor([GROUPS.index(CHANNELS[name].group) for name in self.channels], device=x.device)
        dropped = batch.drop[:, group]
        if self.valid_plane:
            valid = ((batch.hh > 0) | (batch.hv > 0))[:, None]
            x, there = torch.cat([x, valid.float()], dim=1), torch.cat([there, torch.ones_like(valid)], dim=1)
            dropped = torch.cat([dropped, torch.zeros_like(dropped[:, :1])], dim=1)
        return Inputs(batch.place, _turn(x, batch), _turn(there, batch), dropped, _turn(batch.lab, batch))


def _interpolate(grid: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """[B, C, h, w] to [B, C, H, W] with matrices [B, H, h] and [B, W, w]."""
    return rows[:, None] @ grid @ cols[:, None].transpose(2, 3)


def _turn(planes: Tensor, batch: Batch) -> Tensor:
    """Transpose and flip each sample of [B, C, H, W] as drawn."""
    flags = (flag[:, None, None, None] for flag in (batch.transpose, batch.flip_rows, batch.flip_cols))
    transpose, flip_rows, flip_cols = flags
    if batch.transpose.any():
        planes = torch.where(transpose, planes.transpose(2, 3), planes)
    if batch.flip_rows.any():
        planes = torch.where(flip_rows, planes.flip(2), planes)
    if batch.flip_cols.any():
        planes = torch.where(flip_cols, planes.flip(3), planes)
    return planes
