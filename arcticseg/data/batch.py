"""A batch of tiles as codes on their native grids: what travels to the device.

Tiles carry 2 km and geolocation windows of different sizes. Each stands in the corner of an array with room for the
largest; beside it stand the tile coordinates of its points, infinite where there are no more, from which the device
makes the weights that interpolate to pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcticseg.data.decode import clock
from arcticseg.data.order import generator
from arcticseg.data.sample import Tile
from arcticseg.ice.channels import COARSE, GROUPS
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX


@dataclass(frozen=True)
class Draws:
    """What is drawn for each sample, from (seed, place).

    Attributes:
        transpose, flip_rows, flip_cols: bool [B]: transposed first, then flipped.
        drop: bool [B, groups], channel groups that the sample loses, in the order of `channels.GROUPS`.
    """

    transpose: Tensor
    flip_rows: Tensor
    flip_cols: Tensor
    drop: Tensor


@dataclass(frozen=True)
class Batch:
    """B tiles of H x W pixels; 2 km windows of up to h x w cells, geolocation windows of up to n x m points.

    Arrays that nothing asked for have no elements.

    Attributes:
        size: H and W.
        coarse: names of the 2 km channels.
        place: int64 [B], place of each sample in the order, always on the CPU; all that is drawn for it is drawn from
            (seed, place).
        hh, hv: int16 [B, H, W], codes of `sample`.
        dist: uint8 [B, H, W].
        aux: int16 [B, C, h, w], the bits of uint16 codes.
        aux_rows, aux_cols: float64 [B, h], [B, w], tile coordinates of the cells.
        geo: float32 [B, 3, n, m], latitude, longitude and incidence angle in degrees.
        geo_rows, geo_cols: float64 [B, n], [B, m], tile coordinates of the points.
        clock: float32 [B, 2], month and day of the year; NaN = unknown.
        lab: uint8 [B, 3, H, W]; 255 = masked or no chart.
        draws: the augmentation; None: none.
    """

    size: int
    coarse: tuple[str, ...]
    place: Tensor
    hh: Tensor
    hv: Tensor
    dist: Tensor
    aux: Tensor
    aux_rows: Tensor
    aux_cols: Tensor
    geo: Tensor
    geo_rows: Tensor
    geo_cols: Tensor
    clock: Tensor
    lab: Tensor
    draws: Draws | None = None

    def __len__(self) -> int:
        return len(self.place)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device, its places excepted."""
        moved: dict[str, Any] = {name: value.to(device, non_blocking=True) for name, value in _tensors(self).items()}
        moved["place"] = self.place
        moved["draws"] = self.draws and Draws(
            **{name: value.to(device) for name, value in _tensors(self.draws).items()}
        )
        return replace(self, **moved)


def _tensors(of: Batch | Draws) -> dict[str, Tensor]:
    return {f.name: value for f in fields(of) if isinstance(value := getattr(of, f.name), Tensor)}


@dataclass(frozen=True)
class Augment:
    """What is drawn for each sample; see `settings.AugmentConfig`."""

    seed: int = 0
    flips: bool = False
    quarter_turns: bool = False
    drop_groups: tuple[tuple[str, float], ...] = ()

    def draw(self, place: int) -> dict[str, Any]:
        """Transposition, flips and dropped groups of the sample at a place."""
        random = generator("augment", self.seed, place)
        flip_rows, flip_cols = (bool(random.integers(2)) and self.flips for _ in range(2))
        turns = int(random.integers(4)) if self.quarter_turns else 0
        # A turn by 90 degrees is a transposition and a flip of the rows, by 180 both flips, by 270 the other flip.
        flip_rows ^= turns in (1, 2)
        flip_cols ^= turns in (2, 3)
        drop = np.zeros(len(GROUPS), bool)
        for group, share in self.drop_groups:
            drop[GROUPS.index(group)] = random.random() < share
        return {"transpose": turns % 2 == 1, "flip_rows": flip_rows, "flip_cols": flip_cols, "drop": drop}

    def __call__(self, batch: Batch) -> Batch:
        """The batch with what is drawn for its places."""
        draws = [self.draw(place) for place in batch.place.tolist()]
        arrays = {name: torch.from_numpy(np.array([draw[name] for draw in draws])) for name in draws[0]}
        return replace(batch, draws=Draws(**arrays))


def make_batch(arrays: Mapping[str, NDArray[Any]], coarse: tuple[str, ...], size: int) -> Batch:
    """A batch whose tensors are views of arrays, among them `place`; those of uint16 become int16."""
    tensors: dict[str, Any] = {
        name: torch.from_numpy(array.view(np.int16) if array.dtype == np.uint16 else array)
        for name, array in arrays.items()
    }
    return Batch(size, coarse, **tensors)


def _stack_padded(arrays: Sequence[NDArray[Any]], fill: float = 0) -> NDArray[Any]:
    """Stack arrays of equal rank, padding each to the largest shape."""
    shape = np.max([array.shape for array in arrays], axis=0)
    out = np.full((len(arrays), *shape), fill, arrays[0].dtype)
    for target, array in zip(out, arrays, strict=True):
        target[tuple(slice(0, n) for n in array.shape)] = array
    return out


def collate(tiles: Sequence[Tile], places: Sequence[int], augment: Augment = Augment()) -> Batch:
    """A batch from tiles of equal size and their places."""
    size = tiles[0].hh.shape[0]
    masked = np.full((len(CHARTS), size, size), IGNORE_INDEX, np.uint8)
    arrays: dict[str, NDArray[Any]] = {
        "place": np.asarray(places, np.int64),
        "clock": np.array([clock(tile.time) for tile in tiles], np.float32),
        "lab": np.stack([masked if tile.lab is None else tile.lab for tile in tiles]),
    }
    for name in ("hh", "hv", "dist"):
        arrays[name] = np.stack([getattr(tile, name) for tile in tiles])
    for name in ("aux", "geo"):
        arrays[name] = _stack_padded([getattr(tile, name) for tile in tiles])
        for axis in (f"{name}_rows", f"{name}_cols"):
            arrays[axis] = _stack_padded([getattr(tile, axis) for tile in tiles], np.inf)
    return augment(make_batch(arrays, COARSE, size))
