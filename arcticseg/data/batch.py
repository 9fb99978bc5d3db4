"""A batch of tiles as codes on their native grids: what travels to the device.

Tiles carry 2 km and geolocation windows of different sizes. Each window fills a corner of an array with room for the
largest; with it come the tile coordinates of its points, infinite where there are no more, from which the device makes
the weights that interpolate to pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcticseg.data.decode import clock
from arcticseg.data.tile import Tile
from arcticseg.ice.channels import COARSE
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX


@dataclass(frozen=True)
class Draws:
    """What is drawn for each sample from (seed, place).

    A sample is cropped, turned by any angle and zoomed out about its centre, transposed, flipped; its backscatter gets
    a trend and speckle; then it is mixed.

    Attributes:
        crop: int64 [B, 3], first row, first column and edge of the window that is brought to the tile's size; None: no
            sample is cropped.
        transpose, flip_rows, flip_cols: bool [B].
        drop: bool [B, groups], channel groups that the sample loses, in the order of `channels.GROUPS`.
        mix: int64 [B, 4], first and last (exclusive) row, first and last column of the box that the sample takes from
            its partner, after flips; an empty box: it takes nothing; None: no sample does. The partner of batch row
            2 i is row 2 i + 1.
        angle: float64 [B], degrees by which the sample is turned counter-clockwise; None: none is.
        zoom: float64 [B], by how much its tile shrinks into the frame; None: none does.
        speckle: float32 [B], standard deviation of the noise in dB; None: there is no noise.
        noise: int64 [B], below 2^32, which noise; None where `speckle` is.
        trend: float32 [B, 2], dB per degree of incidence angle that HH and HV get; None: they get nothing.
    """

    crop: Tensor | None
    transpose: Tensor
    flip_rows: Tensor
    flip_cols: Tensor
    drop: Tensor
    mix: Tensor | None = None
    angle: Tensor | None = None
    zoom: Tensor | None = None
    speckle: Tensor | None = None
    noise: Tensor | None = None
    trend: Tensor | None = None

    @property
    def free(self) -> bool:
        """Whether rows and columns of the input are no longer rows and columns of the tile."""
        return self.angle is not None or self.zoom is not None


@dataclass(frozen=True)
class Hints:
    """What the host sees in a batch before it goes to a device, which then need not be asked.

    Attributes:
        holes: for each run of 2 km channels int64 [2, N], sample and channel of the planes that lack a value somewhere;
            those of `Assemble.runs`. `pixels` needs neither these nor angles: they are empty.
        angles: int64 [M], the samples that lack an incidence angle somewhere.
        drops: whether any sample loses a channel group.
    """

    holes: tuple[Tensor, ...]
    angles: Tensor
    drops: bool


@dataclass(frozen=True)
class Batch:
    """B tiles of H x W pixels; windows of the coarse grids of up to n x n 2 km cells, and up to m x m positions.

    Arrays that no channel needs have no elements.

    Attributes:
        size: H and W.
        coarse: names of the 2 km channels.
        place: int64 [B], place of each sample in the order, always on the CPU; whatever is drawn for a sample depends
            on (seed, place).
        hh, hv: int16 [B, H, W], codes of `sample`.
        dist: uint8 [B, H, W].
        aux: int16 [B, C, n, n], the bits of uint16 codes.
        aux_rows, aux_cols: float64 [B, n], tile coordinates of the cells.
        geo: float32 [B, 3, m, m], latitude, longitude and incidence angle in degrees.
        geo_rows, geo_cols: float64 [B, m], tile coordinates of the points.
        clock: float32 [B, 2], month and day of the year; NaN = unknown.
        spacing: float32 [B, 1], metres between pixels; NaN = unknown.
        lab: uint8 [B, 3, H, W]; 255 = masked or no chart; with polygons a fourth plane, rows of `shares`, 255 = none.
        shares: float32 [B, 255, 13], what is in each polygon, see `ice.soft`; without elements or None: nobody asks.
        draws: the augmentation; None: there is none.
        drawn: what the task draws for each sample, such as the patches that are kept; None: nothing.
        seeds: int64 [B], of what the network draws for each sample; None: nothing.
        hints: None until `Assemble.plan` has prepared the batch for a device.
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
    spacing: Tensor
    lab: Tensor
    shares: Tensor | None = None
    draws: Draws | None = None
    drawn: Tensor | None = None
    seeds: Tensor | None = None
    hints: Hints | None = None

    def __len__(self) -> int:
        return len(self.place)

    @property
    def polygons(self) -> bool:
        """Whether it holds polygons."""
        return self.shares is not None and self.shares.numel() > 0

    def to(self, device: torch.device) -> Batch:
        """The batch on a device, without waiting for the copies; its places stay on the CPU."""
        moved: Batch = _each(self, lambda tensor: _copied(tensor, device))
        return replace(moved, place=self.place)

    def part(self, rows: slice) -> Batch:
        """Some of the samples, as views, without hints."""
        part: Batch = _each(replace(self, hints=None), lambda tensor: tensor[rows])
        return part


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A value with each tensor in it changed, also in dataclasses and tuples."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_each(part, change) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _each(getattr(value, f.name), change) for f in fields(value)})
    return value


def _copied(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on a device; only from page-locked memory need the host not wait for it."""
    if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def make_batch(arrays: Mapping[str, NDArray[Any]], coarse: tuple[str, ...], size: int) -> Batch:
    """A batch whose tensors are views of the arrays, among them `place`; uint16 becomes int16, bit for bit."""
    tensors: dict[str, Any] = {
        name: torch.from_numpy(array.view(np.int16) if array.dtype == np.uint16 else array)
        for name, array in arrays.items()
    }
    return Batch(size, coarse, **tensors)


def _stack_padded(arrays: Sequence[NDArray[Any]], fill: float = 0) -> NDArray[Any]:
    """Stack arrays of equal rank, padding each to the largest shape; planes become square."""
    shape = np.max([array.shape for array in arrays], axis=0)
    if len(shape) > 1:
        shape[-2:] = shape[-2:].max()
    stack = np.full((len(arrays), *shape), fill, arrays[0].dtype)
    for target, array in zip(stack, arrays, strict=True):
        target[tuple(slice(0, n) for n in array.shape)] = array
    return stack


def collate(tiles: Sequence[Tile], places: Sequence[int], augment: Callable[[Batch], Batch] | None = None) -> Batch:
    """A batch of tiles of equal size.

    Args:
        tiles: B tiles.
        places: of the tiles in the order.
        augment: adds what is drawn for the places; None: nothing.
    """
    size = tiles[0].hh.shape[0]
    masked = np.full((len(CHARTS), size, size), IGNORE_INDEX, np.uint8)
    arrays: dict[str, NDArray[Any]] = {
        "place": np.asarray(places, np.int64),
        "clock": np.array([clock(tile.time) for tile in tiles], np.float32),
        "spacing": np.array([[tile.pixel_spacing] for tile in tiles], np.float32),
        "lab": np.stack([masked if tile.lab is None else tile.lab for tile in tiles]),
    }
    for name in ("hh", "hv", "dist"):
        arrays[name] = np.stack([getattr(tile, name) for tile in tiles])
    for name in ("aux", "geo"):
        arrays[name] = _stack_padded([getattr(tile, name) for tile in tiles])
        points = [[getattr(tile, f"{name}_{axis}") for tile in tiles] for axis in ("rows", "cols")]
        padded = _stack_padded([*points[0], *points[1]], np.inf)
        arrays[f"{name}_rows"], arrays[f"{name}_cols"] = padded[: len(tiles)], padded[len(tiles) :]
    batch = make_batch(arrays, COARSE, size)
    return batch if augment is None else augment(batch)
