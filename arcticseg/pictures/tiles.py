"""A picture of some tiles of a folder of shards: every layer and label, to look at before training."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from arcticseg.data.manifest import SPLITS, Manifest, SampleEntry, read_index, read_manifest
from arcticseg.data.sample import decode, split_members
from arcticseg.data.tile import Tile, decode_coarse, decode_sar, interpolation_matrix
from arcticseg.errors import ConfigError, ShardError
from arcticseg.files import atomic_path
from arcticseg.ice.channels import CHANNELS, COARSE, SAR
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX
from arcticseg.ice.simulated import ATTRIBUTE, SCENES_BANNER, SCENES_DISCLAIMER
from arcticseg.pictures.colours import ALARM, CHART_TITLES, FAINT, INK, LAND, MASKED, NO_DATA, RGB, chart_colours
from arcticseg.pictures.maps import chart_rgb
from arcticseg.pictures.sheet import draw_banner, hatched, pixel_axes

UInt8 = NDArray[np.uint8]

_DPI = 100
# Pixels of the page.
_EDGE, _GAP, _LEFT, _TOP, _LINE, _RIGHT = 184, 8, 210, 132, 22, 24
_LEGEND = 14 * _LINE

# 2 km channels to show: two that see ice through clouds, a third that sees its surface, then air and wind.
_COARSE = ("btemp_18_7h", "btemp_36_5v", "btemp_89_0h", "t2m", "u10m_rotated")


@dataclass(frozen=True)
class _Layer:
    """A column of numbers: its title, the values at the ends of its colours, their unit, and the colours."""

    title: str
    low: float
    high: float
    unit: str
    colours: str


def _layer(name: str, title: str, colours: str) -> _Layer:
    """Colours over two published standard deviations on either side of the mean."""
    channel = CHANNELS[name]
    return _Layer(title, channel.mean - 2 * channel.std, channel.mean + 2 * channel.std, channel.unit, colours)


_LAYERS = {
    "hh": _layer(SAR["hh"], "HH", "gray"),
    "hv": _layer(SAR["hv"], "HV", "gray"),
    "incidence": _Layer("incidence angle", 18, 48, "degrees", "viridis"),
    "distance": _Layer("distance to land", 0, 41, "zone", "GnBu"),
    "btemp_18_7h": _layer("btemp_18_7h", "18.7 GHz H", "inferno"),
    "btemp_36_5v": _layer("btemp_36_5v", "36.5 GHz V", "inferno"),
    "btemp_89_0h": _layer("btemp_89_0h", "89.0 GHz H", "inferno"),
    "t2m": _layer("t2m", "air, 2 m", "coolwarm"),
    "u10m_rotated": _Layer("wind, u", -12, 12, "m/s", "PuOr"),
}


def draw_tiles(folder: Path, path: Path, tiles: int = 6, seed: int = 0) -> None:
    """Draw random tiles, one a row, as a PNG; all factors are equally likely.

    Raises:
        ConfigError: the number of tiles is not positive, or the file's name does not end with `.png`.
        ShardError: the shards cannot be read.
        OutputError: the picture cannot be written.
    """
    if tiles < 1:
        raise ConfigError(f"--tiles is {tiles}; set 1 or more")
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--picture is '{path}'; name a .png file")
    manifest = read_manifest(folder)
    chosen = [(split, _read(folder / shard, entry)) for split, shard, entry in _choose(folder, manifest, tiles, seed)]
    page = _Page(len(chosen), manifest.simulated, any(tile.simulated for _, tile in chosen))
    page.header(
        folder.absolute().name, f"{len(chosen)} tiles of {manifest.tile} x {manifest.tile} pixels, drawn by seed {seed}"
    )
    for row, (split, tile) in enumerate(chosen):
        page.row(row, split, tile)
    page.legends(len(chosen))
    disclaimer = SCENES_DISCLAIMER if manifest.simulated else ""
    metadata = {
        "Title": f"Tiles of {folder.absolute().name}",
        "Description": f"{disclaimer}Tiles of SAR and ice charts.",
    }
    with atomic_path(path) as temporary:
        page.figure.savefig(temporary, format="png", metadata=metadata)


def _choose(folder: Path, manifest: Manifest, number: int, seed: int) -> list[tuple[str, str, SampleEntry]]:
    """(split, shard, entry) of samples drawn by seed, in the order of their factors, then splits."""
    by_factor: dict[int, list[tuple[str, str, SampleEntry]]] = defaultdict(list)
    for split in SPLITS:
        for shard in manifest.splits.get(split, ()):
            for entry in read_index(folder / shard.name, shard):
                by_factor[entry.factor].append((split, shard.name, entry))
    random = np.random.default_rng(seed)
    queues = [
        [by_factor[factor][i] for i in random.permutation(len(by_factor[factor]))] for factor in sorted(by_factor)
    ]
    drawn: list[tuple[str, str, SampleEntry]] = []
    while len(drawn) < number and any(queues):
        # Each round gives every factor one tile; the last round some factors only, spread over all of them.
        left = [queue for queue in queues if queue]
        take = min(len(left), number - len(drawn))
        drawn += [left[i].pop() for i in np.linspace(0, len(left) - 1, take).round().astype(int)]
    return sorted(drawn, key=lambda item: (item[2].factor, SPLITS.index(item[0]), item[2].key))


def _read(shard: Path, entry: SampleEntry) -> Tile:
    """A tile, its bytes verified."""
    try:
        with open(shard, "rb") as file:
            data = os.pread(file.fileno(), entry.size, entry.offset)
    except OSError as error:
        raise ShardError(f"{shard}: cannot be read ({error.strerror}); restore it") from error
    if xxhash.xxh3_64_hexdigest(data) != entry.xxh3:
        raise ShardError(f"{shard}: sample {entry.key} is damaged; `arcticseg shards check` names all damage")
    return decode(*split_members(data))


def _on_tile(values: NDArray, rows: NDArray, columns: NDArray, size: int, clamp: bool) -> NDArray[np.float64]:
    """Values [n, m] at `rows` and `columns` brought to pixels [size, size]; NaN where a value that counts is NaN."""
    if not values.size:
        return np.full((size, size), np.nan)
    down, across = interpolation_matrix(rows, size, clamp), interpolation_matrix(columns, size, clamp)
    known = np.isfinite(values)
    out = down @ np.where(known, values, 0.0) @ across.T
    lost = np.abs(down) @ ~known @ np.abs(across).T > 1e-6
    return np.where(lost, np.nan, out)


def planes(tile: Tile) -> dict[str, NDArray[np.floating]]:
    """What the picture shows in numbers: float [H, W] by name, NaN = no data."""
    size = tile.hh.shape[0]
    coarse = decode_coarse(tile.aux)
    return {
        "hh": decode_sar(tile.hh),
        "hv": decode_sar(tile.hv),
        "incidence": _on_tile(tile.geo[2], tile.geo_rows, tile.geo_cols, size, clamp=False),
        "distance": np.where(tile.dist == IGNORE_INDEX, np.nan, tile.dist),
        **{
            name: _on_tile(coarse[COARSE.index(name)], tile.aux_rows, tile.aux_cols, size, clamp=True)
            for name in _COARSE
        },
    }


def _coloured(values: NDArray[np.floating], layer: _Layer) -> UInt8:
    """Float [H, W] -> uint8 [H, W, 3]; no data is dark grey."""
    level = (values - layer.low) / (layer.high - layer.low)
    rgb = colormaps[layer.colours](np.nan_to_num(np.clip(level, 0, 1)), bytes=True)[..., :3].copy()
    rgb[np.isnan(values)] = NO_DATA
    return rgb


class _Page:
    """The figure, laid out in pixels."""

    def __init__(self, rows: int, simulated: bool, any_shown: bool) -> None:
        self.simulated = simulated or any_shown
        self.columns = len(_LAYERS) + len(CHARTS)
        self.width = _LEFT + self.columns * (_EDGE + _GAP) + _RIGHT
        self.height = _TOP + rows * (_EDGE + _GAP) + _LEGEND + 3 * _LINE
        self.figure = Figure(figsize=(self.width / _DPI, self.height / _DPI), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(self.figure)

    def _axes(self, left: float, top: float, width: float, height: float) -> Axes:
        return pixel_axes(self.figure, left, top, width, height)

    def _left(self, column: int) -> int:
        return _LEFT + column * (_EDGE + _GAP)

    def header(self, title: str, subtitle: str) -> None:
        """Title, subtitle, the mark of simulated scenes and the titles of the columns."""
        axes = self._axes(0, 0, self.width, _TOP)
        axes.text(24, 34, title, fontsize=17, fontweight="bold", color=INK, va="center")
        axes.text(24, 68, subtitle, fontsize=11, color=FAINT, va="center")
        if self.simulated:
            draw_banner(axes, self.width - 36, 42, SCENES_BANNER, 14, 0.5)
        titles = [layer.title for layer in _LAYERS.values()] + list(CHARTS)
        for column, text in enumerate(titles):
            axes.text(self._left(column), _TOP - 14, text, fontsize=11.5, fontweight="bold", color=INK, va="center")

    def row(self, row: int, split: str, tile: Tile) -> None:
        """A tile in a row: what and where it is, its layers, its labels."""
        top = _TOP + row * (_EDGE + _GAP)
        axes = self._axes(24, top, _LEFT - 24, _EDGE)
        size = tile.hh.shape[0]
        latitude, longitude = (
            _on_tile(plane, tile.geo_rows, tile.geo_cols, size, clamp=False).mean() for plane in tile.geo[:2]
        )
        north, east = "N" if latitude >= 0 else "S", "E" if longitude >= 0 else "W"
        edge = size * tile.pixel_spacing / 1000
        texts = [
            f"{split}, {tile.time[:10] if tile.time else 'no date'}",
            f"{tile.pixel_spacing:g} m (k = {tile.factor})",
            f"{edge:.0f} x {edge:.0f} km",
            f"{abs(latitude):.1f}° {north}, {abs(longitude):.1f}° {east}",
            f"ice service {tile.ice_service or 'unknown'}",
            f"row {tile.row}, col {tile.col}",
            f"valid {tile.valid.mean():.0%}",
            *([ATTRIBUTE] if tile.simulated else []),
        ]
        for k, text in enumerate(texts):
            colour = ALARM if text == ATTRIBUTE else INK if k < 2 else FAINT
            weight = "bold" if k == 0 or text == ATTRIBUTE else "normal"
            axes.text(0, 12 + k * _LINE, text, fontsize=9.5, color=colour, fontweight=weight, va="center")
        shown = planes(tile)
        for column, (name, layer) in enumerate(_LAYERS.items()):
            self._panel(self._left(column), top, _coloured(shown[name], layer))
        for column, chart in enumerate(CHARTS, start=len(_LAYERS)):
            if tile.lab is None:
                self._panel(self._left(column), top, np.full((1, 1, 3), 255, np.uint8), "no chart")
            else:
                rgb = chart_rgb(chart, tile.lab[CHARTS.index(chart)], tile.dist == 0)
                self._panel(self._left(column), top, hatched(_enlarged(rgb)))

    def _panel(self, left: float, top: float, rgb: UInt8, text: str = "") -> None:
        axes = self._axes(left, top, _EDGE, _EDGE)
        axes.imshow(rgb, extent=(0, _EDGE, _EDGE, 0), interpolation="nearest", aspect="auto")
        frame = Rectangle((0, 0), _EDGE, _EDGE, fill=False, edgecolor=INK, linewidth=0.8, clip_on=False)
        axes.add_patch(frame)
        axes.text(_EDGE / 2, _EDGE / 2, text, fontsize=10, color=FAINT, ha="center", va="center")

    def legends(self, rows: int) -> None:
        """Below each column what its colours mean."""
        top = _TOP + rows * (_EDGE + _GAP) + 10
        ramp = np.linspace(0, 1, 128)[None]
        for column, layer in enumerate(_LAYERS.values()):
            axes = self._axes(self._left(column), top, _EDGE, 3 * _LINE)
            colours = colormaps[layer.colours](ramp, bytes=True)[..., :3]
            axes.imshow(colours, extent=(0, _EDGE, 12, 0), aspect="auto")
            for x, text, side in ((0, f"{layer.low:.0f}", "left"), (_EDGE, f"{layer.high:.0f} {layer.unit}", "right")):
                axes.text(x, 26, text.replace("-", "\u2212"), fontsize=9, color=INK, ha=side, va="center")
            axes.set_xlim(0, _EDGE)
            axes.set_ylim(3 * _LINE, 0)
        self._swatches(self._left(0), top + 3 * _LINE, [("no data", NO_DATA)])
        for column, chart in enumerate(CHARTS, start=len(_LAYERS)):
            axes = self._axes(self._left(column), top, _EDGE, _LINE)
            axes.text(0, 8, CHART_TITLES[chart], fontsize=9, color=FAINT, va="center")
            entries = [*reversed(chart_colours(chart)), ("land", LAND), ("masked", MASKED)]
            self._swatches(self._left(column), top + _LINE, entries)

    def _swatches(self, left: float, top: float, entries: list[tuple[str, RGB]]) -> None:
        height = len(entries) * _LINE
        axes = self._axes(left, top, _EDGE, height)
        for k, (text, colour) in enumerate(entries):
            patch = hatched(np.full((14, 24, 3), colour, np.uint8))
            axes.imshow(patch, extent=(0, 24, k * _LINE + 16, k * _LINE + 2), interpolation="nearest", aspect="auto")
            axes.text(32, k * _LINE + 9, text, fontsize=9, color=INK, va="center")
        axes.set_xlim(0, _EDGE)
        axes.set_ylim(height, 0)


def _enlarged(rgb: UInt8) -> UInt8:
    """[H, W, 3] at the size of a panel, without new colours, so that hatches stay sharp."""
    at = ((np.arange(_EDGE) + 0.5) * rgb.shape[0] / _EDGE).astype(np.intp)
    return rgb[np.ix_(at, at)]
