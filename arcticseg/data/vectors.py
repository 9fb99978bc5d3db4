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


def is_component(name: str) -> bool:
    """Whether a channel is a component of a vector."""
    return name in _PARTNERS


def codes_of(batch: Batch, name: str) -> Tensor:
    """Codes of a 2 km channel, int32 [B, n, n] on the tile's own cells, along the axes of the turned and flipped image.

    A transposition exchanges the components, a flip changes the sign of the one along its axis. Both are exact: what
    the opposite of a value has for a code is a whole number. Code 0, no data, stays so; a component whose partner the
    batch lacks has no data where a sample is transposed.
    """
    codes = _plain(batch, name)
    if batch.draws is None or name not in _PARTNERS:
        return codes
    partner, along_rows = _PARTNERS[name]
    other = _plain(batch, partner) if partner in batch.coarse else torch.zeros_like(codes)
    return oriented(codes, other, batch.draws.transpose, _flip(batch, along_rows), _opposite(name))


def lacking_of(batch: Batch, missing: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool [B, coarse channels] for the turned image, where each plane of the tile lacks a cell; on the CPU."""
    if batch.draws is None:
        return missing
    turned, before = batch.draws.transpose.numpy(), missing.copy()
    for i, name in enumerate(batch.coarse):
        if name in _PARTNERS:
            partner, _ = _PARTNERS[name]
            other = before[:, batch.coarse.index(partner)] if partner in batch.coarse else True
            missing[:, i] = np.where(turned, other, before[:, i])
    return missing


def oriented(codes: Tensor, other: Tensor, transpose: Tensor, flip: Tensor, opposite: int) -> Tensor:
    """Codes [B, n, n] of a component in an image that is transposed, and then flipped along the component's axis.

    Args:
        codes, other: int32 [B, n, n], of the component and of its partner; 0 = no data.
        transpose, flip: bool [B].
        opposite: sum of the codes of a value and of its opposite.
    """
    turned = torch.where(transpose[:, None, None], other, codes)
    return torch.where(flip[:, None, None] & (turned > 0), (opposite - turned).clamp(min=1), turned)


def _plain(batch: Batch, name: str) -> Tensor:
    return batch.aux[:, batch.coarse.index(name)].int() & 0xFFFF  # the bits of uint16


def _flip(batch: Batch, along_rows: bool) -> Tensor:
    assert batch.draws is not None
    return batch.draws.flip_rows if along_rows else batch.draws.flip_cols


def _opposite(name: str) -> int:
    """offset + scale (c - 1) = -(offset + scale (d - 1)) for c + d = 2 - 2 offset / scale."""
    return round(2 - 2 * CHANNELS[name].offset / CHANNELS[name].scale)
