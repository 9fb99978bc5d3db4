"""ERA5 fields of a scene: smooth, of the season, and consistent with each other and with the ice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shards.simulation.land import extent_of, margin_places
from shards.simulation.noise import Array, Fractal, generator, low_discrepancy
from shards.simulation.place import Place

# Monthly mean 2 m air temperature in K over the coastal seas of Greenland and Canada near 69 degrees north: our own
# round figures, such that their mean over the archive's months is near the published one (268.6 K).
_MONTHLY_T2M = (257.5, 256.5, 258.0, 263.5, 270.0, 275.0, 278.0, 278.5, 275.0, 270.5, 265.5, 260.5)
# How wet snow and ice surfaces are, by month.
_MELT = (0.0, 0.0, 0.0, 0.0, 0.2, 0.7, 1.0, 0.8, 0.25, 0.0, 0.0, 0.0)
_FREEZING_K = 271.35


@dataclass(frozen=True)
class Weather:
    """Fields on the 2 km cells of the scene and its margin, float32, in the units of the channels' attributes."""

    fields: dict[str, Array]

    @property
    def wind_speed(self) -> Array:
        """m/s."""
        return np.hypot(self.fields["u10m_rotated"], self.fields["v10m_rotated"])


def melt_of(month: int) -> float:
    """0 (dry) .. 1 (wet): the surface's state in a month."""
    return _MELT[month - 1]


def simulate_weather(
    size: tuple[int, int], index: int, seed: int, place: Place, ice: NDArray[np.float32], land: NDArray[np.bool_]
) -> Weather:
    """ERA5-like fields. ice: share of ice, land: both on the 2 km cells of the scene and its margin."""
    rng = generator(seed, index, 11)
    rows, columns = margin_places(size)
    extent = extent_of(size)

    def field(spacing: float, octaves: int = 2) -> Array:
        return Fractal(rng, spacing, extent, octaves, 0.5)(rows, columns)

    month = place.time.month
    surface = ndimage.gaussian_filter(ice, 8.0)
    # Air over ice is colder than over water in winter, and near melting in summer.
    cooling = 7.0 * (1 - melt_of(month))
    t2m = _MONTHLY_T2M[month - 1] - 0.45 * (place.latitude - 69) + cooling * (0.4 - surface) + rng.normal(0, 3.0)
    t2m = t2m + 1.2 * field(900) - 2.0 * (1 - melt_of(month)) * ndimage.gaussian_filter(land.astype(np.float32), 6.0)
    sea = np.maximum(_FREEZING_K, 0.35 * t2m + 0.65 * _FREEZING_K + 0.3)
    cold = np.minimum(t2m - 1.5 * (1 - melt_of(month)), 273.3)
    skt = np.where(land, t2m + 0.5, surface * cold + (1 - surface) * sea) + 0.4 * field(500)

    # Vapour follows temperature about as saturation does (7 % per K); clouds are where vapour is high.
    moist = field(800)
    tcwv = 2.5 * np.exp(0.068 * (t2m - 255) + 0.2 * moist + rng.normal(0, 0.2))
    tclw = 0.026 * np.exp(0.7 * moist + 0.6 * field(300) + rng.normal(0, 0.4)) * np.clip((t2m - 245) / 22, 0.1, 1.3)

    speed = 1.0 + 12.0 * low_discrepancy(index, 5, seed) ** 1.2
    direction = 2 * np.pi * low_discrepancy(index, 6, seed)
    u = speed * np.cos(direction) + 0.9 * field(700) + 0.3
    v = speed * np.sin(direction) + 0.9 * field(700) + 0.3
    fields = {"u10m_rotated": u, "v10m_rotated": v, "t2m": t2m, "skt": skt, "tcwv": tcwv, "tclw": tclw}
    return Weather({name: values.astype(np.float32) for name, values in fields.items()})
