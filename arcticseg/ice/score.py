"""AutoICE scores from confusion counts, which add up over tiles, scenes and ranks.

A confusion matrix is int64 [n_classes, n_classes], rows = chart, columns = prediction. The pooled scores of many
scenes are the scores of the sum of their matrices, so pixels need not be kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX, N_CLASSES

Confusion = NDArray[np.int64]

# Weights of the combined score (AutoICE challenge).
WEIGHTS = {"SIC": 2, "SOD": 2, "FLOE": 1}


def confusion(chart: NDArray[np.uint8], prediction: NDArray[np.uint8], n_classes: int) -> Confusion:
    """Count pixels by (chart class, predicted class), without the pixels where the chart is masked.

    Args:
        chart, prediction: uint8 arrays of equal shape; 255 in the chart = masked.

    Raises:
        ValueError: a class is out of range where the chart is labelled.
    """
    labelled = chart != IGNORE_INDEX
    truth, guess = chart[labelled].astype(np.int64), prediction[labelled].astype(np.int64)
    if truth.size and max(int(truth.max()), int(guess.max())) >= n_classes:
        raise ValueError(f"class {max(int(truth.max()), int(guess.max()))} is not below {n_classes}")
    counts = np.bincount(truth * n_classes + guess, minlength=n_classes * n_classes)
    return counts.reshape(n_classes, n_classes)


def r2(counts: Confusion) -> float | None:
    """Coefficient of determination of class numbers; None where it is undefined: below two pixels or chart classes."""
    classes = np.arange(len(counts), dtype=np.float64)
    truth = counts.sum(axis=1)
    total = truth.sum()
    if total < 2 or np.count_nonzero(truth) < 2:
        return None
    mean = (truth * classes).sum() / total
    residual = (counts * (classes[:, None] - classes[None, :]) ** 2).sum()
    spread = (truth * (classes - mean) ** 2).sum()
    return float(1.0 - residual / spread)


def weighted_f1(counts: Confusion) -> float | None:
    """Mean F1 of the classes, weighted by their pixels in the chart; a class never hit has 0; None without pixels."""
    truth, guess, hits = counts.sum(axis=1), counts.sum(axis=0), np.diag(counts)
    if truth.sum() == 0:
        return None
    f1 = np.where(truth + guess > 0, 2.0 * hits / np.maximum(truth + guess, 1), 0.0)
    return float((f1 * truth).sum() / truth.sum())


def scores(confusions: Mapping[str, Confusion]) -> dict[str, float | None]:
    """SIC, SOD, FLOE and combined score, times 100, rounded to 3 decimals; combined from the rounded parts.

    Returns:
        SIC, SOD, FLOE, combined -> score; None where it is undefined.
    """
    results: dict[str, float | None] = {}
    for chart in CHARTS:
        value = r2(confusions[chart]) if chart == "SIC" else weighted_f1(confusions[chart])
        results[chart] = None if value is None else round(100 * value, 3)
    parts = [results[chart] for chart in CHARTS]
    if any(part is None for part in parts):
        results["combined"] = None
    else:
        total = sum(WEIGHTS[chart] * part for chart, part in zip(CHARTS, parts, strict=True) if part is not None)
        results["combined"] = round(total / sum(WEIGHTS.values()), 3)
    return results


def empty_confusions() -> dict[str, Confusion]:
    """A zero matrix for each chart."""
    return {chart: np.zeros((n, n), np.int64) for chart, n in N_CLASSES.items()}


def majority(confusions: Mapping[str, Confusion]) -> dict[str, Confusion]:
    """The counts of a prediction that is everywhere the chart's most frequent class: the least to beat."""
    baseline = {}
    for chart, counts in confusions.items():
        truth = counts.sum(axis=1)
        baseline[chart] = np.zeros_like(counts)
        baseline[chart][:, int(truth.argmax())] = truth
    return baseline
