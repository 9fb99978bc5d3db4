"""Egg codes: what an ice analyst would write into a polygon, and what is truly there.

A pool of eggs is drawn from the measured co-occurrence of stage and floe size, then weighted (iterative proportional
fitting) until its classes under the `autoice` rules have the published frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from arcticseg.ice.chart import parse_polygon_codes, polygon_classes
from arcticseg.ice.sigrid import CODE_COLUMNS, SIC_CLASS
from shards.simulation.facts import ICE_FLOE, ICE_SIC, ICE_SOD, MONTHS, STAGE_AND_FLOE

HEADER = ";".join(CODE_COLUMNS)

# Stages from thin to thick: partials are listed from the thickest on; icebergs stand first.
_THICKNESS = (81, 82, 83, 84, 85, 87, 88, 89, 86, 91, 93, 95, 96, 97, 98)
_EMPTY = "-9"
_POOL_SIZE = 6000
_LEAST_SHARE = 0.002


@dataclass(frozen=True)
class Partial:
    """A share of the sea surface (0..1) under ice of one stage and floe size (SIGRID-3 codes)."""

    share: float
    stage: int
    floe: int


@dataclass(frozen=True)
class Egg:
    """What is in a polygon: total concentration code and partials, thickest first; no partial is open water.

    partials_written: the chart gives the partial concentrations; some DMI charts leave them out.
    """

    total: int
    partials: tuple[Partial, ...]
    partials_written: bool = True


def _text(code: int, service: str) -> str:
    return f"{code:02d}" if service == "cis" else str(code)


def code_row(egg: Egg, identity: int, service: str) -> str:
    """The row of `polygon_codes` for an egg in the dialect of `cis` (two digits, CF filled) or `dmi`."""
    cells = dict.fromkeys(CODE_COLUMNS, _EMPTY)
    cells["poly_id"] = str(identity)
    cells["CT"] = _text(egg.total, service)
    cells["POLY_TYPE"] = "I" if egg.partials else "W"
    for letter, partial in zip("ABC", egg.partials, strict=False):
        if len(egg.partials) > 1 and egg.partials_written:
            cells["C" + letter] = _text(round(100 * partial.share), service)
        cells["S" + letter] = _text(partial.stage, service)
        cells["F" + letter] = _text(partial.floe, service)
    if not egg.partials and egg.total == 2:
        cells["SA"], cells["FA"] = "98", "10"
    if service == "cis":
        cells["CF"] = cells["FA"] + cells["FB"]
        # Traces of old ice, as in real Canadian charts, which give them in CN.
        if egg.partials and egg.partials[0].stage in (91, 93) and identity % 3 == 0:
            cells["CN"] = "95"
    return ";".join(cells[column] for column in CODE_COLUMNS)


@lru_cache(maxsize=1)
def _likelihoods() -> tuple[list[tuple[int, int]], list[NDArray[np.float64]]]:
    """Pairs of stage and floe size [P], and their likelihoods [P] by share of the sea, three columns, and overall."""
    rows = [(stage, floe, counts) for stage, floes in STAGE_AND_FLOE.items() for floe, counts in floes.items()]
    weights = [np.array([counts[column] for _, _, counts in rows], np.float64) for column in range(3)]
    weights.append(np.array([sum(counts) for _, _, counts in rows], np.float64))
    return [(stage, floe) for stage, floe, _ in rows], [column / column.sum() for column in weights]


def _draw(rng: np.random.Generator) -> Egg:
    """Draw an egg: a total, its split among one to three partials, and their stages and floe sizes."""
    total = int(rng.choice([10, 20, 30, 40, 50, 60, 70, 80, 90, 91, 92]))
    tenths = SIC_CLASS[total]
    count = min(int(rng.choice([1, 2, 3], p=[0.5, 0.33, 0.17])), tenths)
    # Dominant partials are common in real charts: the cuts keep to the ends of the range.
    cuts = np.sort(rng.choice(np.arange(1, tenths), count - 1, replace=False)) if count > 1 else np.array([], int)
    shares = np.diff(np.concatenate([[0], cuts, [tenths]])) / 10
    drawn: dict[int, Partial] = {}
    pairs, likelihoods = _likelihoods()
    for share in shares:
        # Single stages are missing from the table (their partial is not written): take them by their overall counts.
        column = 3 if count == 1 else 0 if share < 0.25 else 1 if share < 0.55 else 2
        stage, floe = pairs[rng.choice(len(pairs), p=likelihoods[column])]
        if tenths >= 9 and share >= 0.55 and floe < 6 and rng.random() < 0.6:
            floe = int(rng.choice([6, 6, 7]))
        earlier = drawn.get(stage)
        drawn[stage] = Partial(round(share + (earlier.share if earlier else 0), 1), stage, floe)
    partials = sorted(drawn.values(), key=lambda partial: -_THICKNESS.index(partial.stage))
    return Egg(total, tuple(partials), bool(rng.random() < 0.85))


def egg_classes(eggs: Sequence[Egg]) -> NDArray[np.uint8]:
    """uint8 [E, 3]: SIC, SOD and FLOE class of each egg as the AutoICE labels have them; 255 = masked."""
    rows = [code_row(egg, identity, "dmi") for identity, egg in enumerate(eggs)]
    return polygon_classes(parse_polygon_codes([HEADER, *rows], "simulated eggs"))


def _fit(classes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Weights [E] under which the classes have the published frequencies among ice."""
    wanted = []
    for chart, counts in enumerate((ICE_SIC, ICE_SOD, ICE_FLOE)):
        labels = [*range(1, len(counts) + 1)] if chart == 0 else [*range(1, len(counts)), 255]
        for label, count in zip(labels, counts, strict=True):
            wanted.append((classes[:, chart] == label, count / sum(counts)))
    weights = np.full(len(classes), 1.0 / len(classes))
    for _ in range(200):
        for members, share in wanted:
            current = weights[members].sum() / weights.sum()
            if current > 0:
                weights[members] *= share / current
        weights /= weights.sum()
    return weights


@lru_cache(maxsize=1)
def pool() -> tuple[tuple[Egg, ...], NDArray[np.uint8], NDArray[np.float64]]:
    """The eggs, their classes uint8 [E, 3] and their weights [E]; ordered by class so that draws can be stratified."""
    rng = np.random.default_rng(20180108)
    eggs = list(dict.fromkeys(_draw(rng) for _ in range(_POOL_SIZE)))
    classes = egg_classes(eggs)
    order = np.lexsort((classes[:, 0], classes[:, 2], classes[:, 1]))
    return tuple(eggs[i] for i in order), classes[order], _fit(classes)[order]


@lru_cache(maxsize=12)
def month_weights(month: int) -> NDArray[np.float64]:
    """Weights [E] of the pool's eggs in a month: the year's, times how much commoner their stage is in that month."""
    eggs, classes, weights = pool()
    year = np.array(ICE_SOD[:5]) / sum(ICE_SOD[:5])
    ratio = np.maximum(MONTHS[month][2], _LEAST_SHARE) / year
    # Eggs without a dominant stage follow the mean of their stages.
    by_class = np.array([
        ratio[sod - 1] if 1 <= sod <= 5 else np.mean([ratio[_stage_class(p.stage) - 1] for p in egg.partials])
        for egg, sod in zip(eggs, classes[:, 1], strict=True)
    ])  # fmt: skip
    scaled = weights * np.clip(by_class, 0.02, None)
    return np.asarray(scaled / scaled.sum())


def _stage_class(stage: int) -> int:
    """SOD class 1..5 of a stage code; icebergs count as old ice."""
    for last, sod in ((82, 1), (85, 2)):
        if stage <= last:
            return sod
    return 3 if stage in (87, 88, 89) else 4 if stage in (86, 91, 93) else 5
