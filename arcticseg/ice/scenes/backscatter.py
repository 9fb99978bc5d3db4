"""Backscatter that cannot be: digital numbers, linear power taken for dB, no data that no tag marks.

The rules look at a regular sample of some 250,000 pixels, those of one polarisation in dB that are finite:

- the median is above 5 dB or below -60 dB: digital numbers, another quantity or unit. Refused.
- fewer than 1 % are below 0 dB, or 95 % are within 1 dB of 0: linear power or amplitude. Refused.
- numbers below -450 dB (float32 holds no power so small) or above 100 dB, such as -9999: no data. Refused.
- one exact number makes up 0.5 % or more, and is 5 times as frequent as the numbers next to it in size (so that
  backscatter in coarse steps is none): a frame of no data, or values cut off. Named in a warning.

Zero power (-inf dB) and no data (NaN) are not counted: scenes may have much of both.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcticseg.errors import SceneError

Float = NDArray[np.float32]

_SAMPLE = 250_000
_MEDIANS = (-60.0, 5.0)
_POSSIBLE = (-450.0, 100.0)
_MIN_NEGATIVE = 0.01
_NEAR_ZERO = 0.95
_FRAME = 0.005
_FREQUENT = 5
# So many pixels of one number are no chance, however small the scene.
_FEW = 20

_REMEDY = "mark no data by _FillValue (netCDF) or the nodata tag (GeoTIFF)"


def check(values: Float, name: str) -> str | None:
    """What is odd about the backscatter of a scene; None: nothing.

    Args:
        values: float32 [H, W] dB, NaN = no data.
        name: of the polarisation, for messages.

    Raises:
        SceneError: it is no backscatter in dB.
    """
    sample = _sample(values)
    if not sample.size:
        return None
    number, share = _frequent(sample)
    stands = f"{share:.1%} of {name} is exactly {round(number, 3) + 0.0:g} dB"
    impossible = (sample < _POSSIBLE[0]) | (sample > _POSSIBLE[1])
    if share >= _FRAME and not _POSSIBLE[0] <= number <= _POSSIBLE[1]:
        raise SceneError(f"{stands}, which is no backscatter; {_REMEDY}")
    median = float(np.median(sample))
    if not _MEDIANS[0] <= median <= _MEDIANS[1]:
        raise SceneError(
            f"{name} has a median of {median:.4g} dB, but backscatter lies between {_MEDIANS[0]:g} and "
            f"{_MEDIANS[1]:g} dB; calibrate digital numbers to sigma0, and say the unit"
        )
    if np.mean(sample < 0) < _MIN_NEGATIVE or np.mean(np.abs(sample) < 1) > _NEAR_ZERO:
        raise SceneError(
            f"{name} has a median of {median:.4g} and {np.mean(sample < 0):.0%} negative values, so it is not in dB; "
            "convert linear power by 10 log10, or say the unit"
        )
    if impossible.any():
        odd = float(sample[impossible][0])
        raise SceneError(f"{np.mean(impossible):.2%} of {name} is such as {odd:g} dB, no backscatter; {_REMEDY}")
    return f"{stands}: no data that is not marked, or values cut off" if share >= _FRAME else None


def check_numbers(sample: NDArray[np.uint16], name: str) -> str | None:
    """What is odd about digital numbers; None: nothing. Calibration hides a frame of one number.

    Args:
        sample: uint16 [N] of a regular sample of the pixels with data.
    """
    number, share = _frequent(sample) if sample.size else (0.0, 0.0)
    stands = f"the digital number of {share:.1%} of {name} is exactly {number:g}"
    return f"{stands}: no data that is not marked, or values cut off" if share >= _FRAME else None


def sampling(pixels: int) -> int:
    """Every how many lines and samples of a raster are looked at."""
    return max(1, round(math.sqrt(pixels / _SAMPLE)))


def _sample(values: Float) -> Float:
    """Finite values of evenly spaced lines and samples."""
    step = sampling(values.size)
    part = values[::step, ::step]
    return part[np.isfinite(part)]


def _frequent(sample: NDArray[Any]) -> tuple[float, float]:
    """The most frequent of the numbers that stand out from those next to them, and its share; 0: none stands out."""
    numbers, counts = np.unique(sample, return_counts=True)
    padded = np.pad(counts, 1)
    stands_out = counts >= np.maximum(_FEW, _FREQUENT * np.maximum(padded[:-2], padded[2:]))
    best = int(np.argmax(np.where(stands_out, counts, 0)))
    return float(numbers[best]), float(counts[best] / sample.size) if stands_out[best] else 0.0
