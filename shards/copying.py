"""The variables of a netCDF file copied to another as they are stored, whatever their storage."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import netCDF4

from arcticseg.errors import SceneError
from arcticseg.ice.scenes.access import reading

# Lines copied at once.
_BAND = 500


def copy_variables(path: Path, target: netCDF4.Dataset, leave_out: Collection[str]) -> None:
    """Copy the attributes, dimensions, variables and groups of a file, some lines at a time.

    Numbers stay as they are stored, with their attributes; dimensions have a fixed length, chunks fit into them, the
    byte order is the machine's, and compression is deflate. Variables of types that a user has defined (compound,
    enumeration) are left out with a warning.

    Args:
        leave_out: names of variables, and of dimensions with all that have them.

    Raises:
        SceneError: the file cannot be read, or something in it cannot be written to netCDF-4.
    """
    with reading(path):
        source = netCDF4.Dataset(os.path.abspath(path))
    with source:
        _copy_group(path, source, target, leave_out)


def _copy_group(path: Path, source: Any, target: Any, leave_out: Collection[str]) -> None:
    with reading(path):
        attributes = {name: source.getncattr(name) for name in source.ncattrs()}
    with _writing(path, "the file"):
        target.setncatts(attributes)
    for name, dimension in source.dimensions.items():
        if name not in leave_out:
            target.createDimension(name, len(dimension))
    for name, variable in source.variables.items():
        if name not in leave_out and not set(variable.dimensions) & set(leave_out):
            _copy_variable(path, variable, target)
    for name, group in source.groups.items():
        _copy_group(path, group, target.createGroup(name), leave_out)


def _copy_variable(path: Path, variable: netCDF4.Variable, target: Any) -> None:
    is_text = variable.dtype is str
    if not is_text and (variable.dtype.kind not in "fiuS" or isinstance(variable.datatype, netCDF4.EnumType)):
        warnings.warn(f"{path}: {variable.name} is left out, since its type is the file's own", stacklevel=4)
        return
    with reading(path, variable.name):
        attributes = {key: variable.getncattr(key) for key in variable.ncattrs()}
        chunks = variable.chunking()
    fill = attributes.pop("_FillValue", None)
    if isinstance(chunks, list):
        chunks = [max(1, min(pair)) for pair in zip(chunks, variable.shape, strict=True)]
    with _writing(path, variable.name):
        copy = target.createVariable(
            variable.name,
            str if is_text else variable.dtype.newbyteorder("="),
            variable.dimensions,
            zlib=bool(variable.ndim) and not is_text,
            complevel=1,
            fill_value=None if is_text else fill,
            chunksizes=chunks if isinstance(chunks, list) and variable.ndim else None,
        )
        copy.setncatts(attributes)
    for each in (variable, copy):
        each.set_auto_maskandscale(False)
        each.set_auto_chartostring(False)
    lines = range(0, variable.shape[0], _BAND) if variable.ndim else ()
    for band in [slice(at, at + _BAND) for at in lines] if variable.ndim else [...]:
        with reading(path, variable.name):
            values = variable[band]
        copy[band] = values


@contextmanager
def _writing(path: Path, name: str) -> Iterator[None]:
    """Turn what netCDF refuses to define into a SceneError."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise SceneError(f"{path}: {name} cannot be copied ({error}); remove it from the file") from error
