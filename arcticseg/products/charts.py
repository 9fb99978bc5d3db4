"""From a network's fields to charts at 80 m, and the positions of their pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from arcticseg.ice.geo import interpolate
from arcticseg.ice.layers import Layers, step_of
from arcticseg.ice.resample import coarse_shape
from arcticseg.ice.scenes.scene import Scene
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX

# Official scores and all products are at this downsampling factor: 80 m.
PRODUCT_FACTOR = 2

Float = NDArray[np.float32]
# A field [K, H, W] -> its classes, uint8 [H, W].
Classes = Callable[[Float], NDArray[np.uint8]]


def fields_to_charts(
    fields: Mapping[str, Float], classes: Mapping[str, Classes], factor: int, layers: Layers
) -> NDArray[np.uint8]:
    """Classes at 80 m from the fields of a network or a baseline.

    Args:
        fields: chart -> float32 [K, H, W] at `factor`; a chart that is not drawn is absent.
        classes: chart -> what makes classes of its field.
        layers: the scene at 80 m.

    Returns:
        uint8 [3, H, W]; 255 where the scene has no SAR data, on land, and for an absent chart.
    """
    charts = np.full((len(CHARTS), *layers.shape), IGNORE_INDEX, np.uint8)
    for plane, chart in zip(charts, CHARTS, strict=True):
        if chart in fields:
            for first, rows in resampled(fields[chart], factor, layers.shape):
                plane[first : first + rows.shape[1]] = classes[chart](rows)
    charts[:, ~layers.valid | (layers.distance == 0)] = IGNORE_INDEX
    return charts


def resampled(
    field: Float, factor: int, shape: tuple[int, int], to: int = PRODUCT_FACTOR, band: int = 256
) -> Iterator[tuple[int, Float]]:
    """Bands (first row, float32 [K, rows, W]) of a field at `factor`, interpolated bilinearly to another factor.

    The centre of row r at factor `to` lies at row (r + 0.5) to / factor - 0.5 of the field; edge values are held.

    Args:
        shape: rows and columns at the factor `to`.
    """

    def neighbours(n: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Float]:
        """Rows or columns of the field before and after each of n centres, and the weight of those after."""
        centre = np.clip((np.arange(n) + 0.5) * to / factor - 0.5, 0, size - 1)
        before = np.minimum(centre.astype(np.intp), max(size - 2, 0))
        return before, np.minimum(before + 1, size - 1), (centre - before).astype(np.float32)

    above, below, down = neighbours(shape[0], field.shape[1])
    left, right, across = neighbours(shape[1], field.shape[2])
    for first in range(0, shape[0], band):
        rows = slice(first, first + band)
        weight = down[rows, None]
        mixed = field[:, above[rows]] * (1 - weight) + field[:, below[rows]] * weight
        fine = mixed[:, :, left] * (1 - across) + mixed[:, :, right] * across
        yield first, fine.astype(np.float32, copy=False)


def chart_shape(scene: Scene) -> tuple[int, int]:
    """Rows and columns of a scene at 80 m."""
    return coarse_shape(scene.shape, step_of(scene, PRODUCT_FACTOR))


def chart_positions(scene: Scene) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latitude and longitude of a scene's pixels at 80 m, float64 [H, W]."""
    step = step_of(scene, PRODUCT_FACTOR)
    rows, columns = (np.arange(n) * step + (step - 1) / 2 for n in chart_shape(scene))
    latitude, longitude, _ = interpolate(scene.geo, rows, columns)
    return latitude, longitude
