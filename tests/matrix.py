"""Ways in which a file may store numbers, for the tests of every reader: each is read as the plain file is, or refused.

`STORAGES` gives, for a way, the numbers and the attributes that stand in the file for some values; `CHANNELS` says
which variables a kind of channel has and in which unit; `WRONG_UNITS` which units are wrong for it. A reader's test
writes the cells that its format can have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests import scenes

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Stored:
    """Values as they stand in a file.

    Attributes:
        numbers: of the file's type.
        attributes: that say what they mean, in the words of netCDF (CF).
        step: by which values may be rounded.
    """

    numbers: NDArray[Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    step: float = 0.0


def _scale(values: Float) -> tuple[float, float]:
    """Scale and offset that bring values to some 50,000 whole numbers about 0; 0 is none of them."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    scale = max(high - low, 1.0) / 50_000
    return scale, scale * (np.rint((low + high) / 2 / scale) + 0.5)


def packed(values: Float) -> Stored:
    """int16 with scale_factor and add_offset; no data is _FillValue."""
    scale, offset = _scale(values)
    counts = np.where(np.isnan(values), -32768, np.rint((values - offset) / scale)).astype(np.int16)
    return Stored(counts, {"scale_factor": scale, "add_offset": offset, "_FillValue": np.int16(-32768)}, scale)


def by_fill_value(values: Float) -> Stored:
    """float32; no data is _FillValue."""
    fill = np.float32(-9999.9)
    return Stored(np.where(np.isnan(values), fill, values).astype(np.float32), {"_FillValue": fill}, 1e-6)


def by_missing_value(values: Float) -> Stored:
    """float32; no data is one of two numbers, the second a double."""
    numbers = np.where(np.isnan(values), -999.9, values).astype(np.float32)
    numbers.flat[np.flatnonzero(np.isnan(values))[::2]] = -998
    return Stored(numbers, {"missing_value": np.array([-998, -999.9])}, 1e-6)


def by_valid_range(values: Float) -> Stored:
    """int16 with scale; no data lies beyond a range in values, which has the type of the scale."""
    scale, offset = _scale(values)
    counts = np.where(np.isnan(values), 30_000, np.rint((values - offset) / scale)).astype(np.int16)
    ends = np.array([np.nanmin(values) - scale, np.nanmax(values) + scale])
    return Stored(counts, {"scale_factor": scale, "add_offset": offset, "valid_range": ends}, scale)


def by_packed_range(values: Float) -> Stored:
    """int16 with scale; no data lies beyond a range in stored numbers."""
    stored = by_valid_range(values)
    ends = np.array([-26_000, 26_000], np.int16)
    return Stored(stored.numbers, {**stored.attributes, "valid_range": ends}, stored.step)


def unsigned(values: Float) -> Stored:
    """uint16 in variables of int16, as files without unsigned types have it."""
    scale, offset = _scale(values)
    counts = np.where(np.isnan(values), 65_535, np.rint((values - offset) / scale) + 30_000).astype(np.uint16)
    attributes = {"scale_factor": scale, "add_offset": offset - 30_000 * scale, "_FillValue": np.int16(-1)}
    return Stored(counts.view(np.int16), {**attributes, "_Unsigned": "true"}, scale)


def big_endian(values: Float) -> Stored:
    """float32 of the other byte order; no data is NaN."""
    return Stored(values.astype(">f4"), {}, 1e-6)


STORAGES: dict[str, Callable[[Float], Stored]] = {
    "packed int16": packed,
    "_FillValue": by_fill_value,
    "missing_value": by_missing_value,
    "valid_range": by_valid_range,
    "packed valid_range": by_packed_range,
    "_Unsigned": unsigned,
    "big endian": big_endian,
}

# Kind of channel -> names of its variables in raw scenes, without grid coordinates.
CHANNELS: dict[str, tuple[str, ...]] = {
    "SAR": ("nersc_sar_primary", "nersc_sar_secondary"),
    "AMSR2": scenes.AMSR2,
    "ERA5": scenes.ERA5,
    "distance": ("distance_map",),
    "geolocation": ("latitude", "longitude", "incidenceangle"),
}

# Variable, unit and the values in that unit: those that are converted.
CONVERTED: tuple[tuple[str, str, Callable[[Float], Float]], ...] = (
    ("nersc_sar_primary", "1", lambda decibels: 10 ** (decibels / 10)),
    ("nersc_sar_secondary", "m2 m-2", lambda decibels: 10 ** (decibels / 10)),
    ("btemp_89_0v", "degC", lambda kelvin: kelvin - 273.15),
    ("btemp_6_9h", "Celsius", lambda kelvin: kelvin - 273.15),
    ("t2m", "degrees_F", lambda kelvin: (kelvin - 273.15) * 9 / 5 + 32),
    ("u10m_rotated", "knots", lambda speed: speed / (1852 / 3600)),
    ("v10m_rotated", "km h**-1", lambda speed: speed * 3.6),
    ("tcwv", "g m^-2", lambda mass: mass * 1000),
    ("latitude", "radians", np.radians),
    ("longitude", "rad", np.radians),
    ("incidenceangle", "radian", np.radians),
)
# Variable and a unit that is refused.
WRONG_UNITS: tuple[tuple[str, str], ...] = (
    ("nersc_sar_primary", "counts"),
    ("nersc_sar_secondary", "amplitude"),
    ("btemp_6_9h", "mK"),
    ("u10m_rotated", "Pa"),
    ("tclw", "kg m-3"),
    ("distance_map", "km"),
    ("latitude", "m"),
    ("longitude", "arcsec"),
    ("incidenceangle", "m"),
)

# What cannot be backscatter: dB -> dB as a file may hold them.
DIGITAL_NUMBERS: Callable[[Float], Float] = lambda decibels: np.round(474 * 10 ** (decibels / 20))  # noqa: E731


def framed(decibels: Float, value: float) -> Float:
    """A frame of one value about an image: a twelfth of its edge on each side."""
    out = decibels.copy()
    rows, columns = (edge // 12 for edge in out.shape)
    out[:rows] = out[-rows:] = out[:, :columns] = out[:, -columns:] = value
    return out
