"""The files of a Sentinel-1 product: a SAFE folder, or the zip of one. Nothing is unpacked."""

from __future__ import annotations

import hashlib
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import rasterio
from rasterio.errors import RasterioError

from arcticseg.errors import SceneError
from arcticseg.ice.scenes.gdal import opened

MANIFEST = "manifest.safe"
# Files of a product that are read: kind -> their place in it.
_KINDS = {
    "annotation": re.compile(r"annotation/(s1[a-d]-[^/]+)\.xml", re.IGNORECASE),
    "calibration": re.compile(r"annotation/calibration/calibration-(s1[a-d]-[^/]+)\.xml", re.IGNORECASE),
    "noise": re.compile(r"annotation/calibration/noise-(s1[a-d]-[^/]+)\.xml", re.IGNORECASE),
    "measurement": re.compile(r"measurement/(s1[a-d]-[^/]+)\.tiff?", re.IGNORECASE),
}
_FOLDERS = ("annotation", "annotation/calibration", "measurement")
_MAX_XML = 64 << 20
_READ = 1 << 20
# Of GDAL and zipfile; RuntimeError where a member needs a password, NotImplementedError where its packing is unknown.
_ERRORS = (
    OSError,
    RasterioError,
    EOFError,
    RuntimeError,
    ValueError,
    KeyError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)


class SafeFiles:
    """The files of a product by their names in it.

    Args:
        path: a folder that holds `manifest.safe`, or a zip of one such folder.

    Attributes:
        names: those that are there.

    Raises:
        SceneError: it is neither.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._root = ""
        if path.is_dir():
            folders = [path, *(path / folder for folder in _FOLDERS)]
            self.names = sorted(
                item.relative_to(path).as_posix()
                for folder in folders
                if folder.is_dir()
                for item in folder.iterdir()
                if item.is_file()
            )
        else:
            with self._reading("its table of files"), zipfile.ZipFile(path) as archive:
                inside = archive.namelist()
            roots = {name[: -len(MANIFEST)] for name in inside if name.rpartition("/")[2] == MANIFEST}
            if len(roots) > 1:
                raise SceneError(f"{path}: holds {len(roots)} products; unpack it and give the folders")
            self._root = roots.pop() if roots else ""
            self.names = sorted(
                name[len(self._root) :] for name in inside if name.startswith(self._root) and ".." not in name
            )
        if MANIFEST not in self.names:
            raise SceneError(f"{path}: holds no {MANIFEST}: it is no Sentinel-1 product; give a SAFE folder or zip")

    def of_kind(self, kind: str) -> dict[str, str]:
        """Stem of a measurement -> name of its file of a kind: `annotation`, `calibration`, `noise`, `measurement`."""
        matches = ((_KINDS[kind].fullmatch(name), name) for name in self.names)
        return {match.group(1).lower(): name for match, name in matches if match}

    def read(self, name: str) -> bytes:
        """The content of an XML file.

        Raises:
            SceneError: it cannot be read, or is larger than any annotation.
        """
        with self._open(name) as file:
            data = file.read(_MAX_XML + 1)
        if len(data) > _MAX_XML:
            raise SceneError(f"{self.path}: {name} has more than {_MAX_XML >> 20} MB; get the product again")
        return data

    def size(self, name: str) -> int:
        """Bytes of a file, unpacked."""
        with self._reading(name):
            if self.path.is_dir():
                return (self.path / name).stat().st_size
            with zipfile.ZipFile(self.path) as archive:
                return archive.getinfo(self._root + name).file_size

    def md5(self, name: str) -> str:
        """Checksum of a file, as manifests have it."""
        digest = hashlib.md5(usedforsecurity=False)
        with self._open(name) as file:
            while block := file.read(_READ):
                digest.update(block)
        return digest.hexdigest()

    @contextmanager
    def raster(self, name: str) -> Iterator[rasterio.DatasetReader]:
        """A measurement, open; by GDAL's reader of GeoTIFF alone, and without files beside it.

        Raises:
            SceneError: it cannot be read.
        """
        product = self.path.absolute()
        place = str(product / name) if product.is_dir() else f"/vsizip/{{{product}}}/{self._root}{name}"
        with self._reading(name), opened(place, GDAL_CACHEMAX=64 << 20) as source:
            yield source

    @contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        with self._reading(name):
            if self.path.is_dir():
                with open(self.path / name, "rb") as file:
                    yield file
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(self._root + name) as member:
                    yield member

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Turn errors of libraries into a SceneError that names the product and the file in it."""
        try:
            yield
        except _ERRORS as error:
            raise SceneError(f"{self.path}: {name} cannot be read ({_reason(error)}); get the product again") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
