"""Chooses the reader of a scene file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from arcticseg.errors import SceneError
from arcticseg.ice import threads
from arcticseg.ice.scenes.access import reading
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


# Suffix of a scene file -> function that opens it, given path, polarisation and number of threads.
READERS: dict[str, Callable[[Path, str | None, int], Scene]] = {
    ".nc": _open_netcdf,
    ".tif": _open_geotiff,
    ".tiff": _open_geotiff,
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
        is_there = path.is_file()
    if not is_there:
        raise SceneError(f"{path}: no such file; give a netCDF or GeoTIFF scene")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise SceneError(f"{path}: is not a scene; expected one of {', '.join(sorted(READERS))}")
    scene = reader(path, polarisation, n_threads or threads.available())
    try:
        return at_network_spacing(scene)
    except BaseException:
        scene.close()
        raise


def list_scenes(place: Path | str) -> list[Path]:
    """The scene files of a folder by name; of a file, the file itself.

    Raises:
        SceneError: there is no such place, or no scene file in it.
    """
    place = Path(place)
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise SceneError(f"{place}: no such folder; give a folder of netCDF scenes")
    paths = sorted(path for path in place.iterdir() if path.suffix.lower() in READERS and path.name[0] != ".")
    if not paths:
        raise SceneError(f"{place}: holds no scene ({', '.join(sorted(READERS))}); give a folder of scenes")
    return paths
