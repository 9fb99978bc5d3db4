from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pyproj
import pytest
import shapely

from arcticseg.errors import SceneError
from arcticseg.ice.chart import parse_polygon_codes, polygon_classes
from arcticseg.ice.geo import GeoGrid, interpolate
from arcticseg.ice.sigrid import CODE_COLUMNS
from arcticseg.ice.vector import (
    VectorChart,
    has_ice_information,
    polygon_codes,
    rasterise,
    read_chart,
    resolve_ranges,
)

FIELDS = CODE_COLUMNS[1:]
SQUARE = shapely.box(-61, 74, -60, 75)
BOW_TIE = shapely.Polygon([(-60, 74), (-59, 75), (-59, 74), (-60, 75)])
LONLAT_PRJ = (
    'GEOGCS["GCS_WGS_1984",DATUM["D_WGS_1984",SPHEROID["WGS_1984",6378137.0,298.257223563]],'
    'PRIMEM["Greenwich",0.0],UNIT["Degree",0.0174532925199433]]'
)


def codes(**given: str) -> dict[str, str]:
    return dict.fromkeys(FIELDS, "-9") | {"POLY_TYPE": "I"} | given


def write(path: Path, geometries: list[Any], columns: dict[str, list[Any]], crs: str | None = "EPSG:4326") -> Path:
    values = [np.array(column, dtype=object) for column in columns.values()]
    pyogrio.raw.write(
        path,
        np.array([shapely.to_wkb(g) for g in geometries], dtype=object),
        values,
        np.array(list(columns), dtype=object),
        geometry_type="Polygon",
        crs=crs,
    )
    return path


def table(*rows: dict[str, str | None]) -> dict[str, list[Any]]:
    return {field: [row[field] for row in rows] for field in FIELDS}


def local_grid(lat0: float, lon0: float, pixels: int, turn: float = 0.5, spacing: float = 40) -> GeoGrid:
    plane = pyproj.Proj(proj="stere", lat_0=lat0, lon_0=lon0)
    at = np.linspace(0, pixels - 1, 21)
    lines, samples = np.meshgrid(at, at, indexing="ij")
    down, across = (lines - pixels / 2) * spacing, (samples - pixels / 2) * spacing
    lon, lat = plane(
        np.cos(turn) * down - np.sin(turn) * across, np.sin(turn) * down + np.cos(turn) * across, inverse=True
    )
    return GeoGrid(at, at, lat, lon, np.full_like(lat, np.nan))


def test_reads_codes_as_written(tmp_path: Path) -> None:
    rows = [codes(CT="02", SA="93"), codes(CT="46", CF="08-9"), dict.fromkeys(FIELDS) | {"POLY_TYPE": "L"}]
    chart = read_chart(write(tmp_path / "a.gpkg", [SQUARE] * 3, table(*rows)))
    assert chart.name == "a"
    assert chart.repairs == ()
    assert chart.codes[0] == codes(CT="02", SA="93")
    assert chart.codes[1] == codes(CT="46", CF="08-9")
    assert chart.codes[2] == codes(POLY_TYPE="L")
    assert polygon_codes(chart) == [
        "poly_id;CT;CA;SA;FA;CB;SB;FB;CC;SC;FC;CN;CD;CF;POLY_TYPE",
        "1;02;-9;93;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;I",
        "2;46;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;08-9;I",
    ]


def test_numbers_blanks_and_lower_case_columns(tmp_path: Path) -> None:
    raw = table(codes(CT=" 91 "), codes(CA=""))
    path = tmp_path / "a.gpkg"
    values = [np.array(column, dtype=object) for name, column in raw.items() if name not in ("SA", "CN")]
    names = [name.lower() for name in raw if name not in ("SA", "CN")]
    pyogrio.raw.write(
        path,
        np.array([shapely.to_wkb(SQUARE)] * 2, dtype=object),
        [*values, np.array([93.0, np.nan])],
        np.array([*names, "sa"], dtype=object),
        geometry_type="Polygon",
        crs="EPSG:4326",
    )
    assert read_chart(path).codes == (codes(CT="91", SA="93"), codes())


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (codes(CT="91"), True),
        (codes(SA="93"), True),
        (codes(), False),
        (codes(POLY_TYPE="W"), True),
        (codes(POLY_TYPE="L"), False),
        (codes(POLY_TYPE="S", CT="92"), False),
    ],
)
def test_what_is_chart(row: dict[str, str], expected: bool) -> None:
    assert has_ice_information(row) is expected


def test_projected_charts_come_to_lonlat(tmp_path: Path) -> None:
    crs = "EPSG:3413"
    there = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    x, y = there.transform([-61, -60, -60, -61], [74, 74, 75, 75])
    chart = read_chart(
        write(tmp_path / "a.gpkg", [shapely.Polygon(zip(x, y, strict=True))], table(codes(CT="91")), crs)
    )
    (polygon,) = chart.polygons
    corners = shapely.get_coordinates(polygon)
    for lon, lat in [(-61, 74), (-60, 74), (-60, 75), (-61, 75)]:
        assert np.hypot(*(corners - (lon, lat)).T).min() < 1e-9
    # An edge that is straight in the chart's system is not so in longitude and latitude; its middle must be kept.
    back = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    middle = back.transform((x[0] + x[1]) / 2, (y[0] + y[1]) / 2)
    assert polygon.exterior.distance(shapely.Point(middle)) < 1e-5


def test_invalid_polygons_are_repaired_and_reported(tmp_path: Path) -> None:
    line = shapely.LineString([(-60, 74), (-59, 75)])
    path = tmp_path / "a.gpkg"
    pyogrio.raw.write(
        path,
        np.array([shapely.to_wkb(g) for g in (SQUARE, BOW_TIE, line)] + [None], dtype=object),
        [np.array(column, dtype=object) for column in table(*[codes(CT=f"{i}0") for i in range(1, 5)]).values()],
        np.array(FIELDS, dtype=object),
        geometry_type="Unknown",
        crs="EPSG:4326",
    )
    chart = read_chart(path)
    assert [row["CT"] for row in chart.codes] == ["10", "20"]
    assert all(p.is_valid and p.geom_type in ("Polygon", "MultiPolygon") for p in chart.polygons)
    assert chart.polygons[1].area == pytest.approx(0.5)  # two triangles of a quarter square degree
    assert [text.split(":")[0] for text in chart.repairs] == ["feature 2", "feature 3", "feature 4"]
    assert "Self-intersection" in chart.repairs[0]
    assert "LineString" in chart.repairs[1]


def test_missing_index_is_restored_elsewhere(tmp_path: Path) -> None:
    path = write(tmp_path / "a.shp", [SQUARE], table(codes(CT="91")))
    (tmp_path / "a.shx").unlink()
    before = sorted(p.name for p in tmp_path.iterdir())
    chart = read_chart(path)
    assert chart.codes[0]["CT"] == "91"
    assert chart.polygons[0].equals(SQUARE)
    assert len(chart.repairs) == 1
    assert ".shx" in chart.repairs[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    # The setting that lets GDAL write indices must not outlive the call.
    with pytest.raises(pyogrio.errors.DataSourceError):
        pyogrio.read_info(path)


@pytest.mark.filterwarnings("ignore:.crs. was not provided")
def test_files_that_are_no_charts(tmp_path: Path) -> None:
    no_codes = write(tmp_path / "b.gpkg", [SQUARE], {"E_CT": ["9+"], "area": ["1"]})
    no_crs = write(tmp_path / "c.shp", [SQUARE], table(codes(CT="91")), crs=None)
    text = tmp_path / "d.gpkg"
    text.write_text("no database")
    broken = tmp_path / "e.shp"
    broken.write_bytes(b"\0" * 50)
    for path, message in [
        (tmp_path / "none.shp", "no such chart"),
        (no_codes, "no SIGRID-3 columns CT, CA.*E_CT, area"),
        (no_crs, "no coordinate reference system.*prj"),
        (text, "not a readable vector file"),
        (broken, "not a readable"),
    ]:
        with pytest.raises(SceneError, match=message) as caught:
            read_chart(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def compare_by_hand(
    chart: VectorChart, geo: GeoGrid, ids: np.ndarray, lat0: float, lon0: float, tolerance: float = 1.0
) -> None:
    """Test every pixel centre against every polygon, in an equal-area plane that the code under test never uses.

    Pixels within `tolerance` metres (a fortieth of a pixel) of an edge may fall on either side.
    """
    plane = pyproj.Proj(proj="laea", lat_0=lat0, lon_0=lon0)
    latitude, longitude, _ = interpolate(geo, np.arange(ids.shape[0]), np.arange(ids.shape[1]))
    x, y = plane(longitude, latitude)
    expected, edges = np.full(ids.shape, np.nan), []
    for number, (polygon, row) in enumerate(zip(chart.polygons, chart.codes, strict=True), start=1):
        if has_ice_information(row):
            there = shapely.transform(shapely.segmentize(polygon, 0.005), lambda x, y: plane(x, y), interleaved=False)
            edges.append(there.boundary)
            there = there if there.is_valid else shapely.make_valid(there)
            shapely.prepare(there)
            expected[shapely.contains_xy(there, x, y)] = number
    other = (ids != expected) & ~(np.isnan(ids) & np.isnan(expected))
    assert other.mean() < 1e-3
    points = shapely.points(x[other], y[other])
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


def test_rasterise_on_a_full_size_scene() -> None:
    # 400 km: here the curvature of meridians and of the grid shows, if edges were treated as straight.
    geo = local_grid(78.0, 5.0, 10_000)
    chart = VectorChart("wide", (shapely.box(-1, 77, 11, 79),), (codes(CT="91"),), ())
    ids = rasterise(chart, geo, (10_000, 10_000))
    rng = np.random.default_rng(0)
    lines, samples = np.sort(rng.choice(10_000, (2, 400), replace=False))
    latitude, longitude, _ = interpolate(geo, lines, samples)
    inside = (np.abs(latitude - 78) < 1) & (np.abs(longitude - 5) < 6)
    # A tenth of a pixel (4 m) around the edges is left open.
    clear = (
        np.minimum(
            np.abs(np.abs(latitude - 78) - 1) * 111e3,
            np.abs(np.abs(longitude - 5) - 6) * 111e3 * np.cos(np.radians(latitude)),
        )
        > 4
    )
    got = np.isfinite(ids[np.ix_(lines, samples)])
    assert 0.2 < inside.mean() < 0.95
    np.testing.assert_array_equal(got[clear], inside[clear])


def test_a_ring_around_the_pole_holds_it() -> None:
    geo = local_grid(90.0, 0.0, 200, spacing=4000)
    ring = np.column_stack([np.arange(-180, 180, 10.0), np.full(36, 87.0)])
    chart = VectorChart("cap", (shapely.Polygon(ring),), (codes(CT="91"),), ())
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


# Every range that two different tenths make, and those to ten tenths: written out, low end, high end, middle as a code.
RANGES = """
12 1 2 20  13 1 3 20  14 1 4 30  15 1 5 30  16 1 6 40  17 1 7 40  18 1 8 50  19 1 9 50
23 2 3 30  24 2 4 30  25 2 5 40  26 2 6 40  27 2 7 50  28 2 8 50  29 2 9 60  21 2 10 60
34 3 4 40  35 3 5 40  36 3 6 50  37 3 7 50  38 3 8 60  39 3 9 60  31 3 10 70
45 4 5 50  46 4 6 50  47 4 7 60  48 4 8 60  49 4 9 70  41 4 10 70
56 5 6 60  57 5 7 60  58 5 8 70  59 5 9 70  51 5 10 80
67 6 7 70  68 6 8 70  69 6 9 80  61 6 10 80
78 7 8 80  79 7 9 80  71 7 10 90
89 8 9 90  81 8 10 90
"""


def test_ranges_of_total_concentration() -> None:
    numbers = RANGES.split()
    expected = {numbers[i]: numbers[i + 1 : i + 4] for i in range(0, len(numbers), 4)}
    written = [str(code) for code in range(100)] + ["-9", "9-", "02", "x"]
    chart = VectorChart("a", (SQUARE,) * len(written), tuple(codes(CT=text, CA=text) for text in written), ())
    resolved, notes = resolve_ranges(chart, "mean")
    for text, row in zip(written, resolved.codes, strict=True):
        assert row["CT"] == (expected[text][2] if text in expected else text)
        assert row["CA"] == text  # partial concentrations are no ranges here
    assert len(notes) == len(expected) == 43
    assert "CT 46, 4/10 to 6/10, in 1 polygons: taken as 50" in notes
    assert "CT 81, 8/10 to 10/10, in 1 polygons: taken as 90" in notes
    kept, notes = resolve_ranges(chart, "mask")
    assert kept == chart
    assert "CT 46, 4/10 to 6/10, in 1 polygons: masked" in notes
    with pytest.raises(ValueError, match="mean"):
        resolve_ranges(chart, "middle")


def test_real_charts(real_data: Path) -> None:
    cis = read_chart(real_data / "charts/cis/cis_SGRDREA_20201102T.gpkg")
    assert len(cis.polygons) == 432
    assert cis.repairs == ()
    assert len(polygon_codes(cis)) - 1 == 297  # 432 less 128 of land and 7 of ice shelf
    assert Counter(row["CT"] for row in cis.codes)["92"] == 185

    charts = {path.stem: read_chart(path) for path in sorted((real_data / "charts/dmi").glob("*.shp"))}
    assert len(charts) == 7
    repairs = [text for chart in charts.values() for text in chart.repairs]
    assert sum("invalid" in text for text in repairs) == 4
    assert sum(".shx" in text for text in repairs) == 1
    assert {row["CA"] for chart in charts.values() for row in chart.codes} == {"-9"}
    assert {"12", "46", "79"} <= {row["CT"] for chart in charts.values() for row in chart.codes}
    assert all(p.is_valid for chart in [cis, *charts.values()] for p in chart.polygons)


def test_real_chart_on_a_grid(real_data: Path) -> None:
    chart = read_chart(real_data / "charts/dmi/201308070805_NorthEast_RIC.shp")
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
    chart, _ = resolve_ranges(read_chart(real_data / "charts" / name), "mean")
    # A part of the chart, 160 km wide, where it shows most concentrations.
    tree = shapely.STRtree(chart.polygons)

    def shown(point: shapely.Point) -> int:
        box = shapely.box(point.x - 1.2, point.y - 0.6, point.x + 1.2, point.y + 0.6)
        return len({chart.codes[i]["CT"] for i in tree.query(box, predicate="intersects")})

    centre = max((polygon.representative_point() for polygon in chart.polygons), key=shown)
    size = (1000, 1000)
    geo = local_grid(centre.y, centre.x, size[0], turn=0.3, spacing=160)
    ids = rasterise(chart, geo, size)
    table = parse_polygon_codes(polygon_codes(chart), name)
    classes = polygon_classes(table, source=name)
    row_of = np.full(len(chart.polygons) + 1, len(classes))
    row_of[table.ids] = np.arange(len(classes))
    labels = np.vstack([classes, [[255] * 3]])[row_of[np.nan_to_num(ids, nan=0).astype(int)]].transpose(2, 0, 1)

    plane = pyproj.Proj(proj="laea", lat_0=centre.y, lon_0=centre.x)
    areas, outline = pixel_areas(geo, size, plane)
    assert areas.mean() == pytest.approx(160**2, rel=1e-2)
    covered: Any = shapely.Polygon()
    expected: Counter[tuple[int, int]] = Counter()
    place = {int(number): i for i, number in enumerate(table.ids)}
    for number in reversed(range(1, len(chart.polygons) + 1)):  # later polygons lie on top
        if number not in place:
            continue
        there = shapely.transform(
            shapely.segmentize(chart.polygons[number - 1], 0.02), lambda x, y: plane(x, y), interleaved=False
        )
        there = shapely.intersection(there if there.is_valid else there.buffer(0), outline)
        if there.is_empty:
            continue
        new = shapely.difference(there, covered)
        covered = shapely.union(covered, there)
        for i in range(3):
            expected[i, int(classes[place[number], i])] += new.area
    large = 0
    for i in range(3):
        for value in np.unique(labels[i]):
            here = labels[i] == value
            # Masked pixels are also those outside of the chart, which no polygon tells.
            if here.sum() > 1000 and value != 255:
                large += 1
                assert areas[here].sum() == pytest.approx(expected[i, int(value)], rel=0.01), (i, value)
    assert large >= 3
    assert areas[np.isfinite(ids)].sum() == pytest.approx(covered.area, rel=0.01)
