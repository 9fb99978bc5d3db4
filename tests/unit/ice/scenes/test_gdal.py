"""GeoTIFFs are opened as data: no other driver, no other file, no server, and no memory for a header's word."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio

from arcticseg.errors import SceneError
from arcticseg.ice.scenes.gdal import open_raster, read_band
from arcticseg.ice.scenes.open import open_scene
from tests import rasters

SHAPE = (50, 50)
POWER = np.full(SHAPE, 0.1234, np.float32)
NAME = "scene_HH.tif"

VRT = """<VRTDataset rasterXSize="50" rasterYSize="50"><SRS>EPSG:3413</SRS>
<GeoTransform>0,40,0,-1000000,0,-40</GeoTransform><VRTRasterBand dataType="{kind}" band="1">
<Description>HH</Description><SimpleSource><SourceFilename relativeToVRT="0">{source}</SourceFilename>
<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"""
WMS = """<GDAL_WMS><Service name="TMS"><ServerUrl>{source}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service>
<DataWindow><UpperLeftX>-20</UpperLeftX><UpperLeftY>20</UpperLeftY><LowerRightX>20</LowerRightX>
<LowerRightY>-20</LowerRightY><SizeX>50</SizeX><SizeY>50</SizeY></DataWindow><Projection>EPSG:3857</Projection>
<BandsCount>1</BandsCount></GDAL_WMS>"""


class Listener:
    """An address that notices whoever asks it, without answering."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def was_asked(self) -> bool:
        try:
            self._socket.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    # If it were asked, GDAL would not wait long.
    monkeypatch.setenv("GDAL_HTTP_TIMEOUT", "1")
    there = Listener()
    yield there
    there.close()


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A raster that no other file may lead to."""
    return rasters.write(tmp_path / "private" / NAME, POWER)


def refuse(path: Path, reason: str) -> None:
    with pytest.raises(SceneError, match=rf"^{path}: .*{reason}") as caught:
        open_scene(path).sar("hh")
    assert "\n" not in str(caught.value)


def test_texts_that_read_other_files_or_ask_servers(tmp_path: Path, private: Path, listener: Listener) -> None:
    path = tmp_path / NAME
    for source in (
        str(private),
        f"/vsicurl/{listener.address}/a.tif",
        f"/vsizip/vsicurl/{listener.address}/a.zip/a.tif",
    ):
        path.write_text(VRT.format(kind="Float32", source=source))
        refuse(path, "cannot be read as a GeoTIFF")
    path.write_text(WMS.format(source=listener.address))
    refuse(path, "cannot be read as a GeoTIFF")
    assert not listener.was_asked()


@pytest.mark.parametrize("driver", ["PNG", "ENVI", "BMP", "HFA"])
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_rasters_of_other_formats(driver: str, tmp_path: Path) -> None:
    with rasterio.open(tmp_path / "a", "w", driver=driver, height=50, width=50, count=1, dtype="uint8") as file:
        file.write(np.ones((1, *SHAPE), np.uint8))
    (tmp_path / "a").rename(tmp_path / NAME)
    refuse(tmp_path / NAME, "cannot be read as a GeoTIFF")


@pytest.mark.parametrize("suffix", [".ovr", ".msk", ".aux.xml"])
def test_files_beside_it_that_ask_servers(suffix: str, tmp_path: Path, listener: Listener) -> None:
    path = rasters.write(tmp_path / NAME, POWER)
    beside = path.with_name(path.name + suffix)
    address = f"/vsicurl/{listener.address}/a.tif"
    if suffix == ".aux.xml":
        beside.write_text('<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">' + address
                          + "</MDI></Metadata></PAMDataset>")  # fmt: skip
    else:
        beside.write_text(VRT.format(kind="Byte", source=address))
    if suffix == ".msk":
        with pytest.raises(SceneError, match=f"^{beside}: cannot be read"):
            open_scene(path).sar("hh")
    else:
        np.testing.assert_allclose(open_scene(path).sar("hh"), 10 * np.log10(0.1234), atol=1e-4)
    with open_raster(path) as file:
        assert file.files == [str(path)]
        assert file.overviews(1) == []
        file.read(1, out_shape=(5, 5))
    assert not listener.was_asked()


def test_overviews_that_a_tag_puts_elsewhere(tmp_path: Path, listener: Listener) -> None:
    path = rasters.write(tmp_path / NAME, POWER)
    with rasterio.open(path, "r+") as file:
        file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=f"/vsicurl/{listener.address}/a.tif")
    refuse(path, "names its overviews in another file")
    assert not listener.was_asked()


@pytest.mark.parametrize(
    "name", ["GTIFF_DIR:1:a_HH.tif", "zip+file:a_HH.tif", "a#b?c_HH.tif", "é %20_HH.tif", "-a_HH.tif", "a!b_HH.tif"]
)
def test_names_are_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(rasters.write(tmp_path / "x_HH.tif", POWER).read_bytes())
    monkeypatch.chdir(tmp_path)
    for path in (Path(name), tmp_path / name):
        np.testing.assert_allclose(open_scene(path).sar("hh"), 10 * np.log10(0.1234), atol=1e-4)


def test_paths_that_are_no_local_files(private: Path, listener: Listener) -> None:
    for text in (f"/vsicurl/{listener.address}/a_HH.tif", f"{listener.address}/a_HH.tif", f"/vsizip/{private}"):
        with pytest.raises(SceneError, match="no such file"):
            open_scene(text)
    assert not listener.was_asked()


def header(width: int, height: int, compression: int = 1) -> bytes:
    """A little-endian TIFF of one band of uint8 that is all header."""
    tags = [
        (256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, compression), (262, 3, 1), (273, 4, 8), (277, 3, 1),
        (278, 4, height), (279, 4, 8),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0) + bytes(64)


@pytest.mark.parametrize("edges", [(10**6, 10**6), (40_000, 40_000), (30_000, 30_000)])
@pytest.mark.parametrize("compression", [1, 8])
def test_a_header_that_declares_more_than_the_file_holds(
    edges: tuple[int, int], compression: int, tmp_path: Path
) -> None:
    (tmp_path / NAME).write_bytes(header(*edges, compression))
    refuse(tmp_path / NAME, "declares|cannot be read")


def test_a_sparse_file_of_many_pixels(tmp_path: Path) -> None:
    """GDAL writes no block of zeros into a sparse file, so that a few bytes stand for 10^12 pixels."""
    path = tmp_path / NAME
    with rasterio.open(
        path, "w", driver="GTiff", height=10**6, width=10**6, count=1, dtype="float32", sparse_ok=True, tiled=True,
        blockxsize=2**14, blockysize=2**14, bigtiff="YES", crs="EPSG:3413", transform=rasters.Affine.scale(40),
    ):  # fmt: skip
        pass
    assert path.stat().st_size < 10**6
    refuse(path, "declares 1000000 x 1000000 pixels in 1 bands")


def test_read_band_gives_what_is_stored(tmp_path: Path) -> None:
    counts = np.arange(2500, dtype=np.int16).reshape(SHAPE)
    stored, missing = read_band(rasters.write(tmp_path / NAME, counts, scale=0.5), 1)
    np.testing.assert_array_equal(stored, counts)
    assert stored.dtype == np.int16
    assert missing is None


def test_damaged_text_in_a_message_of_gdal(tmp_path: Path) -> None:
    """GDAL quotes bytes that are no UTF-8, which rasterio cannot log."""
    path = rasters.write(tmp_path / NAME, POWER, tags={"a": "b"})
    data = path.read_bytes()
    assert b"<GDALMetadata>" in data
    path.write_bytes(data.replace(b"<GDALMetadata>", b"<GDALMe\x8cadata>"))
    # In a process of its own, since pytest catches what Python prints of such an error.
    program = "import sys; from arcticseg.ice.scenes.open import open_scene; print(open_scene(sys.argv[1]).shape)"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "(50, 50)\n"
    assert "Unicode" not in done.stderr


def test_no_other_module_opens_rasters() -> None:
    root = Path(__file__).parents[4]
    opening = {
        path.name
        for package in ("arcticseg", "shards", "launchers")
        for path in (root / package).rglob("*.py")
        if re.search(r"rasterio\.open\((?!\s*[^,()]+, \"w\")", path.read_text(encoding="utf-8"))
    }
    assert opening == {"gdal.py"}
