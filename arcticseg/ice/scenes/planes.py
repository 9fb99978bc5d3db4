"""Charts that stand in a file as classes: ready-to-train scenes and reference files."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcticseg.errors import SceneError
from arcticseg.ice.scenes.numbers import Meaning
from arcticseg.ice.sigrid import IGNORE_INDEX, N_CLASSES


def class_plane(stored: NDArray[Any], how: Meaning, chart: str) -> NDArray[np.uint8]:
    """The classes of a chart, uint8; no data is 255.

    Args:
        stored: numbers as they stand in the file.
        how: what they mean.
        chart: SIC, SOD or FLOE.

    Raises:
        SceneError: a value is not a class of the chart.
    """
    values = stored
    if not (how.plain and values.dtype == how.dtype == np.uint8):
        values = np.nan_to_num(how.decode(stored), nan=IGNORE_INDEX)
    wrong = ~((values >= 0) & (values < N_CLASSES[chart])) & (values != IGNORE_INDEX)
    if values.dtype.kind == "f":
        wrong |= values != np.rint(values)
    if wrong.any():
        raise SceneError(f"{chart} holds {values[wrong][0]:g}, not a class; get the file again")
    return values.astype(np.uint8, copy=False)
