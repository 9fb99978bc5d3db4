"""Histograms of the channels over training scenes, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from arcticseg.files import atomic_path
from arcticseg.ice.channels import CHANNELS
from arcticseg.ice.simulated import marked

_COLUMNS = 5


def draw_histograms(rows: Sequence[tuple[str, str, Mapping[str, Any]]], path: Path, simulated: bool = False) -> None:
    """Draw the histogram of every channel, as densities; one line a factor.

    Args:
        rows: (channel, factor or "", its statistics as a manifest holds them).
        path: the picture to write.
        simulated: some of the scenes are simulated.

    Raises:
        OutputError: the picture cannot be written.
    """
    names = list(dict.fromkeys(name for name, _, _ in rows))
    height = -(-len(names) // _COLUMNS)
    figure = Figure(figsize=(3 * _COLUMNS, 2.2 * height), layout="constrained")
    panels = dict(zip(names, figure.subplots(height, _COLUMNS, squeeze=False).flat, strict=False))
    for axes in figure.axes[len(panels) :]:
        axes.remove()
    for name, factor, statistics in rows:
        histogram = statistics["histogram"]
        width, counts = histogram["width"], np.array(histogram["counts"])
        edges = (histogram["first"] + np.arange(len(counts) + 1)) * width
        panels[name].stairs(counts / (statistics["count"] * width), edges, label=factor)
        panels[name].set_title(f"{name} ({CHANNELS[name].unit})", fontsize=8)
        panels[name].tick_params(labelsize=7)
    for axes in panels.values():
        if len(axes.patches) > 1:
            axes.legend(title="factor", fontsize=6, title_fontsize=6)
    subject = marked("training scenes", True) if simulated else "Training scenes"
    figure.suptitle(f"{subject}: density of valid pixels")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
