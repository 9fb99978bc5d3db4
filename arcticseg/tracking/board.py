"""Event files for TensorBoard, by tensorboardX, which needs no torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcticseg.errors import ConfigError
from arcticseg.ice.sigrid import CLASS_NAMES
from arcticseg.run.folder import TENSORBOARD
from arcticseg.tracking.config import TrackingConfig
from arcticseg.tracking.names import series
from arcticseg.tracking.tracker import Confusions

# Pixels of a cell of a confusion matrix.
_CELL = 24


def check_installed(cfg: TrackingConfig) -> None:
    """See that what the config asks for is installed.

    Raises:
        ConfigError: it is not.
    """
    if cfg.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError(
            "key 'tracking.tensorboard' is true, and tensorboardX is not installed; pip install "
            "'arcticseg[tensorboard]', or set it to false"
        )


class Board:
    """The `tensorboard` folder of a run.

    Args:
        folder: of the run.
        config: of the run, shown as text.
        keep_until: step after which what a killed run wrote is hidden.
    """

    def __init__(self, folder: Path, config: str, keep_until: int = 0) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder / TENSORBOARD), purge_step=keep_until + 1 if keep_until else None)
        self._writer.add_text("config", "".join(f"    {line}\n" for line in config.splitlines()), keep_until)

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write numbers under their `series`."""
        for key, value in values.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(series(kind, key), value, step)

    def confusions(self, step: int, counts: Confusions) -> None:
        """Draw each confusion matrix, rows of the chart's classes, and write it as a table."""
        for chart, own in counts.items():
            self._writer.add_image(f"confusion/{chart}", _drawn(own), step, dataformats="HWC")
            self._writer.add_text(f"confusion/{chart}", _table(chart, own), step)

    def picture(self, step: int, name: str, path: Path) -> None:
        """Show the picture under `pictures/`."""
        from PIL import Image

        with Image.open(path) as image:
            self._writer.add_image(f"pictures/{name}", np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Finish writing."""
        self._writer.close()


def _drawn(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The share of each row's pixels, from white to blue, uint8 [H, W, 3]."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    colours = 255 - share[..., None] * (255 - np.array([8, 48, 107]))
    return colours.astype(np.uint8).repeat(_CELL, 0).repeat(_CELL, 1)


def _table(chart: str, counts: NDArray[np.int64]) -> str:
    names = CLASS_NAMES[chart]
    head = [f"| chart \\ network | {' | '.join(names)} |", f"|{'---|' * (len(names) + 1)}"]
    rows = [f"| {name} | {' | '.join(map(str, row))} |" for name, row in zip(names, counts.tolist(), strict=True)]
    return "\n".join([*head, *rows])
