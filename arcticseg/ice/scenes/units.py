"""Units of scene files: which spellings mean the unit that is expected, and which others are converted.

A unit that stands in no row is refused, not guessed. Factors: degree Celsius and Fahrenheit by the SI brochure (9th
edition, table 4) and NIST SP 811 (B.8); knot 1852/3600 m/s exactly; 1 mm of water of 1000 kg/m3 is 1 kg/m2 (ERA5's own
use for total column water vapour); dB = 10 log10 of a ratio of powers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from arcticseg.errors import SceneError
from arcticseg.shown import brief

Float = NDArray[np.float64]
Convert = Callable[[Float], Float]


def _times(factor: float, offset: float = 0.0) -> Convert:
    return lambda values: values * factor + offset


def _decibels(power: Float) -> Float:
    """Linear power to dB; power that is not positive is no data, as in GeoTIFFs.

    Raises:
        SceneError: most values are negative, so they are no power.
    """
    valid, negative = np.count_nonzero(np.isfinite(power)), np.count_nonzero(power < 0)
    if negative > 0.5 * valid:
        raise SceneError(
            f"{negative} of {valid} values are negative, which linear power cannot be; if they are dB, set units to dB"
        )
    return 10 * np.log10(np.where(power > 0, power, np.nan))


_NO_UNIT = "1; -; none; dimensionless; unitless"
_DEGREE = "degree; degrees; deg; °"
_RADIAN = "radian; radians; rad"

# Unit that is expected -> its spellings (separated by semicolons), and those of others with their conversion.
UNITS: dict[str, tuple[tuple[str, Convert | None], ...]] = {
    "dB": (
        ("dB; decibel; decibels", None),
        ("1; linear; linear power; power; m2/m2; m2 m-2; dimensionless", _decibels),
    ),
    "K": (
        ("K; kelvin; kelvins; degK; deg K; degree_kelvin; degrees_kelvin; degree K; degrees K; °K", None),
        ("degC; deg C; C; °C; ℃; celsius; degree_C; degrees_C; degree C; degrees C; degree_celsius; degrees_celsius; "
         "degree celsius; degrees celsius; deg_C", _times(1, 273.15)),
        ("degF; deg F; F; °F; fahrenheit; degree_F; degrees_F; degree_fahrenheit; degrees_fahrenheit; deg_F",
         _times(5 / 9, 459.67 * 5 / 9)),
    ),
    "m/s": (
        ("m/s; m s-1; ms-1; m/sec; m sec-1; meter/second; metre/second; meters/second; metres/second; meter second-1; "
         "metre second-1; meters per second; metres per second; meter per second; metre per second", None),
        ("cm/s; cm s-1", _times(0.01)),
        ("km/h; km h-1; km/hr; km hr-1; kph", _times(1 / 3.6)),
        ("knot; knots; kn; kt; kts", _times(1852 / 3600)),
    ),
    "kg/m2": (
        ("kg/m2; kg m-2; kg/m²; mm", None),
        ("g/m2; g m-2", _times(0.001)),
        ("cm", _times(10)),
    ),
    "latitude": (
        (f"degrees_north; degree_north; degree_N; degrees_N; degreeN; degreesN; {_DEGREE}", None),
        (_RADIAN, np.degrees),
    ),
    "longitude": (
        (f"degrees_east; degree_east; degree_E; degrees_E; degreeE; degreesE; {_DEGREE}", None),
        ("degrees_west; degree_west; degree_W; degrees_W; degreeW; degreesW", _times(-1)),
        (_RADIAN, np.degrees),
    ),
    "degree": ((_DEGREE, None), (_RADIAN, np.degrees)),
    "pixel": ((f"{_NO_UNIT}; pixel; pixels; px; line; lines; sample; samples; count; index", None),),
    "zone": ((f"{_NO_UNIT}; zone; zones; zone id; id", None),),
    "polygon": ((f"{_NO_UNIT}; polygon; polygon id; id", None),),
    "class": ((f"{_NO_UNIT}; class; classes", None),),
}  # fmt: skip


def _normal(text: str) -> str:
    """A spelling without what makes no difference: case, space, `**` and `^` of powers, dots of products."""
    return re.sub(r"[\s.*·]+", " ", re.sub(r"\*\*|\^", "", text)).strip().casefold()


def _spellings(unit: str) -> Iterator[tuple[str, Convert | None]]:
    for row, convert in UNITS[unit]:
        for text in row.split(";"):
            yield _normal(text), convert


def conversion(name: str, given: object, unit: str, is_scored: bool = False) -> Convert | None:
    """From the unit that a file gives to the one that is expected; None: it is the same, or none is given.

    Args:
        name: of the variable, for messages.
        given: its attribute `units`, or None.
        unit: one of `UNITS`.
        is_scored: the values are z-scores of values in that unit, so that nothing can be converted.

    Raises:
        SceneError: the unit is neither the expected one nor one that is converted.
    """
    if given is None or (isinstance(given, str) and not given.strip()):
        return None
    known = dict(_spellings(unit))
    text = _normal(given) if isinstance(given, str) else ""
    if is_scored and text in map(_normal, _NO_UNIT.split(";")):
        return None
    if text not in known or (is_scored and known[text] is not None):
        wanted = UNITS[unit][0][0].split(";")[0] + (" of z-scores" if is_scored else "")
        shown = brief(np.asarray(given).tolist())
        raise SceneError(f"{name} has units {shown}; expected {wanted}; convert it, or correct the attribute")
    return known[text]
