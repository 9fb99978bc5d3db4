"""Where a pixel lies on the Earth, and on which pixel a place lies.

A scene has positions on a coarse grid of pixels only. Between grid points positions are interpolated as unit vectors,
so that neither the date line nor the pole is a special case; latitude and longitude are geodetic, and the vectors are
the normals of the ellipsoid (n-vectors), so no datum is involved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from arcticseg.errors import SceneError

Float = NDArray[np.float64]

# Mean radius in metres (IUGG).
EARTH_RADIUS = 6_371_008.8

# Newton steps of `pixel_of`. Grids of real scenes are nearly affine and converge in three or four.
_MAX_STEPS = 12
# A pixel position is settled when the last step moved it by less than this, in pixels.
_SETTLED = 1e-6
# `pixel_of` answers up to one grid extent, or this many pixels, outside the grid; further off, extrapolation means
# nothing.
_REACH_PIXELS = 200.0


@dataclass(frozen=True)
class GeoGrid:
    """Geolocation on a grid of pixels.

    Attributes:
        lines: float64 [n], pixel coordinates of the grid's rows, increasing.
        samples: float64 [m], pixel coordinates of the grid's columns, increasing.
        latitude, longitude: float64 [n, m], degrees.
        incidence: float64 [n, m], degrees; NaN where unknown.

    Raises:
        SceneError: coordinates do not increase, shapes do not fit, a position is not a place on the Earth, or an
            incidence angle is not one.
    """

    lines: Float
    samples: Float
    latitude: Float
    longitude: Float
    incidence: Float

    def __post_init__(self) -> None:
        for name in ("lines", "samples"):
            values = getattr(self, name)
            if values.ndim != 1 or values.size < 2 or not (np.diff(values) > 0).all():
                raise SceneError(
                    f"geolocation grid: {name} must be at least 2 increasing pixel coordinates, not "
                    f"{np.array2string(np.asarray(values), threshold=6)}; use a file with a regular grid"
                )
        shape = (self.lines.size, self.samples.size)
        for name in ("latitude", "longitude", "incidence"):
            values = getattr(self, name)
            if values.shape != shape:
                raise SceneError(
                    f"geolocation grid: {name} has shape {values.shape}, lines and samples give {shape}; "
                    "repair the file"
                )
        if not (np.abs(self.latitude) <= 90).all() or not (np.abs(self.longitude) <= 360).all():
            raise SceneError(
                "geolocation grid: latitude or longitude is missing or out of range "
                f"(latitude {np.min(self.latitude)}..{np.max(self.latitude)}, "
                f"longitude {np.min(self.longitude)}..{np.max(self.longitude)}); use a file with positions in degrees"
            )
        angles = self.incidence[~np.isnan(self.incidence)]
        if not ((angles >= 0) & (angles <= 90)).all():
            raise SceneError(
                f"geolocation grid: incidence is {angles.min():g} to {angles.max():g}; use a file with angles from the "
                "vertical in degrees, 0 to 90"
            )


# Share of the raster's edge by which the geolocation grid may end before or beyond it.
_MAX_OVERHANG = 0.1


def check_extent(geo: GeoGrid, shape: tuple[int, int]) -> GeoGrid:
    """The grid, if it is one of a raster of this shape: positions far beyond a grid mean nothing.

    Raises:
        SceneError: it ends more than a tenth of an edge before the raster's edge, or beyond it.
    """
    for name, knots, n in (("lines", geo.lines, shape[0]), ("samples", geo.samples, shape[1])):
        slack = _MAX_OVERHANG * n + 1
        if abs(knots[0]) > slack or abs(knots[-1] - (n - 1)) > slack:
            raise SceneError(
                f"geolocation grid: covers {name} {knots[0]:g} to {knots[-1]:g} of a raster of {n}; "
                "use a file whose grid is cut as its raster is"
            )
    return geo


def unit_vectors(latitude: ArrayLike, longitude: ArrayLike) -> Float:
    """Unit vectors, float64 [..., 3], of positions [...] in degrees."""
    lat = np.radians(np.asarray(latitude, dtype=np.float64))
    lon = np.radians(np.asarray(longitude, dtype=np.float64))
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def positions(vectors: Float) -> tuple[Float, Float]:
    """Latitude and longitude (-180..180) in degrees, [...], of vectors [..., 3] of any length above zero."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    return np.degrees(np.arctan2(z, np.hypot(x, y))), np.degrees(np.arctan2(y, x))


def _cells(knots: Float, at: Float) -> tuple[NDArray[np.intp], Float]:
    """The grid interval of each coordinate (outside the grid, the nearest), and the place within it (0..1)."""
    index = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, knots.size - 2)
    return index, (at - knots[index]) / (knots[index + 1] - knots[index])


def _mesh(field: Float, knots_i: Float, knots_j: Float, at_i: Float, at_j: Float) -> Float:
    """Bilinear values [n, m, ...] of a grid field [rows, columns, ...] at rows at_i [n] and columns at_j [m]."""
    i, u = _cells(knots_i, at_i)
    j, v = _cells(knots_j, at_j)
    extra = (1,) * (field.ndim - 2)
    u, v = u.reshape(-1, 1, *extra), v.reshape(1, -1, *extra)
    rows = field[i] * (1 - u) + field[i + 1] * u
    return np.asarray(rows[:, j] * (1 - v) + rows[:, j + 1] * v)


def interpolate(geo: GeoGrid, lines: ArrayLike, samples: ArrayLike) -> tuple[Float, Float, Float]:
    """Latitude, longitude and incidence angle at every crossing of `lines` [n] and `samples` [m].

    Bilinear between grid points, linear beyond the outermost.

    Returns:
        Three float64 [n, m] in degrees; longitude is -180..180; incidence is NaN wherever a grid point that it needs is
        NaN.
    """
    at_i, at_j = (np.atleast_1d(np.asarray(value, dtype=np.float64)) for value in (lines, samples))
    vectors = _mesh(unit_vectors(geo.latitude, geo.longitude), geo.lines, geo.samples, at_i, at_j)
    latitude, longitude = positions(vectors)
    return latitude, longitude, _mesh(geo.incidence, geo.lines, geo.samples, at_i, at_j)


class Frame:
    """A tangent frame in the middle of some places, in which places have plane coordinates.

    Args:
        vectors: float64 [..., 3], unit vectors of the places.

    Raises:
        SceneError: the places have no middle.
    """

    def __init__(self, vectors: Float) -> None:
        centre = vectors.reshape(-1, 3).mean(axis=0)
        if np.linalg.norm(centre) < 0.5:
            raise SceneError("geolocation: the positions cover half the Earth or more; repair the file")
        up = centre / np.linalg.norm(centre)
        # The axis least aligned with `up` gives a well-conditioned first tangent.
        helper = np.eye(3)[np.argmin(np.abs(up))]
        first = np.cross(helper, up)
        first /= np.linalg.norm(first)
        self.axes = np.stack([first, np.cross(up, first), up])

    def local(self, vectors: Float) -> Float:
        """Vectors [..., 3] in the frame: the third component points to its middle."""
        return np.asarray(vectors @ self.axes.T)

    def stereographic(self, vectors: Float) -> Float:
        """Unit vectors [..., 3] -> plane [..., 2] in Earth radii; one to one except at the antipode."""
        local = self.local(vectors)
        return np.asarray(2 * local[..., :2] / np.maximum(1 + local[..., 2:], 1e-9))

    def unstereographic(self, plane: Float) -> Float:
        """Inverse of `stereographic`: plane [..., 2] -> unit vectors [..., 3]."""
        square = (plane**2).sum(axis=-1, keepdims=True) / 4
        local = np.concatenate([plane, 1 - square], axis=-1) / (1 + square)
        return np.asarray(local @ self.axes)


def pixel_of(geo: GeoGrid, longitude: ArrayLike, latitude: ArrayLike) -> tuple[Float, Float]:
    """The pixel coordinates (line, sample) of places: the inverse of `interpolate`.

    Args:
        longitude, latitude: degrees, of any shape.

    Returns:
        Two float64 arrays of that shape, exact to 1e-6 pixels; NaN for places more than one grid extent (and 200
        pixels) outside the grid, where there is no answer.
    """
    at_nodes = unit_vectors(geo.latitude, geo.longitude)
    frame = Frame(at_nodes)
    lon, lat = np.broadcast_arrays(np.asarray(longitude, np.float64), np.asarray(latitude, np.float64))
    target = frame.local(unit_vectors(lat, lon)).reshape(-1, 3)
    nodes = frame.local(at_nodes)

    # Central (gnomonic) coordinates do not depend on a vector's length, so bilinear vectors need no normalising.
    ahead = target[:, 2] > 0.05
    aim = target[ahead, :2] / target[ahead, 2:]
    grid_i, grid_j = np.meshgrid(geo.lines, geo.samples, indexing="ij")
    flat = (nodes[..., :2] / nodes[..., 2:]).reshape(-1, 2)
    design = np.column_stack([flat, np.ones(len(flat))])
    affine, *_ = np.linalg.lstsq(design, np.column_stack([grid_i.ravel(), grid_j.ravel()]), rcond=None)
    place = np.column_stack([aim, np.ones(len(aim))]) @ affine

    low = np.array([geo.lines[0], geo.samples[0]])
    extent = np.array([np.ptp(geo.lines), np.ptp(geo.samples)])
    reach = extent / 2 + np.maximum(extent, _REACH_PIXELS)
    near = (np.abs(place - low - extent / 2) <= 2 * reach).all(axis=1)
    place, aim = place[near], aim[near]
    moved = np.full(len(place), np.inf)
    for _ in range(_MAX_STEPS):
        step = _newton_step(nodes, geo, place, aim)
        # A step longer than the grid starts beyond a fold; cut short, the next step can lead back.
        place = place - np.clip(step, -extent, extent)
        moved = np.abs(step).max(axis=1, initial=0)
        if (moved < _SETTLED).all():
            break
    place[moved >= _SETTLED] = np.nan
    place[(np.abs(place - low - extent / 2) > reach).any(axis=1)] = np.nan

    result = np.full((target.shape[0], 2), np.nan)
    result[np.flatnonzero(ahead)[near]] = place
    return result[:, 0].reshape(lon.shape), result[:, 1].reshape(lon.shape)


def _newton_step(nodes: Float, geo: GeoGrid, place: Float, aim: Float) -> Float:
    """Newton's step [p, 2] in pixels for places [p, 2] whose central coordinates should be `aim` [p, 2]."""
    i, u = _cells(geo.lines, place[:, 0])
    j, v = _cells(geo.samples, place[:, 1])
    u, v = u[:, None], v[:, None]
    a, b, c, d = nodes[i, j], nodes[i, j + 1], nodes[i + 1, j], nodes[i + 1, j + 1]
    value = (a * (1 - v) + b * v) * (1 - u) + (c * (1 - v) + d * v) * u
    by_line = ((c - a) * (1 - v) + (d - b) * v) / (geo.lines[i + 1] - geo.lines[i])[:, None]
    by_sample = ((b - a) * (1 - u) + (d - c) * u) / (geo.samples[j + 1] - geo.samples[j])[:, None]
    height = value[:, 2:]
    central = value[:, :2] / height
    d_line = (by_line[:, :2] - central * by_line[:, 2:]) / height
    d_sample = (by_sample[:, :2] - central * by_sample[:, 2:]) / height
    miss = central - aim
    det = d_line[:, 0] * d_sample[:, 1] - d_line[:, 1] * d_sample[:, 0]
    det = np.where(np.abs(det) < 1e-300, np.nan, det)
    return np.column_stack(
        [
            (miss[:, 0] * d_sample[:, 1] - miss[:, 1] * d_sample[:, 0]) / det,
            (miss[:, 1] * d_line[:, 0] - miss[:, 0] * d_line[:, 1]) / det,
        ]
    )
