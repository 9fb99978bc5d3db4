"""Charts in files of their own, such as those of the archive's raw test scenes: SIC, SOD and FLOE at 80 m."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import netCDF4
import numpy as np
from numpy.typing import NDArray

from arcticseg.errors import SceneError
from arcticseg.ice.scenes.access import reading
from arcticseg.ice.scenes.classic import check_whole
from arcticseg.ice.scenes.hdf5 import check_self_contained
from arcticseg.ice.scenes.names import service_of, time_of
from arcticseg.ice.scenes.numbers import meaning
from arcticseg.ice.scenes.planes import class_plane
from arcticseg.ice.sigrid import CHARTS

_SUFFIXES = ("_reference", "_prep")


def short_name(name: str) -> str | None:
    """`TIME_SERVICE`, the name of ready-to-train and reference files; None for a name that lacks either part."""
    time, service = time_of(name), service_of(name)
    return None if time is None or service is None else f"{time:%Y%m%dT%H%M%S}_{service}"


def find_references(folder: Path) -> dict[str, Path]:
    """Scene -> its reference file, under each name: the attribute `original_id`, the file's own name, short names.

    A file that cannot be read has the name of the file only, and a warning.

    Raises:
        SceneError: there is no such folder, no netCDF file in it, none can be read, or two are of the same scene.
    """
    paths = sorted(folder.glob("*.nc")) if folder.is_dir() else []
    if not paths:
        raise SceneError(f"{folder}: holds no reference file (.nc); give the folder of reference charts")
    references: dict[str, Path] = {}
    damaged: list[SceneError] = []
    for path in paths:
        try:
            with _opened(path) as file:
                original = str(getattr(file, "original_id", ""))
        except SceneError as error:
            # Its scene fails, by the file's own name; the others have theirs.
            damaged.append(error)
            original = ""
        stem = path.stem
        for suffix in _SUFFIXES:
            stem = stem.removesuffix(suffix)
        names = {stem, original.removesuffix(".nc"), short_name(stem) or "", short_name(original) or ""} - {""}
        for name in sorted(names):
            if name in references:
                raise SceneError(f"{path}: is of the same scene as {references[name].name} ({name}); remove one file")
        references |= dict.fromkeys(names, path)
    if len(damaged) == len(paths):
        raise damaged[0]
    for fault in damaged:
        warnings.warn(str(fault), stacklevel=2)
    return references


def reference_of(name: str, references: Mapping[str, Path]) -> Path | None:
    """The reference file of a scene, by its name or else by its time and ice service; None: it has none."""
    return references.get(name.removesuffix("_prep")) or references.get(short_name(name) or "")


@contextmanager
def _opened(path: Path) -> Iterator[netCDF4.Dataset]:
    """The open file, with values as they are stored; errors of the library become a SceneError."""
    with reading(path):
        check_whole(path)
        check_self_contained(path)
        with netCDF4.Dataset(os.path.abspath(path)) as file:
            file.set_auto_maskandscale(False)
            yield file


def check_reference(path: Path, shape: tuple[int, int]) -> None:
    """Check that a reference file holds the three charts in this shape, without reading them.

    Args:
        shape: rows and columns that they must have.

    Raises:
        SceneError: it does not, or cannot be opened.
    """
    with _opened(path) as file:
        for name in CHARTS:
            if name not in file.variables:
                raise SceneError(f"{path}: variable {name} is missing; give reference charts")
            if file[name].shape != shape:
                raise SceneError(
                    f"{path}: {name} has shape {file[name].shape}, its scene at 80 m {shape}; give that scene's chart"
                )


def read_reference(path: Path, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """SIC, SOD and FLOE of a reference file, uint8 [3, H, W]; 255 = masked.

    Args:
        shape: rows and columns that they must have.

    Raises:
        SceneError: the file is damaged, of another shape, or a value is not a class.
    """
    check_reference(path, shape)
    with _opened(path) as file:
        return np.stack([_plane(path, file[name]) for name in CHARTS])


def _plane(path: Path, variable: netCDF4.Variable) -> NDArray[np.uint8]:
    """The classes of a chart by the attributes of its variable."""
    attributes = {key: variable.getncattr(key) for key in variable.ncattrs()}
    try:
        if variable.dtype is str or variable.dtype.kind not in "fiu":
            raise SceneError(f"{variable.name} has dtype {variable.dtype}, expected numbers; get the file again")
        how = meaning(variable.name, attributes, variable.dtype, "class")
        return class_plane(np.asarray(variable[:]), how, variable.name)
    except SceneError as error:
        raise SceneError(f"{path}: {error}") from error
