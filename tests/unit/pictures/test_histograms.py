"""Histograms of the channels, as a picture."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from arcticseg.ice.channels import CHANNELS
from arcticseg.pictures import histograms
from arcticseg.pictures.histograms import draw_histograms


def described(first: int = 0, *counts: int) -> dict[str, Any]:
    """Statistics of a channel as a manifest holds them."""
    return {"count": sum(counts), "histogram": {"width": 0.5, "first": first, "counts": list(counts)}}


def drawn(rows: list[Any], path: Path, monkeypatch: pytest.MonkeyPatch, simulated: bool = False) -> Figure:
    """The figure, which is not rendered: that would take most of the time."""
    figures = []

    class Kept(Figure):
        def savefig(self, file: Path, *_: Any, **__: Any) -> None:
            figures.append(self)
            file.touch()

    with monkeypatch.context() as patch:
        patch.setattr(histograms, "Figure", Kept)
        draw_histograms(rows, path, simulated)
    (figure,) = figures
    return figure


def test_every_channel_has_a_panel_and_every_factor_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(name, "", described(3, 1, 2, 1)) for name in CHANNELS if name != "nersc_sar_primary"]
    rows += [("nersc_sar_primary", factor, described(-40, 1, 3)) for factor in ("2", "10")]
    figure = drawn(rows, tmp_path / "a.png", monkeypatch)
    panels = {axes.get_title().partition(" (")[0]: axes for axes in figure.axes}
    assert set(panels) == set(CHANNELS)
    assert len(figure.axes) == len(CHANNELS)
    assert [patch.get_label() for patch in panels["nersc_sar_primary"].patches] == ["2", "10"]
    (steps,) = panels["t2m"].patches
    values, edges, _ = steps.get_data()
    assert edges.tolist() == [1.5, 2.0, 2.5, 3.0]
    assert values.tolist() == [0.5, 1.0, 0.5]  # a density: its integral is 1
    assert "SIMULATED" not in figure.get_suptitle()
    assert "SIMULATED" in drawn(rows[:1], tmp_path / "b.png", monkeypatch, simulated=True).get_suptitle()


def test_the_picture_is_written(tmp_path: Path) -> None:
    draw_histograms([("t2m", "", described(500, 1, 2, 1)), ("skt", "", described(510, 3))], tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 10
