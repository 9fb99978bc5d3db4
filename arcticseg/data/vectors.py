"""Vectors turn with the image: their components are along its axes, which flips and turns change."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcticseg.data.batch import Batch
from arcticseg.ice.channels import CHANNELS, VECTORS

# Component -> the other one, and whether it is along the rows.
_PARTNERS = {
    name: (other, along_rows)
    for across, down in VECTORS
    for name, other, along_rows in ((across, down, False), (down, across, True))
}

# A cosine or sine of a quarter turn, up to rounding.
_NOTHING = 1e-6


def is_component(name: str) -> bool:
    """Whether a channel is a component of a vector."""
    return name in _PARTNERS


def codes_of(batch: Batch, name: str) -> Tensor:
    """Codes of a 2 km channel, int32 [B, n, n] on the tile's own cells, along the axes of the turned and flipped image.

    A transposition exchanges the components, a flip changes the sign of the one along its axis. Both are exact: what
    the opposite of a value has for a code is a whole number. Where samples are turned by any angle, codes of components
    are float32 and no whole numbers. Code 0, no data, stays so; a component whose partner the batch lacks has no data
    where it would be needed.
    """
    codes = _plain(batch, name)
    if batch.draws is None or name not in _PARTNERS:
        return codes
    partner, along_rows = _PARTNERS[name]
    other = _plain(batch, partner) if partner in batch.coarse else torch.zeros_like(codes)
    if batch.draws.angle is not None:
        codes, other = turned(codes, other, batch.draws.angle, along_rows, _opposite(name) / 2)
    return oriented(codes, other, batch.draws.transpose, _flip(batch, along_rows), _opposite(name))


def turned(codes: Tensor, other: Tensor, angle: Tensor, along_rows: bool, zero: float) -> tuple[Tensor, Tensor]:
    """Codes float32 [B, n, n] of a component and of its partner in an image that is turned counter-clockwise.

    With u along the columns and v along the rows, downwards: u' = u cos + v sin, v' = v cos - u sin.

    Args:
        codes, other: int32 [B, n, n], of the component and of its partner; 0 = no data.
        angle: float64 [B], degrees.
        along_rows: whether the component is v.
        zero: code of the value 0, the same of both.
    """
    radians = torch.deg2rad(angle)[:, None, None]
    cos, sin = torch.cos(radians).float(), torch.sin(radians).float()
    sin = -sin if along_rows else sin

    def part(own: Tensor, partner: Tensor, sine: Tensor) -> Tensor:
        # At a quarter turn one of them has no weight, and is not missed where it is unknown.
        known = ((own > 0) | (cos.abs() < _NOTHING)) & ((partner > 0) | (sine.abs() < _NOTHING))
        values = cos * (own - zero) + sine * (partner - zero)
        return torch.where(known, (values + zero).clamp(min=1), 0.0)

    return part(codes, other, sin), part(other, codes, -sin)


def lacking_of(batch: Batch, missing: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool [B, coarse channels] for the turned image, where each plane of the tile lacks a cell; on the CPU."""
    if batch.draws is None:
        return missing
    exchanged, before = batch.draws.transpose.numpy(), missing.copy()
    for i, name in enumerate(batch.coarse):
        if name in _PARTNERS:
            partner, _ = _PARTNERS[name]
            other = before[:, batch.coarse.index(partner)] if partner in batch.coarse else True
            either = batch.draws.angle is not None
            missing[:, i] = before[:, i] | other if either else np.where(exchanged, other, before[:, i])
    return missing


def oriented(codes: Tensor, other: Tensor, transpose: Tensor, flip: Tensor, opposite: int) -> Tensor:
    """Codes [B, n, n] of a component in an image that is transposed, and then flipped along the component's axis.

    Args:
        codes, other: [B, n, n], of the component and of its partner; 0 = no data.
        transpose, flip: bool [B].
        opposite: sum of the codes of a value and of its opposite.
    """
    values = torch.where(transpose[:, None, None], other, codes)
    return torch.where(flip[:, None, None] & (values > 0), (opposite - values).clamp(min=1), values)


def _plain(batch: Batch, name: str) -> Tensor:
    return batch.aux[:, batch.coarse.index(name)].int() & 0xFFFF  # the bits of uint16


def _flip(batch: Batch, along_rows: bool) -> Tensor:
    assert batch.draws is not None
    return batch.draws.flip_rows if along_rows else batch.draws.flip_cols


def _opposite(name: str) -> int:
    """offset + scale (c - 1) = -(offset + scale (d - 1)) for c + d = 2 - 2 offset / scale."""
    return round(2 - 2 * CHANNELS[name].offset / CHANNELS[name].scale)
