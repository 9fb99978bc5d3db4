"""How ice services write a polygon's codes in vector charts, brought to one form: SIGRID-3 codes by column.

| written as | by | source |
|---|---|---|
| columns CT, CA, SA ... POLY_TYPE, in either case, text or numbers | CIS, DMI, NIC, AARI | JCOMM Technical Report 23 |
| one column ICECODE, such as CT92CA929306 or CT92SA93FA06 | NIC | the same; Thompson, SIGRID, 1981 |
| one column NIS_CLASS or ICE_TYPE, such as Close Drift Ice | MET Norway | WMO No. 259, Sea-Ice Nomenclature, 4.2 |

Egg codes (columns E_CT, N_CT of older Canadian files) are other tables and are not read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from arcticseg.ice.cells import number
from arcticseg.ice.sigrid import CODE_COLUMNS, EMPTY, ICE_FREE

FIELDS = CODE_COLUMNS[1:]
NULL = str(EMPTY)
WATER = "W"
# POLY_TYPE of polygons that hold no ice information: land, no data, ice shelf.
NO_CHART_TYPES = ("L", "N", "S")

# A cell that is no code, in a form that no table lists.
_NO_CODE = "?"

_CONCENTRATIONS = ("CT", "CA", "CB", "CC")
_NEEDED = ("CT", "CA", "SA", "FA", "CB", "SB", "FB", "CC", "SC", "FC")

# POLY_TYPE in words, in capitals without spaces, dashes and underlines.
_TYPES = {
    "I": ("ICE", "SEAICE", "DRIFTICE", "PACKICE", "FASTICE"),
    WATER: ("WATER", "SEA", "OPENWATER", "ICEFREE", "ICEFREEWATER", "BERGYWATER"),
    "L": ("LAND", "ISLAND"),
    "N": ("NODATA", "UNKNOWN", "UNCLASSIFIED"),
    "S": ("SHELF", "ICESHELF", "GLACIER", "LANDICE"),
}
_TYPE_OF = {word: letter for letter, words in _TYPES.items() for word in (letter, *words)}

# Classes of MET Norway's charts by concentration (WMO No. 259: very open 1/10 to 3/10, open 4/10 to 6/10, close 7/10 to
# 8/10, very close 9/10 to less than 10/10, compact and consolidated 10/10), and what else they say.
_CLASSES = {
    "ICEFREE": {"CT": "00", "POLY_TYPE": WATER},
    "OPENWATER": {"CT": "01", "POLY_TYPE": WATER},
    "VERYOPENDRIFTICE": {"CT": "13", "POLY_TYPE": "I"},
    "OPENDRIFTICE": {"CT": "46", "POLY_TYPE": "I"},
    "CLOSEDRIFTICE": {"CT": "78", "POLY_TYPE": "I"},
    "VERYCLOSEDRIFTICE": {"CT": "91", "POLY_TYPE": "I"},
    "COMPACTDRIFTICE": {"CT": "92", "POLY_TYPE": "I"},
    "CONSOLIDATEDDRIFTICE": {"CT": "92", "POLY_TYPE": "I"},
    "FASTICE": {"CT": "92", "FA": "08", "POLY_TYPE": "I"},
    **{word: {"POLY_TYPE": letter} for letter in NO_CHART_TYPES for word in _TYPES[letter]},
    "": {},
}

_CODE = r"(?:[0-9]{2}|-9|9-)"
_ICECODE = re.compile(rf"(?:C[TABCND](?:{_CODE}){{1,3}}|CF(?:{_CODE}){{1,2}}|[SF][ABC]{_CODE})+", re.ASCII)
_ICECODE_PART = re.compile(rf"([CSF][TABCNDF])((?:{_CODE})+)", re.ASCII)

Row = dict[str, str]


@dataclass(frozen=True)
class Dialect:
    """How a layer's columns tell codes.

    Attributes:
        name: for messages.
        columns: the columns that are needed, as the file writes them.
        read: cells of these columns, as text -> codes by SIGRID-3 column, for every column of FIELDS.
        notes: what the user should know, a sentence each.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[tuple[str, ...]], Row]
    notes: tuple[str, ...] = ()


def dialect_of(columns: Iterable[str]) -> Dialect | None:
    """The dialect of a layer with these columns; None: its columns are those of no dialect here, or are ambiguous."""
    written: dict[str, str] = {}
    for column in columns:
        name = column.strip().upper()
        if name in written and name in ("CT", *_OF_ONE_COLUMN):
            return None
        written.setdefault(name, column)
    if "CT" in written:
        fields = tuple(field for field in FIELDS if field in written)
        missing = [field for field in _NEEDED if field not in written]
        notes = (f"no columns {', '.join(missing)}: taken as empty",) if missing else ()
        return Dialect("SIGRID-3 columns", tuple(written[field] for field in fields), _by_columns(fields), notes)
    for name, (title, read) in _OF_ONE_COLUMN.items():
        if name in written:
            kind = tuple(written[field] for field in ("POLY_TYPE",) if field in written)
            return Dialect(title, (written[name], *kind), _by_one_column(read))
    return None


def _by_columns(fields: tuple[str, ...]) -> Callable[[tuple[str, ...]], Row]:
    def read(cells: tuple[str, ...]) -> Row:
        return _row(dict(zip(fields, cells, strict=True)))

    return read


def _by_one_column(of_text: Callable[[str], Mapping[str, str]]) -> Callable[[tuple[str, ...]], Row]:
    def read(cells: tuple[str, ...]) -> Row:
        row = of_text(cells[0])
        written = len(cells) > 1 and poly_type(cells[1]) != NULL
        return _row({**row, "POLY_TYPE": cells[1]} if written else row)

    return read


def _row(cells: Mapping[str, str]) -> Row:
    """A row of all fields in one form; what is not given is null."""
    row = dict.fromkeys(FIELDS, NULL)
    for field, cell in cells.items():
        if field == "POLY_TYPE":
            row[field] = poly_type(cell)
        elif field == "CF":
            row[field] = _printable(cell) or NULL
        else:
            row[field] = _code(cell, field in _CONCENTRATIONS)
    return row


def _code(cell: str, is_concentration: bool) -> str:
    """A code as text: null is -9, whole numbers written as reals have no point, ice free (98) is 00."""
    code = number(cell)
    if code == EMPTY:
        return NULL
    if is_concentration and code == ICE_FREE:
        return "00"
    digits = cell.strip()
    return (digits if digits.isdecimal() else str(code)) if code > EMPTY else _NO_CODE


def poly_type(cell: str) -> str:
    """The letter of a POLY_TYPE, however it is written; -9 where it is null; other text in capitals."""
    word = _printable(cell).upper()
    if not word or number(word) == EMPTY:
        return NULL
    return _TYPE_OF.get(_bare(word), word)


def _bare(words: str) -> str:
    """Words in capitals, letters only."""
    return re.sub(r"[\s_\-./]+", "", words.upper())


def _printable(cell: str) -> str:
    """Text that can stand in a row of codes."""
    return "".join(letter if letter.isprintable() and letter != ";" else " " for letter in cell).strip()


def _of_icecode(text: str) -> Mapping[str, str]:
    """Codes of a string of them: CA, CB and CC are followed by concentration, stage and form, or by the first alone."""
    text = re.sub(r"\s+", "", text).upper()
    if _bare(text) in _TYPE_OF:
        return {"POLY_TYPE": text}
    if not text or number(text) == EMPTY:
        return {}
    if not _ICECODE.fullmatch(text):
        return {"CT": _NO_CODE}
    row: Row = {}
    for name, codes in _ICECODE_PART.findall(text):
        values = re.findall(_CODE, codes)
        names = [name, f"S{name[1]}", f"F{name[1]}"] if name in ("CA", "CB", "CC") else [name]
        if name == "CF":
            values = ["-".join(values)]
        if len(values) > len(names) or any(each in row for each in names[: len(values)]):
            return {"CT": _NO_CODE}
        row |= dict(zip(names, values, strict=False))
    return row


def _of_class(text: str) -> Mapping[str, str]:
    """Codes of a class in words."""
    return _CLASSES.get(_bare(text), {"CT": _NO_CODE})


_OF_ONE_COLUMN: Mapping[str, tuple[str, Callable[[str], Mapping[str, str]]]] = {
    "ICECODE": ("ICECODE strings", _of_icecode),
    "NIS_CLASS": ("MET Norway's classes", _of_class),
    "ICE_TYPE": ("MET Norway's classes", _of_class),
}
