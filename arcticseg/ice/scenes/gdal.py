"""Rasters opened by GDAL as data: one driver, one local file, and nothing that the file names elsewhere.

GDAL chooses a driver by content, so that a `.tif` may be the text of a virtual raster or of a web service, which read
other files and ask servers. Files beside a raster (overviews, masks, metadata) are opened in the same way. Here GDAL is
given the driver of GeoTIFF alone and sees no file but the one that is named.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning

from arcticseg.errors import SceneError, heed_interrupt

DRIVER = "GTiff"
_OPTIONS = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO"}

# More pixels than any scene has; the largest Sentinel-1 GRD has 4.5e8.
_MOST_PIXELS = 10**9
# A damaged header declares more than its file holds: backscatter is compressed to a tenth, constant rasters to a
# thousandth at the most.
_MOST_COMPRESSED = 1000
_LARGE = 4 * 10**8

# What a file of GDAL's beside a raster may say of the raster's numbers and place.
_SIDE_FACTS = re.compile(rb"<(NoDataValue|Scale|Offset|UnitType|SRS|GCPList|GeoTransform)\b", re.IGNORECASE)


@contextmanager
def opened(place: str, **options: Any) -> Iterator[rasterio.DatasetReader]:
    """An open GeoTIFF; errors of the libraries pass through.

    Args:
        place: the file as GDAL names it: an absolute path, or one within an archive.
        options: more of GDAL's, for this file.

    Raises:
        SceneError: the file names its overviews in another file.
    """
    with warnings.catch_warnings(), _undecodable_messages():
        # It warns that control points are not a transform.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.Env(**_OPTIONS, **options), rasterio.open(place, driver=DRIVER) as source:
            if source.tags(ns="OVERVIEWS"):
                raise SceneError(f"{place}: names its overviews in another file; write it again without overviews")
            yield source


@contextmanager
def open_raster(path: Path) -> Iterator[rasterio.DatasetReader]:
    """The open GeoTIFF; in this block, errors of GDAL and rasterio become a SceneError.

    Raises:
        SceneError: the file is not a GeoTIFF, is damaged, declares more pixels than it can hold, or points to another
            file.
    """
    try:
        # An absolute path has no prefix that GDAL or rasterio takes for a driver, an archive or an address.
        with opened(str(path.absolute())) as source:
            _check(source, path)
            yield source
    except SceneError:
        raise
    except MemoryError as error:
        raise SceneError(f"{path}: too large for the memory of this machine; use a larger one") from error
    except Exception as error:  # the errors of GDAL, of rasterio and of its CRS have no common type
        heed_interrupt(error)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SceneError(f"{path}: cannot be read as a GeoTIFF ({reason}); get the file again") from error


@contextmanager
def _undecodable_messages() -> Iterator[None]:
    """Pass over messages of GDAL's that quote damaged text: rasterio cannot log them, and Python prints a traceback."""
    unraisable, uncaught = sys.unraisablehook, sys.excepthook

    def pass_over(args: sys.UnraisableHookArgs) -> None:
        if not isinstance(args.exc_value, UnicodeDecodeError):
            unraisable(args)

    def pass_over_too(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if kind is not UnicodeDecodeError:
            uncaught(kind, error, trace)

    # Cython gives such an error to both.
    sys.unraisablehook, sys.excepthook = pass_over, pass_over_too
    try:
        yield
    finally:
        sys.unraisablehook, sys.excepthook = unraisable, uncaught


def _check(source: rasterio.DatasetReader, path: Path) -> None:
    """Refuse what would take memory for nothing, before anything else is asked of it."""
    pixels = source.width * source.height
    size = pixels * source.count * max((np.dtype(_numpy_type(name)).itemsize for name in source.dtypes), default=1)
    if pixels > _MOST_PIXELS or size > max(_LARGE, _MOST_COMPRESSED * path.stat().st_size):
        raise SceneError(
            f"{path}: its header declares {source.height} x {source.width} pixels in {source.count} bands, more than "
            "such a file holds; get the file again"
        )


def _numpy_type(name: str) -> str:
    """The numpy type of rasterio's name of a type; it has some names of its own for complex whole numbers."""
    return {"complex_int16": "complex64"}.get(name, name)


def check_beside(path: Path) -> None:
    """Refuse a raster of whose numbers or place a file of GDAL's beside it says more, since that is not read.

    Raises:
        SceneError: there is such a file.
    """
    side = path.with_name(f"{path.name}.aux.xml")
    try:
        with open(side, "rb") as file:
            facts = _SIDE_FACTS.search(file.read(2**20))
    except OSError:
        return
    if facts:
        raise SceneError(
            f"{path}: {side.name} beside it says its {facts[1].decode()}, which is not read from there; write it into "
            "the file (gdal_edit, or rio edit-info), or remove that file"
        )


def read_band(path: Path, band: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """The stored numbers of a band, [H, W] in its own type, and where its mask says no data; None: it has no mask.

    The mask is the file's own, its alpha band, or the file `NAME.tif.msk` beside it.

    Raises:
        SceneError: the file is damaged.
    """
    with open_raster(path) as source:
        stored = source.read(band)
        # GDAL takes an alpha band for a mask only where it holds whole numbers.
        alpha = [
            number
            for number, meaning in zip(source.indexes, source.colorinterp, strict=True)
            if meaning == ColorInterp.alpha and number != band
        ]
        if alpha:
            missing = source.read(alpha[0]) == 0
        elif MaskFlags.per_dataset in source.mask_flag_enums[band - 1]:
            missing = source.read_masks(band) == 0
        else:
            missing = None
    beside = path.with_name(f"{path.name}.msk")
    if beside.is_file():
        with open_raster(beside) as source:
            if (source.height, source.width) != stored.shape:
                raise SceneError(
                    f"{beside}: the mask has {source.height} x {source.width} pixels, its image {stored.shape[0]} x "
                    f"{stored.shape[1]}; remove the mask or write it again"
                )
            outside = source.read(min(band, source.count)) == 0
        missing = outside if missing is None else missing | outside
    return stored, missing
