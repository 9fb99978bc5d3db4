"""The design's rules on polygon codes, read slowly and literally, and rows of codes to try them on."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

HEADER = "poly_id;CT;CA;SA;FA;CB;SB;FB;CC;SC;FC;CN;CD;CF;POLY_TYPE"
COLUMNS = ("CT", "CA", "SA", "FA", "CB", "SB", "FB", "CC", "SC", "FC")
RULES = ("autoice", "corrected")
EMPTY = -9

# The tables of the design, copied a second time so that a slip in the program's tables shows.
SIC = {0: 0, 1: 0, 2: 0, 55: 0, 10: 1, 20: 2, 30: 3, 40: 4, 50: 5, 60: 6, 70: 7, 80: 8, 90: 9, 91: 10, 92: 10}
SOD = {
    0: 0, 80: 0, 81: 1, 82: 1, 83: 2, 84: 2, 85: 2, 87: 3, 88: 3, 89: 3, 86: 4, 91: 4, 93: 4, 95: 5, 96: 5, 97: 5,
    98: 255, 99: 255,
}  # fmt: skip
FLOE = {0: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 5, 9: 6, 10: 6, 1: 255, 8: 255, 21: 255, 22: 255, 99: 255}
TABLES = {"C": SIC, "S": SOD, "F": FLOE}


def read_literally(row: str, rules: str) -> tuple[tuple[int, int, int], bool]:
    """(SIC, SOD, FLOE) of a polygon and whether a code is unlisted: the design's sentences, one after another."""
    cells = dict(zip(HEADER.split(";"), row.split(";"), strict=True))
    code = {column: int(cells[column]) for column in COLUMNS}
    unlisted = any(number != EMPTY and number not in TABLES[column[0]] for column, number in code.items())
    read = literal_autoice if rules == "autoice" else literal_corrected
    sic, sod, floe = read(code)
    # "the letter of POLY_TYPE counts in either case"; "POLY_TYPE W is SIC 0. SIC 0 forces SOD and FLOE to 0."
    if cells["POLY_TYPE"] in ("W", "w") or sic == 0:
        return (0, 0, 0), unlisted
    # "no class and masked"
    return (sic if 0 <= sic < 11 else 255, sod if 0 <= sod < 6 else 255, floe if 0 <= floe < 7 else 255), unlisted


def literal_autoice(code: dict[str, int]) -> tuple[int, int, int]:
    """What the official converter gives, before what is no class is masked."""
    # "counts as its number", and an empty cell is the number -9
    number = {column: TABLES[column[0]].get(value, value) for column, value in code.items()}
    share = {letter: number[f"C{letter}"] for letter in "ABC"}
    # "CA empty and CT class above 0: CA takes CT"
    if number["CT"] > 0 and code["CA"] == EMPTY:
        share["A"] = number["CT"]
    results = []
    for kind in "SF":
        classes = {letter: number[f"{kind}{letter}"] for letter in "ABC"}
        added = dict(share)
        # "Partials of equal class are added (A+B, A+C, B+C; an empty class, -9, never merges; when all three are
        # equal, the third overwrites the second's addition to the first)"; "an *empty* partial ... is added as -9"
        for one, other in ("AB", "AC", "BC"):
            if classes[one] == classes[other] != EMPTY:
                added[one] = share[one] + share[other]
        # "on a tie the first of A, B, C wins"
        largest = max("ABC", key=lambda letter: (added[letter], -ord(letter)))
        # "the largest must reach 0.65 of the CT class"
        reaches = number["CT"] != 0 and Fraction(added[largest], number["CT"]) >= Fraction(65, 100)
        results.append(classes[largest] if reaches else 255)
    # "Any partial FLOE class of 255 (codes 1, 8, 21, 22) masks FLOE; 99 ... masks only where it is the result."
    if any(number[f"F{letter}"] == 255 and code[f"F{letter}"] != 99 for letter in "ABC"):
        results[1] = 255
    return number["CT"], results[0], results[1]


def literal_corrected(code: dict[str, int]) -> tuple[int, int, int]:
    """Unknown and empty partials neither add nor win; only the charts that need an unknown code are masked."""
    known = {column: TABLES[column[0]].get(value) for column, value in code.items()}
    total = known["CT"]
    if total is None:
        return 255, 255, 255
    share = {letter: known[f"C{letter}"] for letter in "ABC"}
    ambiguous = False
    # "lets CA take CT only where SB and SC are empty too, else SOD and FLOE are 255"
    if total > 0 and code["CA"] == EMPTY:
        ambiguous = not (code["SB"] == EMPTY and code["SC"] == EMPTY)
        share["A"] = total
    results = []
    for kind in "SF":
        classes = {letter: known[f"{kind}{letter}"] for letter in "ABC"}
        # "adds all three equal partials"
        added = {}
        for letter in "ABC":
            if share[letter] is None or classes[letter] is None:
                continue
            later = [other for other in "ABC" if other > letter and classes[other] == classes[letter]]
            added[letter] = share[letter] + sum(share[other] or 0 for other in later)
        winner = max(added, key=lambda letter: (added[letter], -ord(letter)), default=None)
        reaches = winner is not None and 100 * added[winner] >= 65 * total
        results.append(classes[winner] if reaches and not ambiguous else 255)
    if any(code[f"F{letter}"] in (1, 8, 21, 22) for letter in "ABC"):
        results[1] = 255
    return total, results[0], results[1]


def row(number: int, poly_type: str = "I", **codes: int) -> str:
    """A row of `polygon_codes`; codes left out are empty."""
    cells = [f"{codes.get(column, -9):02d}" for column in COLUMNS]
    return ";".join([str(number), *cells, "-9", "-9", "-9", poly_type])


def read_all_literally(rows: Sequence[str], rules: str) -> tuple[np.ndarray, int]:
    """Classes of all rows, uint8 [P, 3], and how many have an unlisted code."""
    readings = [read_literally(text, rules) for text in rows]
    return np.array([classes for classes, _ in readings], np.uint8), sum(lost for _, lost in readings)
