"""Weights of a chart's classes from how often they are in the labels; no torch here.

A loss with class weights is a weighted mean over labelled pixels: the sum of w[label] x loss, divided by the sum of
w[label], of the global batch. So the scale of weights does not matter; those made here have a mean of 1 over the
labelled pixels of the training samples. A class without a pixel among these has weight 0, not infinity: there is
nothing to learn it from.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Weights = tuple[float, ...]
Counts = NDArray[np.int64]


def none(counts: Counts, tile: int) -> Weights:
    """1 for each class."""
    return (1.0,) * len(counts)


def inverse(counts: Counts, tile: int, cap: float) -> Weights:
    """Inverse frequency: labelled pixels / (classes present x pixels of the class), capped.

    Args:
        counts: pixels of each class, int64 [K].
        tile: edge of a tile in pixels.
        cap: the largest weight, 1 or more; what it takes from a class all others share by their weights.
    """
    return _scaled(counts, _over(counts.astype(np.float64)), cap)


def effective(counts: Counts, tile: int, beta: float, cap: float) -> Weights:
    """One over the effective number (1 - beta^n) / (1 - beta) (Cui et al., CVPR 2019), capped as by `inverse`.

    n is counted in tiles full of the class, pixels / tile^2: neighbouring pixels lie in one polygon and tell the same.
    Counted in pixels, of which there are millions, the effective number of any class would be 1 / (1 - beta).
    """
    samples = counts / tile**2
    number = np.sign(samples) if beta == 0 else -np.expm1(samples * np.log(beta)) / (1 - beta)
    return _scaled(counts, _over(number), cap)


def given(counts: Counts, tile: int, values: Weights) -> Weights:
    """The weights of the config as they are."""
    return values


def _over(number: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(1.0, number, out=np.zeros_like(number), where=number > 0)


def _scaled(counts: Counts, weights: NDArray[np.float64], cap: float) -> Weights:
    """min(s x weight, cap) with s such that the mean over the pixels is 1; all alike where there is no pixel."""
    total = counts.sum()
    if total == 0:
        return (1.0,) * len(counts)
    capped = np.zeros(len(counts), bool)
    while True:
        free = (counts * weights)[~capped].sum()
        scale = (total - cap * counts[capped].sum()) / free if free > 0 else 0.0
        above = capped | (scale * weights > cap)
        if (above == capped).all():
            return tuple(np.where(capped, cap, scale * weights).tolist())
        capped = above
