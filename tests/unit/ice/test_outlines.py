import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyogrio
import pyproj
import pytest
import shapely
from polygons import codes, local_grid, read_once

from arcticseg.errors import SceneError
from arcticseg.ice.geo import interpolate
from arcticseg.ice.outlines import area_km2, outline, to_lonlat
from arcticseg.ice.vector import VectorChart
from arcticseg.ice.vector_raster import rasterise

Inside = Callable[[np.ndarray, np.ndarray], np.ndarray]


def box(west: float, south: float, east: float, north: float) -> shapely.Polygon:
    """Four corners, as they are written."""
    return shapely.Polygon([(west, south), (east, south), (east, north), (west, north)])


def wrapped(polygon: shapely.Polygon) -> shapely.Polygon:
    """The polygon with longitudes of -180 to 180, as files have them."""
    return shapely.transform(polygon, lambda xy: np.column_stack([(xy[:, 0] + 180) % 360 - 180, xy[:, 1]]))


def around(latitude: float) -> shapely.Polygon:
    """A ring around the pole."""
    return shapely.Polygon(np.column_stack([np.arange(-180, 180, 5.0), np.full(72, latitude)]))


def over_the_date_line(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    return (lat > 70) & (lat < 76) & (np.abs(lon) > 175)


def beside_a_hole(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    return over_the_date_line(lat, lon) & ~((lat > 72) & (lat < 74) & (np.abs(lon) > 178))


# As written, in longitude and latitude; what it covers.
WIDE: dict[str, tuple[shapely.Geometry, Inside]] = {
    "cap": (box(-180, 60, 180, 90), lambda lat, lon: lat > 60),
    "southern cap": (box(-180, -90, 180, -60), lambda lat, lon: lat < -60),
    "world": (box(-180, -90, 180, 90), lambda lat, lon: lat > -91),
    "world from 0": (box(0, -90, 360, 90), lambda lat, lon: lat > -91),
    "belt": (box(-180, 70, 180, 80), lambda lat, lon: (lat > 70) & (lat < 80)),
    "wide": (box(-120, 60, 120, 80), lambda lat, lon: (lat > 60) & (lat < 80) & (np.abs(lon) < 120)),
    "wide to 300": (box(60, 60, 300, 80), lambda lat, lon: (lat > 60) & (lat < 80) & (np.abs(lon) > 60)),
    "cap with a hole": (
        box(-180, 60, 180, 90).difference(box(-30, 70, 30, 80)),
        lambda lat, lon: (lat > 60) & ~((lat > 70) & (lat < 80) & (np.abs(lon) < 30)),
    ),
    "over the date line": (wrapped(box(175, 70, 185, 76)), over_the_date_line),
    "over the date line, beyond 180": (box(175, 70, 185, 76), over_the_date_line),
    "over the date line, below -180": (box(-185, 70, -175, 76), over_the_date_line),
    "in two parts": (shapely.MultiPolygon([box(175, 70, 180, 76), box(-180, 70, -175, 76)]), over_the_date_line),
    "a hole over the date line": (
        wrapped(shapely.Polygon(box(175, 70, 185, 76).exterior, [box(178, 72, 182, 74).exterior])),
        beside_a_hole,
    ),
    "around the pole": (around(82.0), lambda lat, lon: lat > 82),
    "around the southern pole": (around(-82.0), lambda lat, lon: lat < -82),
    "a ring about a hole at the pole": (
        shapely.Polygon(around(80.0).exterior, [around(85.0).exterior]),
        lambda lat, lon: (lat > 80) & (lat < 85),
    ),
}  # fmt: skip
SCENES = [
    (75.0, -20.0),
    (74.0, 180.0),
    (73.0, -175.1),
    (89.0, 10.0),
    (81.9, 120.0),
    (60.1, -119.0),
    (-75.0, 100.0),
    (-88.0, 0.0),
]


@pytest.mark.parametrize("name", WIDE)
def test_polygons_cover_what_they_cover(name: str) -> None:
    geometry, inside = WIDE[name]
    seen = set()
    (polygon,) = to_lonlat([geometry], "EPSG:4326", "a.shp")
    for lat0, lon0 in SCENES:
        geo = local_grid(lat0, lon0, 60, spacing=6000)
        ids = rasterise(VectorChart("a", (polygon,), (codes(CT="91"),), ()), geo, (60, 60))
        latitude, longitude, _ = interpolate(geo, np.arange(60), np.arange(60))
        expected = inside(latitude, longitude)
        # Next to an edge (20 m) either is right.
        near = [
            inside(latitude + up, longitude + right) for up, right in [(2e-4, 0), (-2e-4, 0), (0, 2e-3), (0, -2e-3)]
        ]
        clear = np.all([each == expected for each in near], axis=0)
        np.testing.assert_array_equal(np.isfinite(ids)[clear], expected[clear], err_msg=f"{name} at {lat0}, {lon0}")
        seen |= set(np.unique(expected).tolist())
    assert True in seen


@pytest.mark.parametrize("name", WIDE)
def test_areas_of_wide_polygons(name: str) -> None:
    """Against sums over cells of half a degree, of a sphere: latitude makes up to 0.7 % of difference."""
    geometry, inside = WIDE[name]
    latitude, longitude = np.meshgrid(np.arange(-89.875, 90, 0.25), np.arange(-179.875, 180, 0.25), indexing="ij")
    cells = np.cos(np.radians(latitude)) * np.radians(0.25) ** 2 * 6371.007**2
    (area,) = area_km2(to_lonlat([geometry], "EPSG:4326", "a.shp"))
    assert area == pytest.approx(cells[inside(latitude, longitude)].sum(), rel=0.02)


@pytest.mark.parametrize("crs", ["EPSG:3413", "EPSG:3995", "EPSG:3575", "EPSG:6931"])
def test_projected_charts_around_the_pole(crs: str) -> None:
    pole = shapely.Point(0, 0)
    disc, ring = pole.buffer(9e5, 64), pole.buffer(9e5, 64).difference(pole.buffer(3e5, 64))
    across = shapely.box(-2e5, -8e5, 3e5, 5e5)
    to_plane = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    for whole in (disc, ring, across):
        (polygon,) = to_lonlat([whole], crs, "a.shp")
        for lat0, lon0 in [(90.0, 0.0), (88.0, 170.0), (86.0, -100.0), (82.5, 45.0)]:
            geo = local_grid(lat0, lon0, 100, spacing=4000)
            ids = rasterise(VectorChart("a", (polygon,), (codes(CT="91"),), ()), geo, (100, 100))
            latitude, longitude, _ = interpolate(geo, np.arange(100), np.arange(100))
            x, y = to_plane.transform(longitude, latitude)
            clear = shapely.distance(whole.boundary, shapely.points(x, y)) > 5
            # Within two kilometres of the pole an edge may turn.
            clear &= np.hypot(x, y) > 2000
            np.testing.assert_array_equal(np.isfinite(ids)[clear], shapely.contains_xy(whole, x, y)[clear])


def test_what_is_kept_of_collections_and_repairs() -> None:
    square, line = shapely.box(0, 70, 1, 71), shapely.LineString([(0, 0), (1, 1)])
    nested = shapely.GeometryCollection([line, shapely.GeometryCollection([square, shapely.MultiPolygon([square])])])
    kept = outline(nested)
    assert kept.polygon is not None
    assert kept.polygon.equals(square)
    assert "2 polygons are kept" in kept.note
    for nothing in (None, shapely.Polygon(), line, shapely.GeometryCollection([line]), shapely.GeometryCollection()):
        assert outline(nothing).polygon is None
        assert "left out" in outline(nothing).note
    assert "no numbers" in outline(shapely.Polygon([(0, 0), (1, np.nan), (1, 1)])).note
    # One ring runs around a large square, then the same way around a small one within: that one is in doubt.
    large, small = [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0)], [(1, 1), (3, 1), (3, 3), (1, 3), (1, 1)]
    doubtful = outline(shapely.Polygon([*large, *small]))
    assert doubtful.polygon is not None
    assert doubtful.doubt is not None
    assert doubtful.doubt.equals(shapely.box(1, 1, 3, 3))


def test_coordinates_that_fit_no_system() -> None:
    metres = [shapely.box(500_000, 7_000_000, 600_000, 7_100_000)]
    for crs, message in [
        ("EPSG:4326", "do not fit"),
        ("EPSG:999999", "cannot be used"),
        ("nonsense", "cannot be used"),
    ]:
        with pytest.raises(SceneError, match=rf"^a\.shp: .*{message}") as caught:
            to_lonlat(metres, crs, "a.shp")
        assert "\n" not in str(caught.value)


def with_index(path: Path, folder: Path) -> Path:
    """The chart, or a copy for which GDAL has made the missing index."""
    if path.suffix != ".shp" or path.with_suffix(".shx").exists():
        return path
    for part in path.parent.glob(f"{path.stem}.*"):
        shutil.copy(part, folder)
    pyogrio.set_gdal_config_options({"SHAPE_RESTORE_SHX": "YES"})
    pyogrio.read_info(folder / path.name)
    pyogrio.set_gdal_config_options({"SHAPE_RESTORE_SHX": None})
    return folder / path.name


def test_areas_of_real_polygons(real_data: Path, tmp_path: Path) -> None:
    """Against GDAL and shapely in an equal-area plane, within a hundredth of a per cent of the chart."""
    paths = [path for path in sorted((real_data / "charts").glob("*/*")) if path.suffix in (".shp", ".gpkg")]
    assert len(paths) == 8
    for path in paths:
        chart = read_once(path)
        meta, _, blobs, _ = pyogrio.raw.read(with_index(path, tmp_path), columns=[])
        turn = pyproj.Transformer.from_crs(meta["crs"], "EPSG:6931", always_xy=True).transform
        step = 1000 if pyproj.CRS(meta["crs"]).is_projected else 0.01
        flat = [
            shapely.make_valid(
                shapely.transform(shapely.segmentize(shapely.from_wkb(blob), step), turn, interleaved=False)
            )
            for blob in blobs
        ]
        expected = np.array([polygon.area / 1e6 for polygon in flat])
        assert np.abs(area_km2(chart.polygons) - expected).sum() < 1e-4 * expected.sum(), path.name
