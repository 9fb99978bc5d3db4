"""A batch of tiles as codes on their native grids: what travels to the device.

Tiles carry 2 km and geolocation windows of different sizes; both are padded to the largest of the batch and come with
matrices that interpolate them to the tile's pixels, so the device needs two matrix products and no special cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcticseg.data.order import generator
from arcticseg.data.sample import Tile, acquisition, interpolation_matrix
from arcticseg.ice.channels import GROUPS
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX


@dataclass(frozen=True)
class Batch:
    """B tiles of H x W pixels; 2 km windows of h x w cells, geolocation windows of n x m points.

    Attributes:
        place: int64 [B], place of each sample in the order; all that is drawn for it is drawn from (seed, place).
        hh, hv: int16 [B, H, W], codes of `sample`.
        dist: uint8 [B, H, W].
        aux: int16 [B, 20, h, w], the bits of uint16 codes.
        aux_rows, aux_cols: float32 [B, H, h], [B, W, w], interpolation matrices.
        geo: float32 [B, 4, n, m], unit vector of the position and incidence angle in degrees.
        geo_rows, geo_cols: float32 [B, H, n], [B, W, m].
        clock: float32 [B, 2], month and day of the year; NaN = unknown.
        lab: uint8 [B, 3, H, W]; 255 = masked or no chart.
        transpose, flip_rows, flip_cols: bool [B], the augmentation: transposed first, then flipped.
        drop: bool [B, groups], channel groups that the sample loses, in the order of `channels.GROUPS`.
    """

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
    transpose: Tensor
    flip_rows: Tensor
    flip_cols: Tensor
    drop: Tensor

    def __len__(self) -> int:
        return len(self.place)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, from which copies to the device overlap with work."""
        return Batch(**{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})


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


def _stack_padded(arrays: Sequence[NDArray]) -> NDArray:
    """Stack arrays of equal rank, padding each with zeros to the largest shape."""
    shape = np.max([array.shape for array in arrays], axis=0)
    out = np.zeros((len(arrays), *shape), arrays[0].dtype)
    for target, array in zip(out, arrays, strict=True):
        target[tuple(slice(0, n) for n in array.shape)] = array
    return out


def _unit_vectors(geo: NDArray[np.float32]) -> NDArray[np.float32]:
    """[3, n, m] latitude, longitude, incidence -> [4, n, m] x, y, z, incidence."""
    latitude, longitude = np.radians(geo[:2].astype(np.float64))
    vectors = np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)
    return np.stack([*vectors, geo[2]]).astype(np.float32)


def _clock(tile: Tile) -> tuple[float, float]:
    time = acquisition(tile)
    return (np.nan, np.nan) if time is None else (time.month, time.timetuple().tm_yday)


def collate(tiles: Sequence[Tile], places: Sequence[int], augment: Augment = Augment()) -> Batch:
    """A batch from tiles of equal size and their places."""
    size = tiles[0].hh.shape[0]
    masked = np.full((len(CHARTS), size, size), IGNORE_INDEX, np.uint8)
    arrays = {
        "place": np.asarray(places, np.int64),
        "hh": np.stack([tile.hh.view(np.int16) for tile in tiles]),
        "hv": np.stack([tile.hv.view(np.int16) for tile in tiles]),
        "dist": np.stack([tile.dist for tile in tiles]),
        "aux": _stack_padded([tile.aux.view(np.int16) for tile in tiles]),
        "aux_rows": _stack_padded([interpolation_matrix(tile.aux_rows, size, clamp=True) for tile in tiles]),
        "aux_cols": _stack_padded([interpolation_matrix(tile.aux_cols, size, clamp=True) for tile in tiles]),
        "geo": _stack_padded([_unit_vectors(tile.geo) for tile in tiles]),
        "geo_rows": _stack_padded([interpolation_matrix(tile.geo_rows, size, clamp=False) for tile in tiles]),
        "geo_cols": _stack_padded([interpolation_matrix(tile.geo_cols, size, clamp=False) for tile in tiles]),
        "clock": np.array([_clock(tile) for tile in tiles], np.float32),
        "lab": np.stack([masked if tile.lab is None else tile.lab for tile in tiles]),
    }
    draws = [augment.draw(place) for place in places]
    arrays |= {name: np.array([draw[name] for draw in draws]) for name in draws[0]}
    return Batch(**{name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()})
