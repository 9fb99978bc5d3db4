"""A scene at a downsampling factor: tiles are cut from it, and networks map it.

Factors count in 40 m pixels: factor k has a spacing of k x 40 m, whatever the spacing of the file (a ready-to-train
file, at 80 m, has no odd factors).
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from arcticseg.errors import SceneError
from arcticseg.ice import land, resample
from arcticseg.ice.channels import COARSE, RAW_SPACING
from arcticseg.ice.geo import GeoGrid
from arcticseg.ice.indexed import IndexedChart
from arcticseg.ice.scenes import backscatter, spacing
from arcticseg.ice.scenes.scene import Scene
from arcticseg.ice.sigrid import IGNORE_INDEX


@dataclass(frozen=True)
class LayerConfig:
    """How a scene is averaged over blocks.

    Attributes:
        rules: chart rules, `autoice` or `corrected`.
        strict: an unlisted ice code is an error.
        sar_average: `linear` (power) or `db`.
        min_valid: share of valid pixels that a block needs to have a mean.
        labels: `majority`, `nearest` or `maximum`.
    """

    rules: str = "autoice"
    strict: bool = False
    sar_average: str = "linear"
    min_valid: float = 0.5
    labels: str = "majority"


@dataclass(frozen=True)
class Layers:
    """All layers of a scene at a factor, H x W pixels.

    Attributes:
        scene: its name.
        factor: downsampling factor of 40 m.
        step: pixels of the file to a pixel here.
        pixel_spacing: metres.
        time: start of acquisition, UTC, or None.
        ice_service: `dmi`, `cis` or None.
        simulated: whether the scene is simulated.
        sar: polarisation -> float32 [H, W] dB, NaN = no data; a missing polarisation is all NaN.
        distance: uint8 [H, W] zone ids, of a coastline where the file has no distance map; 255 = none.
        chart: of H x W pixels, with nothing where there is no SAR data; None: the scene has none.
        coarse: float32 [20, h, w] on the 2 km grid in the order of `COARSE`, NaN = no data; h = w = 0 where the scene
            has no such channel.
        geo: geolocation grid, in pixels of the file.
    """

    scene: str
    factor: int
    step: int
    pixel_spacing: float
    time: datetime | None
    ice_service: str | None
    simulated: bool
    sar: dict[str, NDArray[np.float32]]
    distance: NDArray[np.uint8]
    chart: IndexedChart | None
    coarse: NDArray[np.float32]
    geo: GeoGrid

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.distance.shape[0], self.distance.shape[1]

    @cached_property
    def labels(self) -> NDArray[np.uint8] | None:
        """uint8 [3, H, W], SIC, SOD, FLOE; 255 = masked; None: the scene has no chart."""
        return None if self.chart is None else self.chart.planes()

    @property
    def valid(self) -> NDArray[np.bool_]:
        """bool [H, W]: some polarisation has data."""
        return np.logical_or.reduce([np.isfinite(values) | np.isneginf(values) for values in self.sar.values()])


def step_of(scene: Scene, factor: int) -> int:
    """Pixels of the file to a pixel at `factor`.

    Raises:
        SceneError: the file's spacing does not divide factor x 40 m.
    """
    # `open_scene` brings every scene to within 2 % of a multiple of 40 m (a GeoTIFF may have 40.7 m).
    native = spacing.multiple(scene.pixel_spacing)
    if factor % native:
        raise SceneError(
            f"{scene.path}: factor {factor} cannot be made of pixels of {scene.pixel_spacing:.4g} m; set a multiple of "
            f"{native}, or give a file whose pixels are {factor * RAW_SPACING:g} m or less"
        )
    return factor // native


def read_coarse(scene: Scene) -> NDArray[np.float32]:
    """The 2 km channels, float32 [20, h, w]; a missing channel is all NaN; h = w = 0 where all are missing."""
    channels = [scene.coarse(name) for name in COARSE]
    shape = next((values.shape for values in channels if values is not None), (0, 0))
    blank = np.full(shape, np.nan, np.float32)
    return np.stack([blank if values is None else values for values in channels])


def read_layers(scene: Scene, factors: Iterable[int], config: LayerConfig = LayerConfig()) -> Iterator[Layers]:
    """The layers of a scene at each factor.

    Each variable of the file is read once and brought to all factors before the next is read into its memory, so that
    there is a single raster of the file's own size at a time.

    Raises:
        SceneError: the file is damaged, has no valid pixel, is smaller than a pixel at a factor, or its
            spacing cannot give one.
    """
    steps = {factor: step_of(scene, factor) for factor in factors}
    for factor, step in steps.items():
        if 0 in resample.coarse_shape(scene.shape, step):
            raise SceneError(
                f"{scene.path}: {scene.shape} pixels are less than a pixel at factor {factor}; lower the factor"
            )
    edges = steps.values()
    with scene.reusing_memory():
        sar, charts, distance = _sar(scene, edges, config), _charts(scene, edges, config), _distance(scene, edges)
    coarse = read_coarse(scene)
    for factor, step in steps.items():
        means = {name: averaged.pop(step) for name, averaged in sar.items()}
        yield Layers(
            scene=scene.name,
            factor=factor,
            step=step,
            pixel_spacing=step * scene.pixel_spacing,
            time=scene.time,
            ice_service=scene.ice_service,
            simulated=scene.simulated,
            sar=means,
            distance=distance.pop(step),
            chart=None if charts is None else _seen(charts.pop(step), means),
            coarse=coarse,
            geo=scene.geo,
        )


def _sar(scene: Scene, steps: Collection[int], config: LayerConfig) -> dict[str, dict[int, NDArray[np.float32]]]:
    """Polarisation -> step -> backscatter in dB; a polarisation that the scene lacks is all NaN."""
    by_name: dict[str, dict[int, NDArray[np.float32]]] = {}
    has_data = False
    for name in ("hh", "hv"):
        if name in scene.polarisations:
            values = scene.sar(name)
            # The largest value is NaN only where all are; -inf everywhere, no power at all, is not an image.
            has_data = has_data or bool(np.isfinite(np.fmax.reduce(values, axis=None)))
            check_backscatter(scene, name, values)
            means = resample.block_means_db(values, steps, config.min_valid, config.sar_average, scene.threads)
        else:
            means = {step: np.full(resample.coarse_shape(scene.shape, step), np.nan, np.float32) for step in steps}
        by_name[name] = means
    if not has_data:
        raise SceneError(f"{scene.path}: no valid pixel in {', '.join(scene.polarisations)}; leave the file out")
    return by_name


def check_backscatter(scene: Scene, polarisation: str, values: NDArray[np.float32]) -> None:
    """Warn of what is odd about backscatter, float32 [H, W] dB, and note it for the scene's products.

    Raises:
        SceneError: it is no backscatter, see `backscatter.check`.
    """
    try:
        odd = backscatter.check(values, polarisation.upper())
    except SceneError as error:
        raise SceneError(f"{scene.path}: {error}") from error
    if odd is not None:
        warnings.warn(f"{scene.path}: {odd}", stacklevel=2)
        scene.note(odd)


def _charts(scene: Scene, steps: Collection[int], config: LayerConfig) -> dict[int, IndexedChart] | None:
    """Step -> chart; None: the scene has none."""
    chart = scene.indexed_chart(config.rules, config.strict)
    return None if chart is None else resample.block_charts(chart, steps, config.labels, scene.threads)


def _seen(chart: IndexedChart, sar: Mapping[str, NDArray[np.float32]]) -> IndexedChart:
    """The chart without the pixels that lack backscatter, as the official labels have it (see `official_labels`).

    A pixel needs every polarisation that the scene has. The chart's own raster changes.
    """
    for values in sar.values():
        missing = np.isnan(values)
        if missing.any() and not missing.all():
            chart.index[missing] = chart.nothing
    return chart


def _distance(scene: Scene, steps: Collection[int]) -> dict[int, NDArray[np.uint8]]:
    """Step -> distance zones, from a coastline where the scene has none; 255: no data."""
    zones = scene.distance()
    if zones is None:
        return land.zones_of(scene, steps)
    return resample.block_zones(zones, steps, scene.threads)


def official_labels(scene: Scene, config: LayerConfig = LayerConfig()) -> NDArray[np.uint8] | None:
    """Charts at 80 m as official scores need them: 2 x 2 maximum of a raw scene, a ready-to-train file's own.

    A pixel without data in any full-resolution variable is masked in all charts, as in the ready-to-train files; a
    variable without any data, such as a polarisation that the scene lacks, does not count.

    Returns:
        uint8 [3, H, W] at 80 m; None: the scene has no chart.
    """
    step = step_of(scene, 2)
    charts = _charts(scene, [step], replace(config, labels="maximum"))
    if charts is None:
        return None
    labels = charts[step].planes()
    for values in (*map(scene.sar, scene.polarisations), scene.distance()):
        if values is not None:
            missing = resample.block_any(np.isnan(values), [step], scene.threads)[step]
            labels[:, missing & ~missing.all()] = IGNORE_INDEX
    return labels
