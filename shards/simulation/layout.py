"""Where ice and chart are in a scene: the raster of drawn polygons and the ice that is truly in each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import betaincinv

from shards.simulation.eggs import HEADER, Egg, code_row, month_weights, pool
from shards.simulation.facts import MONTHS
from shards.simulation.land import Land, Places, extent_of, margin_places, simulated_land
from shards.simulation.noise import (
    GOLDEN,
    Array,
    Extent,
    Fractal,
    SmoothNoise,
    generator,
    low_discrepancy,
    octaves_down_to,
)
from shards.simulation.place import Place

# Cells with less ice than this share of a whole cell join a neighbour.
_SLIVER = 0.2
# Standard deviation of the noise on concentrations before they are put in order from the edge into the pack.
_DISORDER = 0.2
# How far true edges stray from drawn edges: some hundred metres, in pixels; and their raggedness.
_DRAWING_ERROR = 6.0
_RAGGEDNESS = 1.5
_TILE = 250
# Spacing in pixels of the finest features of ice edges and polygons.
_FINEST = 16.0
# Shares of water below this, or above 1 minus this, count as none and all; how far the edge is from such scenes.
_PURE = 0.03
_FAR_EDGE_PIXELS = 1500.0


@dataclass(frozen=True)
class Ground:
    """Land, the drawn chart and its meaning.

    raster: int32 [H, W] index into `eggs` of the drawn polygon, under land too; -1 = none. margin: the same on the 2 km
    cells of the scene and its margin. identities: int64 [P] the chart's id of each egg; codes: `polygon_codes`, header
    first, of the polygons that the chart shows. charted: whether there is a chart, as a function of place.
    """

    land: Land
    raster: NDArray[np.int32]
    margin: NDArray[np.int32]
    eggs: tuple[Egg, ...]
    identities: NDArray[np.int64]
    codes: tuple[str, ...]
    charted: Callable[[Places, Places], NDArray[np.bool_]]


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
    # The quantile function of a beta distribution; scipy.stats would take longer to import than a scene to simulate.
    return float(betaincinv(0.9 * mean, 0.9 * (1 - mean), low_discrepancy(index, 1, seed)))


class Mosaic:
    """An ice edge, and warped Voronoi cells: those on its ice side are ice polygons."""

    def __init__(self, size: tuple[int, int], index: int, seed: int) -> None:
        rng = generator(seed, index, 4)
        extent = extent_of(size)
        # The number of polygons grows more slowly than the area.
        spacing = max(size) / (13.0 * (max(size) / 1000) ** 0.5) ** 0.5
        self.spacing = spacing
        self.edge = Fractal(rng, 0.5 * max(size), extent, octaves_down_to(0.5 * max(size), _FINEST), 0.5)
        angle = rng.uniform(0, 2 * np.pi)
        self.slope = 2.5 * np.array([np.cos(angle), np.sin(angle)]) / max(size)
        self.warp = [
            Fractal(rng, 0.6 * spacing, extent, octaves_down_to(0.6 * spacing, _FINEST), 0.5) for _ in range(2)
        ]
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


def simulated_ground(size: tuple[int, int], index: int, seed: int, place: Place) -> Ground:
    """Draw a scene's ground: coast, an ice edge with the scene's share of water, polygons and codes on its ice side."""
    land = simulated_land(size, index, seed)
    mosaic = Mosaic(size, index, seed)
    rng = generator(seed, index, 5)
    charted = _chart_limit(rng, size)

    # The edge level that leaves the wanted share of water, from a sample of the charted sea.
    probe = tuple(np.linspace(0, count - 1, 150) for count in size)
    sea = ~land.is_land(*probe) & charted(*probe)
    level = mosaic.level(*probe)
    share = water_share(index, seed, place.time.month)
    edge = float(np.quantile(level[sea], share)) if sea.any() else 0.0
    # Scenes all of water or of pack ice lie at any distance from the edge.
    away = float(rng.exponential(_FAR_EDGE_PIXELS)) * float(np.hypot(*mosaic.slope))
    edge += away if share > 1 - _PURE else -away if share < _PURE else 0.0

    def cells(lines: Places, samples: Places) -> NDArray[np.int32]:
        """Twice the site's number, plus one on the water side."""
        return 2 * mosaic.cells(lines, samples) + (mosaic.level(lines, samples) <= edge)

    raster = np.empty(size, np.int32)
    counts = np.zeros(2 * len(mosaic.sites), np.int64)
    for rows in _tiles(size[0], _TILE):
        for columns in _tiles(size[1], _TILE):
            lines, samples = (np.arange(part.start, part.stop, dtype=float) for part in (rows, columns))
            tile = cells(lines, samples)
            raster[rows, columns] = tile
            shown = ~land.is_land(lines, samples) & charted(lines, samples)
            counts += np.bincount(tile[shown], minlength=len(counts))
    outer_lines, outer_samples = margin_places(size)
    margin = np.empty((len(outer_lines), len(outer_samples)), np.int32)
    for rows in _tiles(len(outer_lines), 30):
        for columns in _tiles(len(outer_samples), 30):
            margin[rows, columns] = cells(outer_lines[rows], outer_samples[columns])

    areas = counts[0::2] / raster.size
    sites = np.flatnonzero(areas > _SLIVER * mosaic.spacing**2 / raster.size)
    if not len(sites):
        sites = np.flatnonzero(areas == areas.max()) if areas.any() else np.array([], np.int64)
    # At all crossings and then the sites alone: hundreds of calls would cost more than the rest of the scene.
    depth = np.diagonal(mosaic.level(mosaic.sites[:, 0], mosaic.sites[:, 1])).astype(np.float64)
    # The further into the pack, the more ice, with exceptions.
    sites = sites[np.argsort(depth[sites])]
    eggs = sorted(
        _draw_eggs(rng.permutation(areas[sites]), index, seed, place.time.month, place.service),
        key=lambda egg: sum(p.share for p in egg.partials) + float(rng.normal(0, _DISORDER)),
    )
    waters = [Egg(code, ()) for code in ((1, 1, 2) if place.service == "dmi" else (2, 2, 1))]
    everything = (*eggs, *waters)
    polygon = _polygons_of_sites(mosaic, sites, depth, counts, len(waters), size)
    identities = np.cumsum(rng.integers(1, 3, len(everything))) + int(rng.integers(0, 40))
    shown_pixels = np.bincount(polygon, weights=counts, minlength=len(everything))
    codes = [code_row(everything[i], int(identities[i]), place.service) for i in np.flatnonzero(shown_pixels)]
    return Ground(land, polygon[raster], polygon[margin], everything, identities, (HEADER, *codes), charted)


def _polygons_of_sites(
    mosaic: Mosaic, sites: NDArray[np.int64], depth: NDArray[np.float64], counts: NDArray[np.int64], waters: int,
    size: tuple[int, int],
) -> NDArray[np.int32]:  # fmt: skip
    """Polygon of each site as ice (even places) and as water (odd places), int32 [2 S].

    `sites`, in order of depth, are the polygons. Cells too small for a polygon join the nearest; cells outside the
    scene are like the polygon inside that lies as deep in the pack.
    """
    polygon = np.zeros(2 * len(mosaic.sites), np.int32)
    if len(sites):
        polygon[0::2] = np.clip(np.searchsorted(depth[sites], depth), 0, len(sites) - 1)
        inside = np.flatnonzero(counts[0::2] > 0)
        _, nearest = cKDTree(mosaic.sites[sites]).query(mosaic.sites[inside])
        polygon[2 * inside] = nearest
        polygon[2 * sites] = np.arange(len(sites))
    # Water is a few large polygons: strips across the scene.
    strip = np.clip(mosaic.sites[:, 1] / size[1] * waters, 0, waters - 1).astype(np.int32)
    polygon[1::2] = len(sites) + strip
    return polygon


def _chart_limit(rng: np.random.Generator, size: tuple[int, int]) -> Callable[[Places, Places], NDArray[np.bool_]]:
    """A straight limit beyond which there is no chart; in most scenes it lies outside."""
    angle = rng.uniform(0, 2 * np.pi)
    limit = float(rng.uniform(0.15, 0.45)) if rng.random() < 0.35 else np.inf

    def charted(lines: Places, samples: Places) -> NDArray[np.bool_]:
        down, right = lines[:, None] / size[0] - 0.5, samples[None, :] / size[1] - 0.5
        return np.asarray(np.cos(angle) * down + np.sin(angle) * right < limit)

    return charted


def _draw_eggs(areas: NDArray[np.float64], index: int, seed: int, month: int, service: str) -> list[Egg]:
    """An egg of the month's mix for each of `areas` (shares of the scene), spread evenly over classes by area.

    Concentrations are a systematic sample: the areas, laid end to end from a place that moves on evenly from scene to
    scene, run through the cumulative shares of the concentrations. Among eggs of one concentration another even
    sequence chooses, in scenes of even index in order of stage, in the others in order of floe size.
    """
    eggs, classes, _ = pool()
    weights = month_weights(month).copy()
    if service == "cis":
        weights[[not egg.partials_written for egg in eggs]] = 0
    by_sic = np.bincount(classes[:, 0], weights=weights, minlength=11)
    ladder = np.cumsum(by_sic) / by_sic.sum()
    start, first = low_discrepancy(index, 0, seed), low_discrepancy(index, 3, seed)
    drawn = []
    for number, middle in enumerate(np.cumsum(areas) - areas / 2):
        sic = min(int(np.searchsorted(ladder, (start + middle) % 1, side="right")), 10)
        members = np.flatnonzero(classes[:, 0] == sic)
        if index % 2:
            members = members[np.argsort(classes[members, 2], kind="stable")]
        steps = np.cumsum(weights[members]) / weights[members].sum()
        within = (first + number * GOLDEN) % 1
        drawn.append(eggs[members[min(int(np.searchsorted(steps, within, side="right")), len(members) - 1)]])
    return drawn
