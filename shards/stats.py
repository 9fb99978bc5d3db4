"""Mean, deviation and histogram of each channel over training scenes, valid pixels only: streaming, mergeable.

Backscatter and distance are counted at every factor, since averaging changes their spread; channels on coarser grids
once. Backscatter is counted as it is stored, by its codes, so that one pass gives everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcticseg.data.tile import SAR_LOW, SAR_MAX_CODE, SAR_STEP
from arcticseg.errors import ConfigError
from arcticseg.files import atomic_path
from arcticseg.ice.channels import CHANNELS, COARSE, SAR
from arcticseg.ice.layers import Layers
from arcticseg.ice.sigrid import IGNORE_INDEX

# Width of a channel's histogram bins in its unit: powers of two, so that the bin of a value is exact.
_WIDTHS = {"hh": 0.5, "hv": 0.5, "incidence": 2.0, "distance": 1.0, "amsr2": 1.0, "era5": 0.5, "location": 2.0}
_OWN_WIDTHS = {"t2m": 1.0, "skt": 1.0, "tclw": 1 / 64, "month": 1.0, "day": 8.0}

# What a bin of backscatter spans in codes.
_CODES_A_BIN = round(_WIDTHS["hh"] / SAR_STEP)
# Pixels counted at once: they and their codes stay in the processor's cache.
_AT_ONCE = 1 << 16


def bin_width(channel: str) -> float:
    """Width of the histogram bins of a channel, in its unit; bin i holds values of [i, i + 1) times the width."""
    return _OWN_WIDTHS.get(channel) or _WIDTHS[CHANNELS[channel].group]


@dataclass(frozen=True)
class Tally:
    """Number, mean, sum of squared deviations and histogram of values; `bins[i]` counts bin `first` + i."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    first: int = 0
    bins: Sequence[int] = ()


def _trimmed(count: int, mean: float, squares: float, first: int, bins: NDArray[np.integer]) -> Tally:
    """A tally without empty bins at either end."""
    filled = np.flatnonzero(bins)
    low, high = (int(filled[0]), int(filled[-1]) + 1) if filled.size else (0, 0)
    return Tally(count, mean, squares, first + low if filled.size else 0, tuple(map(int, bins[low:high])))


def tally(values: NDArray, width: float = 1.0) -> Tally:
    """Tally of the finite values of an array."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return Tally()
    mean = float(finite.mean())
    index = np.floor(finite / width).astype(np.int64)
    first = int(index.min())
    return _trimmed(finite.size, mean, float(((finite - mean) ** 2).sum()), first, np.bincount(index - first))


def _tally_of_levels(counts: NDArray[np.int64], levels: NDArray[np.floating], first: int, a_bin: int) -> Tally:
    """Tally of values that take few levels: counts [n] of levels [n], of which `a_bin` fill a bin."""
    count = int(counts.sum())
    if not count:
        return Tally()
    mean = float(counts @ levels / count)
    bins = np.add.reduceat(counts, np.arange(0, len(counts), a_bin))
    return _trimmed(count, mean, float(counts @ (levels - mean) ** 2), first, bins)


def tally_sar(decibels: NDArray[np.float32]) -> Tally:
    """Tally of backscatter [H, W] in dB as samples hold it: values of codes, NaN left out, zero power at -60 dB."""
    counts = np.zeros(SAR_MAX_CODE + 1, np.int64)
    flat, memory = np.asarray(decibels, np.float32).ravel(), np.empty(_AT_ONCE, np.float32)
    for first in range(0, flat.size, _AT_ONCE):
        values = flat[first : first + _AT_ONCE]
        # The codes of `sample.encode_sar`, in place.
        codes = np.subtract(values, np.float32(SAR_LOW), out=memory[: values.size])
        codes /= np.float32(SAR_STEP)
        np.rint(codes, out=codes)
        np.clip(codes, 0, SAR_MAX_CODE - 1, out=codes)
        codes += 1
        np.fmax(codes, 0, out=codes)  # NaN is code 0
        counts += np.bincount(codes.astype(np.intp), minlength=len(counts))
    levels = SAR_LOW + SAR_STEP * np.arange(SAR_MAX_CODE, dtype=np.float64)
    return _tally_of_levels(counts[1:], levels, round(SAR_LOW / _WIDTHS["hh"]), _CODES_A_BIN)


def tally_distance(zones: NDArray[np.uint8]) -> Tally:
    """Tally of distance zones [H, W]; 255 = none."""
    counts, flat = np.zeros(IGNORE_INDEX + 1, np.int64), zones.ravel()
    for first in range(0, flat.size, _AT_ONCE):
        counts += np.bincount(flat[first : first + _AT_ONCE], minlength=len(counts))
    return _tally_of_levels(counts[:IGNORE_INDEX], np.arange(IGNORE_INDEX, dtype=np.float64), 0, 1)


def combine(a: Tally, b: Tally) -> Tally:
    """Tally of two sets together (moments: Chan, Golub and LeVeque, 1983)."""
    if not a.count or not b.count:
        return a if a.count else b
    count = a.count + b.count
    shift = b.mean - a.mean
    first = min(a.first, b.first)
    bins = np.zeros(max(a.first + len(a.bins), b.first + len(b.bins)) - first, np.int64)
    for part in (a, b):
        bins[part.first - first : part.first - first + len(part.bins)] += np.asarray(part.bins, np.int64)
    mean = a.mean + shift * b.count / count
    squares = a.squares + b.squares + shift * shift * a.count * b.count / count
    return Tally(count, mean, squares, first, tuple(map(int, bins)))


def tallies_of_pixels(layers: Layers) -> dict[str, Tally]:
    """Tallies of the channels that every pixel has, of a scene at one factor."""
    out = {SAR[name]: tally_sar(values) for name, values in layers.sar.items()}
    return out | {"distance_map": tally_distance(layers.distance)}


def tallies_of_scene(layers: Layers) -> dict[str, Tally]:
    """Tallies of the channels that do not depend on the factor, of a scene."""
    found: dict[str, NDArray] = dict(zip(COARSE, layers.coarse, strict=True))
    found |= {
        "sar_incidenceangle": layers.geo.incidence,
        "sar_grid_latitude": layers.geo.latitude,
        "sar_grid_longitude": layers.geo.longitude,
    }
    if layers.time is not None:
        found["month"] = np.array([layers.time.month])
        found["day"] = np.array([layers.time.timetuple().tm_yday])
    return {name: tally(values, bin_width(name)) for name, values in found.items()}


class SceneTallies:
    """Collects the tallies of one scene, factor by factor."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, Tally]] = {}

    def add(self, layers: Layers) -> None:
        """Take in the scene at one more factor."""
        if not self._found:
            self._found["scene"] = tallies_of_scene(layers)
        self._found[str(layers.factor)] = tallies_of_pixels(layers)

    def to_dict(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Plain data, as JSON takes it: `scene` or factor -> channel -> tally."""
        return {where: {name: asdict(found) for name, found in by.items()} for where, by in self._found.items()}


def _described(found: Tally, width: float) -> dict[str, Any]:
    return {
        "mean": found.mean,
        "std": float(np.sqrt(found.squares / found.count)),
        "count": found.count,
        "histogram": {"width": width, "first": found.first, "counts": list(found.bins)},
    }


def merge(scenes: Iterable[Mapping[str, Mapping[str, Mapping[str, Any]]]]) -> dict[str, dict[str, Any]]:
    """Statistics over scenes, each as `SceneTallies.to_dict` gives it.

    Returns:
        channel -> `mean`, `std`, `count`, `histogram` {`width`, `first`, `counts`}. For channels that every pixel has
        these are of the finest factor, and `factors` holds the same of every factor, finest first.
    """
    total: dict[str, dict[str, Tally]] = {}
    for scene in scenes:
        for where, channels in scene.items():
            for name, found in channels.items():
                known = total.setdefault(name, {})
                known[where] = combine(known.get(where, Tally()), Tally(**found))
    out: dict[str, dict[str, Any]] = {}
    for name in CHANNELS:
        found_at = {where: found for where, found in total.get(name, {}).items() if found.count}
        described = {
            where: _described(found_at[where], bin_width(name))
            for where in sorted(found_at, key=lambda where: 0 if where == "scene" else int(where))
        }
        if described:
            finest = next(iter(described.values()))
            out[name] = finest if "scene" in described else finest | {"factors": described}
    return out


def unmerge(statistics: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """What `merge` takes, of what it gave: so statistics of more scenes can be added to it."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for name, found in statistics.items():
        for where, one in found.get("factors", {"scene": found}).items():
            histogram = one["histogram"]
            squares = one["std"] ** 2 * one["count"]
            known = Tally(one["count"], one["mean"], squares, histogram["first"], histogram["counts"])
            out.setdefault(where, {})[name] = asdict(known)
    return out


def rows(statistics: Mapping[str, Mapping[str, Any]], factor: int | None = None) -> list[tuple[str, str, Mapping]]:
    """(channel, factor or "", its statistics) of every channel; with `factor` only of that one and those without.

    Raises:
        ConfigError: there are no statistics at that factor.
    """
    out: list[tuple[str, str, Mapping]] = []
    for name in filter(statistics.__contains__, CHANNELS):
        found = statistics[name]
        at = found.get("factors")
        if at is None:
            out.append((name, "", found))
        elif factor is None:
            out += [(name, where, at[where]) for where in sorted(at, key=int)]
        elif str(factor) in at:
            out.append((name, str(factor), at[str(factor)]))
        else:
            raise ConfigError(
                f"--factor is {factor}; the shards hold {', '.join(sorted(at, key=int))}; set one of these"
            )
    return out


def table(statistics: Mapping[str, Mapping[str, Any]], factor: int | None = None, published: bool = True) -> str:
    """The statistics, one line a channel and factor; beside the published ones if asked for.

    `shift` is the difference of the means in published deviations.
    """
    head = f"{'channel':22} {'factor':>6} {'mean':>10} {'std':>9} {'count':>13}"
    lines = [head + (f" {'published':>10} {'std':>9} {'shift':>7}" if published else "")]
    for name, where, found in rows(statistics, factor):
        line = f"{name:22} {where:>6} {found['mean']:10.3f} {found['std']:9.3f} {found['count']:13d}"
        if published:
            known = CHANNELS[name]
            line += f" {known.mean:10.3f} {known.std:9.3f} {(found['mean'] - known.mean) / known.std:+7.2f}"
        lines.append(line)
    return "\n".join(lines)


def picture(
    statistics: Mapping[str, Mapping[str, Any]], path: Path, factor: int | None = None, simulated: bool = False
) -> None:
    """Draw the histogram of every channel, as densities; one line a factor.

    Raises:
        ConfigError: there are no statistics at that factor.
        OutputError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    columns = 5
    height = -(-len(statistics) // columns)
    figure = Figure(figsize=(3 * columns, 2.2 * height), layout="constrained")
    names = filter(statistics.__contains__, CHANNELS)
    panels = dict(zip(names, figure.subplots(height, columns, squeeze=False).flat, strict=False))
    for axes in figure.axes[len(panels) :]:
        axes.remove()
    for name, where, found in rows(statistics, factor):
        width, counts = found["histogram"]["width"], np.array(found["histogram"]["counts"])
        edges = (found["histogram"]["first"] + np.arange(len(counts) + 1)) * width
        panels[name].stairs(counts / (found["count"] * width), edges, label=where)
        panels[name].set_title(f"{name} ({CHANNELS[name].unit})", fontsize=8)
        panels[name].tick_params(labelsize=7)
    for axes in panels.values():
        if len(axes.patches) > 1:
            axes.legend(title="factor", fontsize=6, title_fontsize=6)
    subject = "SIMULATED training scenes" if simulated else "Training scenes"
    figure.suptitle(f"{subject}: density of valid pixels")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
