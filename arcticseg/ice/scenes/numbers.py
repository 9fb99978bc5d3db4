"""What a stored number of a netCDF variable means, by its attributes: those of CF and of the NetCDF Users' Guide (NUG).

The order is that of CF (1.11, sections 2.5.1 and 8.1) and of NUG (appendix A): `_Unsigned`; then, on the stored
numbers, `_FillValue`, `missing_value` and the valid range; then `scale_factor` and `add_offset`; then the unit. An
attribute that cannot be applied is an error, since a number read wrongly is not seen in a chart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import netCDF4
import numpy as np
from numpy.typing import NDArray

from arcticseg.errors import SceneError
from arcticseg.ice.scenes.units import Convert, conversion
from arcticseg.shown import brief

# Attributes that say how numbers are stored; a copy of the values in another form must not keep them.
STORAGE = (
    "_FillValue", "missing_value", "valid_range", "valid_min", "valid_max", "scale_factor", "add_offset", "_Unsigned",
)  # fmt: skip

# Larger numbers mean no data: infinity, and what netCDF writes where nothing was written (9.97e36).
LARGEST = 1e30

# A packed limit or zero is met if it is missed by less than this share of a step, since scale_factor is rounded.
_STEP_SHARE = 1e-3
# Among z-scores zero means no data, and the stored number next to it stands for it, however scale and offset lie.
_STEP_SHARE_SCORED = 0.499
# Numbers decoded at a time.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Meaning:
    """How the stored numbers of a variable become values.

    Attributes:
        dtype: as which the stored numbers are taken, of the size of theirs.
        missing: stored numbers that mean no data.
        low, high: smaller and larger stored numbers mean no data.
        scale, offset: value = stored number x scale + offset; None: the stored numbers are the values.
        zero: integers whose value is smaller than this share of a step are zero.
        convert: from the file's unit to the one that is expected; None: it is the same.
    """

    dtype: np.dtype[Any]
    missing: tuple[float, ...] = ()
    low: float = -np.inf
    high: float = np.inf
    scale: float | None = None
    offset: float = 0.0
    zero: float = _STEP_SHARE
    convert: Convert | None = None

    @property
    def plain(self) -> bool:
        """The stored numbers are the values, and none but NaN and very large ones mean no data."""
        is_whole = (self.low, self.high) == (-np.inf, np.inf)
        return not self.missing and is_whole and self.scale is None and self.convert is None

    def decode(self, stored: NDArray[Any], dtype: type[np.floating[Any]] = np.float32) -> NDArray[Any]:
        """Values in the expected unit, NaN = no data; where the numbers are plain, the same memory if it fits.

        Raises:
            SceneError: the values cannot be of the file's unit.
        """
        stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
        if stored.dtype != self.dtype:
            stored = stored.view(self.dtype)
        if self.plain:
            with np.errstate(over="ignore"):
                values = stored.astype(dtype, copy=False)
            if values.size and np.fmax.reduce(values, axis=None) > LARGEST:
                values = np.where(values > LARGEST, dtype(np.nan), values)
            return values
        out = np.empty(stored.size, dtype)
        flat = stored.reshape(-1)
        for first in range(0, flat.size, _BLOCK):
            block = slice(first, first + _BLOCK)
            with np.errstate(over="ignore", invalid="ignore"):
                out[block] = self._values(flat[block])
        return out.reshape(stored.shape)

    def _values(self, stored: NDArray[Any]) -> NDArray[np.float64]:
        no_data = (stored < self.low) | (stored > self.high)
        for number in self.missing:
            no_data |= stored == number
        values = stored.astype(np.float64)
        no_data |= values > LARGEST
        if self.scale is not None:
            values = values * self.scale + self.offset
            if stored.dtype.kind in "iu":
                values[np.abs(values) < self.zero * abs(self.scale)] = 0
        values[no_data] = np.nan
        if self.convert is not None:
            values = self.convert(values)
        values[values > LARGEST] = np.nan
        return values


def meaning(
    name: str, attributes: Mapping[str, Any], dtype: np.dtype[Any], unit: str, is_scored: bool = False
) -> Meaning:
    """How the numbers of a variable are read.

    Args:
        name: of the variable, for messages.
        attributes: of the variable, as they stand in the file.
        dtype: of its numbers, as stored.
        unit: one of `units.UNITS`, of the values that are wanted.
        is_scored: the values are z-scores, made from values in that unit.

    Raises:
        SceneError: an attribute is not what CF makes it, or attributes contradict each other.
    """
    read = _Reader(name, attributes, dtype.newbyteorder("="))
    taken = read.taken()
    steps = [read.number(key) for key in ("scale_factor", "add_offset")]
    scale, offset = (default if step is None else float(step) for step, default in zip(steps, (1.0, 0.0), strict=True))
    if scale == 0 or not np.isfinite([scale, offset]).all():
        read.refuse("scale_factor" if scale == 0 or not np.isfinite(scale) else "add_offset", "is no step of a scale")
    given = [step.dtype for step in steps if step is not None]
    packing = _Packing(taken, np.result_type(*given) if given else None, scale, offset)
    low, high = read.limits(packing)
    return Meaning(
        taken,
        read.missing(packing),
        low,
        high,
        None if (scale, offset) == (1, 0) else scale,
        offset,
        _STEP_SHARE_SCORED if is_scored else _STEP_SHARE,
        conversion(name, attributes.get("units"), unit, is_scored),
    )


@dataclass(frozen=True)
class _Packing:
    """Types of the stored numbers and of scale and offset (None: there are none), and these two."""

    stored: np.dtype[Any]
    scaled: np.dtype[Any] | None
    scale: float
    offset: float

    def is_unpacked(self, dtype: np.dtype[Any]) -> bool | None:
        """Whether an attribute of a type counts in values, not in stored numbers (NUG); None: its type does not tell.

        In values, if it is of the type of scale and offset and this is wider than that of the stored numbers; a
        floating type is wider than an integer.
        """
        floating, is_integer = dtype.kind == "f", self.stored.kind in "iu"
        if self.scaled is None or dtype == self.stored:
            return False
        if dtype == self.scaled and ((floating and is_integer) or dtype.itemsize > self.stored.itemsize):
            return True
        return None if floating and is_integer else False

    def packed(self, value: float) -> float:
        """The stored number of a value, with a fraction."""
        return (value - self.offset) / self.scale


@dataclass(frozen=True)
class _Reader:
    """The attributes of a variable, checked."""

    name: str
    attributes: Mapping[str, Any]
    dtype: np.dtype[Any]

    def refuse(self, key: str, reason: str) -> NoReturn:
        value = brief(np.asarray(self.attributes[key]).tolist())
        raise SceneError(f"{self.name} has {key} {value}, which {reason}; correct the attribute or get the file again")

    def taken(self) -> np.dtype[Any]:
        """The type as which the stored numbers are taken."""
        if "_Unsigned" not in self.attributes:
            return self.dtype
        text = str(self.attributes["_Unsigned"]).lower()
        if text not in ("true", "false") or (text == "true" and self.dtype.kind == "f"):
            self.refuse("_Unsigned", f"does not go with numbers of {self.dtype}: 'true' or 'false', of integers")
        if self.dtype.kind == "f":
            return self.dtype
        return np.dtype(f"{'u' if text == 'true' else 'i'}{self.dtype.itemsize}")

    def numbers(self, key: str) -> NDArray[Any]:
        """The numbers of an attribute, [n]; those of the variable's type are taken as its stored numbers are."""
        values = np.atleast_1d(np.asarray(self.attributes[key]))
        if values.dtype.kind not in "fiu" or values.ndim != 1 or not values.size:
            self.refuse(key, "is not a number")
        values = values.astype(values.dtype.newbyteorder("="))
        taken = self.taken()
        return values.view(taken) if values.dtype == self.dtype else values

    def number(self, key: str) -> np.number[Any] | None:
        """The only number of an attribute; None: there is no such attribute."""
        if key not in self.attributes:
            return None
        values = self.numbers(key)
        if len(values) != 1:
            self.refuse(key, "is not a single number")
        number: np.number[Any] = values[0]
        return number

    def missing(self, packing: _Packing) -> tuple[float, ...]:
        """The stored numbers that mean no data."""
        fill = self.number("_FillValue")
        stored = []
        if fill is not None:
            stored.append(self._stored("_FillValue", fill, packing.stored))
        elif packing.stored.kind in "iu" and packing.stored.itemsize > 1:
            # What netCDF writes where nothing was written; a byte has no such number (NUG).
            stored.append(int(np.array(netCDF4.default_fillvals[self.dtype.str[1:]], self.dtype).view(packing.stored)))
        for number in self.numbers("missing_value") if "missing_value" in self.attributes else ():
            stored.append(self._missing_value(number, packing))
        return tuple(sorted({number for number in stored if not np.isnan(number) and number <= LARGEST}))

    def _missing_value(self, number: np.number[Any], packing: _Packing) -> float:
        """A `missing_value` as stored number: of its own type, or a value (where that alone can be stored)."""
        key = "missing_value"
        if packing.is_unpacked(number.dtype) is False or packing.stored.kind == "f":
            return self._stored(key, number, packing.stored)
        step = packing.packed(float(number))
        as_value = np.rint(step) if np.isfinite(step) and abs(step - np.rint(step)) < 10 * _STEP_SHARE else np.nan
        fits = [_is_storable(candidate, packing.stored) for candidate in (number, np.float64(as_value))]
        if all(fits):
            self.refuse(key, f"may be a stored number or a value; give it the type of the numbers, {packing.stored}")
        return float(as_value) if fits[1] else self._stored(key, number, packing.stored)

    def _stored(self, key: str, number: np.number[Any], dtype: np.dtype[Any]) -> float:
        if not _is_storable(number, dtype):
            self.refuse(key, f"numbers of {dtype} cannot be")
        return _plain(number.astype(dtype))

    def limits(self, packing: _Packing) -> tuple[float, float]:
        """The smallest and the largest valid stored number."""
        keys = [key for key in ("valid_range", "valid_min", "valid_max") if key in self.attributes]
        if len(keys) > 1 and keys[0] == "valid_range":
            self.refuse("valid_range", f"stands beside {keys[1]}: one of them is too many")
        if "valid_range" in keys:
            ends = self.numbers("valid_range")
            if len(ends) != 2:
                self.refuse("valid_range", "is not two numbers")
            given = [("valid_range", ends[0], False), ("valid_range", ends[1], True)]
        else:
            pairs = [("valid_min", False), ("valid_max", True)]
            given = [(key, number, upper) for key, upper in pairs if (number := self.number(key)) is not None]
        bounds = {False: -np.inf, True: np.inf}
        for key, number, upper in given:
            # A negative scale turns the order of values around.
            upper, limit = self._limit(key, number, upper, packing)
            bounds[upper] = limit
        if keys and not bounds[False] <= bounds[True]:
            self.refuse(keys[0], "leaves no number valid")
        return bounds[False], bounds[True]

    def _limit(self, key: str, number: np.number[Any], upper: bool, packing: _Packing) -> tuple[bool, float]:
        is_unpacked = packing.is_unpacked(number.dtype)
        if is_unpacked is None:
            self.refuse(key, f"is {number.dtype}, neither as the stored numbers ({packing.stored}) nor as their scale")
        if not is_unpacked:
            return upper, _plain(number.astype(packing.stored) if packing.stored.kind == "f" else number)
        upper = upper != (packing.scale < 0)
        limit = packing.packed(float(number))
        if packing.stored.kind in "iu":
            return upper, limit + (_STEP_SHARE if upper else -_STEP_SHARE)
        return upper, float(np.float64(limit).astype(packing.stored))


def _plain(number: np.number[Any]) -> float:
    """A number of Python's, an integer exactly."""
    return int(number) if number.dtype.kind in "iu" else float(number)


def _is_storable(given: np.number[Any], dtype: np.dtype[Any]) -> bool:
    """Whether a variable of a type can hold a number: integers exactly, floating numbers rounded."""
    number = _plain(given)
    if dtype.kind == "f":
        return not np.isfinite(number) or abs(number) <= float(np.finfo(dtype).max)
    limits = np.iinfo(dtype)
    return bool(np.isfinite(number) and number == int(number) and limits.min <= number <= limits.max)


def descriptive(attributes: Mapping[str, Any], unit: str) -> dict[str, Any]:
    """The attributes that still hold for the values of a variable, decoded to a unit, in other storage."""
    kept = {key: value for key, value in attributes.items() if key not in STORAGE}
    return kept | ({"units": unit} if "units" in kept else {})
