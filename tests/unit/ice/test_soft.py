"""What a polygon's partials say about its pixels."""

from __future__ import annotations

import random

import numpy as np
import pytest

from arcticseg.ice.partials import GARBLED, NO_CLASS, PolygonRow
from arcticseg.ice.soft import COLUMNS, WIDTH, distribution, shares_of

E = (None, None, None)
Parts = tuple[tuple[int | None, int | None, int | None], ...]

# Total, partials (concentration, stage, floe size), and by hand the tenths of each class of SOD and of FLOE.
CASES: dict[str, tuple[int | None, Parts, list[float] | None, list[float] | None]] = {
    "water": (0, (E, E, E), [10, 0, 0, 0, 0, 0], [10, 0, 0, 0, 0, 0, 0]),
    "two partials": (6, ((4, 3, 2), (2, 1, 5), E), [4, 2, 0, 4, 0, 0], [4, 0, 4, 0, 0, 2, 0]),
    "three, full cover": (10, ((5, 5, 4), (3, 4, 4), (2, 1, 1)), [0, 2, 0, 0, 3, 5], [0, 2, 0, 0, 8, 0, 0]),
    "three alike": (9, ((3, 2, 3), (3, 2, 3), (3, 2, 3)), [1, 0, 9, 0, 0, 0], [1, 0, 0, 9, 0, 0, 0]),
    "A takes the total": (7, ((None, 4, 3), E, E), [3, 0, 0, 0, 7, 0], [3, 0, 0, 7, 0, 0, 0]),
    "stages without concentrations": (7, ((None, 4, 3), (None, 3, 3), E), None, None),
    "a stage without a class, too large": (10, ((6, 3, 4), (4, 255, 4), E), None, [0, 0, 0, 0, 10, 0, 0]),
    "a stage without a class, small": (10, ((8, 3, 4), (2, 255, 4), E), [0, 0, 0, 10, 0, 0], [0, 0, 0, 0, 10, 0, 0]),
    "unknown floes": (5, ((4, 3, NO_CLASS + 99), (1, 4, 3), E), [5, 0, 0, 4, 1, 0], None),
    "an unlisted stage": (10, ((7, NO_CLASS + 70, 2), (3, 1, 2), E), None, [0, 0, 10, 0, 0, 0, 0]),
    "an unknown concentration": (
        10,
        ((7, 3, 2), (NO_CLASS + 99, 1, 2), E),
        [0, 0, 0, 10, 0, 0],
        [0, 0, 10, 0, 0, 0, 0],
    ),
    "partials short of the total": (8, ((4, 3, 4), (2, 4, 4), E), [2, 0, 0, 16 / 3, 8 / 3, 0], [2, 0, 0, 0, 8, 0, 0]),
    "partials beyond the total": (4, ((6, 3, 4), (2, 1, 4), E), [6, 1, 0, 3, 0, 0], [6, 0, 0, 0, 4, 0, 0]),
    "an empty stage": (10, ((6, 3, 4), (1, 1, 2), (3, None, None)), [0, 10 / 7, 0, 60 / 7, 0, 0],
                       [0, 0, 10 / 7, 0, 60 / 7, 0, 0]),
    "ice free as a partial": (10, ((8, 3, 4), (2, 0, 0), E), [2, 0, 0, 8, 0, 0], [2, 0, 0, 0, 8, 0, 0]),
    "no total": (None, ((8, 3, 4), E, E), None, None),
    "a total without a class": (NO_CLASS + 99, ((8, 3, 4), E, E), None, None),
    "nothing": (6, (E, E, E), None, None),
    "garbled": (6, ((GARBLED, 3, 4), E, E), None, None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_by_hand(case: str) -> None:
    total, partials, sod, floe = CASES[case]
    label = (0, 0, 0) if total == 0 else (255, 255, 255)
    row = PolygonRow(label, total, partials)
    for chart, tenths in (("SOD", sod), ("FLOE", floe)):
        shares = distribution(row, chart)
        assert (shares is None) == (tenths is None)
        if shares is not None and tenths is not None:
            np.testing.assert_allclose(shares, np.array(tenths) / 10, atol=1e-12)


def test_a_combination_of_labels_says_nothing_unless_it_is_of_no_polygon() -> None:
    assert distribution(PolygonRow((7, 3, 255)), "SOD") is None
    assert shares_of([]).shape == (0, WIDTH)


def tenths_by_counting(row: PolygonRow, place: int, classes: int) -> list[float] | None:
    """Of 10 x total pieces of ice, each known piece is put on its class; a piece more is water for each tenth left."""
    assert row.total is not None
    assert row.partials is not None
    pieces: list[int] = []
    for concentration, *kinds in row.partials:
        kind = kinds[place]
        if concentration is not None and kind is not None and kind < classes:
            pieces += [kind] * concentration
    if not pieces or len(pieces) / row.total < 0.65:
        return None
    tenths = [0.0] * classes
    tenths[0] = 10 - row.total
    for kind in pieces:
        tenths[kind] += row.total / len(pieces)
    return tenths


def test_random_polygons_are_as_counted_piece_by_piece() -> None:
    draw = random.Random(3)
    known = 0
    for _ in range(2000):
        partials = tuple(
            (draw.choice([None, *range(8)]), draw.choice([None, 255, *range(6)]), draw.choice([1099, *range(7)]))
            for _ in range(3)
        )
        if all(part[0] is None for part in partials):
            continue
        row = PolygonRow((5, 255, 255), draw.randint(1, 10), partials)
        table = shares_of([row])[0]
        for place, (chart, classes) in enumerate((("SOD", 6), ("FLOE", 7))):
            tenths = tenths_by_counting(row, place, classes)
            known += tenths is not None
            np.testing.assert_allclose(table[COLUMNS[chart]], 0 if tenths is None else np.array(tenths) / 10, atol=1e-6)
    assert 500 < known < 3500
