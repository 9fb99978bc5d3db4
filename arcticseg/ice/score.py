"""AutoICE scores from confusion counts, which add up over tiles, scenes and ranks.

A confusion matrix is int64 [n_classes, n_classes], rows = chart, columns = prediction. The pooled scores of many
scenes are the scores of the sum of their matrices, so pixels need not be kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcticseg.ice.sigrid import CHARTS, CLASS_NAMES, IGNORE_INDEX, N_CLASSES

Confusion = NDArray[np.int64]

# Weights of the combined score (AutoICE challenge).
WEIGHTS = {"SIC": 2, "SOD": 2, "FLOE": 1}

# Pixels that are counted at a time, an even number.
_BLOCK = 1 << 18


def confusion(chart: NDArray[np.uint8], prediction: NDArray[np.uint8], n_classes: int) -> Confusion:
    """Count pixels by (chart class, predicted class), without the pixels where the chart is masked.

    Args:
        chart, prediction: uint8 arrays of equal shape; 255 in the chart = masked.
        n_classes: at most 15.

    Raises:
        ValueError: a class is out of range where the chart is labelled.
    """
    truth, guess = np.ascontiguousarray(chart).ravel(), np.ascontiguousarray(prediction).ravel()
    pairs, single = np.zeros(1 << 16, np.int64), np.zeros(1 << 8, np.int64)
    for first in range(0, truth.size, _BLOCK):
        block = slice(first, first + _BLOCK)
        codes = _codes(truth[block], guess[block], n_classes)
        even = codes.size // 2 * 2
        # numpy counts 64-bit numbers, which stay in the cache in blocks; two pixels at a time make half of them.
        pairs += np.bincount(codes[:even].view(np.uint16), minlength=pairs.size)
        single += np.bincount(codes[even:], minlength=single.size)
    both = pairs.reshape(single.size, single.size)
    counts = single + both.sum(axis=0) + both.sum(axis=1)
    return counts[: n_classes * n_classes].reshape(n_classes, n_classes)


def _codes(truth: NDArray[np.uint8], guess: NDArray[np.uint8], n_classes: int) -> NDArray[np.uint8]:
    """uint8 [N], class x n_classes + predicted class; where the chart is masked, a number above all of these.

    The mask, 255, is -1 modulo 256, so it comes to 256 - n_classes or more.
    """
    largest = int(guess.max())
    if largest >= n_classes:
        guess = np.where(truth == IGNORE_INDEX, np.uint8(0), guess)
        largest = int(guess.max())
    codes = truth + np.uint8(1)
    largest = max(largest, int(codes.max()) - 1)
    if largest >= n_classes:
        raise ValueError(f"class {largest} is not below {n_classes}")
    np.multiply(truth, np.uint8(n_classes), out=codes)
    np.add(codes, guess, out=codes)
    return codes


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


def class_scores(counts: Confusion, names: Sequence[str]) -> dict[str, Any] | None:
    """Scores of each class of a chart, and their plain means; None without pixels.

    Means are over the classes that the chart or the prediction holds. A ratio of nothing to nothing is None: the
    precision of a class that is never predicted, the recall of one that the chart does not hold.

    In means, nothing to nothing counts as 0.

    Returns:
        `accuracy`, `mIoU`, `macro_precision`, `macro_recall`, `macro_F1` (all 0..1), and `classes`, a list of `name`,
        `pixels` in the chart, `precision`, `recall`, `F1` and `IoU`.
    """
    truth, guess, hits = counts.sum(axis=1), counts.sum(axis=0), np.diag(counts)
    if truth.sum() == 0:
        return None
    both = truth + guess
    ratios = {
        "precision": (hits, guess),
        "recall": (hits, truth),
        "F1": (2 * hits, both),
        "IoU": (hits, both - hits),
    }
    classes = [
        {"name": name, "pixels": int(truth[i])}
        | {key: float(part[i] / whole[i]) if whole[i] else None for key, (part, whole) in ratios.items()}
        for i, name in enumerate(names)
    ]
    held = both > 0
    means = {key: float((part[held] / np.maximum(whole[held], 1)).mean()) for key, (part, whole) in ratios.items()}
    return {
        "accuracy": float(hits.sum() / truth.sum()),
        "mIoU": means.pop("IoU"),
        **{f"macro_{key}": mean for key, mean in means.items()},
        "classes": classes,
    }


def detailed_scores(chart: str, counts: Confusion) -> dict[str, float | None]:
    """What `class_scores` says of a chart as flat names, times 100; empty without pixels.

    Returns:
        `SOD/mIoU`, `SOD/macro_F1` and so on, and `SOD/F1/old_ice` for each ratio and class.
    """
    told = class_scores(counts, CLASS_NAMES[chart])
    if told is None:
        return {}
    classes = told.pop("classes")
    ratios = ("precision", "recall", "F1", "IoU")
    by_class = {f"{key}/{_slug(row['name'])}": row[key] for key in ratios for row in classes}
    return {
        f"{chart}/{name}": None if value is None else round(100 * value, 3) for name, value in (told | by_class).items()
    }


def _slug(name: str) -> str:
    """A class name as a part of a key: `thin first-year ice` -> `thin_first_year_ice`, `30 %` -> `30`."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


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
