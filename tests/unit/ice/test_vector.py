from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pyproj
import pytest
import shapely
from polygons import FIELDS, codes, read_once

from arcticseg.errors import SceneError
from arcticseg.ice.vector import VectorChart, has_ice_information, polygon_codes, read_chart, resolve_ranges

SQUARE = shapely.box(-61, 74, -60, 75)
BOW_TIE = shapely.Polygon([(-60, 74), (-59, 75), (-59, 74), (-60, 75)])


def write(path: Path, geometries: list[Any], columns: dict[str, list[Any]], crs: str | None = "EPSG:4326") -> Path:
    """A vector file of polygons with their columns."""
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
    """Rows of codes as columns."""
    return {field: [row[field] for row in rows] for field in FIELDS}


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
    columns = table(codes(CT=" 91 "), codes(CA=""))
    path = tmp_path / "a.gpkg"
    values = [np.array(column, dtype=object) for name, column in columns.items() if name not in ("SA", "CN")]
    names = [name.lower() for name in columns if name not in ("SA", "CN")]
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
def test_which_polygons_hold_ice_information(row: dict[str, str], expected: bool) -> None:
    assert has_ice_information(row) is expected


def test_projected_charts_come_to_lonlat(tmp_path: Path) -> None:
    crs = "EPSG:3413"
    to_plane = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    x, y = to_plane.transform([-61, -60, -60, -61], [74, 74, 75, 75])
    chart = read_chart(
        write(tmp_path / "a.gpkg", [shapely.Polygon(zip(x, y, strict=True))], table(codes(CT="91")), crs)
    )
    (polygon,) = chart.polygons
    corners = shapely.get_coordinates(polygon)
    for lon, lat in [(-61, 74), (-60, 74), (-60, 75), (-61, 75)]:
        assert np.hypot(*(corners - (lon, lat)).T).min() < 1e-9
    # An edge that is straight in the chart's system is not straight in longitude and latitude; its middle must be kept.
    to_lonlat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    middle = to_lonlat.transform((x[0] + x[1]) / 2, (y[0] + y[1]) / 2)
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
    before = sorted(path.name for path in tmp_path.iterdir())
    chart = read_chart(path)
    assert chart.codes[0]["CT"] == "91"
    assert chart.polygons[0].equals(SQUARE)
    assert len(chart.repairs) == 1
    assert ".shx" in chart.repairs[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    # The setting that lets GDAL write indices must not outlive the call.
    with pytest.raises(pyogrio.errors.DataSourceError):
        pyogrio.read_info(path)


@pytest.mark.filterwarnings("ignore:.crs. was not provided")
def test_files_that_are_not_charts(tmp_path: Path) -> None:
    no_codes = write(tmp_path / "b.gpkg", [SQUARE], {"E_CT": ["9+"], "area": ["1"]})
    no_crs = write(tmp_path / "c.shp", [SQUARE], table(codes(CT="91")), crs=None)
    text = tmp_path / "d.gpkg"
    text.write_text("not a database")
    broken = tmp_path / "e.shp"
    broken.write_bytes(b"\0" * 50)
    for path, message in [
        (tmp_path / "none.shp", "no such chart"),
        (no_codes, "CT, CA.*E_CT, area"),
        (no_crs, r"reference system.*\.prj"),
        (text, "vector file"),
        (broken, "shapefile"),
    ]:
        with pytest.raises(SceneError, match=f"^{path}: .*{message}") as caught:
            read_chart(path)
        assert "\n" not in str(caught.value)


# Every range of two different tenths, and those to ten tenths: as written, low end, high end, middle as a code.
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
        assert row["CA"] == text  # partial concentrations are not taken for ranges
    assert len(notes) == len(expected) == 43
    assert "CT 46, 4/10 to 6/10, in 1 polygons: taken as 50" in notes
    assert "CT 81, 8/10 to 10/10, in 1 polygons: taken as 90" in notes
    kept, notes = resolve_ranges(chart, "mask")
    assert kept == chart
    assert "CT 46, 4/10 to 6/10, in 1 polygons: masked" in notes
    with pytest.raises(ValueError, match="'middle'"):
        resolve_ranges(chart, "middle")


def test_real_charts(real_data: Path) -> None:
    cis = read_once(real_data / "charts/cis/cis_SGRDREA_20201102T.gpkg")
    assert len(cis.polygons) == 432
    assert cis.repairs == ()
    assert len(polygon_codes(cis)) - 1 == 297  # 432 less 128 of land and 7 of ice shelf
    assert Counter(row["CT"] for row in cis.codes)["92"] == 185

    charts = [read_once(path) for path in sorted((real_data / "charts/dmi").glob("*.shp"))]
    assert len(charts) == 7
    repairs = [text for chart in charts for text in chart.repairs]
    assert sum("invalid" in text for text in repairs) == 4
    assert sum(".shx" in text for text in repairs) == 1
    assert {row["CA"] for chart in charts for row in chart.codes} == {"-9"}
    assert {"12", "46", "79"} <= {row["CT"] for chart in charts for row in chart.codes}
    assert all(polygon.is_valid for chart in [cis, *charts] for polygon in chart.polygons)
