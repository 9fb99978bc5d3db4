"""The cells of code tables as numbers, the same for a scene's own table and for vector charts."""

from __future__ import annotations

import re

from arcticseg.ice.sigrid import EMPTY, GARBLED

# Ids are float32 in rasters, which is exact for whole numbers below this; no code comes near it.
ENDLESS = 1 << 24

# A whole number, perhaps written as a real: 92, 09, 92.0, -9.
_WHOLE = re.compile(r"([+-]?[0-9]{1,12})(\.0*)?", re.ASCII)
# Beside nothing and -9, what services write for an empty cell. (`9-` is in charts whose cells are two letters wide.)
_NULL = ("", "9-", "nan", "none", "null")


def number(cell: str) -> int:
    """A cell as a code.

    Empty cells, however they are written (blank, `-9`, `-9.`, `-9.0`, `9-`, null), are `sigrid.EMPTY`; whole numbers
    may be written as reals and with zeros in front; any other text is `sigrid.GARBLED`, which no table lists.
    """
    text = cell.strip(" \t\r\n\0")
    if text.lower() in _NULL:
        return EMPTY
    match = _WHOLE.fullmatch(text)
    code = int(match[1]) if match else GARBLED
    return code if abs(code) <= ENDLESS else GARBLED
