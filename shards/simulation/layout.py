"""Where land, chart and ice are in a scene: the raster of chart polygons and what is truly in each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.stats import beta

from shards.simulation.eggs import Egg, month_weights, pool
from shards.simulation.facts import MONTHS, ZONE_ENDS_KM
from shards.simulation.noise import Array, Extent, Fractal, SmoothNoise, generator, low_discrepancy, upsample
from shards.simulation.place import PIXEL_KM, coarse_places

Places = NDArray[np.float64]

# Cells of 2 km that the coarse fields reach beyond the scene on each side: the widest footprint of AMSR2.
MARGIN_CELLS = 30
_LAND_STEP = 4
_SLIVER = 0.004
# How far true edges stray from the drawn ones: some hundred metres, in pixels; and their raggedness.
_DRAWING_ERROR = 6.0
_RAGGEDNESS = 1.5


def extent_of(size: tuple[int, int]) -> Extent:
    """The scene and its margin in pixels."""
    margin = 50.0 * MARGIN_CELLS
    return Extent(-margin, -margin, size[0] + margin, size[1] + margin)


def margin_places(size: tuple[int, int]) -> tuple[Places, Places]:
    """Pixel coordinates of the 2 km cells of the scene and its margin."""
    rows, columns = (coarse_places(-MARGIN_CELLS, count // 50 + MARGIN_CELLS) for count in size)
    return rows, columns


# Land ---------------------------------------------------------------------------------------------------------------


class Land:
    """Land and the distance to it, both from one smooth level, `level > 0` on land."""

    def __init__(self, size: tuple[int, int], index: int, seed: int) -> None:
        rng = generator(seed, index, 2)
        self.size = size
        extent = extent_of(size)
        scale = 0.6 * max(size)
        self.shape = Fractal(rng, scale, extent, 5, 0.5)
        angle = rng.uniform(0, 2 * np.pi)
        self.slope = np.array([np.cos(angle), np.sin(angle)]) / scale
        self.lines, self.samples = (np.arange(0, count + _LAND_STEP, _LAND_STEP, dtype=float) for count in size)
        level = self._raw(self.lines, self.samples)
        # A third of the scenes has no land; the others have up to four tenths.
        draw = low_discrepancy(index, 3, seed)
        share = 0.0 if draw < 0.35 else 0.4 * ((draw - 0.35) / 0.65) ** 1.3
        self.threshold = float(np.quantile(level, 1 - share)) if share > 0 else np.inf
        # Scenes without land lie off a coast somewhere.
        self.offshore = 0.0 if share > 0 else float(20 * 20 ** rng.random())
        self.level: Array = (level - self.threshold).astype(np.float32) if share > 0 else np.full_like(level, -1.0)
        self.km = self._distance(level)

    def _raw(self, lines: Places, samples: Places) -> Array:
        tilt = self.slope[0] * lines[:, None] + self.slope[1] * samples[None, :]
        return self.shape(lines, samples) + tilt.astype(np.float32)

    def _distance(self, level: Array) -> Array:
        """Distance to land in km on the land grid; land in the margin counts."""
        if np.isinf(self.threshold):
            tilt = self.slope[0] * self.lines[:, None] + self.slope[1] * self.samples[None, :]
            scale = PIXEL_KM / float(np.hypot(*self.slope))
            return (self.offshore + scale * (tilt.max() - tilt)).astype(np.float32)
        rows, columns = margin_places(self.size)
        outer = self._raw(rows, columns) > self.threshold
        far = ndimage.distance_transform_edt(~outer) * 50 * PIXEL_KM if outer.any() else np.full(outer.shape, 1e3)
        near = ndimage.distance_transform_edt(level <= self.threshold) * _LAND_STEP * PIXEL_KM
        far_here = upsample(far.astype(np.float32), 50, self.lines - rows[0], self.samples - columns[0])
        # The coarse distance does not see small islands; near land the fine one rules.
        return np.minimum(near, np.maximum(far_here, 4.0)).astype(np.float32)

    def is_land(self, lines: Places, samples: Places) -> NDArray[np.bool_]:
        """bool [n, m], anywhere in the scene."""
        return upsample(self.level, _LAND_STEP, lines, samples) > 0

    def on_margin(self) -> NDArray[np.bool_]:
        """bool on the 2 km cells of the scene and its margin."""
        rows, columns = margin_places(self.size)
        return np.asarray(self._raw(rows, columns) > self.threshold)

    def zones(self, lines: Places, samples: Places, land: NDArray[np.bool_]) -> Array:
        """Distance zone ids 0..41, float32 [n, m]."""
        km = upsample(self.km, _LAND_STEP, lines, samples)
        zones = 1 + np.searchsorted(np.array(ZONE_ENDS_KM, np.float32), km.ravel()).reshape(km.shape)
        return np.where(land, 0, zones).astype(np.float32)


# Polygons -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """The drawn chart and its meaning.

    raster: int32 [H, W] index into `eggs` of the drawn polygon, -1 where there is no chart. margin: the same on the
    2 km cells of the scene and its margin. rows: `polygon_codes` of polygon i under the id `identities[i]`.
    """

    raster: NDArray[np.int32]
    margin: NDArray[np.int32]
    eggs: tuple[Egg, ...]
    identities: NDArray[np.int64]


def edge_displacement(
    size: tuple[int, int], index: int, seed: int
) -> Callable[[Places, Places], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """How far (lines, samples; whole pixels) the drawn chart is from the truth, as a function of place."""
    rng = generator(seed, index, 3)
    extent = Extent(0, 0, *map(float, size))
    smooth = [SmoothNoise(rng, 45, extent) for _ in range(2)]
    ragged = [SmoothNoise(rng, 5, extent) for _ in range(2)]

    def displacement(lines: Places, samples: Places) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        down, right = (
            np.rint(_DRAWING_ERROR * s(lines, samples) + _RAGGEDNESS * r(lines, samples)).astype(np.int64)
            for s, r in zip(smooth, ragged, strict=True)
        )
        return down, right

    return displacement


def water_share(index: int, seed: int, month: int) -> float:
    """Share of open water among the scene's sea: mostly near 0 or 1, as in real scenes; its mean is the month's."""
    mean = MONTHS[month][1]
    return float(beta.ppf(low_discrepancy(index, 2, seed), 0.9 * mean, 0.9 * (1 - mean)))


class Mosaic:
    """An ice edge, and warped Voronoi cells: those on its ice side are ice polygons."""

    def __init__(self, size: tuple[int, int], index: int, seed: int) -> None:
        rng = generator(seed, index, 4)
        extent = extent_of(size)
        # The number of polygons grows more slowly than the area.
        spacing = max(size) / (7.0 * (max(size) / 700) ** 0.65) ** 0.5
        self.spacing = spacing
        self.edge = Fractal(rng, 0.5 * max(size), extent, 5, 0.45)
        angle = rng.uniform(0, 2 * np.pi)
        self.slope = 2.5 * np.array([np.cos(angle), np.sin(angle)]) / max(size)
        self.warp = [Fractal(rng, 0.6 * spacing, extent, 4, 0.5) for _ in range(2)]
        rows = np.arange(extent.top, extent.bottom + spacing, spacing)
        columns = np.arange(extent.left, extent.right + spacing, spacing)
        grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
        self.sites = grid + rng.uniform(-0.42, 0.42, grid.shape) * spacing
        self.tree = cKDTree(self.sites)

    def level(self, lines: Places, samples: Places) -> Array:
        """float32 [n, m]: grows from open sea into the pack."""
        tilt = self.slope[0] * lines[:, None] + self.slope[1] * samples[None, :]
        return self.edge(lines, samples) + tilt.astype(np.float32)

    def cells(self, lines: Places, samples: Places) -> NDArray[np.int32]:
        """int32 [n, m]: the site nearest to each warped place. `lines` and `samples` should span a small tile."""
        reach = np.float32(0.22 * self.spacing)
        down = lines.astype(np.float32)[:, None] + reach * self.warp[0](lines, samples)
        right = samples.astype(np.float32)[None, :] + reach * self.warp[1](lines, samples)
        low = np.array([down.min(), right.min()])
        high = np.array([down.max(), right.max()])
        radius = float(np.hypot(*(high - low))) / 2
        nearest, _ = self.tree.query((low + high) / 2)
        candidates = np.sort(self.tree.query_ball_point((low + high) / 2, nearest + 2 * radius + 1))
        best = np.full(down.shape, np.inf, np.float32)
        owner = np.zeros(down.shape, np.int32)
        for site in candidates:
            y, x = self.sites[site].astype(np.float32)
            distance = (down - y) ** 2 + (right - x) ** 2
            closer = distance < best
            np.copyto(best, distance, where=closer)
            owner[closer] = site
        return owner


def _tiles(count: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def simulated_layout(size: tuple[int, int], index: int, seed: int, month: int, service: str, land: Land) -> Layout:
    """Draw a chart: an ice edge with the scene's share of water, polygons on its ice side, codes for each."""
    mosaic = Mosaic(size, index, seed)
    rng = generator(seed, index, 5)
    height, width = size

    # The edge level that leaves the wanted share of water, from a sample of the sea.
    probe_lines, probe_samples = (np.linspace(0, count - 1, 120) for count in size)
    sea = ~land.is_land(probe_lines, probe_samples)
    level = mosaic.level(probe_lines, probe_samples)
    share = water_share(index, seed, month)
    edge = float(np.quantile(level[sea], share)) if sea.any() else 0.0
    charted_side, chart_limit = _chart_limit(rng, size)

    raster = np.full(size, -1, np.int32)
    for rows in _tiles(height, 250):
        for columns in _tiles(width, 250):
            lines, samples = (np.arange(part.start, part.stop, dtype=float) for part in (rows, columns))
            cell = mosaic.cells(lines, samples)
            ice = mosaic.level(lines, samples) > edge
            # Water cells take odd numbers, ice cells even ones, until the polygons are known.
            tile = 2 * cell + (~ice)
            beyond = charted_side(lines, samples) > chart_limit
            tile[beyond | land.is_land(lines, samples)] = -1
            raster[rows, columns] = tile

    outer_lines, outer_samples = margin_places(size)
    outer = np.empty((len(outer_lines), len(outer_samples)), np.int32)
    for rows in _tiles(len(outer_lines), 30):
        for columns in _tiles(len(outer_samples), 30):
            cell = mosaic.cells(outer_lines[rows], outer_samples[columns])
            outer[rows, columns] = 2 * cell + (mosaic.level(outer_lines[rows], outer_samples[columns]) <= edge)

    counts = np.bincount(raster[raster >= 0], minlength=2 * len(mosaic.sites))
    site_level = np.array([
        float(mosaic.level(site[:1], site[1:])[0, 0]) for site in mosaic.sites
    ])  # fmt: skip
    big = counts[0::2] > _SLIVER * height * width
    sites = np.flatnonzero(big if big.any() else counts[0::2] > 0)
    eggs = _draw_eggs(rng, len(sites), index, seed, month, service)
    # The further into the pack, the more ice, with exceptions.
    sites = sites[np.argsort(site_level[sites])]
    eggs = sorted(eggs, key=lambda egg: sum(p.share for p in egg.partials) + float(rng.normal(0, 0.15)))
    water_codes = (1, 1, 2) if service == "dmi" else (2, 2, 1)
    waters = [Egg(int(code), ()) for code in water_codes]

    # Polygon number of each site as ice and as water: cells outside follow the site inside that lies as deep.
    polygon = np.empty(2 * len(mosaic.sites) + 1, np.int32)
    ice_numbers = np.arange(len(sites))
    if len(sites):
        deep = site_level[sites]
        place = np.clip(np.searchsorted(deep, site_level), 0, len(sites) - 1)
        polygon[0:-1:2] = ice_numbers[place]
        polygon[2 * sites] = ice_numbers
        _merge_slivers(polygon, mosaic.sites, sites, counts)
    else:
        polygon[0:-1:2] = 0
    shift = len(sites)
    # Water is a few large polygons: by strips across the scene.
    strip = np.clip(mosaic.sites[:, 1] / width * len(waters), 0, len(waters) - 1).astype(np.int32)
    polygon[1::2] = shift + strip
    polygon[-1] = -1
    everything = (*eggs, *waters)
    identities = np.cumsum(rng.integers(1, 3, len(everything))) + int(rng.integers(0, 40))
    # Index -1 is the last entry: no chart.
    return Layout(polygon[raster], polygon[outer], everything, identities)


def _merge_slivers(
    polygon: NDArray[np.int32], all_sites: NDArray[np.float64], sites: NDArray[np.int64], counts: NDArray[np.int64]
) -> None:
    """Give cells that are too small for a polygon to the nearest polygon (in place)."""
    small = np.flatnonzero((counts[0::2] > 0) & ~np.isin(np.arange(len(all_sites)), sites))
    if len(small):
        _, nearest = cKDTree(all_sites[sites]).query(all_sites[small])
        polygon[2 * small] = nearest


def _chart_limit(
    rng: np.random.Generator, size: tuple[int, int]
) -> tuple[Callable[[Places, Places], NDArray[np.float64]], float]:
    """A straight limit of the chart: beyond it there is none. In most scenes it lies outside."""
    angle = rng.uniform(0, 2 * np.pi)
    normal = np.array([np.cos(angle), np.sin(angle)])

    def side(lines: Places, samples: Places) -> NDArray[np.float64]:
        return normal[0] * (lines[:, None] / size[0] - 0.5) + normal[1] * (samples[None, :] / size[1] - 0.5)

    limit = float(rng.uniform(0.15, 0.45)) if rng.random() < 0.35 else np.inf
    return side, limit


def _draw_eggs(
    rng: np.random.Generator, count: int, index: int, seed: int, month: int, service: str
) -> list[Egg]:
    """`count` eggs of the month's mix, spread evenly over it within the scene and over successive scenes."""
    eggs, _, _ = pool()
    weights = month_weights(month).copy()
    if service == "cis":
        weights[[not egg.partials_written for egg in eggs]] = 0
    ladder = np.cumsum(weights) / weights.sum()
    start = low_discrepancy(index, 4, seed)
    draws = [(start + (k + rng.uniform(0, 1)) / max(count, 1)) % 1 for k in range(count)]
    return [eggs[min(int(np.searchsorted(ladder, draw, side="right")), len(eggs) - 1)] for draw in draws]
