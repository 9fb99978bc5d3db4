"""Fields of a chart, as a network or a baseline gives them, to classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from arcticseg.ice.sigrid import N_CLASSES


def most_likely(field: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Probabilities [K, H, W] -> the class of the largest, uint8 [H, W]; the first where several are equal."""
    return field.argmax(axis=0).astype(np.uint8)


def rounded(field: NDArray[np.float32], chart: str) -> NDArray[np.uint8]:
    """Values [1, H, W] in classes of a chart -> the nearest class, uint8 [H, W]."""
    return np.clip(np.rint(field[0]), 0, N_CLASSES[chart] - 1).astype(np.uint8)


def median(field: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Probabilities [K, H, W] of classes in order -> the class at which half of the mass is reached, uint8 [H, W]."""
    reached = np.cumsum(field[:-1], axis=0, dtype=np.float32)
    return np.asarray((reached < 0.5).sum(axis=0), np.uint8)
