"""Charts that come as files of their own, as those of the archive's raw test scenes: SIC, SOD and FLOE at 80 m."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import netCDF4
import numpy as np
from numpy.typing import NDArray

from arcticseg.errors import SceneError
from arcticseg.ice.scenes.scene import service_of, time_of
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX, N_CLASSES

_SUFFIXES = ("_reference", "_prep")


def short_name(name: str) -> str | None:
    """`TIME_SERVICE`, which ready-to-train and reference files are called by; None for a name that lacks either."""
    time, service = time_of(name), service_of(name)
    return None if time is None or service is None else f"{time:%Y%m%dT%H%M%S}_{service}"


def find_references(folder: Path) -> dict[str, Path]:
    """What reference files call their scenes -> file: the attribute `original_id`, their own names, short names.

    Raises:
        SceneError: no such folder, no netCDF file in it, one that cannot be read, or two of one scene.
    """
    paths = sorted(folder.glob("*.nc")) if folder.is_dir() else []
    if not paths:
        raise SceneError(f"{folder}: holds no reference file (.nc); give the folder of reference charts")
    found: dict[str, Path] = {}
    for path in paths:
        with _opened(path) as file:
            original = str(getattr(file, "original_id", ""))
        stem = path.stem
        for suffix in _SUFFIXES:
            stem = stem.removesuffix(suffix)
        names = {stem, original.removesuffix(".nc"), short_name(stem) or "", short_name(original) or ""} - {""}
        for name in sorted(names):
            if name in found:
                raise SceneError(f"{path}: is of the same scene as {found[name].name} ({name}); remove one of them")
        found |= dict.fromkeys(names, path)
    return found


def reference_of(name: str, references: Mapping[str, Path]) -> Path | None:
    """The reference file of a scene, by its name or else by its time and ice service; None where there is none."""
    return references.get(name.removesuffix("_prep")) or references.get(short_name(name) or "")


@contextmanager
def _opened(path: Path) -> Iterator[netCDF4.Dataset]:
    """The open file, values as they are stored; errors of the library become a SceneError."""
    try:
        with netCDF4.Dataset(path) as file:
            file.set_auto_maskandscale(False)
            yield file
    except (OSError, RuntimeError) as error:
        raise SceneError(f"{path}: cannot be read ({error}); get the file anew") from error


def check_reference(path: Path, shape: tuple[int, int]) -> None:
    """See that a reference file holds the three charts in this shape, without reading them.

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
        SceneError: the file is damaged, of another shape, or holds what is no class.
    """
    check_reference(path, shape)
    with _opened(path) as file:
        found = [np.asarray(file[name][:]) for name in CHARTS]
    for values, name in zip(found, CHARTS, strict=True):
        wrong = (values != IGNORE_INDEX) & ~((values >= 0) & (values < N_CLASSES[name]))
        if wrong.any():
            raise SceneError(f"{path}: {name} holds {values[wrong][0]}, which is no class; get the file anew")
    return np.stack(found).astype(np.uint8)
