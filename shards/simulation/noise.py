"""Smooth random fields as functions of place, so that any block of a scene, at any step, sees the same field."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[np.float32]

# Mean over positions of the sum of squared cubic B-spline weights: the variance that interpolation leaves of noise.
_SPLINE_VARIANCE = 151.0 / 315.0


@dataclass(frozen=True)
class Extent:
    """The rectangle in which fields are wanted, in pixel coordinates (float; may reach beyond the scene)."""

    top: float
    left: float
    bottom: float
    right: float


def _spline_matrix(places: NDArray[np.float64], origin: float, spacing: float, knots: int) -> sparse.csr_array:
    """Cubic B-spline weights [len(places), knots]; places outside the knots are held at the border."""
    t = np.clip((np.asarray(places, np.float64) - origin) / spacing, 1.0, knots - 2.000001)
    base = np.floor(t).astype(np.int64)
    f = t - base
    weights = np.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], axis=1) / 6
    columns = base[:, None] + np.arange(-1, 3)
    pointers = np.arange(0, 4 * len(t) + 1, 4)
    return sparse.csr_array((weights.astype(np.float32).ravel(), columns.ravel(), pointers), shape=(len(t), knots))


class SmoothNoise:
    """Gaussian noise of about unit variance whose features are some `spacing` pixels wide.

    White noise on a lattice, seen through cubic B-splines.
    """

    def __init__(self, rng: np.random.Generator, spacing: float, extent: Extent) -> None:
        self.spacing = spacing
        self.origin = (extent.top - 2 * spacing, extent.left - 2 * spacing)
        rows = int((extent.bottom - extent.top) / spacing) + 6
        columns = int((extent.right - extent.left) / spacing) + 6
        lattice = rng.standard_normal((rows, columns), dtype=np.float32)
        self.lattice: Array = (lattice / np.float32(_SPLINE_VARIANCE)).astype(np.float32)

    def __call__(self, lines: NDArray[np.float64], samples: NDArray[np.float64]) -> Array:
        """float32 [len(lines), len(samples)] at the crossings of pixel coordinates `lines` and `samples`."""
        rows = _spline_matrix(lines, self.origin[0], self.spacing, self.lattice.shape[0])
        columns = _spline_matrix(samples, self.origin[1], self.spacing, self.lattice.shape[1])
        return np.ascontiguousarray((columns @ np.ascontiguousarray((rows @ self.lattice).T)).T)


class Fractal:
    """A sum of smooth noises, each of half the spacing and `persistence` times the amplitude of the noise before it."""

    def __init__(
        self, rng: np.random.Generator, spacing: float, extent: Extent, octaves: int, persistence: float = 0.5
    ) -> None:
        amplitudes = persistence ** np.arange(octaves)
        self.amplitudes = amplitudes / np.sqrt((amplitudes**2).sum())
        self.parts = [SmoothNoise(rng, spacing / 2**k, extent) for k in range(octaves)]

    def __call__(self, lines: NDArray[np.float64], samples: NDArray[np.float64]) -> Array:
        """float32 [len(lines), len(samples)], about unit variance."""
        total = np.float32(self.amplitudes[0]) * self.parts[0](lines, samples)
        for amplitude, part in zip(self.amplitudes[1:], self.parts[1:], strict=True):
            total += np.float32(amplitude) * part(lines, samples)
        return total


def octaves_down_to(spacing: float, finest: float) -> int:
    """How many octaves lead from `spacing` to about `finest`, at least one; pixels."""
    return max(1, 1 + round(np.log2(spacing / finest)))


def upsample(coarse: Array, step: float, lines: NDArray[np.float64], samples: NDArray[np.float64]) -> Array:
    """Bilinear values of a coarse grid at pixel coordinates; its cell (r, c) stands at pixel (step r, step c).

    coarse float32 [h, w]; returns float32 [len(lines), len(samples)]; borders are held.
    """

    def weights(places: NDArray[np.float64], count: int) -> sparse.csr_array:
        t = np.clip(np.asarray(places, np.float64) / step, 0, count - 1)
        base = np.minimum(np.floor(t).astype(np.int64), max(count - 2, 0))
        f = (t - base).astype(np.float32)
        columns = np.stack([base, np.minimum(base + 1, count - 1)], axis=1)
        data = np.stack([1 - f, f], axis=1)
        return sparse.csr_array((data.ravel(), columns.ravel(), np.arange(0, 2 * len(t) + 1, 2)), shape=(len(t), count))

    partial = weights(lines, coarse.shape[0]) @ coarse
    return np.ascontiguousarray((weights(samples, coarse.shape[1]) @ np.ascontiguousarray(partial.T)).T)


def generator(*keys: int) -> np.random.Generator:
    """A generator that depends on the integers `keys` alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([abs(key) for key in keys])))


# The golden ratio minus 1: multiples of it, modulo 1, fill the interval most evenly.
GOLDEN = (5**0.5 - 1) / 2
# Steps for independent sequences: the golden ratio and square roots, which stay apart from each other.
_STEPS = (GOLDEN, *(root**0.5 for root in (2, 3, 7, 10, 13, 14, 22)))


def low_discrepancy(place: int, dimension: int, seed: int) -> float:
    """The `place`-th point in [0, 1) of an additive recurrence: successive points fill the interval evenly.

    `dimension` (0..7) chooses the irrational step, `seed` the start.
    """
    start = generator(seed, 7919 + dimension).random()
    return float((start + place * _STEPS[dimension]) % 1.0)
