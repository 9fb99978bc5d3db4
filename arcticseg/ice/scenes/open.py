"""Chooses the reader of a scene file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from arcticseg.errors import SceneError
from arcticseg.ice import threads
from arcticseg.ice.scenes.access import reading
from arcticseg.ice.scenes.names import facts_of
from arcticseg.ice.scenes.netcdf import open_netcdf
from arcticseg.ice.scenes.resampled import at_network_spacing
from arcticseg.ice.scenes.scene import Scene


def _open_netcdf(path: Path, _: str | None, n_threads: int) -> Scene:
    return open_netcdf(path, n_threads)


def _open_geotiff(path: Path, polarisation: str | None, n_threads: int) -> Scene:
    # GDAL takes long to load, and most scenes do not need it.
    from arcticseg.ice.scenes.geotiff import open_geotiff

    geotiff = open_geotiff(path, polarisation)
    geotiff.threads = n_threads
    return geotiff


def _open_safe(path: Path, _: str | None, n_threads: int) -> Scene:
    from arcticseg.ice.scenes.safe import open_safe

    return open_safe(path, n_threads)


MANIFEST = "manifest.safe"

# Suffix of a scene file -> function that opens it, given path, polarisation and number of threads.
READERS: dict[str, Callable[[Path, str | None, int], Scene]] = {
    ".nc": _open_netcdf,
    ".tif": _open_geotiff,
    ".tiff": _open_geotiff,
    ".safe": _open_safe,
    ".zip": _open_safe,
}


def open_scene(path: Path | str, polarisation: str | None = None, n_threads: int | None = None) -> Scene:
    """Open a scene file and check it against its schema; layers are read when they are asked for.

    A scene whose pixels have another spacing than its reader assumes is resampled, see `resampled`; a warning says so.

    Args:
        polarisation: `hh` or `hv`, for a GeoTIFF that does not say it.
        n_threads: number of threads that may work on the scene at a time; None: as many as cores.

    Raises:
        SceneError: there is no such file, it is not a scene file, a variable is missing or of the wrong shape, or
            its pixels are not squares, not alike or too few.
    """
    path = Path(path)
    with reading(path):
        if path.name == MANIFEST and path.is_file():
            path = path.parent
        is_there = path.is_file() or path.is_dir()
    if not is_there:
        raise SceneError(f"{path}: no such file; give a netCDF or GeoTIFF scene, or a Sentinel-1 SAFE")
    reader = _open_safe if is_safe(path) else None if path.is_dir() else READERS.get(path.suffix.lower())
    if reader is None:
        raise SceneError(f"{path}: is not a scene; expected one of {', '.join(sorted(READERS))}")
    scene = reader(path, polarisation, n_threads or threads.available())
    try:
        return at_network_spacing(scene)
    except BaseException:
        scene.close()
        raise


def list_scenes(place: Path | str) -> list[Path]:
    """The scene files of a folder by name; of a file, the file itself. A SAFE folder is a file in this sense.

    Raises:
        SceneError: there is no such place, or no scene file in it.
    """
    place = Path(place)
    if place.is_file() or is_safe(place):
        return [place]
    if not place.is_dir():
        raise SceneError(f"{place}: no such folder; give a folder of netCDF scenes")
    paths = sorted(path for path in place.iterdir() if path.name[0] != "." and _looks_like_a_scene(path))
    if not paths:
        raise SceneError(f"{place}: holds no scene ({', '.join(sorted(READERS))}); give a folder of scenes")
    return paths


def is_safe(path: Path) -> bool:
    """Whether a path is a SAFE folder: one called so, or one that holds a manifest."""
    return path.is_dir() and (path.suffix.lower() == ".safe" or (path / MANIFEST).is_file())


def _looks_like_a_scene(path: Path) -> bool:
    """Whether a path in a folder of scenes is meant as one; of zips, those named as Sentinel-1 products are.

    A folder called as a file is, too: whoever opens it says what is wrong.
    """
    suffix = path.suffix.lower()
    if is_safe(path):
        return True
    return suffix in READERS and (suffix != ".zip" or facts_of(path.name).satellite is not None)


def state_of(path: Path) -> tuple[int, int]:
    """Bytes and time of the last change (ns) of a scene file; of a SAFE folder, those of its files together.

    Raises:
        OSError: it cannot be read.
    """
    files = [item for item in path.rglob("*") if item.is_file()] if path.is_dir() else [path]
    states = [file.stat() for file in files]
    return sum(state.st_size for state in states), max((state.st_mtime_ns for state in states), default=0)
