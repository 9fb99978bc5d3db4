import shutil
import struct
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely
from charts_on_disk import SQUARES, write_chart

from arcticseg.errors import SceneError
from arcticseg.ice.vector import read_chart


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_chart(tmp_path / "a.shp")


def refused(path: Path, message: str | None = None) -> None:
    """A chart is refused in one line; the folder stays as it was."""
    before = {each: each.read_bytes() for each in sorted(path.parent.iterdir()) if each.is_file()}
    with pytest.raises(SceneError, match=message) as caught:
        read_chart(path)
    assert "\n" not in str(caught.value)
    assert {each: each.read_bytes() for each in sorted(path.parent.iterdir()) if each.is_file()} == before


def test_a_whole_chart_equals_what_gdal_reads(path: Path) -> None:
    chart = read_chart(path)
    _, _, blobs, _ = pyogrio.raw.read(path)
    assert all(mine.equals(other) for mine, other in zip(chart.polygons, shapely.from_wkb(blobs), strict=True))
    assert [row["CT"] for row in chart.codes] == ["10", "20", "30", "40", "50"]
    path.with_suffix(".shx").unlink()
    again = read_chart(path)
    assert [*map(shapely.to_wkb, again.polygons)] == [*map(shapely.to_wkb, chart.polygons)]
    assert again.codes == chart.codes
    assert len(again.repairs) == 1


def test_suffixes_in_capitals(path: Path, tmp_path: Path) -> None:
    for part in list(tmp_path.iterdir()):
        part.rename(part.with_suffix(part.suffix.upper()))
    assert len(read_chart(path.with_suffix(".SHP")).polygons) == 5


@pytest.mark.parametrize(
    ("suffix", "with_index"), [(".shp", True), (".shx", True), (".dbf", True), (".shp", False), (".dbf", False)]
)
def test_a_cut_file_is_damage(path: Path, suffix: str, with_index: bool) -> None:
    if not with_index:
        path.with_suffix(".shx").unlink()
    part = path.with_suffix(suffix)
    whole = part.read_bytes()
    # GDAL writes one byte behind the last row of a .dbf, which readers may do without.
    for length in {0, 3, 50, 99, 100, 104, len(whole) // 2, len(whole) - 100, len(whole) - 8, len(whole) - 2}:
        part.write_bytes(whole[:length])
        refused(path)
    part.write_bytes(whole)
    assert len(read_chart(path).polygons) == 5


def test_a_record_less_is_damage_though_the_headers_fit(path: Path) -> None:
    whole = path.read_bytes()
    index = np.frombuffer(path.with_suffix(".shx").read_bytes()[100:], ">i4").reshape(-1, 2)
    end = 2 * int(index[-1, 0])
    path.write_bytes(whole[:24] + struct.pack(">i", end // 2) + whole[28:end])
    refused(path, "4 records, its index .* 5")
    path.with_suffix(".shx").unlink()
    refused(path, r"4 records, its table \(\.dbf\) 5 rows")


def test_parts_that_do_not_belong_together(path: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    other = write_chart(tmp_path / "b" / "b.shp", SQUARES[:3])
    shutil.copy(other.with_suffix(".dbf"), path.with_suffix(".dbf"))
    refused(path, "5 records, its table .* 3 rows")
    path.with_suffix(".dbf").unlink()
    refused(path, r"table \(\.dbf\) .* missing")


@pytest.mark.parametrize(
    ("suffix", "at", "value"),
    [
        (".dbf", 4, struct.pack("<I", 10**9)),  # rows
        (".dbf", 8, struct.pack("<H", 65535)),  # bytes of the header
        (".dbf", 10, struct.pack("<H", 65535)),  # bytes of a row
        (".shx", 24, struct.pack(">i", 2**31 - 1)),
        (".shp", 24, struct.pack(">i", 2**31 - 1)),
        (".shp", 104, struct.pack(">i", 2**31 - 1)),  # length of a record
        (".shp", 104, struct.pack(">i", -1)),
        (".shp", 144, struct.pack("<i", 10**9)),  # parts
        (".shp", 148, struct.pack("<i", 10**9)),  # points
        (".shp", 148, struct.pack("<i", -5)),
        (".shp", 108, struct.pack("<i", 3)),  # a point among polygons
    ],
)
def test_numbers_that_the_file_does_not_hold(path: Path, suffix: str, at: int, value: bytes) -> None:
    part = path.with_suffix(suffix)
    data = bytearray(part.read_bytes())
    data[at : at + len(value)] = value
    part.write_bytes(data)
    refused(path)


def test_points_beyond_their_own_bounds(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[160 + 8 : 160 + 16] = struct.pack("<d", 10.0)
    path.write_bytes(data)
    refused(path, "record 1 does not hold what it says")


def test_text_that_nobody_needs_is_not_read(tmp_path: Path) -> None:
    path = write_chart(tmp_path / "a.shp", extra={"REGION": ["Gronland"] * 5, "Oyene": [1.5] * 5})
    table = path.with_suffix(".dbf")
    for name in (b"UTF-8", b"ISO-8859-1", b"CP1252", b"\xff\xfe", b"no such encoding"):
        path.with_suffix(".cpg").write_bytes(name)
        table.write_bytes(table.read_bytes().replace(b"Gronland", b"Gr\xf8\x81\xffand").replace(b"Oyene", b"\xd8yene"))
        assert [row["CT"] for row in read_chart(path).codes] == ["10", "20", "30", "40", "50"]


@pytest.mark.filterwarnings("ignore:Measured:UserWarning")
@pytest.mark.parametrize("kind", ["Polygon Z", "MultiPolygon Z"])
def test_heights_are_left_out(tmp_path: Path, kind: str) -> None:
    high = [shapely.force_3d(square, 7.0) for square in SQUARES]
    chart = read_chart(write_chart(tmp_path / "a.shp", high, geometry_type=kind))
    assert not any(polygon.has_z for polygon in chart.polygons)
    assert all(mine.equals(square) for mine, square in zip(chart.polygons, SQUARES, strict=True))


def test_features_without_polygon_are_told(tmp_path: Path) -> None:
    path = write_chart(tmp_path / "a.shp", [*SQUARES[:3], None])
    chart = read_chart(path)
    assert [row["CT"] for row in chart.codes] == ["10", "20", "30"]
    assert chart.repairs == ("feature 4: no geometry: left out",)
    assert chart.notes == ("1 of 4 features have no polygon and are left out",)
    assert len(read_chart(path, max_lost=25).polygons) == 3
    with pytest.raises(SceneError, match=r"1 of 4 features.*more than 24 %.*--max-lost"):
        read_chart(path, max_lost=24)


def test_lost_area_is_told_and_may_be_an_error(tmp_path: Path) -> None:
    large, small = [(0, 70), (4, 70), (4, 74), (0, 74), (0, 70)], [(1, 71), (3, 71), (3, 73), (1, 73), (1, 71)]
    path = write_chart(tmp_path / "a.gpkg", [shapely.Polygon([*large, *small])])
    chart = read_chart(path)
    # Two by two degrees at 72 north, of four by four.
    area = 2 * 111.6 * 2 * 111.3 * np.cos(np.radians(72))
    (note,) = chart.notes
    assert float(note.split(" km2")[0]) == pytest.approx(area, rel=0.01)
    assert "25 % of the chart" in note
    with pytest.raises(SceneError, match=r"25 % of the chart.*more than 10 %"):
        read_chart(path, max_lost=10)


def test_no_reference_system_and_no_polygons(tmp_path: Path) -> None:
    path = write_chart(tmp_path / "a.shp")
    path.with_suffix(".prj").unlink()
    refused(path, r"reference system.*\.prj")
    points = write_chart(tmp_path / "b.shp", [shapely.Point(0, 70)] * 2, geometry_type="Point")
    refused(points, "shapes of type 1, not polygons")
