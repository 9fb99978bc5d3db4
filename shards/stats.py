"""Mean and standard deviation of each channel over training scenes, valid pixels only: streaming, mergeable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcticseg.ice.channels import CHANNELS, COARSE, SAR
from arcticseg.ice.layers import Layers
from arcticseg.ice.sigrid import IGNORE_INDEX


@dataclass(frozen=True)
class Moments:
    """Number, mean and sum of squared deviations of values."""

    count: int
    mean: float
    squares: float


def moments(values: NDArray) -> Moments:
    """Moments of the finite values of an array."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return Moments(0, 0.0, 0.0)
    mean = float(finite.mean())
    return Moments(finite.size, mean, float(((finite - mean) ** 2).sum()))


def combine(a: Moments, b: Moments) -> Moments:
    """Moments of two sets together (Chan, Golub and LeVeque, 1983)."""
    count = a.count + b.count
    if not count:
        return a
    shift = b.mean - a.mean
    mean = a.mean + shift * b.count / count
    return Moments(count, mean, a.squares + b.squares + shift * shift * a.count * b.count / count)


def moments_of(layers: Layers) -> dict[str, Moments]:
    """Moments of every channel of a scene at one factor, by channel name."""
    out = {SAR[name]: moments(values) for name, values in layers.sar.items()}
    out["distance_map"] = moments(layers.distance[layers.distance != IGNORE_INDEX])
    out |= {name: moments(values) for name, values in zip(COARSE, layers.coarse, strict=True)}
    out["sar_incidenceangle"] = moments(layers.geo.incidence)
    out["sar_grid_latitude"] = moments(layers.geo.latitude)
    out["sar_grid_longitude"] = moments(layers.geo.longitude)
    if layers.time is not None:
        out["month"] = moments(np.array([layers.time.month]))
        out["day"] = moments(np.array([layers.time.timetuple().tm_yday]))
    return out


def merge(scenes: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """Channel -> {mean, std, count} over scenes, each given as channel -> moments as a dict."""
    total: dict[str, Moments] = {}
    for scene in scenes:
        for name, moment in scene.items():
            total[name] = combine(total.get(name, Moments(0, 0.0, 0.0)), Moments(**moment))
    return {
        name: {
            "mean": total[name].mean,
            "std": float(np.sqrt(total[name].squares / total[name].count)),
            "count": total[name].count,
        }
        for name in CHANNELS
        if name in total and total[name].count
    }


def unmerge(statistics: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """What `merge` takes, of what it gave: so statistics of more scenes can be added to it."""
    return {
        name: {"count": found["count"], "mean": found["mean"], "squares": found["std"] ** 2 * found["count"]}
        for name, found in statistics.items()
    }


def table(statistics: Mapping[str, Mapping[str, float]]) -> str:
    """The statistics beside the published ones; `shift` is the difference of the means in published deviations."""
    lines = [f"{'channel':22} {'mean':>10} {'std':>9} {'published':>10} {'std':>9} {'shift':>7}"]
    for name, found in statistics.items():
        known = CHANNELS[name]
        shift = (found["mean"] - known.mean) / known.std
        lines.append(
            f"{name:22} {found['mean']:10.3f} {found['std']:9.3f} {known.mean:10.3f} {known.std:9.3f} {shift:+7.2f}"
        )
    return "\n".join(lines)
