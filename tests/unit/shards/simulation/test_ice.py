"""Eggs and floes: codes that mean what they should, and floes that cover what the egg says."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from arcticseg.ice.chart import parse_polygon_codes, polygon_classes
from shards.simulation.eggs import HEADER, Egg, Partial, code_row, egg_classes, month_weights, pool
from shards.simulation.facts import ICE_SIC, ICE_SOD
from shards.simulation.floes import BIG, FAST, KINDS, MEDIUM, MIXTURE, SMALL, VAST, FloeBlock, Floes, floe_kind
from shards.simulation.under_chart import concentration, egg_of

ALL = np.arange(1000.0)


def test_code_rows_in_both_dialects() -> None:
    egg = Egg(91, (Partial(0.7, 95, 6), Partial(0.3, 84, 3)))
    assert code_row(egg, 10, "cis") == "10;91;70;95;06;30;84;03;-9;-9;-9;-9;-9;0603;I"
    assert code_row(egg, 10, "dmi") == "10;91;70;95;6;30;84;3;-9;-9;-9;-9;-9;-9;I"
    single = Egg(90, (Partial(0.9, 93, 8),))
    assert code_row(single, 9, "cis") == "9;90;-9;93;08;-9;-9;-9;-9;-9;-9;95;-9;08-9;I"
    assert code_row(Egg(2, ()), 5, "cis") == "5;02;-9;98;10;-9;-9;-9;-9;-9;-9;-9;-9;10-9;W"
    assert code_row(Egg(1, ()), 5, "dmi") == "5;1;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;W"


def test_eggs_of_the_pool_are_consistent() -> None:
    eggs, classes, weights = pool()
    assert weights.sum() == pytest.approx(1)
    for egg, (sic, _, _) in zip(eggs, classes, strict=True):
        assert sum(partial.share for partial in egg.partials) == pytest.approx(sic / 10)
        assert len({partial.stage for partial in egg.partials}) == len(egg.partials) <= 3
    rows = [code_row(egg, number, "cis") for number, egg in enumerate(eggs) if egg.partials_written]
    written = np.array([egg.partials_written for egg in eggs])
    classes_of_rows = polygon_classes(parse_polygon_codes([HEADER, *rows], "pool"), strict=True)
    assert np.array_equal(classes_of_rows, classes[written])


def test_weights_give_the_published_frequencies() -> None:
    _, classes, weights = pool()
    for label, count in enumerate(ICE_SIC, start=1):
        assert weights[classes[:, 0] == label].sum() == pytest.approx(count / sum(ICE_SIC), rel=0.02)
    for label, count in zip((1, 2, 3, 4, 5, 255), ICE_SOD, strict=True):
        assert weights[classes[:, 1] == label].sum() == pytest.approx(count / sum(ICE_SOD), rel=0.02)


def test_seasons() -> None:
    _, classes, _ = pool()
    new, thick = classes[:, 1] == 1, classes[:, 1] == 4
    assert month_weights(10)[new].sum() > 5 * month_weights(5)[new].sum()
    assert month_weights(5)[thick].sum() > 5 * month_weights(10)[thick].sum()


@cache
def whole_scene(index: int) -> FloeBlock:
    """All of a scene of 1000 x 1000 pixels; it keeps the fields that it has computed."""
    return Floes((1000, 1000), index, 0).block(ALL, ALL)


@pytest.mark.parametrize("kind", [MIXTURE, SMALL, MEDIUM, BIG, VAST])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 0.9])
def test_floes_cover_what_they_should(kind: int, share: float) -> None:
    # Vast floes are few in a scene of 40 km: the mean of several scenes counts.
    covers = []
    for index in range(6 if kind == VAST else 1):
        cover = whole_scene(index).cover(kind, 0, np.full((1000, 1000), share, np.float32))
        assert cover.min() >= 0
        assert cover.max() <= 1
        covers.append(cover.mean())
    assert np.mean(covers) == pytest.approx(share, abs=0.06)


def test_full_cover_has_no_water() -> None:
    block = Floes((500, 500), 0, 0).block(ALL[:500], ALL[:500])
    for kind in (MIXTURE, SMALL, MEDIUM, BIG, FAST):
        assert (block.cover(kind, 1, np.ones((500, 500), np.float32)) == 1).all()


def test_larger_floes_make_larger_patches() -> None:
    """The share of neighbours that differ falls from kind to kind."""
    block = whole_scene(0)
    changes = []
    for kind in (SMALL, MEDIUM, BIG, VAST):
        ice = block.cover(kind, 0, np.full((1000, 1000), 0.6, np.float32)) > 0.5
        changes.append(np.mean(ice[:, 1:] != ice[:, :-1]))
    assert all(low < high / 1.3 for high, low in pairwise(changes)), changes


def test_floe_kinds_of_codes() -> None:
    assert [floe_kind(code, 93) for code in (2, 3, 4, 5, 6, 8)] == [MIXTURE, SMALL, MEDIUM, BIG, VAST, FAST]
    assert floe_kind(99, 81) == MIXTURE
    assert floe_kind(-9, 93) == MEDIUM
    assert all(0 <= floe_kind(code, 93) < KINDS for code in range(100))


def test_truth_of_real_codes() -> None:
    empty = dict.fromkeys(HEADER.split(";")[1:], "-9")
    partials = {"CA": "40", "SA": "84", "FA": "04", "CB": "40", "SB": "81", "FB": "99"}
    two = egg_of(empty | partials | {"CT": "80", "POLY_TYPE": "I"})
    assert [(p.stage, p.floe, round(p.share, 6)) for p in two.partials] == [(84, 4, 0.4), (81, 99, 0.4)]
    # A Danish chart: a range for the total, no partials.
    shared = egg_of(empty | {"CT": "46", "SA": "87", "FA": "4", "SB": "85", "FB": "3", "POLY_TYPE": "I"})
    assert [round(p.share, 6) for p in shared.partials] == [0.25, 0.25]
    assert egg_of(empty | {"CT": "02", "SA": "98", "FA": "10", "POLY_TYPE": "W"}).partials == ()
    assert egg_classes([Egg(92, (Partial(1.0, 93, 8),))]).tolist() == [[10, 4, 255]]
    assert [concentration(code) for code in (1, 10, 91, 92, 79, 13, -9)] == [0, 0.1, 1.0, 1.0, 0.8, 0.2, 0]
