"""AMSR2 brightness temperatures: tie points mixed by true concentration, blurred by each channel's footprint."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shards.simulation.facts import FOOTPRINT_KM, TIE_POINTS
from shards.simulation.land import MARGIN_CELLS, extent_of, margin_places
from shards.simulation.noise import Array, Fractal, generator
from shards.simulation.place import Place
from shards.simulation.weather import Weather, melt_of

CELL_KM = 2.0
# Thin ice is between open water and first-year ice: share of the way.
_EMISSION = {"new": 0.45, "young": 0.8, "thin": 0.95, "thick": 1.0}
_MELTING_ICE_K = 258.0
_LAND_EMISSIVITY = {"h": 0.88, "v": 0.94}
_MISSING_SHARE = 0.05
# Sensitivity of open water, in K: per m/s of wind; per kg/m2 of vapour; per kg/m2 of cloud water; per frequency.
_WIND = {"h": 0.9, "v": 0.3}
_VAPOUR = {"6_9": 0.05, "7_3": 0.05, "10_7": 0.12, "18_7": 0.7, "23_8": 1.5, "36_5": 0.6, "89_0": 1.6}
_CLOUD = {"6_9": 5, "7_3": 6, "10_7": 15, "18_7": 40, "23_8": 45, "36_5": 90, "89_0": 110}
_MEAN_VAPOUR, _MEAN_CLOUD, _MEAN_WIND = 7.7, 0.04, 6.0


@dataclass(frozen=True)
class Passive:
    """AMSR2 on the 2 km cells of the scene.

    channels: name -> float64 [h, w] K, NaN where missing. swath: uint8 [h, w], number of the swath, 0 = none.
    swaths, delays: file names of the swaths and their distance in time from the scene in seconds.
    """

    channels: dict[str, NDArray[np.float64]]
    swath: NDArray[np.uint8]
    swaths: tuple[str, ...]
    delays: tuple[int, ...]


def _surface(channel: str, melt: float, drift: dict[str, float]) -> dict[str, float]:
    """Brightness temperature of each ice class and of water in a channel, K."""
    water, first, multi = TIE_POINTS[channel]
    values = {name: water + share * (first - water) for name, share in _EMISSION.items()}
    values["old"] = multi
    values = {name: value + melt * 0.7 * (_MELTING_ICE_K - value) for name, value in values.items()}
    return {"water": water} | {name: value + drift[name] for name, value in values.items()}


def simulate_passive(
    size: tuple[int, int], index: int, seed: int, place: Place, shares: dict[str, Array], land: Array, weather: Weather,
) -> Passive:  # fmt: skip
    """The 14 channels. shares: ice class -> share of the sea; land: share; both on the cells of scene and margin."""
    rng = generator(seed, index, 12)
    rows, columns = margin_places(size)
    extent = extent_of(size)
    melt = melt_of(place.time.month)
    drift = {name: float(rng.normal(0, 2.5)) for name in (*_EMISSION, "old")}
    cloudy = Fractal(rng, 250, extent, 3, 0.7)(rows, columns)
    snow = Fractal(rng, 400, extent, 3, 0.6)(rows, columns)
    vapour = weather.fields["tcwv"] - np.float32(_MEAN_VAPOUR)
    cloud = weather.fields["tclw"] * np.exp(np.float32(0.3) * cloudy) - np.float32(_MEAN_CLOUD)
    wind = weather.wind_speed - np.float32(_MEAN_WIND)
    ice = sum(shares.values(), np.zeros(land.shape, np.float32))

    channels = {}
    for channel in TIE_POINTS:
        frequency, polarisation = channel[:-1], channel[-1]
        surface = _surface(channel, melt, drift)
        sky = _WIND[polarisation] * wind + _VAPOUR[frequency] * vapour + _CLOUD[frequency] * cloud
        # The sky shows against cold water; against warm ice it hardly does.
        scene = (1 - ice) * (surface["water"] + sky)
        for name, share in shares.items():
            scene = scene + share * surface[name]
        high = float(frequency.split("_")[0]) / 36.5
        scene = scene + ice * snow * np.float32(1.0 + 2.0 * min(high, 1.5))
        ground = _LAND_EMISSIVITY[polarisation] * weather.fields["skt"]
        scene = scene + land * (ground - scene)
        scan, track = FOOTPRINT_KM[frequency]
        # A Gaussian of that full width at half maximum.
        sigma = np.array([track, scan]) / 2.355 / CELL_KM
        seen = ndimage.gaussian_filter(scene.astype(np.float64), sigma, mode="nearest", truncate=3.0)
        seen += 0.4 * rng.standard_normal(seen.shape)
        # Kelvin in steps of 1/128, as the archive has them.
        inside = seen[MARGIN_CELLS:-MARGIN_CELLS, MARGIN_CELLS:-MARGIN_CELLS]
        channels[f"btemp_{channel}"] = np.rint(np.clip(inside, 60, 300) * 128) / 128

    swath, swaths, delays = _swaths(rng, place, next(iter(channels.values())).shape)
    for values in channels.values():
        values[swath == 0] = np.nan
    return Passive(channels, swath, swaths, delays)


def _swaths(
    rng: np.random.Generator, place: Place, shape: tuple[int, int]
) -> tuple[NDArray[np.uint8], tuple[str, ...], tuple[int, ...]]:
    """Which overpass gives each cell: one overpass, or two that meet along a line; some scenes lack part or all."""
    count = int(rng.integers(1, 3))
    delays = tuple(sorted(int(x) for x in rng.integers(600, 14_400, count)))
    names = tuple(
        f"GW1AM2_{place.time - timedelta(seconds=delay):%Y%m%d%H%M}_{int(rng.integers(1, 240)):03d}"
        f"{'AD'[int(rng.integers(0, 2))]}_L1SGBTBR_2220220.h5"
        for delay in delays
    )
    y, x = np.meshgrid(*(np.linspace(-0.5, 0.5, n) for n in shape), indexing="ij")
    angle = rng.uniform(0, 2 * np.pi)
    across = np.cos(angle) * y + np.sin(angle) * x
    swath = np.ones(shape, np.uint8)
    if count == 2:
        swath[across > rng.uniform(-0.3, 0.3)] = 2
    draw = rng.random()
    if draw < _MISSING_SHARE / 2:
        swath[:] = 0
    elif draw < _MISSING_SHARE:
        swath[across < rng.uniform(-0.4, 0.0)] = 0
    return swath, names, delays
