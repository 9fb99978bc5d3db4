"""SIGRID-3 codes, the classes that they mean, and the thresholds: the only such tables in the project.

Codes follow SIGRID-3 (JCOMM Technical Report 23, WMO/TD-No. 1214, 2004, version 3.0 of 2014, appendix A); classes and
thresholds follow the AutoICE challenge, whose tables list fewer codes. A class of `IGNORE_INDEX` is masked: no loss, no
score.
"""

from __future__ import annotations

IGNORE_INDEX = 255

CHARTS = ("SIC", "SOD", "FLOE")

# The code of an empty cell, in scene files and here.
EMPTY = -9

# Stands for a cell that holds no number; no table lists it.
GARBLED = -999

# The columns of `polygon_codes` in AI4Arctic scenes, in file order.
CODE_COLUMNS = (
    "poly_id", "CT", "CA", "SA", "FA", "CB", "SB", "FB", "CC", "SC", "FC", "CN", "CD", "CF", "POLY_TYPE",
)  # fmt: skip

# A stage or floe size is its polygon's class from this share of the total concentration on.
DOMINANT_SHARE = 0.65

# Total and partial concentration, code -> class; class n is n * 10 %.
SIC_CLASS = {0: 0, 1: 0, 2: 0, 55: 0, **{10 * tenth: tenth for tenth in range(1, 10)}, 91: 10, 92: 10}

# A concentration given as a range, code -> its ends in tenths: the tens digit to the ones digit, so 46 is 4/10 to
# 6/10; a 1 behind a larger digit stands for 10/10, so 81 is 8/10 to 10/10. (91 is listed above: more than 9/10.)
SIC_RANGES = {10 * low + high: (low, high) for low in range(1, 9) for high in range(low + 1, 10)}
SIC_RANGES |= {10 * low + 1: (low, 10) for low in range(2, 9)}

# Stage of development, code -> class.
SOD_CLASS = {
    0: 0, 80: 0,
    81: 1, 82: 1,
    83: 2, 84: 2, 85: 2,
    87: 3, 88: 3, 89: 3,
    86: 4, 91: 4, 93: 4,
    95: 5, 96: 5, 97: 5,
    98: IGNORE_INDEX, 99: IGNORE_INDEX,
}  # fmt: skip

# Floe size, code -> class. Unlike 1, 8, 21 and 22, code 99 (unknown) masks only where it is the result (see chart.py).
FLOE_CLASS = {
    0: 0,
    2: 1,
    3: 2,
    4: 3,
    5: 4,
    6: 5, 7: 5,
    9: 6, 10: 6,
    1: IGNORE_INDEX, 8: IGNORE_INDEX, 21: IGNORE_INDEX, 22: IGNORE_INDEX,
    99: IGNORE_INDEX,
}  # fmt: skip

FLOE_UNKNOWN = 99

# Unknown, in every column of SIGRID-3; ice free, in columns of concentration since version 3.0.
UNKNOWN = 99
ICE_FREE = 98

# All codes of SIGRID-3 by the first letter of their column. Without a class here: 98 (ice free) and 99 (unknown) of
# concentrations, and their ranges; 70 (brash), 90, 92 and 94 (for later use, residual ice) of stages; strips and
# patches of 1/10 to 10/10 (11 to 20; 91 is 9/10 to 10/10) of forms.
STANDARD_CODES = {
    "C": frozenset({*SIC_CLASS, *SIC_RANGES, ICE_FREE, UNKNOWN}),
    "S": frozenset({*SOD_CLASS, 70, 90, 92, 94}),
    "F": frozenset({*FLOE_CLASS, *range(11, 21), 91}),
}

CLASS_NAMES = {
    "SIC": tuple(f"{10 * tenth} %" for tenth in range(11)),
    "SOD": ("open water", "new ice", "young ice", "thin first-year ice", "thick first-year ice", "old ice"),
    "FLOE": ("open water", "cake ice", "small floe", "medium floe", "big floe", "vast floe", "bergs"),
}

N_CLASSES = {chart: len(names) for chart, names in CLASS_NAMES.items()}
