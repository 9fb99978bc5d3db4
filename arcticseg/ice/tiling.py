"""Windows over a scene and the weights that blend overlapping predictions: pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# Edge of a tile in pixels, and factor, of which more cannot be meant.
LARGEST_TILE, LARGEST_FACTOR = 1 << 14, 1000


def starts(length: int, tile: int, overlap: int = 0) -> list[int]:
    """First pixels of tiles that cover [0, length): evenly stepped, the last tile moved back to end at `length`.

    A length shorter than the tile gives a single start, 0; the caller pads.

    Raises:
        ValueError: the overlap is negative or not smaller than the tile.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap must be in [0, {tile}), not {overlap}")
    if length <= tile:
        return [0]
    step = tile - overlap
    positions = list(range(0, length - tile, step))
    return [*positions, length - tile]


def windows(shape: tuple[int, int], tile: int, overlap: int = 0) -> Iterator[tuple[int, int]]:
    """(row, column) of each tile that covers `shape`, row by row."""
    for row in starts(shape[0], tile, overlap):
        for column in starts(shape[1], tile, overlap):
            yield row, column


def blend_weights(tile: int, overlap: int) -> NDArray[np.float32]:
    """Weights [tile, tile] that fall linearly towards the edges over `overlap` pixels and never reach zero."""
    distance = np.minimum(np.arange(tile) + 1, tile - np.arange(tile)).astype(np.float32)
    ramp = np.minimum(distance / (overlap + 1), 1.0)
    return np.outer(ramp, ramp).astype(np.float32)
