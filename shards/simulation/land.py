"""Land in a scene, and the distance to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from arcticseg.ice.land import ZONE_ENDS_KM
from shards.simulation.noise import Array, Extent, Fractal, generator, low_discrepancy, octaves_down_to, upsample
from shards.simulation.place import PIXEL_KM, coarse_places

Places = NDArray[np.float64]

# Cells of 2 km that the coarse fields reach beyond the scene on each side: the widest footprint of AMSR2.
MARGIN_CELLS = 30
# Step in pixels of the grid on which land is kept.
LAND_STEP = 4
# Small islands do not show in the margin's coarse cells; nearer than this only the scene's own grid counts.
_COARSE_BLINDNESS_KM = 4.0
_NOWHERE_KM = 1000.0
# Share of scenes without land, and the largest share of land in the others.
_WITHOUT_LAND = 0.4
_MOST_LAND = 0.4
# Spacing in pixels of the finest features of coasts.
_FINEST = 25.0


def extent_of(size: tuple[int, int]) -> Extent:
    """The scene and its margin in pixels."""
    margin = 50.0 * MARGIN_CELLS
    return Extent(-margin, -margin, size[0] + margin, size[1] + margin)


def margin_places(size: tuple[int, int]) -> tuple[Places, Places]:
    """Pixel coordinates of the 2 km cells of the scene and its margin."""
    rows, columns = (coarse_places(-MARGIN_CELLS, count // 50 + MARGIN_CELLS) for count in size)
    return rows, columns


def land_grid(size: tuple[int, int]) -> tuple[Places, Places]:
    """Pixel coordinates of the grid on which land is kept."""
    rows, columns = (np.arange(0, count + LAND_STEP, LAND_STEP, dtype=float) for count in size)
    return rows, columns


@dataclass(frozen=True)
class Land:
    """Land on a grid of LAND_STEP pixels.

    level: float32, above 0 on land. km: float32, distance to land. margin: bool, land on the 2 km cells of the scene
    and its margin.
    """

    level: Array
    km: Array
    margin: NDArray[np.bool_]

    def is_land(self, lines: Places, samples: Places) -> NDArray[np.bool_]:
        """bool [n, m] at the crossings of pixel coordinates in the scene."""
        return np.asarray(upsample(self.level, LAND_STEP, lines, samples) > 0)

    def zones(self, lines: Places, samples: Places, land: NDArray[np.bool_]) -> Array:
        """Distance zone ids 0..41, float32 [n, m]."""
        km = upsample(self.km, LAND_STEP, lines, samples)
        zones = 1 + np.searchsorted(np.array(ZONE_ENDS_KM, np.float32), km.ravel()).reshape(km.shape)
        return np.where(land, 0, zones).astype(np.float32)


def distance_km(size: tuple[int, int], land: NDArray[np.bool_], margin: NDArray[np.bool_]) -> Array:
    """Distance to land in km on the land grid, float32, from the masks of the scene and of its margin."""
    lines, samples = land_grid(size)
    rows, columns = margin_places(size)
    cells = ndimage.distance_transform_edt(~margin) if margin.any() else np.full(margin.shape, np.inf)
    far = np.minimum(cells * 50 * PIXEL_KM, _NOWHERE_KM)
    far_here = upsample(far.astype(np.float32), 50, lines - rows[0], samples - columns[0])
    if not land.any():
        return far_here
    near = ndimage.distance_transform_edt(~land) * LAND_STEP * PIXEL_KM
    return np.minimum(near, np.maximum(far_here, _COARSE_BLINDNESS_KM)).astype(np.float32)


def simulated_land(size: tuple[int, int], index: int, seed: int) -> Land:
    """A coast along one side with bays and islands, up to four tenths of the scene; some scenes have no land."""
    rng = generator(seed, index, 2)
    scale = 0.6 * max(size)
    shape = Fractal(rng, scale, extent_of(size), octaves_down_to(scale, _FINEST), 0.5)
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.array([np.cos(angle), np.sin(angle)]) / scale

    def level_at(lines: Places, samples: Places) -> Array:
        tilt = slope[0] * lines[:, None] + slope[1] * samples[None, :]
        return shape(lines, samples) + tilt.astype(np.float32)

    lines, samples = land_grid(size)
    level = level_at(lines, samples)
    draw = low_discrepancy(index, 7, seed)
    if draw < _WITHOUT_LAND:
        # Off a coast that lies somewhere down the slope.
        tilt = scale * (slope[0] * lines[:, None] + slope[1] * samples[None, :]) * PIXEL_KM
        km = 40 * 15 ** rng.random() + tilt.max() - tilt
        nothing = np.zeros([len(places) for places in margin_places(size)], bool)
        return Land(np.full_like(level, -1), km.astype(np.float32), nothing)
    share = _MOST_LAND * ((draw - _WITHOUT_LAND) / (1 - _WITHOUT_LAND)) ** 1.3
    threshold = np.quantile(level, 1 - share)
    margin = level_at(*margin_places(size)) > threshold
    return Land((level - threshold).astype(np.float32), distance_km(size, level > threshold, margin), margin)
