"""Test-time augmentation: a network sees windows turned and flipped, and what it says is turned back and averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from arcticseg.data.batch import Batch, Draws
from arcticseg.ice.channels import GROUPS


@dataclass(frozen=True)
class Turn:
    """A view of a window: transposed, then flipped, as samples are in training; vectors turn along.

    Attributes:
        transpose, flip_rows, flip_cols: see `data.batch.Draws`.
    """

    transpose: bool = False
    flip_rows: bool = False
    flip_cols: bool = False

    def of(self, batch: Batch) -> Batch:
        """A batch whose samples are assembled turned."""
        if self == Turn():
            return batch
        axes = (self.transpose, self.flip_rows, self.flip_cols)
        transpose, flip_rows, flip_cols = (torch.full((len(batch),), axis) for axis in axes)
        drop = torch.zeros((len(batch), len(GROUPS)), dtype=torch.bool)
        return replace(batch, draws=Draws(None, transpose, flip_rows, flip_cols, drop, None))

    def back(self, fields: Tensor) -> Tensor:
        """Fields [B, K, S, S] of turned windows as those of the windows."""
        axes = [axis for axis, flipped in ((2, self.flip_rows), (3, self.flip_cols)) if flipped]
        fields = fields.flip(axes) if axes else fields
        return fields.transpose(2, 3) if self.transpose else fields


PLAIN = (Turn(),)
_FLIPS = tuple(Turn(False, rows, cols) for rows in (False, True) for cols in (False, True))
# By 0, 90, 180 and 270 degrees.
_QUARTERS = (Turn(), Turn(True, True, False), Turn(False, True, True), Turn(True, False, True))
_ALL = tuple(replace(turn, transpose=transpose) for transpose in (False, True) for turn in _FLIPS)


def turns_of(names: Sequence[str]) -> tuple[Turn, ...]:
    """The views of each window: 4 for flips or turns, 8 for both."""
    if "flips" in names and "turns" in names:
        return _ALL
    return _FLIPS if "flips" in names else _QUARTERS if "turns" in names else PLAIN
