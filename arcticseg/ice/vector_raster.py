"""Vector charts as rasters of polygon ids on a scene's pixels.

No rule here depends on where longitudes wrap: polygons may cross the date line, contain the pole or go around the
Earth.
"""

from __future__ import annotations

import numpy as np
import rasterio.features
import rasterio.transform
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from arcticseg.ice.geo import EARTH_RADIUS, Frame, GeoGrid, interpolate, pixel_of, positions, unit_vectors
from arcticseg.ice.outlines import EDGE_METRES, copies, transform
from arcticseg.ice.vector import VectorChart, has_ice_information

# Edges are straight in longitude and latitude; in pieces of this length they keep their course in another plane.
_EDGE_DEGREES = 0.02
# Pixels by which polygons are cut beyond the image, so that the edges of the cut burn nothing.
_MARGIN_PIXELS = 20.0
# Degrees by which the window of longitude and latitude reaches beyond that.
_MARGIN_DEGREES = 0.05

_ALL = (-180.0, 180.0)


def rasterise(chart: VectorChart, geo: GeoGrid, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Polygon ids on a scene's pixels: float32 [H, W], NaN where there is no chart.

    A pixel belongs to the polygon that contains its centre; of overlapping polygons the later counts. Positions between
    grid points are those of `geo.interpolate`; edges are wrong by well under a tenth of a pixel of 40 m.

    Raises:
        SceneError: the geolocation covers half the Earth or more.
    """
    frame = Frame(unit_vectors(geo.latitude, geo.longitude))
    outline = _outline(frame, geo, shape)
    window = _window(outline, frame)
    shapes: list[tuple[BaseGeometry, int]] = []
    for number, (polygon, codes) in enumerate(zip(chart.polygons, chart.codes, strict=True), start=1):
        if not has_ice_information(codes):
            continue
        for piece in _near(polygon, window):
            inside = _cut(_in_plane(piece, frame), outline)
            shapes += [(_in_pixels(part, frame, geo), number) for part in inside]
    if not shapes:
        return np.full(shape, np.nan, dtype=np.float32)
    burned = rasterio.features.rasterize(
        shapes, out_shape=shape, fill=np.nan, transform=rasterio.transform.Affine.identity(), dtype="float32"
    )
    return np.asarray(burned, dtype=np.float32)


def _outline(frame: Frame, geo: GeoGrid, shape: tuple[int, int]) -> BaseGeometry:
    """Convex outline of the image with a margin, in the plane of `frame`."""
    lines = np.linspace(-_MARGIN_PIXELS, shape[0] + _MARGIN_PIXELS, 41)
    samples = np.linspace(-_MARGIN_PIXELS, shape[1] + _MARGIN_PIXELS, 41)
    latitude, longitude, _ = interpolate(geo, lines, samples)
    points = frame.stereographic(unit_vectors(latitude, longitude)).reshape(-1, 2)
    outline = shapely.convex_hull(shapely.multipoints(points))
    shapely.prepare(outline)
    return outline


def _window(outline: BaseGeometry, frame: Frame) -> BaseGeometry:
    """A box of longitude and latitude around the outline; all longitudes where it holds a pole."""
    edge = shapely.get_coordinates(shapely.segmentize(outline, EDGE_METRES * 10 / EARTH_RADIUS))
    latitude, longitude = positions(frame.unstereographic(edge))
    longitude = np.unwrap(longitude, period=360)
    south, north = latitude.min() - _MARGIN_DEGREES, latitude.max() + _MARGIN_DEGREES
    margin = _MARGIN_DEGREES / max(np.cos(np.radians(min(np.abs(latitude).max(), 89.9))), 1e-3)
    west, east = longitude.min() - margin, longitude.max() + margin
    for pole in (-90.0, 90.0):
        if outline.intersects(shapely.Point(frame.stereographic(unit_vectors(pole, 0.0)))):
            south, north, (west, east) = min(south, pole), max(north, pole), _ALL
    if east - west > 180:
        west, east = _ALL
    return shapely.box(west, max(south, -90.0), east, min(north, 90.0))


def _near(polygon: BaseGeometry, window: BaseGeometry) -> list[BaseGeometry]:
    """What of a polygon, moved by whole turns, lies in the window: small pieces on one side of the Earth."""
    west, south, east, north = window.bounds
    if polygon.bounds[3] < south or polygon.bounds[1] > north:
        return []
    pieces = []
    for copy in copies(polygon, west, east):
        inside = copy if shapely.box(*copy.bounds).within(window) else shapely.intersection(copy, window)
        pieces += [part for part in shapely.get_parts(inside) if part.geom_type == "Polygon" and not part.is_empty]
    return pieces


def _in_plane(polygon: BaseGeometry, frame: Frame) -> BaseGeometry:
    """A longitude-latitude polygon in the plane of `frame`, edges cut into pieces so that they keep their course."""

    def turn(lonlat: NDArray[np.float64]) -> NDArray[np.float64]:
        return frame.stereographic(unit_vectors(lonlat[:, 1], lonlat[:, 0]))

    whole = transform(shapely.segmentize(polygon, _EDGE_DEGREES), turn)
    return whole if whole.is_valid else shapely.make_valid(whole, method="structure", keep_collapsed=False)


def _cut(polygon: BaseGeometry, outline: BaseGeometry) -> list[BaseGeometry]:
    """The parts of a polygon inside the outline."""
    if not outline.intersects(polygon):
        return []
    inside = polygon if outline.covers(polygon) else shapely.intersection(polygon, outline)
    return [part for part in shapely.get_parts(inside) if part.geom_type == "Polygon" and not part.is_empty]


def _in_pixels(polygon: BaseGeometry, frame: Frame, geo: GeoGrid) -> BaseGeometry:
    """A polygon of the plane in corner-based pixel coordinates (x = sample + 0.5, y = line + 0.5)."""

    def turn(plane: NDArray[np.float64]) -> NDArray[np.float64]:
        latitude, longitude = positions(frame.unstereographic(plane))
        line, sample = pixel_of(geo, longitude, latitude)
        return np.column_stack([sample + 0.5, line + 0.5])

    return transform(shapely.segmentize(polygon, EDGE_METRES / EARTH_RADIUS), turn)
