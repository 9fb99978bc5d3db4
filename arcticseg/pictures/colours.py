"""The colours of ice charts, of land and of what is masked, and of the differences between two charts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.colors import LinearSegmentedColormap

from arcticseg.ice.sigrid import CLASS_NAMES

RGB = tuple[int, int, int]

# Water has one colour in all three charts: that of "less than one tenth", the upper bound of class 0.
WATER: RGB = (150, 200, 255)

# SIC and SOD follow the Ice Chart Colour Code Standard (WMO/TD-No. 1215, JCOMM Technical Report 24). It colours
# total concentration in groups of tenths (1-3, 4-6, 7-8, 9-10): each group keeps its colour at one tenth, and its
# other tenths are lighter or darker shades of it. It has no colours for floe size: FLOE is a ramp that darkens with
# size, apart from the bergs, which are not floes.
COLOURS: dict[str, tuple[RGB, ...]] = {
    "SIC": (
        WATER,
        (200, 255, 208), (140, 255, 160), (88, 222, 118),
        (255, 255, 150), (255, 255, 0), (255, 218, 0),
        (255, 172, 72), (255, 125, 7),
        (255, 0, 0), (178, 0, 20),
    ),
    "SOD": (WATER, (240, 210, 250), (170, 40, 240), (155, 210, 0), (0, 120, 0), (180, 100, 50)),
    "FLOE": (
        WATER, (254, 242, 170), (186, 219, 108), (78, 178, 112), (26, 122, 130), (46, 48, 112), (214, 30, 122),
    ),
}  # fmt: skip

CHART_TITLES = {"SIC": "sea ice concentration", "SOD": "stage of development", "FLOE": "floe size"}

MASKED: RGB = (214, 214, 214)
LAND: RGB = (233, 224, 205)
NO_DATA: RGB = (58, 60, 64)

# Of texts and frames; of the mark of simulated scenes.
INK, FAINT, ALARM = "#1d2733", "#66717d", "#b3123a"

HATCH: RGB = (182, 182, 182)
COAST: RGB = (104, 94, 78)
RIGHT: RGB = (222, 236, 226)
WRONG: RGB = (202, 38, 68)

# Signed difference in tenths: blue is too little ice, red too much, as water and ice are in the charts.
_DIFFERENCE = LinearSegmentedColormap.from_list(
    "difference", ["#08306b", "#2f79b9", "#9cc8e3", "#f4f4f1", "#f3b48f", "#d2463c", "#67001f"]
)


def chart_colours(chart: str) -> list[tuple[str, RGB]]:
    """Class names of a chart ("SIC", "SOD", "FLOE") and their RGB colours, in the order of the classes."""
    return list(zip(CLASS_NAMES[chart], COLOURS[chart], strict=True))


def difference_colours() -> npt.NDArray[np.uint8]:
    """Colours of the differences -10..10 in tenths, uint8 [21, 3]."""
    table: npt.NDArray[np.uint8] = np.rint(255 * _DIFFERENCE(np.linspace(0, 1, 21))[:, :3]).astype(np.uint8)
    return table
