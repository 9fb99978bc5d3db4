"""What the stored numbers of a GeoTIFF's band mean: no data first, then scale and offset, then the unit.

A band says it by GDAL's own fields (nodata, scale, offset, unit, mask), or by the attributes of the netCDF file that it
was copied from, which stay as tags of the band, or of the file as `VARIABLE#attribute`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from arcticseg.errors import SceneError

UNITS = ("linear", "db")

# Unit, in lower case -> one of `UNITS`. Backscatter has no dimension; netCDF files write that in many ways, SNAP writes
# intensity.
_MEANING = dict.fromkeys(("db", "decibel", "decibels", "intensity_db"), "db") | dict.fromkeys(
    (
        "linear", "power", "linear power", "intensity", "natural", "1", "m/m", "m2/m2", "m^2/m^2", "m2 m-2", "m2.m-2",
        "unitless", "dimensionless", "none", "-", "sigma0", "sigma nought",
    ),
    "linear",
)  # fmt: skip
_DB_WORD = re.compile(r"(?<![a-z])db(?![a-z])")

# Tags that change what numbers mean; they count in any case.
_FILLS, _LIMITS = ("_FillValue", "missing_value"), ("valid_range", "valid_min", "valid_max")
_SCALING = ("scale_factor", "add_offset")
_TAGS = (*_FILLS, *_LIMITS, *_SCALING, "_Unsigned", "units")


@dataclass(frozen=True)
class BandNumbers:
    """How stored numbers become backscatter.

    Attributes:
        fills: stored numbers that mean no data.
        least, most: stored numbers outside are no data.
        scale, offset: value = stored x scale + offset.
        decibels: whether values are dB; else linear power.
    """

    fills: tuple[float, ...]
    least: float
    most: float
    scale: float
    offset: float
    decibels: bool

    def values(self, stored: NDArray[Any], missing: NDArray[np.bool_] | None) -> NDArray[np.float32]:
        """float32 [H, W] in the band's unit; NaN = no data.

        Args:
            stored: [H, W], of any type of real numbers; may be overwritten.
            missing: bool [H, W], no data by a mask; None: there is no mask.
        """
        gone = [] if missing is None else [missing]
        gone += [stored == fill for fill in _of_type(self.fills, stored.dtype)]
        gone += [stored < self.least] * (self.least > -math.inf) + [stored > self.most] * (self.most < math.inf)
        with np.errstate(over="ignore", invalid="ignore"):
            if (self.scale, self.offset) == (1, 0):
                values = stored.astype(np.float32, copy=False)
            else:
                exact = stored.astype(np.result_type(stored.dtype, np.float32))
                values = (exact * self.scale + self.offset).astype(np.float32, copy=False)
        for lacking in gone:
            values[lacking] = np.nan
        values[~np.isfinite(values)] = np.nan
        return np.asarray(values)


def _of_type(fills: tuple[float, ...], dtype: np.dtype[Any]) -> list[Any]:
    """The fills that numbers of a type can equal, in that type."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return [dtype.type(fill) for fill in fills if not math.isnan(fill)]
    limits = np.iinfo(dtype)
    return [dtype.type(int(fill)) for fill in fills if float(fill).is_integer() and limits.min <= fill <= limits.max]


def band_numbers(source: rasterio.DatasetReader, band: int, path: Path, units: str | None = None) -> BandNumbers:
    """What the numbers of a band mean.

    Args:
        units: one of `UNITS`, against what the file says; None: as it says, else linear power.

    Raises:
        SceneError: the file contradicts itself, or what it says cannot be applied.
    """
    where = f"{path}: band {band}"
    dtype, tags = str(source.dtypes[band - 1]), _tags(source, band)
    if dtype.startswith("complex"):
        raise SceneError(f"{where} holds {dtype}, not backscatter; calibrate it to sigma0 as float32 first")
    scale, offset = source.scales[band - 1], source.offsets[band - 1]
    if not (math.isfinite(scale) and math.isfinite(offset) and scale):
        raise SceneError(f"{where} has scale {scale:g} and offset {offset:g}; set those that its numbers have")
    for name, set_there in zip(_SCALING, (scale, offset), strict=True):
        if name in tags and not math.isclose(_number(tags, name, where), set_there, rel_tol=1e-6, abs_tol=1e-12):
            raise SceneError(
                f"{where} has the tag {name} = {tags[name]}, but GDAL's own value is {set_there:g}; "
                "set scale and offset of the band (rio edit-info, gdal_edit) or remove the tag"
            )
    packed = (scale, offset) != (1, 0)
    said = _unit(source, band, tags, where)
    if np.dtype(dtype).kind != "f" and not (packed and (units or said)):
        raise SceneError(
            f"{where} holds {dtype}, not calibrated backscatter; calibrate it to sigma0 as float32 first, or set the "
            "scale, offset and unit (dB or linear) that its numbers have"
        )
    unsigned = tags.get("_Unsigned", "").lower()
    if unsigned and (unsigned == "true") != dtype.startswith("u"):
        raise SceneError(f"{where} holds {dtype} with the tag _Unsigned = {unsigned}; write it in its own type")
    least, most = _limits(tags, where)
    if packed and (least > -math.inf or most < math.inf):
        # As text it does not tell whether it counts before or after scale and offset.
        name = next(name for name in _LIMITS if name in tags)
        raise SceneError(f"{where} has scale and offset and the tag {name}; mark no data by nodata instead of that tag")
    nodata = source.nodatavals[band - 1]
    fills = ([] if nodata is None else [float(nodata)]) + [
        number for name in _FILLS if name in tags for number in _numbers(tags, name, where)
    ]
    return BandNumbers(tuple(fills), least, most, scale, offset, (units or said) == "db")


def _tags(source: rasterio.DatasetReader, band: int) -> dict[str, str]:
    """The tags that change what numbers mean, by name; the band's own win over the file's."""
    own = source.tags(band)
    names = {text.lower() for text in (own.get("NETCDF_VARNAME"), source.descriptions[band - 1]) if text}
    everywhere, of_variable = {}, {}
    for key, text in source.tags().items():
        variable, _, attribute = key.lower().rpartition("#")
        if not variable:
            everywhere[attribute] = text
        elif variable in names:
            of_variable[attribute] = text
    merged: Mapping[str, str] = everywhere | of_variable | {key.lower(): text for key, text in own.items()}
    said = {name: str(merged.get(name.lower(), "")).strip() for name in _TAGS}
    return {name: text for name, text in said.items() if text}


def _unit(source: rasterio.DatasetReader, band: int, tags: Mapping[str, str], where: str) -> str | None:
    """The unit that a band says, one of `UNITS`; None: it says none."""
    texts = [text for text in (str(source.units[band - 1] or "").strip(), tags.get("units", "")) if text]
    unknown = [text for text in texts if text.lower() not in _MEANING]
    if unknown:
        raise SceneError(
            f"{where} has the unit '{unknown[0]}', which is no unit of backscatter; calibrate it to sigma0, and set "
            "its unit to dB or linear"
        )
    said = {_MEANING[text.lower()] for text in texts}
    if len(said) > 1:
        raise SceneError(f"{where} has the units '{texts[0]}' and '{texts[1]}'; leave the right one in it")
    if said:
        return said.pop()
    return "db" if _DB_WORD.search((source.descriptions[band - 1] or "").lower()) else None


def _limits(tags: Mapping[str, str], where: str) -> tuple[float, float]:
    """The least and the largest stored number that is data."""
    least, most = -math.inf, math.inf
    if "valid_range" in tags:
        pair = _numbers(tags, "valid_range", where)
        if len(pair) != 2:
            raise SceneError(f"{where} has the tag valid_range = {tags['valid_range']}; it must be two numbers")
        least, most = pair
    if "valid_min" in tags:
        least = max(least, _number(tags, "valid_min", where))
    if "valid_max" in tags:
        most = min(most, _number(tags, "valid_max", where))
    return least, most


def _numbers(tags: Mapping[str, str], name: str, where: str) -> list[float]:
    """The numbers of a tag; GDAL writes several as {a,b}."""
    try:
        return [float(text) for text in re.split(r"[\s,]+", tags[name].strip("{}[]() "))]
    except ValueError as error:
        raise SceneError(f"{where} has the tag {name} = {tags[name]}, which is no number; correct it") from error


def _number(tags: Mapping[str, str], name: str, where: str) -> float:
    """The only number of a tag."""
    numbers = _numbers(tags, name, where)
    if len(numbers) != 1:
        raise SceneError(f"{where} has the tag {name} = {tags[name]}; it must be one number")
    return numbers[0]
