"""Mean, deviation and histogram of each channel over training scenes, valid pixels only: streaming, mergeable.

Backscatter and distance are counted at every factor, since averaging changes their spread; channels on coarser grids
once. Backscatter is counted as it is stored, by its codes, so that one pass gives everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcticseg.data.tile import SAR_LOW, SAR_MAX_CODE, SAR_STEP, sar_codes
from arcticseg.errors import ConfigError, SceneError
from arcticseg.ice.channels import CHANNELS, COARSE, SAR
from arcticseg.ice.layers import Layers
from arcticseg.ice.sigrid import IGNORE_INDEX

# (channel, factor or "" where it does not depend on the factor, its statistics as a manifest holds them).
Row = tuple[str, str, Mapping[str, Any]]

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


# Ten times what any channel holds, in its unit.
_FAR = 4000.0


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
        codes = sar_codes(values, memory[: values.size])
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
    backscatter = {SAR[name]: tally_sar(values) for name, values in layers.sar.items()}
    return backscatter | {"distance_map": tally_distance(layers.distance)}


def tallies_of_scene(layers: Layers, source: str = "") -> dict[str, Tally]:
    """Tallies of the channels that do not depend on the factor, of a scene.

    Raises:
        SceneError: a channel holds what it cannot, of which a histogram would fill the memory; it names the source.
    """
    channels: dict[str, NDArray] = dict(zip(COARSE, layers.coarse, strict=True))
    channels |= {
        "sar_incidenceangle": layers.geo.incidence,
        "sar_grid_latitude": layers.geo.latitude,
        "sar_grid_longitude": layers.geo.longitude,
    }
    if layers.time is not None:
        channels["month"] = np.array([layers.time.month])
        channels["day"] = np.array([layers.time.timetuple().tm_yday])
    for name, values in channels.items():
        far = np.abs(values) > _FAR
        if far.any():
            said = f"{name} holds {values[far][0]:g} {CHANNELS[name].unit}"
            raise SceneError(f"{source}: {said}, which cannot be; correct the file, or leave it out")
    return {name: tally(values, bin_width(name)) for name, values in channels.items()}


class SceneTallies:
    """Collects the tallies of a scene, factor by factor."""

    def __init__(self, source: str = "") -> None:
        """`source` names the scene in errors."""
        self._source = source
        self._tallies: dict[str, dict[str, Tally]] = {}

    def add(self, layers: Layers) -> None:
        """Take in the scene at another factor."""
        if not self._tallies:
            self._tallies["scene"] = tallies_of_scene(layers, self._source)
        self._tallies[str(layers.factor)] = tallies_of_pixels(layers)

    def to_dict(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Plain data, as JSON takes it: `scene` or factor -> channel -> tally."""
        return {key: {name: asdict(known) for name, known in by.items()} for key, by in self._tallies.items()}


def _described(known: Tally, width: float) -> dict[str, Any]:
    return {
        "mean": known.mean,
        "std": float(np.sqrt(known.squares / known.count)),
        "count": known.count,
        "histogram": {"width": width, "first": known.first, "counts": list(known.bins)},
    }


def merge(scenes: Iterable[Mapping[str, Mapping[str, Mapping[str, Any]]]]) -> dict[str, dict[str, Any]]:
    """Statistics over scenes, each as `SceneTallies.to_dict` gives it.

    Returns:
        channel -> `mean`, `std`, `count`, `histogram` {`width`, `first`, `counts`}. For a channel that every pixel has,
        these are of the finest factor, and `factors` holds the same of every factor, finest first.
    """
    total: dict[str, dict[str, Tally]] = {}
    for scene in scenes:
        for key, channels in scene.items():
            for name, fields in channels.items():
                by_key = total.setdefault(name, {})
                by_key[key] = combine(by_key.get(key, Tally()), Tally(**fields))
    out: dict[str, dict[str, Any]] = {}
    for name in CHANNELS:
        tallies = {key: known for key, known in total.get(name, {}).items() if known.count}
        described = {
            key: _described(tallies[key], bin_width(name))
            for key in sorted(tallies, key=lambda key: 0 if key == "scene" else int(key))
        }
        if described:
            finest = next(iter(described.values()))
            out[name] = finest if "scene" in described else finest | {"factors": described}
    return out


def unmerge(statistics: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """What `merge` takes, from what it gave: so statistics of more scenes can be added to it."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for name, described in statistics.items():
        for key, values in described.get("factors", {"scene": described}).items():
            count, histogram = values["count"], values["histogram"]
            squares = values["std"] ** 2 * count
            known = Tally(count, values["mean"], squares, histogram["first"], histogram["counts"])
            out.setdefault(key, {})[name] = asdict(known)
    return out


def rows(statistics: Mapping[str, Mapping[str, Any]], factor: int | None = None) -> list[Row]:
    """(channel, factor or "", its statistics) of every channel; with `factor` of that factor and of no factor only.

    Raises:
        ConfigError: there are no statistics at that factor.
    """
    out: list[Row] = []
    for name in filter(statistics.__contains__, CHANNELS):
        by_factor = statistics[name].get("factors")
        if by_factor is None:
            out.append((name, "", statistics[name]))
        elif factor is None:
            out += [(name, key, by_factor[key]) for key in sorted(by_factor, key=int)]
        elif str(factor) in by_factor:
            out.append((name, str(factor), by_factor[str(factor)]))
        else:
            raise ConfigError(
                f"--factor is {factor}; the shards hold {', '.join(sorted(by_factor, key=int))}; set one of these"
            )
    return out


def table(rows: Sequence[Row], published: bool = True) -> str:
    """The statistics, one line a channel and factor; beside the published statistics if asked for.

    `shift` is the difference of the means in published deviations.
    """
    head = f"{'channel':22} {'factor':>6} {'mean':>10} {'std':>9} {'count':>13}"
    lines = [head + (f" {'published':>10} {'std':>9} {'shift':>7}" if published else "")]
    for name, factor, values in rows:
        line = f"{name:22} {factor:>6} {values['mean']:10.3f} {values['std']:9.3f} {values['count']:13d}"
        if published:
            channel = CHANNELS[name]
            shift = (values["mean"] - channel.mean) / channel.std
            line += f" {channel.mean:10.3f} {channel.std:9.3f} {shift:+7.2f}"
        lines.append(line)
    return "\n".join(lines)
