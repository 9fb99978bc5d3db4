"""Simulated scenes in the raw AI4Arctic schema: `arcticseg simulate`.

A scene is a pure function of its `SimulationConfig` and its index: the same arrays on any machine with any number of
workers. Every file says in its title and in the global attribute `simulated` that it is not an observation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import netCDF4
import numpy as np
from numpy.typing import NDArray

from arcticseg.errors import ConfigError
from arcticseg.files import atomic_path, make_folder
from arcticseg.ice.simulated import ATTRIBUTE, statement
from shards.progress import OnProgress, ignore
from shards.simulation.backscatter import Radar, backscatter_class, swath_edges
from shards.simulation.land import MARGIN_CELLS
from shards.simulation.layout import Ground, edge_displacement, simulated_ground
from shards.simulation.netcdf import SceneFile
from shards.simulation.noise import Array
from shards.simulation.passive import simulate_passive
from shards.simulation.place import Place, geolocation, place_scene
from shards.simulation.truth import Truth, truth_path
from shards.simulation.under_chart import ground_under, open_chart, place_under
from shards.simulation.weather import melt_of, simulate_weather
from shards.workers import Job, Workers

# Lines computed at once: a multiple of 50, so that blocks hold whole cells of 2 km.
_BLOCK_LINES = 500
_CELL = 50
_LEAST_SIZE = 500
# Raised whenever the same configuration gives other scenes.
_VERSION = 3


@dataclass(frozen=True)
class SimulationConfig:
    """What a set of simulated scenes is made from.

    Attributes:
        size: lines and samples in pixels of 40 m, one number for both or a pair; at least 500.
        seed: another seed, other scenes.
        chart: a real SIGRID-3 vector chart (.shp or .gpkg) to take polygons and codes from.
        window: longitude and latitude in degrees of the scenes' centre; by default a place in the ice of `chart`.
        date: day (and time, if it is not midnight) of the acquisitions; the season drives temperature and ice types.
        labelled: scenes with a chart; without a chart they are like the archive's raw test scenes.
        ct_ranges: how total concentrations of the chart that are ranges are read, see `vector.resolve_ranges`.
        truth: write the ice that is really in each pixel, too, see `simulation.truth`.
    """

    size: tuple[int, int] | int = 2000
    seed: int = 0
    chart: Path | None = None
    window: tuple[float, float] | None = None
    date: datetime | None = None
    labelled: bool = True
    ct_ranges: str = "mask"
    truth: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Lines and samples."""
        return (self.size, self.size) if isinstance(self.size, int) else (self.size[0], self.size[1])

    def __post_init__(self) -> None:
        if min(self.shape) < _LEAST_SIZE:
            raise ConfigError(f"simulation size {self.shape}: lines and samples must be at least {_LEAST_SIZE} pixels")
        if self.window is not None and not (abs(self.window[0]) <= 180 and abs(self.window[1]) <= 90):
            raise ConfigError(f"simulation window {self.window}: give longitude (-180..180) and latitude (-90..90)")

    def place(self, index: int) -> Place:
        """Time and place of scene `index`."""
        if self.chart is None:
            return place_scene(index, self.seed, self.date, self.window)
        return place_under(self.chart, self.shape, index, self.seed, self.date, self.window, self.ct_ranges)

    def statement(self, index: int) -> str:
        """What a file says of itself: that it is simulated, and from what."""
        lines, samples = self.shape
        ranges = "" if self.ct_ranges == "mask" else f" (CT ranges: {self.ct_ranges})"
        ice = "simulated ice" if self.chart is None else f"the ice chart {self.chart.name}{ranges}"
        where = "" if self.window is None else f", window {self.window[0]} {self.window[1]}"
        when = "" if self.date is None else f", date {self.date.isoformat()}"
        return statement(
            f"no observation; scene {index} of seed {self.seed}, {lines} x {samples} pixels, {ice}{where}{when}, "
            f"simulator version {_VERSION}"
        )


def simulate_scene(
    path: Path, *, index: int, seed: int, size: tuple[int, int] | int, chart: Path | None = None,
    window: tuple[float, float] | None = None, date: datetime | None = None, labelled: bool = True,
    ct_ranges: str = "mask", truth: bool = False,
) -> Path:  # fmt: skip
    """Write a simulated scene.

    Args:
        path: the file to write, or an existing folder in which to write it under a name like the archive's.
        index: number of the scene; class shares and seasons are spread evenly over successive scenes.
        seed, size, chart, window, date, labelled, ct_ranges, truth: see `SimulationConfig`.

    Returns:
        The file's path.

    Raises:
        ConfigError: a size or window that cannot be.
        SceneError: a chart that cannot be read or has no ice in the scene.
        OutputError: the file cannot be written.
    """
    config = SimulationConfig(size, seed, chart, window, date, labelled, ct_ranges, truth)
    place = config.place(index)
    path = Path(path)
    if path.is_dir():
        path = path / place.file_name
    _write(path, config, index, place)
    return path


def simulate_archive(
    out: Path, n: int, seed: int = 0, size: tuple[int, int] | int = 2000, chart: Path | None = None,
    window: tuple[float, float] | None = None, date: datetime | None = None, labelled: bool = True, workers: int = 1,
    progress: OnProgress = ignore, ct_ranges: str = "mask", truth: bool = False,
) -> list[Path]:  # fmt: skip
    """Write scenes 0 .. n - 1 into the folder `out` and return their paths in that order.

    Files that are already there and were made from the same configuration are kept. `workers` processes share the
    scenes; the files do not depend on their number. `progress` is told (scenes done, scenes in all). Other arguments
    and errors as in `simulate_scene`.
    """
    config = SimulationConfig(size, seed, chart, window, date, labelled, ct_ranges, truth)
    if n < 1:
        raise ConfigError(f"number of scenes {n}: must be at least 1")
    out = make_folder(Path(out))
    paths = [out / config.place(index).file_name for index in range(n)]
    todo = [index for index in range(n) if not _is_done(paths[index], config, index)]
    done = n - len(todo)
    progress(done, n)
    for _ in _each(out, config, todo, workers):
        done += 1
        progress(done, n)
    return paths


def _each(out: Path, config: SimulationConfig, todo: list[int], workers: int) -> Iterator[None]:
    """Write the scenes of `todo`; yield after each."""
    if workers <= 1 or len(todo) <= 1:
        for index in todo:
            _write_in(out, config, index)
            yield
        return
    with Workers(workers) as pool:
        for _, outcome in pool.map(_write_in, [Job((out, config, index)) for index in todo]):
            yield outcome.result()


def _write_in(out: Path, config: SimulationConfig, index: int) -> None:
    place = config.place(index)
    _write(out / place.file_name, config, index, place)


def _is_done(path: Path, config: SimulationConfig, index: int) -> bool:
    """Whether a file of the same configuration is there; files appear only when they are complete."""
    if not path.exists() or (config.truth and not truth_path(path).exists()):
        return False
    try:
        with netCDF4.Dataset(path) as file:
            has_chart = "polygon_icechart" in file.variables
            return bool(file.getncattr(ATTRIBUTE) == config.statement(index) and has_chart == config.labelled)
    except (OSError, AttributeError):
        return False


# A scene ------------------------------------------------------------------------------------------------------------


def _write(path: Path, config: SimulationConfig, index: int, place: Place) -> None:
    size, seed = config.shape, config.seed
    if config.chart is None:
        ground = simulated_ground(size, index, seed, place)
    else:
        ground = ground_under(open_chart(config.chart, config.ct_ranges), place, size)
    expected = _expected_shares(ground)
    ice = sum(expected.values(), np.zeros(ground.margin.shape, np.float32))
    weather = simulate_weather(size, index, seed, place, ice, ground.land.margin)
    inside = (slice(MARGIN_CELLS, -MARGIN_CELLS),) * 2
    wind = np.ascontiguousarray(weather.wind_speed[inside])
    radar = Radar(size, index, seed, ground.eggs, wind, melt_of(place.time.month))
    codes = ground.codes if config.labelled else None
    cells = _CellMeans(size)
    truth = Truth(size, ground.eggs) if config.truth else None
    with (
        atomic_path(path) as temporary,
        SceneFile(temporary, size, place.product, place.chart_name, config.statement(index), codes) as file,
    ):
        for first, images, shares, land in _blocks(config, index, ground, radar, truth):
            file.write_block(first, images)
            cells.add(first, shares, land)
        # AMSR2 sees what was drawn inside the scene, and what is expected around it.
        seen = {**expected, "land": ground.land.margin.astype(np.float32)}
        for name, values in cells.means.items():
            seen.setdefault(name, np.zeros_like(ice))[inside] = values
        land_share = seen.pop("land")
        passive = simulate_passive(size, index, seed, place, seen, land_share, weather)
        fields = {name: values[inside] for name, values in weather.fields.items()}
        file.write_rest(geolocation(place, size), passive, fields)
        # The scene's file appears after this one: where it is, both are.
        if truth is not None:
            truth.write(path, config.statement(index), place, size, fields)


def _blocks(
    config: SimulationConfig, index: int, ground: Ground, radar: Radar, truth: Truth | None
) -> Iterator[tuple[int, dict[str, Array], dict[str, Array], NDArray[np.bool_]]]:
    """First line, full-resolution images, ice shares and land of each block of lines."""
    size, seed = config.shape, config.seed
    height, width = size
    displacement = edge_displacement(size, index, seed)
    start, stop = swath_edges(size, index, seed)
    samples = np.arange(width, dtype=float)
    columns = np.arange(width)
    names = ground.identities.astype(np.float32)
    for first in range(0, height, _BLOCK_LINES):
        lines = np.arange(first, min(first + _BLOCK_LINES, height), dtype=float)
        rows = slice(first, first + len(lines))
        land = ground.land.is_land(lines, samples)
        drawn = ground.raster[rows]
        down, right = displacement(lines, samples)
        down += np.arange(first, first + len(lines))[:, None]
        right += columns[None, :]
        real = ground.raster[np.clip(down, 0, height - 1), np.clip(right, 0, width - 1)]
        covers: dict[int, Array] = {}
        hh, hv, shares = radar.block(first, real, land, None if truth is None else covers)
        outside = (columns[None, :] < start[rows, None]) | (columns[None, :] >= stop[rows, None])
        hh[outside] = hv[outside] = np.nan
        if truth is not None:
            truth.add(first, real, covers, land | outside)
        images = {
            "nersc_sar_primary": hh,
            "nersc_sar_secondary": hv,
            "distance_map": ground.land.zones(lines, samples, land),
        }
        if config.labelled:
            nothing = land | ~ground.charted(lines, samples) | (drawn < 0)
            images["polygon_icechart"] = np.where(nothing, np.float32(np.nan), names[drawn])
        yield first, images, shares, land


def _expected_shares(ground: Ground) -> dict[str, Array]:
    """Mean share of each ice class on the 2 km cells of the scene and its margin, as the codes say."""
    shares: dict[str, Array] = {}
    for number, egg in enumerate(ground.eggs):
        here = ground.margin == number
        if not here.any():
            continue
        for partial in egg.partials:
            name = backscatter_class(partial.stage)
            shares.setdefault(name, np.zeros(ground.margin.shape, np.float32))[here] += np.float32(partial.share)
    return shares


class _CellMeans:
    """Means of full-resolution shares over the 2 km cells, float32 [h, w] by name, collected block by block."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.shape = (size[0] // _CELL, size[1] // _CELL)
        self.means: dict[str, Array] = {}

    def add(self, first: int, shares: dict[str, Array], land: NDArray[np.bool_]) -> None:
        """Take in a block that begins at line `first`; land is counted as a share of its own."""
        for name, values in {**shares, "land": land}.items():
            rows = len(values) // _CELL
            whole = values[: rows * _CELL, : self.shape[1] * _CELL]
            means = whole.reshape(rows, _CELL, self.shape[1], _CELL).mean(axis=(1, 3), dtype=np.float32)
            target = self.means.setdefault(name, np.zeros(self.shape, np.float32))
            target[first // _CELL : first // _CELL + rows] = means
