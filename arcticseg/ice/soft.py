"""Soft targets: what a polygon's partial concentrations say about the classes of its pixels.

A label keeps the one class that dominates a polygon, or nothing where none reaches 0.65 of the ice. The partials say
more: with CT 6/10, CA 4/10 of class 3 and CB 2/10 of class 1, a pixel is class 3 with probability 0.4, class 1 with 0.2
and open water, class 0 of SOD and of FLOE, with 0.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from arcticseg.ice.partials import PolygonRow
from arcticseg.ice.sigrid import DOMINANT_SHARE, N_CLASSES

# Charts with soft targets, and each one's place in a partial. SIC is one number, which the label says.
CHARTS = ("SOD", "FLOE")
_PLACE = {"SOD": 1, "FLOE": 2}

# Columns of a table of shares: the classes of one chart after those of the other.
COLUMNS = {
    "SOD": slice(0, N_CLASSES["SOD"]),
    "FLOE": slice(N_CLASSES["SOD"], N_CLASSES["SOD"] + N_CLASSES["FLOE"]),
}
WIDTH = sum(N_CLASSES[chart] for chart in CHARTS)

_FULL = 10


def distribution(row: PolygonRow, chart: str) -> tuple[float, ...] | None:
    """Probability of each class of SOD or FLOE at a pixel of a polygon.

    Water has what the total concentration leaves. The ice is parted as those partials are whose concentration and class
    are known. What they leave of the total is unknown: the distribution is over what is known, as a label is, if that
    is at least as much of the ice as a label needs (0.65). Partials that add up to more than the total are brought down
    to it. Without any concentration of partials the ice is A's, if A is alone.

    Args:
        row: a polygon.
        chart: `SOD` or `FLOE`.

    Returns:
        Probabilities that add up to 1; None: too little is known, or no single polygon is meant.
    """
    classes = N_CLASSES[chart]
    if row.total == 0:
        return (1.0, *[0.0] * (classes - 1))
    if row.partials is None or row.total is None or row.total > _FULL:
        return None
    shares = [concentration for concentration, _, _ in row.partials]
    if shares == [None] * len(shares):
        alone = all(part[_PLACE["SOD"]] is None for part in row.partials[1:])
        shares[0] = row.total if alone else None
    ice = [0] * classes
    for share, part in zip(shares, row.partials, strict=True):
        kind = part[_PLACE[chart]]
        if share is not None and share <= _FULL and kind is not None and kind < classes:
            ice[kind] += share
    known = sum(ice)
    # In whole numbers, as labels are compared.
    if known == 0 or 100 * known < round(100 * DOMINANT_SHARE) * row.total:
        return None
    water, total = 1 - row.total / _FULL, row.total / _FULL
    first, *others = (total * share / known for share in ice)
    return (water + first, *others)


@lru_cache(maxsize=4096)
def _shares(row: PolygonRow) -> tuple[float, ...]:
    parts: list[float] = []
    for chart in CHARTS:
        parts += distribution(row, chart) or (0.0,) * N_CLASSES[chart]
    return tuple(parts)


def shares_of(rows: Sequence[PolygonRow]) -> NDArray[np.float32]:
    """The distributions of rows, float32 [N, 13], in `COLUMNS`; a chart's are 0 where too little is known."""
    return np.array([_shares(row) for row in rows], np.float32).reshape(-1, WIDTH)
