"""From a network's fields to charts at 80 m, and the positions of their pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from arcticseg.ice import layers as scene_layers
from arcticseg.ice.geo import interpolate
from arcticseg.ice.layers import Layers
from arcticseg.ice.resample import coarse_shape
from arcticseg.ice.scenes.scene import Scene
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX, N_CLASSES

# Official scores and products are at this factor of 40 m.
PRODUCT_FACTOR = 2

Float = NDArray[np.float32]


def fields_to_charts(fields: dict[str, Float], factor: int, product: Layers) -> NDArray[np.uint8]:
    """Fields at `factor` -> classes at 80 m, uint8 [3, H, W]; 255 where `product` has no SAR data, and on land."""
    out = np.empty((3, *product.shape), np.uint8)
    for i, chart in enumerate(CHARTS):
        for first, rows in _resampled(fields[chart], factor, product.shape):
            out[i, first : first + rows.shape[1]] = _classes(rows)
    out[:, ~product.valid | (product.distance == 0)] = IGNORE_INDEX
    return out


def _classes(field: Float) -> NDArray[np.uint8]:
    """[K, H, W] -> uint8 [H, W]."""
    if field.shape[0] == 1:
        return np.clip(np.rint(field[0]), 0, N_CLASSES["SIC"] - 1).astype(np.uint8)
    return field.argmax(axis=0).astype(np.uint8)


def _resampled(field: Float, factor: int, shape: tuple[int, int], band: int = 256) -> Iterator[tuple[int, Float]]:
    """Bands (first row, [K, rows, W]) of a field at `factor` brought to 80 m by bilinear interpolation.

    The centre of 80 m pixel r lies at (r + 0.5) 2 / factor - 0.5 of the field; edge values are held.
    """

    def weights(n: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Float]:
        at = np.clip((np.arange(n) + 0.5) * PRODUCT_FACTOR / factor - 0.5, 0, size - 1)
        low = np.minimum(at.astype(np.intp), max(size - 2, 0))
        return low, np.minimum(low + 1, size - 1), (at - low).astype(np.float32)

    low, high, part = weights(shape[0], field.shape[1])
    left, right, share = weights(shape[1], field.shape[2])
    for first in range(0, shape[0], band):
        rows = slice(first, first + band)
        between = part[rows, None]
        mixed = field[:, low[rows]] * (1 - between) + field[:, high[rows]] * between
        brought = mixed[:, :, left] * (1 - share) + mixed[:, :, right] * share
        yield first, brought.astype(np.float32, copy=False)


def product_positions(scene: Scene) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latitude and longitude of the 80 m pixels, float64 [H, W]."""
    step = scene_layers.step_of(scene, PRODUCT_FACTOR)
    rows, cols = coarse_shape(scene.shape, step)
    shift = (step - 1) / 2
    latitude, longitude, _ = interpolate(scene.geo, np.arange(rows) * step + shift, np.arange(cols) * step + shift)
    return latitude, longitude
