"""The input planes of each grid, from codes on the native grid; see `transforms.Assemble`.

Each kind has two functions: one says where its planes hold data, the other writes them. x is float32 and data bool
[B, names, H, W]; what is None is not needed. Whether there is something to repair was seen on the host (`Hints`), so
that no function waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcticseg.data import vectors
from arcticseg.data.batch import Batch
from arcticseg.data.radiometry import MEAN_ANGLE, normals
from arcticseg.data.tile import SAR_LOW, SAR_STEP
from arcticseg.data.view import FreeView, Taps, View, pixel_scale
from arcticseg.ice.channels import CYCLE_LENGTHS, CYCLES, INPUTS, POSITION, RAW_SPACING, SAR

# Channel -> (a, b) such that a x code + b is the normalised value.
Linear = Callable[[str], tuple[float, float]]

POLARISATION = {name: sar for sar, name in SAR.items()}


def code_values(name: str) -> tuple[float, float]:
    """(offset, scale) such that a channel's value is offset + scale x code."""
    channel = INPUTS[name]
    if name in POLARISATION:
        return SAR_LOW - SAR_STEP, SAR_STEP
    return (channel.offset - channel.scale, channel.scale) if channel.grid == "2km" else (0.0, 1.0)


def picked_sar(batch: Batch, view: View) -> dict[str, Tensor]:
    """Polarisation -> codes [B, 1, H, W] of the nearest pixels."""
    return {name: view.pick(getattr(batch, name)[:, None], 0) for name in SAR}


def full_data(batch: Batch, view: View, sar: Mapping[str, Tensor], names: Sequence[str], data: Tensor) -> None:
    """Where channels with a value for every pixel of the tile hold data."""
    for i, name in enumerate(names):
        polarisation = POLARISATION.get(name)
        # In a crop, too, the nearest pixel says where there is data: so data and labels agree. 255 becomes 0.
        codes = view.pick(batch.dist[:, None], 255) + 1 if polarisation is None else sar[polarisation]
        data[:, i : i + 1].copy_(codes)


def write_full(
    batch: Batch,
    view: View,
    sar: Mapping[str, Tensor],
    jitter: Mapping[str, Tensor],
    names: Sequence[str],
    linear: Linear,
    x: Tensor,
    data: Tensor | None,
) -> None:
    """Channels with a value for every pixel of the tile.

    Args:
        sar, jitter: from `picked_sar` and `sar_jitter`.
    """
    data = torch.empty(x.shape, dtype=torch.bool, device=x.device) if data is None else data
    for i, name in enumerate(names):
        x_, data_ = x[:, i : i + 1], data[:, i : i + 1]
        polarisation = POLARISATION.get(name)
        if polarisation is None:
            codes = view.pick(batch.dist[:, None], 255)
            data_.copy_(codes + 1)
        else:
            codes = sar[polarisation]
            data_.copy_(codes)
        scale, shift = linear(name)
        if polarisation and view.scaled:
            _enlarge(getattr(batch, polarisation)[:, None], view, x_)
        else:
            x_.copy_(codes)
        x_.mul_(scale).add_(shift)
        if polarisation is not None and polarisation in jitter:
            x_.add_(jitter[polarisation], alpha=scale / SAR_STEP)
        _keep(x_, data_)


def sar_jitter(batch: Batch, view: View, angles: Tensor) -> dict[str, Tensor]:
    """Polarisation -> dB [B, 1, H, W] that augmentation adds to backscatter; empty: nothing.

    Args:
        angles: samples that lack an incidence angle somewhere; a trend is 0 there.
    """
    draws = batch.draws
    added: dict[str, Tensor] = {}
    if draws is None:
        return added
    if draws.trend is not None:
        shape = (len(batch.clock), 1, batch.size, batch.size)
        tilt = torch.empty(shape, device=batch.clock.device)
        write_geo(batch, view, ("sar_incidenceangle",), lambda _: (1.0, -MEAN_ANGLE), angles, tilt, None)
        added |= {name: tilt * draws.trend[:, i, None, None, None] for i, name in enumerate(SAR)}
    if draws.speckle is not None and draws.noise is not None:
        pixel = torch.arange(batch.size**2, device=batch.clock.device).view(1, 1, batch.size, batch.size)
        both = normals(draws.noise[:, None, None, None], pixel)
        for name, noise in zip(SAR, both, strict=True):
            noise = noise * draws.speckle[:, None, None, None]
            added[name] = noise if name not in added else added[name] + noise
    return added


def _enlarge(codes: Tensor, view: View, out: Tensor) -> None:
    """SAR codes [B, 1, S, S] between pixels of the tile: the mean of the valid neighbours, with bilinear weights."""
    rows, cols = view.pixel_taps(codes.shape[-1])
    # Code 0 adds nothing to the sum.
    view.interpolate(codes.float(), rows, cols, out)
    out.div_(view.interpolate((codes > 0).float(), rows, cols).clamp_(min=1e-6))


def lacking(batch: Batch) -> NDArray[np.bool_]:
    """[B, coarse channels]: whether a plane lacks a cell of the sample's window, or there is no window; on the CPU."""
    codes = batch.aux.numpy()
    heights, widths = (np.isfinite(points.numpy()).sum(axis=1).tolist() for points in (batch.aux_rows, batch.aux_cols))
    missing = np.ones(codes.shape[:2], bool)
    for i, (height, width) in enumerate(zip(heights, widths, strict=True)):
        if height and width:
            missing[i] = ~codes[i, :, :height, :width].all(axis=(1, 2))
    return vectors.lacking_of(batch, missing)


def _coarse_codes(batch: Batch, names: Sequence[str]) -> Tensor:
    """Codes [B, names, n, n] of 2 km channels: int32, or float32 where samples are turned by any angle."""
    aux = batch.aux
    if tuple(names) != batch.coarse:
        aux = torch.stack([aux[:, batch.coarse.index(name)] for name in names], dim=1)
    codes = aux.int() & 0xFFFF  # the bits of uint16
    if batch.draws is not None:
        codes = codes if batch.draws.angle is None else codes.float()
        for i, name in enumerate(names):
            if vectors.is_component(name):
                codes[:, i] = vectors.codes_of(batch, name)
    return codes


def _hole_weights(known: Tensor, view: View, rows: Taps, cols: Taps, holes: Tensor) -> Tensor:
    """[N, H, W]: the weight of known cells at each pixel of the planes `holes` [2, N]."""
    b, c = holes.unbind()
    if isinstance(view, FreeView):
        # Its taps are as large as a plane: they are not repeated for each plane.
        return view.interpolate(known.float(), rows, cols)[b, c]
    return view[b].interpolate(known[b, c][:, None].float(), rows.of(b), cols.of(b))[:, 0]


def coarse_data(batch: Batch, view: View, names: Sequence[str], holes: Tensor, data: Tensor) -> None:
    """Where channels of the 2 km grid hold data."""
    data.fill_(bool(batch.aux.numel()))
    if holes.shape[1] and batch.aux.numel():
        rows, cols = view.taps(batch.aux_rows, batch.aux_cols, hold=True)
        weight = _hole_weights(_coarse_codes(batch, names) > 0, view, rows, cols, holes)
        data[holes[0], holes[1]] = weight > 1e-6
    _crop(view, data=data)


def write_coarse(
    batch: Batch, view: View, names: Sequence[str], linear: Tensor, holes: Tensor, x: Tensor, data: Tensor | None
) -> None:
    """Channels of the 2 km grid: mean of the valid neighbours, with bilinear weights.

    Args:
        linear: float32 [names, 2], scale and shift of each channel.
    """
    if not batch.aux.numel():
        x.zero_()
        if data is not None:
            data.zero_()
        return
    codes = _coarse_codes(batch, names)
    scale, shift = linear[:, :, None, None].unbind(1)
    known = codes > 0
    rows, cols = view.taps(batch.aux_rows, batch.aux_cols, hold=True)
    view.interpolate((codes * scale + shift) * known, rows, cols, x)
    if data is not None:
        data.fill_(True)
    # Most planes lack no cell, and their weights add up to 1; only the others must be divided by their weights.
    if holes.shape[1]:
        b, c = holes.unbind()
        weight = _hole_weights(known, view, rows, cols, holes)
        has_data = weight > 1e-6
        x[b, c] = torch.where(has_data, x[b, c] / weight.clamp(min=1e-6), 0.0)
        if data is not None:
            data[b, c] = has_data
    _crop(view, x, data)


def geo_data(batch: Batch, view: View, names: Sequence[str], angles: Tensor, data: Tensor) -> None:
    """Where positions, which are everywhere, and incidence angles hold data."""
    data.fill_(True)
    if "sar_incidenceangle" in names and len(angles):
        rows, cols = view.taps(batch.geo_rows, batch.geo_cols, hold=False)
        data[angles, names.index("sar_incidenceangle")] = _has_angle(batch, view, rows, cols, angles)[:, 0]
    _crop(view, data=data)


def _has_angle(batch: Batch, view: View, rows: Taps, cols: Taps, angles: Tensor) -> Tensor:
    """bool [M, 1, H, W]: where no missing angle of the samples `angles` has a weight."""
    known = torch.isfinite(batch.geo[:, 2:])[angles].float()
    weight = view[angles].interpolate(known, rows.of(angles), cols.of(angles))
    # All points with a weight are known where the weights add up to 1; extrapolation has weights above 1.
    return (weight - 1).abs() < 1e-3


def write_geo(
    batch: Batch, view: View, names: Sequence[str], linear: Linear, angles: Tensor, x: Tensor, data: Tensor | None
) -> None:
    """Positions, interpolated as unit vectors, and incidence angles."""
    if data is None and len(angles):
        data = torch.empty(x.shape, dtype=torch.bool, device=x.device)
    if data is not None:
        data.fill_(True)
    rows, cols = view.taps(batch.geo_rows, batch.geo_cols, hold=False)
    if tuple(names) != ("sar_incidenceangle",):
        latitude, longitude = torch.deg2rad(batch.geo[:, :2].double()).unbind(1)
        flat = torch.cos(latitude)
        vectors = [flat * torch.cos(longitude), flat * torch.sin(longitude), torch.sin(latitude)]
        east, north, up = view.interpolate(torch.stack(vectors, dim=1).float(), rows, cols).unbind(1)
    for i, name in enumerate(names):
        scale, shift = linear(name)
        if name == "sar_grid_latitude":
            x[:, i] = torch.rad2deg(torch.atan2(up, torch.hypot(east, north)))
        elif name == "sar_grid_longitude":
            x[:, i] = torch.rad2deg(torch.atan2(north, east))
        elif name in POSITION:
            # Between unit vectors lie shorter ones.
            length = torch.hypot(torch.hypot(east, north), up)
            x[:, i] = (east, north, up)[POSITION.index(name)] / length
        else:
            angle = batch.geo[:, 2:]
            # Points beyond a window have no weight; they are finite, so that they have no effect either.
            view.interpolate(torch.where(torch.isfinite(angle), angle, 0.0), rows, cols, x[:, i : i + 1])
            if data is not None and len(angles):
                data[angles, i] = _has_angle(batch, view, rows, cols, angles)[:, 0]
        x[:, i].mul_(scale).add_(shift)
    if data is not None:
        _keep(x, data)
    _crop(view, x, data)


def scene_data(batch: Batch, names: Sequence[str], data: Tensor) -> None:
    """Where what is the same for every pixel, such as the month, is known."""
    for i, name in enumerate(names):
        data[:, i] = torch.isfinite(scene_values(batch, name))[:, None, None]


def write_scene(batch: Batch, names: Sequence[str], linear: Linear, x: Tensor, data: Tensor | None) -> None:
    """What is the same for every pixel."""
    for i, name in enumerate(names):
        value = scene_values(batch, name)[:, None, None]
        scale, shift = linear(name)
        x[:, i] = torch.where(torch.isfinite(value), value * scale + shift, 0.0)
    if data is not None:
        scene_data(batch, names, data)


def scene_values(batch: Batch, name: str) -> Tensor:
    """A channel that has one value a sample, float32 [B]; NaN = unknown."""
    if name == "pixel_spacing":
        scale = pixel_scale(batch)
        metres = batch.spacing[:, 0] if scale is None else batch.spacing[:, 0] * scale.float()
        return torch.log2(metres / RAW_SPACING)
    number, is_cosine = CYCLES.get(name, (name, False))
    values = batch.clock[:, ("month", "day").index(number)]
    if name not in CYCLES:
        return values
    angles = (values - 0.5) * (2 * math.pi / CYCLE_LENGTHS[number])
    return torch.cos(angles) if is_cosine else torch.sin(angles)


def _crop(view: View, x: Tensor | None = None, data: Tensor | None = None) -> None:
    """Leave nothing where the input is not on the tile."""
    if view.inside is None:
        return
    if x is not None:
        _keep(x, view.inside[:, None])
    if data is not None:
        data.logical_and_(view.inside[:, None])


def _keep(x: Tensor, data: Tensor) -> None:
    """Set x to 0 where there is no data. A CPU multiplies by bytes several times as fast as by booleans."""
    x.mul_(data.view(torch.uint8))
