"""Polygon codes to SIC, SOD and FLOE of each polygon, under two rule sets.

`autoice` reproduces the labels released with the AutoICE challenge, faults included; `corrected` repairs
two of these faults (see `polygon_classes`). The tables are in `sigrid`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arcticseg.errors import SceneError
from arcticseg.ice.sigrid import (
    CODE_COLUMNS,
    DOMINANT_SHARE,
    EMPTY,
    FLOE_CLASS,
    FLOE_UNKNOWN,
    IGNORE_INDEX,
    SIC_CLASS,
    SOD_CLASS,
)

RULES = ("autoice", "corrected")

# The code of cells that do not hold a number; no table lists it.
_GARBLED = -999

# The raster of ids is float32, which is exact for whole numbers below this.
_ENDLESS_ID = 1 << 24

_CONCENTRATIONS = ("CT", "CA", "CB", "CC")
_STAGES = ("SA", "SB", "SC")
_FLOES = ("FA", "FB", "FC")


@dataclass(frozen=True)
class PolygonCodes:
    """The code table of an ice chart of P polygons.

    Attributes:
        ids: int64 [P], polygon ids as in the raster `polygon_icechart`.
        codes: column name -> int64 [P]; -9 = empty.
        poly_type: P letters, such as `I` ice, `W` water, `L` land.
    """

    ids: NDArray[np.int64]
    codes: Mapping[str, NDArray[np.int64]]
    poly_type: tuple[str, ...]


def _number(cell: str) -> int:
    """A code cell as a number; other text becomes a code that no table lists."""
    try:
        code = int(cell)
    except ValueError:
        return EMPTY if not cell.strip() else _GARBLED
    return code if abs(code) <= _ENDLESS_ID else _GARBLED


def parse_polygon_codes(rows: Sequence[str], source: str) -> PolygonCodes:
    """Read the strings of `polygon_codes`.

    Args:
        rows: the header, then a row for each polygon, cells separated by semicolons.
        source: file name for error messages.

    Raises:
        SceneError: the header lacks a column, a row has another number of cells, an id is not a number or is repeated.
    """
    if not len(rows):
        raise SceneError(f"{source}: polygon_codes is empty; its first element must be the header")
    header = rows[0].split(";")
    missing = [column for column in CODE_COLUMNS if column not in header]
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
    column = {name: [cells[header.index(name)] for cells in table] for name in CODE_COLUMNS}
    ids = np.array([_number(cell) for cell in column["poly_id"]], np.int64)
    if (ids < 0).any() or (ids >= _ENDLESS_ID).any() or len(np.unique(ids)) != len(ids):
        raise SceneError(f"{source}: polygon_codes has a repeated or malformed poly_id; get the file again")
    names = (*_CONCENTRATIONS, *_STAGES, *_FLOES)
    codes = {name: np.array([_number(cell) for cell in column[name]], np.int64) for name in names}
    return PolygonCodes(ids, codes, tuple(cell.strip() for cell in column["POLY_TYPE"]))


def _lookup(codes: NDArray[np.int64], table: Mapping[int, int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Classes of codes [P] (-9 stays -9) and which codes the table does not list, int64 and bool [P]."""
    classes = np.array([table.get(int(code), EMPTY) for code in codes], np.int64)
    unlisted = np.array([code != EMPTY and int(code) not in table for code in codes], bool)
    return classes, unlisted


def _dominant(
    classes: NDArray[np.int64], partials: NDArray[np.int64], total: NDArray[np.int64], rules: str
) -> NDArray[np.int64]:
    """The class of each polygon that reaches the dominant share of the total concentration, else 255.

    Args:
        classes: [3, P] classes of the partials A, B, C; -9 = empty, which merges with nothing.
        partials: [3, P] concentrations in SIC classes.
        total: [P] total concentration in SIC classes.

    Returns:
        int64 [P].
    """
    a, b, c = partials
    class_a, class_b, class_c = classes
    same_ab = (class_a == class_b) & (class_a != EMPTY)
    same_ac = (class_a == class_c) & (class_a != EMPTY)
    same_bc = (class_b == class_c) & (class_b != EMPTY)
    if rules == "autoice":
        # Each addition starts from the plain partial, so A + C replaces A + B where all three are equal.
        sum_a = np.where(same_ac, a + c, np.where(same_ab, a + b, a))
    else:
        sum_a = a + np.where(same_ab, b, 0) + np.where(same_ac, c, 0)
    sums = np.stack([sum_a, b + np.where(same_bc, c, 0), c])
    first = sums.argmax(axis=0)
    polygons = np.arange(len(total))
    result = classes[first, polygons]
    # 0.65 of 1 to 10 is never a whole number, so rounding decides nothing.
    reaches = sums[first, polygons] >= DOMINANT_SHARE * total
    return np.where(reaches & (result != EMPTY), result, IGNORE_INDEX)


def polygon_classes(
    table: PolygonCodes, rules: str = "autoice", strict: bool = False, source: str = "chart"
) -> NDArray[np.uint8]:
    """SIC, SOD and FLOE class of each polygon.

    The rules of the AutoICE labels: all arithmetic is on SIC classes 0..10. CA empty and CT above 0: CA takes CT
    (`corrected`: only where SB and SC are empty too, else SOD and FLOE are masked). Partials of equal class are added
    (`autoice`: where all three are equal, C replaces B's addition to A). The largest, on a tie the first, must reach
    0.65 of CT. POLY_TYPE `W` is SIC 0; SIC 0 forces SOD and FLOE to 0. A partial floe code of class 255 masks FLOE,
    except 99 (unknown), which masks only as the result. Polygons with null codes are not part of the chart.

    Args:
        table: the codes of P polygons.
        rules: `autoice` or `corrected`.
        strict: an unlisted code is an error; else a warning, and the polygon is masked.
        source: file name for messages.

    Returns:
        uint8 [P, 3], SIC, SOD, FLOE; 255 = masked.

    Raises:
        SceneError: a code is not listed, and `strict` is set.
    """
    if rules not in RULES:
        raise ValueError(f"rules must be one of {RULES}, not {rules!r}")
    codes = table.codes
    looked_up = {name: _lookup(codes[name], SIC_CLASS) for name in _CONCENTRATIONS}
    looked_up |= {name: _lookup(codes[name], SOD_CLASS) for name in _STAGES}
    looked_up |= {name: _lookup(codes[name], FLOE_CLASS) for name in _FLOES}
    classes = {name: of_polygons for name, (of_polygons, _) in looked_up.items()}
    is_water = np.array([letter == "W" for letter in table.poly_type], bool)
    is_chart = is_water | (codes["CT"] != EMPTY)
    unlisted = np.any([lost for _, lost in looked_up.values()], axis=0)
    if unlisted.any():
        listing = sorted(
            {f"{name} {codes[name][i]}" for name, (_, lost) in looked_up.items() for i in np.flatnonzero(lost)}
        )
        message = (
            f"{source}: {int(unlisted.sum())} of {len(table.ids)} polygons have codes that the SIGRID-3 tables do not "
            f"list ({', '.join(listing).replace(str(_GARBLED), 'garbled')})"
        )
        if strict:
            raise SceneError(f"{message}; correct the chart, or leave out --strict to mask these polygons")
        warnings.warn(f"{message}; they are masked", stacklevel=2)

    sic = np.where(is_water, 0, classes["CT"])
    total = np.maximum(sic, 0)
    ca_empty = (codes["CA"] == EMPTY) & (total > 0)
    ca = np.where(ca_empty, total, np.maximum(classes["CA"], 0))
    partials = np.stack([ca, np.maximum(classes["CB"], 0), np.maximum(classes["CC"], 0)])
    sod = _dominant(np.stack([classes[name] for name in _STAGES]), partials, total, rules)
    floe_classes = np.stack([classes[name] for name in _FLOES])
    floe = _dominant(floe_classes, partials, total, rules)
    floe_codes = np.stack([codes[name] for name in _FLOES])
    floe[((floe_classes == IGNORE_INDEX) & (floe_codes != FLOE_UNKNOWN)).any(axis=0)] = IGNORE_INDEX
    if rules == "corrected":
        ambiguous = ca_empty & ((codes["SB"] != EMPTY) | (codes["SC"] != EMPTY))
        sod[ambiguous] = floe[ambiguous] = IGNORE_INDEX
    out = np.stack([sic, sod, floe], axis=1)
    out[sic == 0] = 0
    out[~is_chart | unlisted] = IGNORE_INDEX
    return out.astype(np.uint8)
