"""Line charts for inline SVG, laid out without fonts or colours: a page styles them for light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]

WIDTH, HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 26, 14, 42

# More points than this cannot be told apart on the chart, and make the page heavy.
_MAX_POINTS = 400


@dataclass(frozen=True)
class Series:
    """A line to draw: its name, its number among the page's colours, and (x, y) points in the order of x."""

    name: str
    colour: int
    points: Sequence[Point]
    marked: bool = False


@dataclass(frozen=True)
class Tick:
    """A grid line: where it stands in the picture, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A series in picture coordinates: the path, and the points to mark with their words."""

    name: str
    colour: int
    path: str
    faint: str
    marks: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class Chart:
    """All that a template needs to draw a line chart."""

    title: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


def line_chart(title: str, x_label: str, series: Sequence[Series]) -> Chart | None:
    """Lay out a chart; None where no series has a point.

    A series with many points is drawn faint as measured and full as its running mean.
    """
    series = [s for s in series if s.points]
    if not series:
        return None
    every = [point for s in series for point in s.points]
    x_ticks = round_ticks(min(x for x, _ in every), max(x for x, _ in every), 6)
    y_ticks = round_ticks(min(y for _, y in every), max(y for _, y in every), 5)
    x_low, x_high = min(x for x, _ in every), max(x for x, _ in every)
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def at_x(x: float) -> float:
        return _LEFT + (x - x_low) / ((x_high - x_low) or 1) * (WIDTH - _LEFT - _RIGHT)

    def at_y(y: float) -> float:
        return HEIGHT - _BOTTOM - (y - y_low) / ((y_high - y_low) or 1) * (HEIGHT - _TOP - _BOTTOM)

    def path(points: Sequence[Point]) -> str:
        return "M" + " L".join(f"{at_x(x):.1f} {at_y(y):.1f}" for x, y in points)

    lines = []
    for s in series:
        thin = thinned(s.points, _MAX_POINTS)
        smooth = running_mean(thin, len(thin) // 20)
        lines.append(
            Line(
                s.name,
                s.colour,
                path(thin if s.marked else smooth),
                "" if s.marked else path(thin),
                tuple((at_x(x), at_y(y), f"{s.name}: {y:.4g} at step {x:g}") for x, y in s.points) if s.marked else (),
            )
        )
    return Chart(
        title,
        x_label,
        tuple(Tick(at_x(x), f"{x:,.10g}") for x in x_ticks if x_low <= x <= x_high),
        tuple(Tick(at_y(y), f"{y:.10g}".replace("-", "\u2212")) for y in y_ticks),
        tuple(lines),
    )


def round_ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` + 2 round values that enclose [low, high]."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """Means over equal stretches of the points, at most `most` of them."""
    stretch = math.ceil(len(points) / most)
    if stretch <= 1:
        return list(points)
    parts = [points[k : k + stretch] for k in range(0, len(points), stretch)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def running_mean(points: Sequence[Point], half: int) -> list[Point]:
    """Each y as the mean of itself and up to `half` neighbours on each side.

    Near the start, where a loss falls steeply, equally many on both, so that the curve starts where the loss does;
    near the end as many as there are, so that it does not end in noise.
    """
    out = []
    for k, (x, _) in enumerate(points):
        reach = min(half, k)
        window = points[k - reach : k + reach + 1]
        out.append((x, sum(y for _, y in window) / len(window)))
    return out
