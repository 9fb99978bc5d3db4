from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import shapely
from polygons import codes, local_grid, read_once

from arcticseg.ice.chart import parse_polygon_codes, polygon_classes
from arcticseg.ice.geo import GeoGrid, interpolate
from arcticseg.ice.outlines import to_lonlat
from arcticseg.ice.vector import VectorChart, has_ice_information, polygon_codes, resolve_ranges
from arcticseg.ice.vector_raster import rasterise


def compare_by_hand(
    chart: VectorChart, geo: GeoGrid, ids: np.ndarray, lat0: float, lon0: float, tolerance: float = 1.0
) -> None:
    """Compare every pixel centre with every polygon, in an equal-area plane that the code under test never uses.

    Pixels within `tolerance` metres (a fortieth of a pixel) of an edge may fall on either side.
    """
    plane = pyproj.Proj(proj="laea", lat_0=lat0, lon_0=lon0)
    latitude, longitude, _ = interpolate(geo, np.arange(ids.shape[0]), np.arange(ids.shape[1]))
    x, y = plane(longitude, latitude)
    expected, edges = np.full(ids.shape, np.nan), []
    for number, (polygon, row) in enumerate(zip(chart.polygons, chart.codes, strict=True), start=1):
        if has_ice_information(row):
            flat = shapely.transform(shapely.segmentize(polygon, 0.005), lambda x, y: plane(x, y), interleaved=False)
            edges.append(flat.boundary)
            flat = flat if flat.is_valid else shapely.make_valid(flat)
            shapely.prepare(flat)
            expected[shapely.contains_xy(flat, x, y)] = number
    differs = (ids != expected) & ~(np.isnan(ids) & np.isnan(expected))
    assert differs.mean() < 1e-3
    points = shapely.points(x[differs], y[differs])
    assert all(min(point.distance(edge) for edge in edges) < tolerance for point in points)


@pytest.mark.parametrize(("lat0", "lon0"), [(75.0, -60.0), (70.0, 179.95), (85.0, 20.0)])
def test_rasterise_equals_point_in_polygon(lat0: float, lon0: float) -> None:
    shape = (300, 260)
    geo = local_grid(lat0, lon0, 300)
    rng = np.random.default_rng(1)
    polygons = []
    for _ in range(12):
        angle = np.sort(rng.uniform(0, 2 * np.pi, 9))
        radius = rng.uniform(0.01, 0.05, 9)
        centre = rng.uniform(-0.05, 0.05, 2)
        stretch = 1 / np.cos(np.radians(lat0))
        lon = lon0 + stretch * (centre[0] + radius * np.cos(angle))
        polygons.append(
            shapely.make_valid(shapely.Polygon(np.column_stack([lon, lat0 + centre[1] + radius * np.sin(angle)])))
        )
    rows = [codes(CT="91")] * 10 + [codes(POLY_TYPE="L"), codes(POLY_TYPE="W")]
    chart = VectorChart("random", tuple(polygons), tuple(rows), ())
    ids = rasterise(chart, geo, shape)
    assert ids.dtype == np.float32
    assert 0.1 < np.isfinite(ids).mean() < 1
    assert 11 not in ids
    assert 12 in ids
    compare_by_hand(chart, geo, ids, lat0, lon0)


def test_rasterise_over_the_extent_of_a_full_size_scene() -> None:
    # Over 400 km the curvature of meridians and of the grid would show if edges were treated as straight.
    geo = local_grid(78.0, 5.0, 2000, spacing=200)
    chart = VectorChart("wide", (shapely.box(-1, 77, 11, 79),), (codes(CT="91"),), ())
    ids = rasterise(chart, geo, (2000, 2000))
    rng = np.random.default_rng(0)
    lines, samples = np.sort(rng.choice(2000, (2, 400), replace=False))
    latitude, longitude, _ = interpolate(geo, lines, samples)
    inside = (np.abs(latitude - 78) < 1) & (np.abs(longitude - 5) < 6)
    # 4 m around the edges, a tenth of a pixel of 40 m, are left open.
    clear = (
        np.minimum(
            np.abs(np.abs(latitude - 78) - 1) * 111e3,
            np.abs(np.abs(longitude - 5) - 6) * 111e3 * np.cos(np.radians(latitude)),
        )
        > 4
    )
    burned = np.isfinite(ids[np.ix_(lines, samples)])
    assert 0.2 < inside.mean() < 0.95
    np.testing.assert_array_equal(burned[clear], inside[clear])


def test_a_ring_around_the_pole_contains_it() -> None:
    geo = local_grid(90.0, 0.0, 200, spacing=4000)
    ring = np.column_stack([np.arange(-180, 180, 10.0), np.full(36, 87.0)])
    chart = VectorChart("cap", tuple(to_lonlat([shapely.Polygon(ring)], "EPSG:4326", "a")), (codes(CT="91"),), ())
    ids = rasterise(chart, geo, (200, 200))
    latitude, _, _ = interpolate(geo, np.arange(200), np.arange(200))
    clear = np.abs(latitude - 87) > 0.01
    np.testing.assert_array_equal(np.isfinite(ids)[clear], (latitude > 87)[clear])


def test_a_chart_elsewhere_leaves_nothing() -> None:
    chart = VectorChart("far", (shapely.box(100, -70, 110, -60),), (codes(CT="91"),), ())
    assert np.isnan(rasterise(chart, local_grid(75, -60, 50), (50, 50))).all()


def test_later_polygons_lie_on_top() -> None:
    chart = VectorChart("two", (shapely.box(-70, 70, -50, 80),) * 2, (codes(CT="91"), codes(CT="20")), ())
    assert (rasterise(chart, local_grid(75, -60, 50), (50, 50)) == 2).all()


def test_real_chart_on_a_grid(real_data: Path) -> None:
    chart = read_once(real_data / "charts/dmi/201308070805_NorthEast_RIC.shp")
    geo = local_grid(78.0, -19.3, 400)
    ids = rasterise(chart, geo, (400, 400))
    assert np.unique(ids[np.isfinite(ids)]).size > 1
    compare_by_hand(chart, geo, ids, 78.0, -19.3)


REAL_CHARTS = (
    "cis/cis_SGRDREA_20201102T.gpkg",
    "dmi/201304100920_CapeFarewell_RIC.shp",
    "dmi/201307222045_CapeFarewell_RIC.shp",
    "dmi/201308070805_NorthEast_RIC.shp",
    "dmi/201308132150_Qaanaaq_RIC.shp",
    "dmi/201308152045_CapeFarewell_RIC.shp",
    "dmi/201404250420_CapeFarewell2_RIC.shp",
    "dmi/201405011000_SouthWest_RIC.shp",
)


def pixel_areas(geo: GeoGrid, shape: tuple[int, int], plane: pyproj.Proj) -> tuple[np.ndarray, Any]:
    """Areas of the pixels in an equal-area plane, [H, W], and the outline of the image there."""
    edges = [np.arange(n + 1) - 0.5 for n in shape]
    latitude, longitude, _ = interpolate(geo, *edges)
    x, y = plane(longitude, latitude)
    # Half the cross product of a quadrangle's diagonals.
    down, up = (x[1:, 1:] - x[:-1, :-1], y[1:, 1:] - y[:-1, :-1]), (x[1:, :-1] - x[:-1, 1:], y[1:, :-1] - y[:-1, 1:])
    ring = [(0, slice(None)), (slice(None), -1), (-1, slice(None, None, -1)), (slice(None, None, -1), 0)]
    outline = np.concatenate([np.stack([x[side], y[side]], axis=-1) for side in ring])
    return 0.5 * np.abs(down[0] * up[1] - down[1] * up[0]), shapely.Polygon(outline)


@pytest.mark.parametrize("name", REAL_CHARTS, ids=lambda name: Path(name).stem)
def test_areas_of_real_charts(real_data: Path, name: str) -> None:
    """Class areas against those of the polygons, cut to the image in an equal-area plane, by pyproj and shapely."""
    chart, _ = resolve_ranges(read_once(real_data / "charts" / name), "mean")
    # A part of the chart, 160 km wide, where it has most concentrations.
    tree = shapely.STRtree(chart.polygons)

    def concentrations(point: shapely.Point) -> int:
        box = shapely.box(point.x - 1.2, point.y - 0.6, point.x + 1.2, point.y + 0.6)
        return len({chart.codes[i]["CT"] for i in tree.query(box, predicate="intersects")})

    centre = max((polygon.representative_point() for polygon in chart.polygons), key=concentrations)
    size = (500, 500)
    geo = local_grid(centre.y, centre.x, size[0], turn=0.3, spacing=320)
    ids = rasterise(chart, geo, size)
    table = parse_polygon_codes(polygon_codes(chart), name)
    classes = polygon_classes(table, source=name)
    row_of = np.full(len(chart.polygons) + 1, len(classes))
    row_of[table.ids] = np.arange(len(classes))
    labels = np.vstack([classes, [[255] * 3]])[row_of[np.nan_to_num(ids, nan=0).astype(int)]].transpose(2, 0, 1)

    plane = pyproj.Proj(proj="laea", lat_0=centre.y, lon_0=centre.x)
    areas, outline = pixel_areas(geo, size, plane)
    assert areas.mean() == pytest.approx(320**2, rel=1e-2)
    covered: Any = shapely.Polygon()
    expected: Counter[tuple[int, int]] = Counter()
    place = {int(number): i for i, number in enumerate(table.ids)}
    for number in reversed(range(1, len(chart.polygons) + 1)):  # later polygons lie on top
        if number not in place:
            continue
        flat = shapely.transform(
            shapely.segmentize(chart.polygons[number - 1], 0.02), lambda x, y: plane(x, y), interleaved=False
        )
        flat = shapely.intersection(flat if flat.is_valid else flat.buffer(0), outline)
        if flat.is_empty:
            continue
        new = shapely.difference(flat, covered)
        covered = shapely.union(covered, flat)
        for i in range(3):
            expected[i, int(classes[place[number], i])] += new.area
    large = 0
    for i in range(3):
        for value in np.unique(labels[i]):
            here = labels[i] == value
            # Pixels outside of the chart are masked, too, and in no polygon.
            if here.sum() > 1000 and value != 255:
                large += 1
                assert areas[here].sum() == pytest.approx(expected[i, int(value)], rel=0.01), (i, value)
    assert large >= 3
    assert areas[np.isfinite(ids)].sum() == pytest.approx(covered.area, rel=0.01)
