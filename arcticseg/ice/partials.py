"""What is in each polygon of a chart, in classes: the rows that a tile's raster of polygons points to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcticseg.ice.chart import PolygonCodes
from arcticseg.ice.sigrid import EMPTY, FLOE_CLASS, FLOE_UNKNOWN, SIC_CLASS, SOD_CLASS

# A code that names no class stands as this plus the code.
NO_CLASS = 1000
# What is no number between 0 and 999 stands as this.
GARBLED = NO_CLASS + 999

_LETTERS = "ABC"


@dataclass(frozen=True)
class PolygonRow:
    """A polygon in classes, or a combination of labels that no single polygon has.

    A number of `total` and `partials` is a class; 255, a stage or floe size that is masked; 1000 + code, a code that
    names no class: one that the tables do not list, or floe size 99, unknown; 1999, what is no code at all; None, an
    empty cell.

    Attributes:
        label: SIC, SOD and FLOE, as the chart rules give them; 255 = masked.
        total: total concentration (CT), 0 for water.
        partials: concentration, stage and floe size of A, B and C (CA, SA, FA; ...). None: the pixels' votes came from
            several polygons.
    """

    label: tuple[int, int, int]
    total: int | None = None
    partials: tuple[tuple[int | None, int | None, int | None], ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in a sample."""
        whole = {} if self.partials is None else {"ct": self.total, "partials": [list(part) for part in self.partials]}
        return {"label": list(self.label), **whole}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> PolygonRow:
        """The row of what `to_json` gives.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        sic, sod, floe = row["label"]
        if "partials" not in row:
            return cls((sic, sod, floe))
        partials = tuple((concentration, stage, size) for concentration, stage, size in row["partials"])
        return cls((sic, sod, floe), row["ct"], partials)


def _class(code: int, table: Mapping[int, int]) -> int | None:
    """A code as it stands in a row."""
    if code == EMPTY:
        return None
    if code in table:
        return table[code]
    return NO_CLASS + code if 0 <= code < GARBLED - NO_CLASS else GARBLED


# Unknown floes are masked only where they are the result; the other masked sizes mask wherever they stand.
_FLOES = {code: size for code, size in FLOE_CLASS.items() if code != FLOE_UNKNOWN}


def polygon_rows(table: PolygonCodes, classes: NDArray[np.uint8]) -> tuple[PolygonRow, ...]:
    """The rows of P polygons.

    Args:
        table: the codes of P polygons.
        classes: uint8 [P, 3], what the chart rules make of them.
    """
    codes = {name: values.tolist() for name, values in table.codes.items()}
    rows = []
    for i, label in enumerate(classes.tolist()):
        # Water (POLY_TYPE) is 0 whatever its CT is.
        total = 0 if label[0] == 0 else _class(codes["CT"][i], SIC_CLASS)
        partials = tuple(
            (
                _class(codes[f"C{letter}"][i], SIC_CLASS),
                _class(codes[f"S{letter}"][i], SOD_CLASS),
                _class(codes[f"F{letter}"][i], _FLOES),
            )
            for letter in _LETTERS
        )
        rows.append(PolygonRow(tuple(label), total, partials))
    return tuple(rows)


def row_labels(rows: Sequence[PolygonRow]) -> NDArray[np.uint8]:
    """uint8 [N, 3]: SIC, SOD and FLOE of rows."""
    return np.array([row.label for row in rows], np.uint8).reshape(-1, 3)
