"""A scene brought to square pixels of the spacing that networks work at.

With sides of s metres and pixels of t metres to make, a pixel there covers r = t / s pixels of the file. Pixel i covers
the file's pixels from i r to (i + 1) r, counted from the edge of the first one, so its centre lies at
(i + 0.5) r - 0.5 in pixel coordinates. Where r is above 1, values are means over the area that a pixel covers, else
they are interpolated bilinearly between pixel centres, edges held; each axis has an r of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from arcticseg.errors import SceneError
from arcticseg.ice import threads
from arcticseg.ice.channels import COARSE_SPACING
from arcticseg.ice.geo import GeoGrid
from arcticseg.ice.indexed import IndexedChart
from arcticseg.ice.resample import db_to_power, power_to_db
from arcticseg.ice.scenes import spacing
from arcticseg.ice.scenes.scene import Float, Scene, coarse_cells

# Share of a pixel's weight that needs data for the pixel to have a value.
_MIN_VALID = 0.5
# Pixels along an edge without which there is no scene.
_LEAST_EDGE = 2
# Share of the last pixel that may lie beyond the file's, since sides are measured.
_OVERHANG = 0.01
# Lines made at once.
_BAND = 256


@dataclass(frozen=True)
class Axis:
    """How the pixels of an axis are made of those of the file.

    Attributes:
        ratio: pixels of the file to a pixel.
        taps: intp [n, K], the pixels of the file that each pixel is made of.
        weights: float32 [n, K]; their sum is 1.
    """

    ratio: float
    taps: NDArray[np.intp]
    weights: NDArray[np.float32]

    @property
    def nearest(self) -> NDArray[np.intp]:
        """intp [n], the pixel of the file under each pixel's centre."""
        return np.minimum(((np.arange(len(self.taps)) + 0.5) * self.ratio).astype(np.intp), int(self.taps.max()))


def axis(ratio: float, size: int, n: int) -> Axis:
    """The axis of `n` pixels of `ratio` pixels each, of a file that has `size`."""
    if ratio > 1:
        begin = np.arange(n) * ratio
        taps = np.floor(begin).astype(np.intp)[:, None] + np.arange(int(np.ceil(ratio)) + 1)
        covered = np.minimum(begin[:, None] + ratio, taps + 1) - np.maximum(begin[:, None], taps)
        # What lies beyond the last pixel is none of the area.
        covered = np.where(taps < size, np.maximum(covered, 0), 0)
    else:
        centre = np.clip((np.arange(n) + 0.5) * ratio - 0.5, 0, size - 1)
        taps = np.floor(centre).astype(np.intp)[:, None] + np.arange(2)
        covered = np.maximum(1 - np.abs(centre[:, None] - taps), 0)
    weights = covered / np.maximum(covered.sum(axis=1, keepdims=True), 1e-12)
    return Axis(ratio, np.minimum(taps, size - 1), weights.astype(np.float32))


def _weighted(values: Float, across: Axis, down: tuple[NDArray[np.intp], NDArray[np.float32]]) -> Float:
    """Weighted sums [n, m] of lines of a file [h, W]: along the lines, then across the samples."""
    taps, weights = down
    lines = np.zeros((len(taps), values.shape[1]), np.float32)
    for tap, weight in zip(taps.T, weights.T, strict=True):
        lines += values[tap] * weight[:, None]
    out = np.zeros((len(taps), len(across.taps)), np.float32)
    for tap, weight in zip(across.taps.T, across.weights.T, strict=True):
        out += np.take(lines, tap, axis=1) * weight
    return out


def brought(
    values: Float,
    down: Axis,
    across: Axis,
    min_valid: float = _MIN_VALID,
    prepare: Callable[[Float], Float] = np.asarray,
    finish: Callable[[Float], Float] = np.asarray,
    n_threads: int = 1,
) -> Float:
    """Values on the new pixels, float32 [n, m], weighted over those that are data; NaN where too few are.

    Args:
        values: float32 [H, W]; NaN = no data.
        min_valid: share of the weight that needs data; some always does.
        prepare, finish: turn values into what is weighted, and that into the results.
    """
    out = np.empty((len(down.taps), len(across.taps)), np.float32)

    def make(first: int) -> None:
        taps, weights = down.taps[first : first + _BAND], down.weights[first : first + _BAND]
        low = int(taps.min())
        lines, local = prepare(values[low : int(taps.max()) + 1]), (taps - low, weights)
        missing = np.isnan(lines)
        mean = _weighted(np.where(missing, np.float32(0), lines), across, local)
        if missing.any():
            share = _weighted((~missing).astype(np.float32), across, local)
            # The tolerance is for the rounding of weights.
            enough = share >= max(min_valid - 1e-5, 1e-5)
            mean = np.where(enough, mean / np.maximum(share, np.float32(1e-5)), np.float32(np.nan))
        out[first : first + _BAND] = finish(mean)

    for _ in threads.in_order(make, range(0, len(out), _BAND), n_threads):
        pass
    return out


class ResampledScene(Scene):
    """A scene whose pixels are not of the spacing that its reader assumes, at the spacing `wanted`.

    Backscatter is averaged or interpolated as power, distance zones as numbers; charts take the pixel under the centre.
    Channels of the 2 km grid lie in the file on cells of so many pixels; here they are interpolated to cells of 2 km.
    The geolocation grid has the same positions, at the new pixels. So all layers lie as the positions say.

    Args:
        sides: metres of a pixel of the file, along its lines and its samples.
        wanted: metres.

    Raises:
        SceneError: too few pixels are left.
    """

    def __init__(self, source: Scene, sides: tuple[float, float], wanted: float) -> None:
        self._source, self.kind = source, source.kind
        self.path, self.name, self.time, self.ice_service = source.path, source.name, source.time, source.ice_service
        self.simulated, self.polarisations, self.has_chart = source.simulated, source.polarisations, source.has_chart
        self.satellite, self.orbit, self.denoising = source.satellite, source.orbit, source.denoising
        self.notes, self.threads, self.pixel_spacing = source.notes, source.threads, wanted
        self.file_pixels = source.shape[0] * source.shape[1]
        ratios = [wanted / side for side in sides]
        edges = [int(n / ratio + _OVERHANG) for n, ratio in zip(source.shape, ratios, strict=True)]
        if min(edges) < _LEAST_EDGE:
            raise SceneError(
                f"{source.path}: {source.shape[0]} x {source.shape[1]} pixels of {sides[0]:.2f} x {sides[1]:.2f} m "
                f"are less than {_LEAST_EDGE} pixels of {wanted:g} m along an edge; give a larger scene"
            )
        self.shape = (edges[0], edges[1])
        self._down, self._across = (axis(*each) for each in zip(ratios, source.shape, edges, strict=True))
        geo = source.geo
        lines, samples = ((at + 0.5) / ratio - 0.5 for at, ratio in zip((geo.lines, geo.samples), ratios, strict=True))
        self.geo = GeoGrid(lines, samples, geo.latitude, geo.longitude, geo.incidence)
        self.note(
            f"resampled to {wanted:g} m, since by its positions its pixels are {sides[0]:.1f} x {sides[1]:.1f} m "
            "(mean power of the area, or bilinear where pixels become smaller; charts by the nearest pixel)"
        )

    def sar(self, polarisation: str) -> Float:
        values = self._source.sar(polarisation)
        for clause in self._source.notes:
            self.note(clause)
        return brought(
            values, self._down, self._across, prepare=db_to_power, finish=power_to_db, n_threads=self.threads
        )

    def distance(self) -> Float | None:
        zones = self._source.distance()
        return None if zones is None else brought(zones, self._down, self._across, min_valid=0, n_threads=self.threads)

    def coarse(self, name: str) -> Float | None:
        values = self._source.coarse(name)
        if values is None:
            return None
        # A cell of the file has this many of its pixels, by the spacing that its reader assumes.
        pixels = COARSE_SPACING / self._source.pixel_spacing
        cell = COARSE_SPACING / self.pixel_spacing
        cells = [coarse_cells(n, self.pixel_spacing) for n in self.shape]
        if not values.size:
            return np.full(cells, np.nan, np.float32)
        down, across = (
            axis(cell * each.ratio / pixels, size, n)
            for each, size, n in zip((self._down, self._across), values.shape, cells, strict=True)
        )
        return brought(np.asarray(values, np.float32), down, across)

    def indexed_chart(self, rules: str = "autoice", strict: bool = False) -> IndexedChart | None:
        chart = self._source.indexed_chart(rules, strict)
        if chart is None:
            return None
        lines, samples = (each.nearest for each in (self._down, self._across))
        return replace(chart, index=np.take(chart.index[lines], samples, axis=1))

    @contextmanager
    def reusing_memory(self) -> Iterator[None]:
        with self._source.reusing_memory():
            yield

    def close(self) -> None:
        self._source.close()


def at_network_spacing(scene: Scene) -> Scene:
    """The scene itself where its pixels have the spacing that its reader assumes; else resampled, with a warning.

    Raises:
        SceneError: pixels that are not squares or not alike, or too few of them.
    """
    sides = spacing.sides(scene.geo, scene.path)
    wanted = spacing.target(sides, scene.pixel_spacing)
    if wanted is None:
        return scene
    resampled = ResampledScene(scene, sides, wanted)
    warnings.warn(f"{scene.path}: {resampled.notes[-1]}", stacklevel=3)
    return resampled


def need_own_pixels(scene: Scene) -> None:
    """Refuse a resampled scene where the file itself is copied.

    Raises:
        SceneError: it is one.
    """
    if isinstance(scene, ResampledScene):
        raise SceneError(
            f"{scene.path}: its pixels are to be copied, but would be {scene.notes[-1]}; correct its positions, or "
            "give it to `arcticseg shards build`, `predict` or `evaluate`, which resample it"
        )
