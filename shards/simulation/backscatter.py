"""Sentinel-1 backscatter of a scene: ice, water and land with texture, speckle and noise, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.simulation.eggs import Egg
from shards.simulation.facts import BACKSCATTER
from shards.simulation.floes import BERGS, FloeBlock, Floes, floe_kind
from shards.simulation.noise import Array, Extent, Fractal, SmoothNoise, generator, upsample
from shards.simulation.place import incidence

Places = NDArray[np.float64]

PARTIALS = 3
ENL = 12.0
# Incidence angles at which EW sub-swaths meet, and the HV noise-equivalent sigma0 in dB at the middle of each.
SUBSWATH_EDGES = (28.3, 33.0, 37.4, 41.9)
_NOISE_FLOOR_DB = (-25.5, -28.3, -28.0, -28.6, -28.2)
# Denoising subtracts most of the mean noise power; the rest differs from sub-swath to sub-swath.
_SUBTRACTED = 0.6
_SCALLOPING_LINES = 210.0
# Where noise leaves no power, about this is left of it, as a smooth floor: no number is as frequent as one cut off.
_LEAST_POWER = 10 ** (-4.9)

_CLASS_OF_STAGE = {
    81: "new", 82: "new", 83: "young", 84: "young", 85: "young", 87: "thin", 88: "thin", 89: "thin", 86: "thick",
    91: "thick", 93: "thick", 95: "old", 96: "old", 97: "old",
}  # fmt: skip
# How much ridges stand out in an ice class, in dB of HH and HV.
_RIDGES = {"new": (0.0, 0.0), "young": (0.8, 1.0), "thin": (2.2, 3.0), "thick": (2.8, 4.0), "old": (0.6, 1.0)}
# Rubble among level ice, in dB of HH and HV between the smoothest and the roughest.
_RUBBLE = {"young": (1.0, 1.5), "thin": (1.5, 3.5), "thick": (2.0, 5.0), "old": (0.5, 1.5)}
# Rafted floe rims, dB of HH and HV.
_RIMS = {"new": (0.0, 0.0), "young": (2.0, 2.5), "thin": (2.0, 3.0), "thick": (1.5, 3.0), "old": (0.5, 1.0)}


def backscatter_class(stage: int) -> str:
    """The row of the backscatter table for a SIGRID-3 stage; icebergs and unknown stages count as old ice."""
    return _CLASS_OF_STAGE.get(stage, "old")


@dataclass(frozen=True)
class IceTables:
    """What each polygon holds, as lookup tables; all [PARTIALS, polygons + 1], the last polygon being nothing.

    share: of the sea that earlier partials left. kind: of floe. row: of the backscatter tables.
    offset: dB to add to HH and HV, [2, PARTIALS, polygons + 1].
    """

    share: Array
    kind: NDArray[np.int8]
    row: NDArray[np.int8]
    offset: Array


ROWS = tuple(BACKSCATTER)


def ice_tables(eggs: Sequence[Egg], rng: np.random.Generator, melt: float) -> IceTables:
    """Tables of a chart. `melt` 0..1: wet snow in summer hides the differences between ice types."""
    shape = (PARTIALS, len(eggs) + 1)
    share, kind = np.zeros(shape, np.float32), np.zeros(shape, np.int8)
    row, offset = np.zeros(shape, np.int8), np.zeros((2, *shape), np.float32)
    drift = {name: rng.normal(0, (0.6, 0.8)) for name in ROWS}
    for polygon, egg in enumerate(eggs):
        left = 1.0
        for partial, ice in enumerate(egg.partials[:PARTIALS]):
            name = backscatter_class(ice.stage)
            share[partial, polygon] = min(ice.share / left, 1.0) if left > 1e-6 else 0.0
            left = max(left - ice.share, 0.0)
            kind[partial, polygon] = floe_kind(ice.floe, ice.stage)
            row[partial, polygon] = ROWS.index(name)
            wet = melt * np.array({"old": (-2.0, -3.0), "thick": (0.8, 0.5)}.get(name, (0.0, 0.0)))
            offset[:, partial, polygon] = drift[name] + rng.normal(0, (0.5, 0.6)) + wet
    return IceTables(share, kind, row, offset)


class Textures:
    """The random fields from which texture and the sea's roughness are made."""

    def __init__(self, size: tuple[int, int], index: int, seed: int) -> None:
        rng = generator(seed, index, 7)
        extent = Extent(0, 0, *map(float, size))
        self.common = Fractal(rng, 24, extent, 3, 0.8)
        self.cross = SmoothNoise(rng, 5, extent)
        self.ridges = [SmoothNoise(rng, spacing, extent) for spacing in (9, 40)]
        self.patches = Fractal(rng, 110, extent, 2, 0.6)
        self.rubble = Fractal(rng, 48, extent, 5, 0.75)
        self.gusts = Fractal(rng, 70, extent, 4, 0.6)
        self.relief = Fractal(rng, 60, extent, 5, 0.75)


def water_db(wind: Array, angle: Array) -> tuple[Array, Array]:
    """HH and HV of open water in dB for wind speed in m/s and incidence angle in degrees, float32 [n, m].

    Calm water is the lead of the backscatter table. Wind adds up to some 13 dB in HH, more and with a steeper slope at
    near range, and a few dB in HV, where it matters from strong wind on.
    """
    hh_a, hh_b, hv_a, hv_b, *_ = BACKSCATTER["water"]
    rough = np.clip(wind, 0, 18) / np.float32(12)
    gain = np.float32(13.5) * np.sqrt(rough) * (1 - np.float32(0.018) * (angle - 33))
    gain -= np.float32(2.0)
    hh = np.float32(hh_a) + np.float32(hh_b) * angle + np.maximum(gain, 0)
    hv = np.float32(hv_a) + np.float32(hv_b) * angle + np.float32(4.5) * rough * rough
    return hh, hv


def _power(db: Array) -> Array:
    return np.exp(db * np.float32(np.log(10) / 10))


def noise_floor(angle: NDArray[np.float64], lines: Places) -> Array:
    """HV noise power [n, m]: a step at each sub-swath edge, growth toward their borders, slight scalloping."""
    swath = np.searchsorted(SUBSWATH_EDGES, angle)
    borders = np.array([18.9, *SUBSWATH_EDGES, 46.5])
    within = (angle - borders[swath]) / (borders[swath + 1] - borders[swath])
    level = np.array(_NOISE_FLOOR_DB)[swath] + 2.2 * (2 * within - 1) ** 2
    phase = 2 * np.pi * lines[:, None] / _SCALLOPING_LINES + 1.7 * swath[None, :]
    return (10 ** (level[None, :] / 10) * (1 + 0.12 * np.sin(phase))).astype(np.float32)


class Radar:
    """Computes HH and HV of any block of a scene, and how much ice of each kind is in it."""

    def __init__(
        self, size: tuple[int, int], index: int, seed: int, eggs: Sequence[Egg], wind: Array, melt: float
    ) -> None:
        """wind: float32, speed in m/s on the 2 km cells of the scene."""
        self.size, self.key = size, (seed, index)
        rng = generator(seed, index, 8)
        self.tables = ice_tables(eggs, rng, melt)
        self.textures = Textures(size, index, seed)
        self.floes = Floes(size, index, seed)
        self.wind = wind
        self.leftover = 1 - _SUBTRACTED + rng.uniform(-0.08, 0.08, len(_NOISE_FLOOR_DB))
        self.land_offset = rng.normal(0, 1.0)
        table = np.array([BACKSCATTER[name] for name in ROWS], np.float32)
        self.coefficients = table[:, :4].T
        self.deviations = table[:, 4:].T
        self.ridge_gain = np.array([_RIDGES.get(name, (0, 0)) for name in ROWS], np.float32).T
        self.rubble_gain = np.array([_RUBBLE.get(name, (0, 0)) for name in ROWS], np.float32).T
        self.rim_gain = np.array([_RIMS.get(name, (0, 0)) for name in ROWS], np.float32).T

    def block(
        self, first: int, truth: NDArray[np.int32], land: NDArray[np.bool_], covers: dict[int, Array] | None = None
    ) -> tuple[Array, Array, dict[str, Array]]:
        """HH and HV in dB, float32 [n, W], of lines `first` ...; and the true share of each ice class by name.

        truth: int32 [n, W] polygon of each pixel, -1 = none. covers: takes the share of each pixel that each partial
        covers in the end, float32 [n, W]; None: nobody asks.
        """
        height, width = truth.shape
        lines = np.arange(first, first + height, dtype=float)
        samples = np.arange(width, dtype=float)
        angles = incidence(samples, self.size[1])
        angle = np.broadcast_to(angles.astype(np.float32), truth.shape)
        textures = self.textures
        common = textures.common(lines, samples)
        cross = textures.cross(lines, samples)
        patches = textures.patches(lines, samples)
        fine, wide = (noise(lines, samples) for noise in textures.ridges)
        # Thin lines where the fine field crosses zero, in areas where the wide field is high.
        ridges = np.exp(-40 * fine * fine) * np.clip(wide + np.float32(0.3), 0, 1.5)
        rubble = np.clip(textures.rubble(lines, samples) * np.float32(0.8), -0.5, 0.5)
        strengths = (ridges, rubble)

        gusts = textures.gusts(lines, samples)
        wind = upsample(self.wind, 50, lines - 24.5, samples - 24.5) * np.exp(np.float32(0.13) * gusts)
        hh_db, hv_db = water_db(wind, angle)
        hh, hv = _power(hh_db + np.float32(0.4) * common), _power(hv_db + np.float32(0.3) * common)

        floes = self.floes.block(lines, samples)
        shares: dict[str, Array] = {}
        for partial in reversed(range(PARTIALS)):
            share = np.take(self.tables.share[partial], truth)
            if not share.any():
                continue
            row = np.take(self.tables.row[partial], truth)
            cover, rim = self._cover(floes, partial, truth, share)
            hh_ice, hv_ice = self._ice_db(partial, truth, row, angle, common, cross, patches, (*strengths, rim))
            hh += cover * (_power(hh_ice) - hh)
            hv += cover * (_power(hv_ice) - hv)
            for name in shares:
                shares[name] = shares[name] * (1 - cover)
            if covers is not None:
                covers |= {below: covers[below] * (1 - cover) for below in covers} | {partial: cover}
            for number in np.unique(row[cover > 0]):
                name = ROWS[number]
                here = np.where(row == number, cover, np.float32(0))
                shares[name] = shares[name] + here if name in shares else here

        if land.any():
            self._add_land(hh, hv, land, lines, samples, angle)
        return *self._measure(first, hh, hv, angles, lines), shares

    def _cover(self, floes: FloeBlock, partial: int, truth: NDArray[np.int32], share: Array) -> tuple[Array, Array]:
        """Ice share of each pixel, and how much of it is a floe's rim."""
        kind = np.take(self.tables.kind[partial], truth)
        cover, rim = np.zeros(truth.shape, np.float32), np.zeros(truth.shape, np.float32)
        icy = share > 0
        for number in np.unique(kind[icy]):
            here = icy & (kind == number)
            covered = floes.cover(int(number), partial, share)
            np.copyto(cover, covered, where=here)
            if number in floes.tessellations and number != BERGS:
                gap, _ = floes.tessellation(int(number))
                width = 2.5 / self.floes.cells[int(number)].spacing
                np.copyto(rim, np.clip(1.6 - gap / np.float32(2 * width), 0, 1), where=here)
        return cover, rim

    def _ice_db(
        self, partial: int, truth: NDArray[np.int32], row: NDArray[np.int8], angle: Array, common: Array, cross: Array,
        patches: Array, strengths: tuple[Array, Array, Array],
    ) -> tuple[Array, Array]:  # fmt: skip
        """HH and HV of a partial's ice in dB."""
        hh_a, hh_b, hv_a, hv_b = (np.take(column, row) for column in self.coefficients)
        hh_sd, hv_sd, correlation = (np.take(column, row) for column in self.deviations)
        offsets = [np.take(self.tables.offset[k, partial], truth) for k in (0, 1)]
        other = correlation * common + np.sqrt(1 - correlation * correlation) * cross
        gains = (self.ridge_gain, self.rubble_gain, self.rim_gain)
        strength = [
            sum(np.take(gain[polarisation], row) * field for gain, field in zip(gains, strengths, strict=True))
            for polarisation in (0, 1)
        ]
        hh = hh_a + hh_b * angle + offsets[0] + hh_sd * common + np.float32(0.5) * patches + strength[0]
        hv = hv_a + hv_b * angle + offsets[1] + hv_sd * other + np.float32(0.6) * patches + strength[1]
        return hh, hv

    def _add_land(
        self, hh: Array, hv: Array, land: NDArray[np.bool_], lines: Places, samples: Places, angle: Array
    ) -> None:
        """Put land into the power images, in place: bright, rugged, with shadows."""
        hh_a, hh_b, hv_a, hv_b, hh_sd, hv_sd, _ = BACKSCATTER["land"]
        relief = self.textures.relief(lines, samples)
        slope = np.gradient(relief, axis=1) * np.float32(7)
        common = np.float32(self.land_offset) + np.float32(0.6) * relief + slope
        for image, a, b, deviation in ((hh, hh_a, hh_b, hh_sd), (hv, hv_a, hv_b, hv_sd)):
            level = np.float32(a) + np.float32(b) * angle + np.float32(deviation) * common
            np.copyto(image, _power(level.astype(np.float32)), where=land)

    def _measure(
        self, first: int, hh: Array, hv: Array, angles: NDArray[np.float64], lines: Places
    ) -> tuple[Array, Array]:
        """Add speckle and noise to power images; dB."""
        rng = generator(*self.key, 9, first)
        floor = noise_floor(angles, lines)
        leftover = self.leftover[np.searchsorted(SUBSWATH_EDGES, angles)].astype(np.float32)
        scale = np.float32(1 / ENL)
        hh_power = hh * rng.standard_gamma(ENL, hh.shape, dtype=np.float32) * scale
        # Signal and noise share one speckle draw: both are in the same resolution cells.
        total = (hv + floor) * rng.standard_gamma(ENL, hv.shape, dtype=np.float32) * scale
        hv_power = total - floor * (1 - leftover)
        return tuple(  # type: ignore[return-value]
            (10 * np.log10((power + np.hypot(power, np.float32(2 * _LEAST_POWER))) / 2)).astype(np.float32)
            for power in (hh_power, hv_power)
        )


def swath_edges(size: tuple[int, int], index: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ragged borders without data: first and past-the-last valid sample of each line, int64 [H] each.

    Some columns at each side, in steps where sub-swath bursts begin; some scenes also lack lines at top and bottom.
    """
    rng = generator(seed, index, 10)
    height, width = size
    bursts = np.minimum(np.arange(height) // 170, 10_000)
    reach = max(2, round(0.012 * width))
    left, right = (rng.integers(1, reach + 1, int(bursts.max()) + 1)[bursts] for _ in range(2))
    top, bottom = rng.integers(0, max(2, round(0.01 * height)), 2)
    start, stop = left.astype(np.int64), (width - right).astype(np.int64)
    empty = (np.arange(height) < top) | (np.arange(height) >= height - bottom)
    stop[empty] = start[empty]
    return start, stop
