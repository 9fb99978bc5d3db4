"""Polygon codes to SIC, SOD and FLOE of each polygon, under two rule sets.

`autoice` reproduces the labels released with the AutoICE challenge, faults included; `corrected` repairs these faults
(see `polygon_classes`). The tables are in `sigrid`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arcticseg.errors import SceneError
from arcticseg.ice.cells import ENDLESS, number
from arcticseg.ice.sigrid import (
    CODE_COLUMNS,
    DOMINANT_SHARE,
    EMPTY,
    FLOE_CLASS,
    FLOE_UNKNOWN,
    GARBLED,
    IGNORE_INDEX,
    N_CLASSES,
    SIC_CLASS,
    SOD_CLASS,
    STANDARD_CODES,
)

RULES = ("autoice", "corrected")

_CONCENTRATIONS = ("CT", "CA", "CB", "CC")
_STAGES = ("SA", "SB", "SC")
_FLOES = ("FA", "FB", "FC")
# First letter of a column -> its table.
_TABLES = {"C": SIC_CLASS, "S": SOD_CLASS, "F": FLOE_CLASS}

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class PolygonCodes:
    """The code table of an ice chart of P polygons.

    Attributes:
        ids: int64 [P], polygon ids as in the raster `polygon_icechart`.
        codes: column name -> int64 [P]; -9 = empty.
        poly_type: P capital letters, such as `I` ice, `W` water, `L` land.
    """

    ids: Numbers
    codes: Mapping[str, Numbers]
    poly_type: tuple[str, ...]


def parse_polygon_codes(rows: Sequence[str], source: str) -> PolygonCodes:
    """Read the strings of `polygon_codes`; `cells.number` says how cells are read.

    Args:
        rows: the header, then a row for each polygon, cells separated by semicolons.
        source: file name for error messages.

    Raises:
        SceneError: the header lacks a column, a row has another number of cells, an id is not a number or is repeated.
    """
    if not len(rows):
        raise SceneError(f"{source}: polygon_codes is empty; its first element must be the header")
    header = [cell.strip().upper() for cell in rows[0].split(";")]
    missing = [column for column in CODE_COLUMNS if column.upper() not in header]
    if missing:
        raise SceneError(
            f"{source}: polygon_codes header {rows[0]!r} lacks {', '.join(missing)}; "
            f"expected {';'.join(CODE_COLUMNS)}; get the file again"
        )
    table = [row.split(";") for row in rows[1:]]
    for row, cells in zip(rows[1:], table, strict=True):
        if len(cells) != len(header):
            raise SceneError(
                f"{source}: polygon_codes row {row!r} has {len(cells)} cells, the header {len(header)}; "
                "get the file again"
            )
    column = {name: [cells[header.index(name.upper())] for cells in table] for name in CODE_COLUMNS}
    ids = np.array([number(cell) for cell in column["poly_id"]], np.int64)
    if (ids < 0).any() or (ids >= ENDLESS).any() or len(np.unique(ids)) != len(ids):
        raise SceneError(f"{source}: polygon_codes has a repeated or malformed poly_id; get the file again")
    names = (*_CONCENTRATIONS, *_STAGES, *_FLOES)
    codes = {name: np.array([number(cell) for cell in column[name]], np.int64) for name in names}
    return PolygonCodes(ids, codes, tuple(cell.strip().upper() for cell in column["POLY_TYPE"]))


def polygon_classes(
    table: PolygonCodes, rules: str = "autoice", strict: bool = False, source: str = "chart"
) -> NDArray[np.uint8]:
    """SIC, SOD and FLOE class of each polygon.

    Both rule sets: all arithmetic is on SIC classes 0..10, of partial concentrations too. Partials of equal class (SOD
    or FLOE) are added; the largest sum, on a tie the first, must reach 0.65 of CT. POLY_TYPE `W` is SIC 0; SIC 0 forces
    SOD and FLOE to 0. A partial floe code of class 255 masks FLOE, except 99 (unknown), which masks only as the result.
    Polygons with null codes are not part of the chart.

    `autoice`: where all three partials are equal, C replaces B's addition to A. CA empty and CT above 0: CA takes CT. A
    code that its table does not list counts as its number, in concentrations (CC 99 wins) as in classes; an empty
    concentration counts as -9 and is added, too, where its class equals another's. What wins and is no class is masked.

    `corrected`: all three equal partials are added. CA takes CT only where SB and SC are empty, too, else SOD and FLOE
    are masked. A partial whose concentration or class is empty or not listed is unknown: it neither adds nor wins. An
    unlisted CT masks all three charts, since SOD and FLOE are shares of it.

    These are the rules of the design. Our reading, where it says nothing: under `autoice` a raw number that wins and
    happens to be the number of a class (SA 3) is that class, as in the labels, and a polygon with stages but no
    concentration at all has the stage of A; a cell without a number never wins.

    Args:
        table: the codes of P polygons.
        rules: `autoice` or `corrected`.
        strict: an unlisted code is an error; else a warning.
        source: file name for messages.

    Returns:
        uint8 [P, 3], SIC, SOD, FLOE; 255 = masked.

    Raises:
        SceneError: a code is not listed, and `strict` is set.
    """
    if rules not in RULES:
        raise ValueError(f"rules must be one of {RULES}, not {rules!r}")
    _tell_unlisted(table, strict, source)
    is_water = np.array([letter == "W" for letter in table.poly_type], bool)
    listed = {name: _listed(codes, _TABLES[name[0]]) for name, codes in table.codes.items()}
    values = {name: _values(codes, _TABLES[name[0]]) for name, codes in table.codes.items()}
    total = values["CT"]
    takes_total = (table.codes["CA"] == EMPTY) & (total > 0)
    shares = np.stack([np.where(takes_total, total, values["CA"]), values["CB"], values["CC"]])
    share_known = np.stack([takes_total | listed["CA"], listed["CB"], listed["CC"]])

    results = [np.where(is_water, 0, total)]
    for names in (_STAGES, _FLOES):
        kinds = np.stack([values[name] for name in names])
        if rules == "autoice":
            sums = _sums_as_released(kinds, shares)
        else:
            sums = _sums(kinds, shares, share_known & np.stack([listed[name] for name in names]))
        results.append(_dominant(kinds, sums, total))
    sic, sod, floe = results
    for name in _FLOES:
        no_size = (values[name] == IGNORE_INDEX) & (table.codes[name] != FLOE_UNKNOWN)
        floe[no_size & (listed[name] | (rules == "autoice"))] = IGNORE_INDEX
    if rules == "corrected":
        ambiguous = takes_total & ((table.codes["SB"] != EMPTY) | (table.codes["SC"] != EMPTY))
        sod[ambiguous | ~listed["CT"]] = floe[ambiguous | ~listed["CT"]] = IGNORE_INDEX
        sic[~listed["CT"] & ~is_water] = IGNORE_INDEX
    out = np.stack([sic, sod, floe], axis=1)
    out[(out < 0) | (out >= [N_CLASSES[chart] for chart in ("SIC", "SOD", "FLOE")])] = IGNORE_INDEX
    out[sic == 0] = 0
    return out.astype(np.uint8)


def _listed(codes: Numbers, table: Mapping[int, int]) -> NDArray[np.bool_]:
    return np.array([int(code) in table for code in codes], bool)


def _values(codes: Numbers, table: Mapping[int, int]) -> Numbers:
    """Classes of the listed codes [P]; other codes stand for themselves, as in the challenge's own converter."""
    return np.array([table.get(int(code), int(code)) for code in codes], np.int64)


def _sums_as_released(kinds: Numbers, shares: Numbers) -> Numbers:
    """Concentrations [3, P] after those of equal class are added, as in the released labels.

    Args:
        kinds: [3, P] classes, or unlisted codes, of the partials A, B, C; -9 = empty, which equals nothing.
        shares: [3, P] their concentrations; -9 = empty.
    """
    a, b, c = shares
    kind_a, kind_b, kind_c = np.where(kinds == EMPTY, [[-1001], [-1002], [-1003]], kinds)
    # Each addition starts from the plain partial, so A + C replaces A + B where all three are equal.
    sum_a = np.where(kind_a == kind_c, a + c, np.where(kind_a == kind_b, a + b, a))
    return np.stack([sum_a, np.where(kind_b == kind_c, b + c, b), c])


def _sums(kinds: Numbers, shares: Numbers, known: NDArray[np.bool_]) -> Numbers:
    """Concentrations [3, P] after those of equal class are added; -1 where the partial is not `known` [3, P]."""
    sums = shares.copy()
    for i in range(3):
        for j in range(i + 1, 3):
            sums[i] += np.where(known[j] & (kinds[i] == kinds[j]), shares[j], 0)
    return np.where(known, sums, -1)


def _dominant(kinds: Numbers, sums: Numbers, total: Numbers) -> Numbers:
    """The class of the largest sum, on a tie the first, where it reaches the dominant share of the total, else 255.

    Args:
        kinds, sums: [3, P].
        total: [P]; where it is 0, the result means nothing.
    """
    first = sums.argmax(axis=0)
    polygons = np.arange(len(total))
    result = kinds[first, polygons]
    # The share is compared in whole numbers; of an empty total (-9) it is a quotient of two negative numbers.
    largest, least = 100 * sums[first, polygons], round(100 * DOMINANT_SHARE) * total
    reaches = np.where(total > 0, largest >= least, (largest <= least) & (total != GARBLED))
    return np.where(reaches & (result != EMPTY), result, IGNORE_INDEX)


def _tell_unlisted(table: PolygonCodes, strict: bool, source: str) -> None:
    """Warn of codes that have no class, or refuse them; those that SIGRID-3 does not know either are marked."""
    counts: Counter[str] = Counter()
    polygons = np.zeros(len(table.ids), bool)
    for name, codes in table.codes.items():
        unlisted = (codes != EMPTY) & ~_listed(codes, _TABLES[name[0]])
        polygons |= unlisted
        for code in codes[unlisted].tolist():
            text = "garbled" if code == GARBLED else str(code)
            counts[f"{name} {text}{'' if code in STANDARD_CODES[name[0]] else ' (not of SIGRID-3)'}"] += 1
    if not polygons.any():
        return
    listing = ", ".join(f"{text} x {n}" if n > 1 else text for text, n in sorted(counts.items()))
    message = f"{source}: {int(polygons.sum())} of {len(table.ids)} polygons have codes without a class ({listing})"
    if strict:
        raise SceneError(f"{message}; correct the chart, or leave out --strict")
    warnings.warn(f"{message}; what depends on them is masked or as the rules say", stacklevel=3)
