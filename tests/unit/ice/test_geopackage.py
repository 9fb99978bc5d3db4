import http.server
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely
from charts_on_disk import SQUARES, write_chart

from arcticseg.errors import SceneError
from arcticseg.ice.vector import read_chart
from launchers.cli import main


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_chart(tmp_path / "a.gpkg")


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """The address of a server, and what it is asked for."""
    paths: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", paths
    server.shutdown()


def refused(path: Path, message: str | None = None) -> None:
    with pytest.raises(SceneError, match=message) as caught:
        read_chart(path)
    assert "\n" not in str(caught.value)


def execute(path: Path, *statements: str) -> None:
    """Change a file; its triggers call functions that only GDAL has, so they go first."""
    with sqlite3.connect(path) as file:
        for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            file.execute(f'DROP TRIGGER "{name}"')
        for statement in statements:
            file.execute(statement)
    file.close()


def test_a_whole_chart_equals_what_gdal_reads(path: Path) -> None:
    chart = read_chart(path)
    _, _, blobs, _ = pyogrio.raw.read(path)
    assert all(mine.equals(other) for mine, other in zip(chart.polygons, shapely.from_wkb(blobs), strict=True))
    assert [row["CT"] for row in chart.codes] == ["10", "20", "30", "40", "50"]
    assert chart.notes == chart.repairs == ()


@pytest.mark.parametrize("crs", ["EPSG:3413", "EPSG:4269", "+proj=laea +lat_0=75 +lon_0=-40 +datum=WGS84"])
def test_reference_systems(tmp_path: Path, crs: str) -> None:
    flat = [shapely.box(-60 + x, 70, -59 + x, 71) for x in range(2)]
    if crs != "EPSG:4269":
        flat = [shapely.box(x * 1e4, -1e5, x * 1e4 + 1e4, -9e4) for x in range(2)]
    as_package, as_shapefile = (read_chart(write_chart(tmp_path / name, flat, crs=crs)) for name in ("a.gpkg", "a.shp"))
    for one, other in zip(as_package.polygons, as_shapefile.polygons, strict=True):
        assert shapely.hausdorff_distance(one, other) < 1e-9


def test_layers_are_named_and_chosen(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_chart(path, SQUARES[:2], layer="second", append=True)
    pyogrio.raw.write(
        path, np.array([shapely.to_wkb(SQUARES[0])], object), [np.array(["x"], object)], np.array(["NOTE"], object),
        geometry_type="Polygon", crs="EPSG:4326", layer="third", append=True,
    )  # fmt: skip
    first, second = read_chart(path), read_chart(path, "second")
    assert len(first.polygons) == 5
    assert len(second.polygons) == 2
    assert first.notes == ("layer a is used, of a, second, third; --layer chooses another",)
    with pytest.raises(SceneError, match="no layer 'fourth'; its layers are a, second, third"):
        read_chart(path, "fourth")
    with pytest.raises(SceneError, match="among fid, geom, NOTE"):
        read_chart(path, "third")
    command = ["chart", "none.tif", str(path), "--out", "x", "--layer", "fourth"]
    assert main(command) == 2
    assert "no layer 'fourth'" in capsys.readouterr().err


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_file_is_damage(path: Path, share: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path)


def test_a_file_that_is_being_written(path: Path) -> None:
    for suffix in ("-wal", "-journal"):
        log = path.with_name(path.name + suffix)
        log.write_bytes(b"x")
        refused(path, f"{log.name}.*close the program")
        log.unlink()
    assert len(read_chart(path).polygons) == 5


def test_code_in_a_file_is_not_run(path: Path) -> None:
    asks = "SELECT fid, geom, ogr_geocode('x') AS CT FROM a"
    execute(path, f"CREATE VIEW v AS {asks}", "UPDATE gpkg_geometry_columns SET table_name = 'v'",
            "UPDATE gpkg_contents SET table_name = 'v'")  # fmt: skip
    refused(path, "among none")


def test_virtual_tables_and_computed_columns_are_no_codes(path: Path) -> None:
    execute(path, "ALTER TABLE a ADD COLUMN ICECODE TEXT AS ('CT' || fid)")
    assert len(read_chart(path).polygons) == 5
    execute(path, "ALTER TABLE a ADD COLUMN large TEXT AS (hex(zeroblob(1000000000)))")
    refused(path, "too big")
    execute(path, "CREATE VIRTUAL TABLE w USING rtree(CT, minx, maxx)",
            "UPDATE gpkg_geometry_columns SET table_name = 'w'")  # fmt: skip
    refused(path, "among none")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DROP TABLE gpkg_geometry_columns", "gpkg_geometry_columns"),
        ("UPDATE gpkg_geometry_columns SET column_name = 'nowhere'", "nowhere"),
        ("UPDATE gpkg_geometry_columns SET srs_id = 12345", "reference system"),
        ("UPDATE a SET geom = x'00' WHERE fid = 2", "feature 2 is damaged"),
        ("UPDATE a SET geom = x'4750000100000000ffff' WHERE fid = 3", "feature 3 is damaged"),
        ("UPDATE a SET geom = 'text' WHERE fid = 1", "feature 1 is damaged"),
    ],
)
def test_what_does_not_hold_together(path: Path, statement: str, message: str) -> None:
    execute(path, statement)
    refused(path, message)


def test_curves_are_refused_with_a_remedy(path: Path) -> None:
    circle = bytes.fromhex("010a00000001000000010800000003000000") + np.array([0, 70, 1, 71, 0, 70.0]).tobytes()
    blob = (b"GP\0\1" + (4326).to_bytes(4, "little") + circle).hex()
    execute(path, f"UPDATE a SET geom = x'{blob}' WHERE fid = 2")
    refused(path, "feature 2 has curves.*ogr2ogr")


def test_text_of_any_encoding(path: Path) -> None:
    execute(path, "ALTER TABLE a ADD COLUMN REGION TEXT", "UPDATE a SET REGION = CAST(x'47F8FF81' AS TEXT)")
    assert len(read_chart(path).polygons) == 5


VRT = """<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource>{}</SrcDataSource><SrcLayer>a</SrcLayer></OGRVRTLayer>
</OGRVRTDataSource>"""
WFS = "<OGRWFSDataSource><URL>{}/wfs</URL></OGRWFSDataSource>"
JSON = '{{"type": "FeatureCollection", "links": "{}", "features": []}}'


@pytest.mark.parametrize("document", [VRT, WFS, JSON, "WFS:{}/wfs", "{}/chart.gpkg"])
@pytest.mark.parametrize("name", ["b.gpkg", "b.shp", "b.vrt", "b.json", "b.gml", "b"])
def test_other_formats_are_refused_unread(
    path: Path, document: str, name: str, asked: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, paths = asked
    other = path.with_name(name)
    for source in (str(path), f"/vsicurl/{address}/a.gpkg"):
        other.write_text(document.format(source))
        refused(other, "neither a shapefile")
    for text in (f"/vsicurl/{address}/a.gpkg", f"{address}/a.gpkg", f"WFS:{address}", f"/vsizip/{path}/a.gpkg"):
        refused(Path(text), "no such chart")
    assert paths == []


def test_a_folder_is_no_chart(tmp_path: Path) -> None:
    (tmp_path / "a.gpkg").mkdir()
    refused(tmp_path / "a.gpkg", "not a file")
