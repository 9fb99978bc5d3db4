"""What simulated Sentinel-1 products hold: digital numbers, and the tables that go with them.

DN^2 = sigma0 A^2 + noise, rounded; A and noise are on vectors every 40 samples, like those of real products, noise with
a profile in each sub-swath and, from processor 2.90 on, scalloping along azimuth.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from arcticseg.ice.geo import GeoGrid, interpolate

Float = NDArray[np.float64]

# Of the processor whose products a simulated one is like, unless it is said.
PROCESSOR = "003.40"
# From this version of the processor on: noise along azimuth, and 0 outside the swath.
_NEW = 2.90
# sigma0 = DN^2 sin(incidence) / BETA^2, as in real products, where BETA is the same at all pixels (474 in one of IW).
# Here it is larger, so that half a step of HV is mostly below 0.05 dB.
BETA = 1200.0
# Noise equivalent sigma0 in dB of the sub-swaths of EW, at their middle and their edges; like measured profiles.
SWATHS = ((-24.5, -21.0), (-27.5, -25.0), (-28.5, -26.0), (-29.0, -26.5), (-29.5, -27.0))
_SCALLOPING = 0.08
_STEP = 40
_LINE_STEP = 400
_AZIMUTH_STEP = 10
LINE_SECONDS = 0.00596


@dataclass(frozen=True)
class SafeForm:
    """What a product is like.

    Attributes:
        processor: version of the processor; before 2.90 noise has no vectors along azimuth, and the pixels outside the
            swath hold low numbers.
        polarisations: as they are called; the first holds HH of the scene, the second HV.
        noise: whether there is thermal noise, and files of its vectors.
        mode: `EW` or `IW`.
        spacing: metres that the annotation says.
    """

    processor: str = PROCESSOR
    polarisations: tuple[str, ...] = ("HH", "HV")
    noise: bool = True
    mode: str = "EW"
    spacing: float = 40.0

    @property
    def is_new(self) -> bool:
        """Whether noise has vectors along azimuth."""
        return float(self.processor) >= _NEW

    @property
    def product_class(self) -> str:
        """`1SDH` and the like."""
        return f"1S{'D' if len(self.polarisations) == 2 else 'S'}{self.polarisations[0][0]}"


@dataclass(frozen=True)
class Product:
    """Times, numbers and geometry that the files of a product share."""

    form: SafeForm
    satellite: str
    start: datetime
    stop: datetime
    orbit: int
    take: str
    shape: tuple[int, int]
    geo: GeoGrid
    statement: str

    @property
    def samples(self) -> NDArray[np.int64]:
        """Samples of the vectors: each 40th, and the last."""
        return np.unique(np.append(np.arange(0, self.shape[1], _STEP), self.shape[1] - 1))

    @property
    def lines(self) -> NDArray[np.int64]:
        """Lines of the vectors; the last may lie beyond the image, as in real products."""
        return np.arange(0, self.shape[0] + _LINE_STEP, _LINE_STEP)

    @property
    def bounds(self) -> NDArray[np.int64]:
        """First samples of the sub-swaths, and the end."""
        return np.linspace(0, self.shape[1], len(SWATHS) + 1).round().astype(np.int64)

    def stem(self, polarisation: str) -> str:
        """Name of the files of a polarisation."""
        times = f"{self.start:%Y%m%dt%H%M%S}-{self.stop:%Y%m%dt%H%M%S}"
        number = self.form.polarisations.index(polarisation) + 1
        return (
            f"{self.satellite}-{self.form.mode}-grd-{polarisation}-{times}-{self.orbit:06d}-{self.take}-{number:03d}"
        ).lower()

    def time_of(self, line: float) -> str:
        """When a line was seen."""
        return (self.start + timedelta(seconds=float(line) * LINE_SECONDS)).strftime("%Y-%m-%dT%H:%M:%S.%f")


def amplitudes(product: Product, lines: NDArray[np.int64]) -> Float:
    """A of sigma0 at the vectors' samples, [lines, samples], as an annotation gives it (seven digits)."""
    angles = np.radians(interpolate(product.geo, lines, product.samples)[2])
    return _as_written(BETA / np.sqrt(np.sin(angles)))


def range_noise(product: Product, channel: str, lines: NDArray[np.int64]) -> Float:
    """Noise in DN^2 at the vectors' samples, [lines, samples]; higher at the edges of the sub-swaths."""
    if not product.form.noise:
        return np.zeros((len(lines), product.samples.size))
    swath = np.clip(np.searchsorted(product.bounds, product.samples, side="right") - 1, 0, len(SWATHS) - 1)
    middle, edge = np.array(SWATHS)[swath].T
    start, stop = product.bounds[swath], product.bounds[swath + 1]
    away = np.abs(2 * (product.samples - start) / np.maximum(stop - start, 1) - 1)
    level = middle + (edge - middle) * away**2 + (0.3 if channel == "hh" else 0.0)
    # It changes slowly along azimuth.
    drift = 1 + 0.03 * np.sin(lines / 3000)
    return _as_written(10 ** (level / 10) * amplitudes(product, lines) ** 2 * drift[:, None])


def azimuth_lines(product: Product) -> NDArray[np.int64]:
    """Lines of the vectors along azimuth."""
    return np.unique(np.append(np.arange(0, product.shape[0], _AZIMUTH_STEP), product.shape[0] - 1))


def scalloping(swath: int, lines: NDArray[np.int64]) -> Float:
    """Factor of the noise along azimuth, which repeats with the bursts of a sub-swath."""
    return _as_written(1 + _SCALLOPING * np.cos(2 * np.pi * lines / (180 + 15 * swath)))


def _as_written(values: Float) -> Float:
    """Values as seven digits give them."""
    return np.array([float(f"{value:.6e}") for value in values.ravel()]).reshape(values.shape)


def _on_pixels(product: Product, at: NDArray[np.int64], vectors: Float, line: NDArray[np.int64]) -> Float:
    """Vectors [n, samples] at all samples of some lines, [lines, W]; linear."""
    index = np.clip(np.searchsorted(at, line, side="right") - 1, 0, len(at) - 2)
    share = ((line - at[index]) / (at[index + 1] - at[index]))[:, None]
    on_lines = vectors[index] * (1 - share) + vectors[index + 1] * share
    samples = np.arange(product.shape[1])
    return np.stack([np.interp(samples, product.samples, row) for row in on_lines])


def digital_numbers(decibels: NDArray[np.float32], product: Product, channel: str) -> NDArray[np.uint16]:
    """Digital numbers of backscatter in dB [H, W]; 0 where there is no data."""
    numbers = np.zeros(product.shape, np.uint16)
    table, noise = amplitudes(product, product.lines), range_noise(product, channel, product.lines)
    for first in range(0, product.shape[0], _LINE_STEP):
        lines = np.arange(first, min(first + _LINE_STEP, product.shape[0]))
        band = decibels[first : first + len(lines)].astype(np.float64)
        added = _on_pixels(product, product.lines, noise, lines)
        if product.form.is_new:
            at = azimuth_lines(product)
            for swath in range(len(SWATHS)):
                columns = slice(product.bounds[swath], product.bounds[swath + 1])
                added[:, columns] *= np.interp(lines, at, scalloping(swath, at))[:, None]
        power = 10 ** (band / 10) * _on_pixels(product, product.lines, table, lines) ** 2 + added
        known = np.isfinite(power)
        numbers[first : first + len(lines)][known] = np.clip(np.rint(np.sqrt(power[known])), 1, 65_535)
        if not product.form.is_new:
            # Old processors left low numbers outside the swath.
            low = (1 + (lines[:, None] + np.arange(product.shape[1])) % 5).astype(np.uint16)
            numbers[first : first + len(lines)][~known] = low[~known]
    return numbers
