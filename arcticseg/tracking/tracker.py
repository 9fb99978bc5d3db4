"""What takes what a run has to say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# Chart -> pixels by (class of the chart, predicted class), int64 [classes, classes].
Confusions = Mapping[str, NDArray[np.int64]]


class Tracker(Protocol):
    """Takes what a run has to say; only rank 0 has any, so none may wait for long."""

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Take the values of one step; `kind` is `train`, `validation`, `scores` or `event`."""
        ...

    def confusions(self, step: int, counts: Confusions) -> None:
        """Take the confusion counts of a validation."""
        ...

    def picture(self, step: int, name: str, path: Path) -> None:
        """Take a picture, a PNG file."""
        ...

    def close(self) -> None:
        """Finish writing."""
        ...
