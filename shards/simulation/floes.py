"""Which pixels of a partly covered sea are ice: floes of the size that the chart's floe code says."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from shards.simulation.noise import Array, Extent, SmoothNoise, generator, upsample

Places = NDArray[np.float64]

# Floe kinds. Pancake, cake and strips are smaller than a pixel: a mixture within it. Small floes (20-100 m) are about a
# pixel of 40 m. Medium (100-500 m), big (0.5-2 km), vast (2-10 km) and giant floes are cells of a tessellation.
MIXTURE, SMALL, MEDIUM, BIG, VAST, GIANT, FAST, BERGS = range(8)
KINDS = 8
_KIND_OF_CODE = {
    1: MIXTURE, 2: MIXTURE, 21: MIXTURE, 22: MIXTURE, 3: SMALL, 4: MEDIUM, 5: BIG, 6: VAST, 7: GIANT, 8: FAST,
    9: BERGS, 10: BERGS,
}  # fmt: skip

# Mean distance between floe centres in pixels, and the step at which the tessellation is computed.
_CELLS = {MEDIUM: (8.0, 1), BIG: (26.0, 2), VAST: (95.0, 6), GIANT: (230.0, 12)}
_JITTER = 0.42
# Standard deviation of the unevenness of borders, in spacings.
_ROUGHNESS = 0.03
# Of a floe's spacing: the width of water or thin ice between neighbours that nearly touch.
_NARROWEST_GAP = 0.03


def floe_kind(floe: int, stage: int) -> int:
    """The kind of a SIGRID-3 floe code; unknown floes of thin ice are a mixture, of thick ice medium floes."""
    return _KIND_OF_CODE.get(floe, MIXTURE if stage in (81, 82, 83) else MEDIUM)


@dataclass(frozen=True)
class Cells:
    """A tessellation over a scene: a jittered grid of floe centres.

    offsets: float32 [2, r, c] of the centres, in cells. draws: float32 [3, r, c] uniform, one for each partial.
    rough: noise that makes the borders of larger floes uneven.
    """

    spacing: float
    step: int
    offsets: Array
    draws: Array
    rough: SmoothNoise

    def gap_and_cell(self, lines: Places, samples: Places) -> tuple[Array, NDArray[np.int32]]:
        """How much further the second centre is than the nearest, in spacings, float32; the nearest, int32; [n, m]."""
        if self.step == 1:
            return self._exact(lines, samples)
        step = float(self.step)
        coarse_lines = np.arange(np.floor(lines[0] / step), np.floor(lines[-1] / step) + 3) * step
        coarse_samples = np.arange(np.floor(samples[0] / step), np.floor(samples[-1] / step) + 3) * step
        gap, cell = self._exact(coarse_lines, coarse_samples)
        rows = np.rint((lines - coarse_lines[0]) / step).astype(np.int64)
        columns = np.rint((samples - coarse_samples[0]) / step).astype(np.int64)
        fine = upsample(gap, step, lines - coarse_lines[0], samples - coarse_samples[0])
        fine += np.float32(_ROUGHNESS) * self.rough(lines, samples)
        return fine, cell[rows[:, None], columns[None, :]]

    def _exact(self, lines: Places, samples: Places) -> tuple[Array, NDArray[np.int32]]:
        y = (lines / self.spacing).astype(np.float32) + 1
        x = (samples / self.spacing).astype(np.float32) + 1
        row, column = y.astype(np.int32), x.astype(np.int32)
        nearest = np.full((len(y), len(x)), np.inf, np.float32)
        second = nearest.copy()
        cell = np.zeros(nearest.shape, np.int32)
        columns_in_grid = self.offsets.shape[2]
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                at = np.ix_(row + down, column + right)
                away = (y - row - down)[:, None] - self.offsets[0][at]
                aside = (x - column - right)[None, :] - self.offsets[1][at]
                distance = away * away + aside * aside
                np.minimum(second, np.maximum(distance, nearest), out=second)
                closer = distance < nearest
                np.copyto(nearest, distance, where=closer)
                index = (row + down)[:, None] * columns_in_grid + (column + right)[None, :]
                np.copyto(cell, index, where=closer)
        return np.sqrt(second) - np.sqrt(nearest), cell


def _make_cells(rng: np.random.Generator, spacing: float, step: int, size: tuple[int, int]) -> Cells:
    # A cell before the scene, and enough behind it for the neighbours of coarse places beyond its end.
    shape = tuple(int((count + 3 * step) / spacing) + 5 for count in size)
    offsets = 0.5 + rng.uniform(-_JITTER, _JITTER, (2, *shape))
    draws = rng.random((3, *shape), dtype=np.float32)
    rough = SmoothNoise(rng, spacing / 7, Extent(0, 0, *map(float, size)))
    return Cells(spacing, step, offsets.astype(np.float32), draws, rough)


@lru_cache(maxsize=1)
def _gap_quantiles() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gap widths (in spacings) and the share of the area that lies further than that from a floe's border."""
    cells = _make_cells(np.random.default_rng(1), 20.0, 1, (900, 900))
    gap, _ = cells.gap_and_cell(np.arange(900.0), np.arange(900.0))
    shares = np.linspace(0, 1, 201)
    return np.quantile(gap.astype(np.float64), 1 - shares)[::-1], shares[::-1]


def keep_and_gap(cover: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of cells that are floes, and the gap around each, so that floes cover the share `cover` of the sea.

    Open packs have fewer floes and wider gaps; the same rule gives both.
    """
    gaps, shares = _gap_quantiles()
    cover = np.clip(cover, 0, 1)
    gap = _NARROWEST_GAP + 0.14 * (1 - cover)
    inside = np.interp(gap, gaps, shares)
    keep = np.minimum(cover / inside, 1)
    # Where even all cells do not suffice, gaps close.
    gap = np.where(keep < 1, gap, np.interp(-cover, -shares, gaps))
    return keep, np.where(cover >= 1, -1.0, gap)


class Floes:
    """The floe fields of a scene."""

    def __init__(self, size: tuple[int, int], index: int, seed: int) -> None:
        rng = generator(seed, index, 6)
        extent = Extent(0, 0, *map(float, size))
        self.cells = {kind: _make_cells(rng, spacing, step, size) for kind, (spacing, step) in _CELLS.items()}
        self.speckled = SmoothNoise(rng, 1.2, extent)
        self.streaks = [SmoothNoise(rng, spacing, extent) for spacing in (7, 25)]
        # Where pack is loose and where it is close, within a polygon.
        self.patches = SmoothNoise(rng, 60, extent)

    def block(self, lines: Places, samples: Places) -> FloeBlock:
        """The fields at a block of pixels, each computed when it is first asked for."""
        return FloeBlock(self, lines, samples)


class FloeBlock:
    """Floe fields of a block."""

    def __init__(self, floes: Floes, lines: Places, samples: Places) -> None:
        self.floes, self.lines, self.samples = floes, lines, samples
        self.tessellations: dict[int, tuple[Array, NDArray[np.int32]]] = {}
        self._noise: dict[str, Array] = {}

    def _field(self, name: str) -> Array:
        if name not in self._noise:
            if name == "small":
                self._noise[name] = self.floes.speckled(self.lines, self.samples)
            else:
                wide, narrow = (noise(self.lines, self.samples) for noise in reversed(self.floes.streaks))
                self._noise[name] = np.float32(0.7) * wide + np.float32(0.7) * narrow
        return self._noise[name]

    def tessellation(self, kind: int) -> tuple[Array, NDArray[np.int32]]:
        """Gap field and cell index of a kind."""
        if kind not in self.tessellations:
            self.tessellations[kind] = self.floes.cells[kind].gap_and_cell(self.lines, self.samples)
        return self.tessellations[kind]

    def cover(self, kind: int, partial: int, share: Array) -> Array:
        """Share of each pixel, float32 [n, m] in 0..1, that floes of `kind` cover where they cover `share` on average.

        share: float32 [n, m], the share of the sea that earlier partials left.
        """
        if kind == MIXTURE:
            spread = np.float32(0.35) * share * (1 - share)
            return np.clip(share + spread * self._field("streaks") * 2, 0, 1)
        if kind == FAST:
            return np.ascontiguousarray(share)
        if kind == SMALL:
            level = ndtri(np.clip(share, 1e-4, 1 - 1e-4)).astype(np.float32)
            cover = np.clip(np.float32(1.2) * (level - self._field("small")) + np.float32(0.5), 0, 1)
            return np.where(share >= 0.9999, np.float32(1), cover)
        if kind == BERGS:
            # Icebergs are few: bright points, a hundredth of the area that the code gives them.
            level = ndtri(np.clip(share / 100, 1e-5, 0.5)).astype(np.float32)
            return np.clip(np.float32(3) * (level - self._field("small")) + np.float32(0.5), 0, 1)
        gap, cell = self.tessellation(kind)
        cells = self.floes.cells[kind]
        ladder = np.linspace(0, 1, 257)
        keep, needed = (table.astype(np.float32) for table in keep_and_gap(ladder))
        step = np.rint(share * 256).astype(np.int32)
        kept = np.take(cells.draws[partial].ravel(), cell) < keep[step]
        # A floe's border is a pixel or so wide; the gap field falls by about two spacings per spacing.
        sharpness = np.float32(cells.spacing / 2)
        return kept * np.clip((gap - needed[step]) * sharpness + np.float32(0.5), 0, 1)
