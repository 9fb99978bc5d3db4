"""AI4Arctic scenes as netCDF, raw (40 m) or ready-to-train (80 m): the schema is checked, layers are read singly."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from arcticseg.errors import SceneError
from arcticseg.ice import chart as charts
from arcticseg.ice import denoising, indexed
from arcticseg.ice.channels import CHANNELS, COARSE, RAW_SPACING, RTT_SPACING, SAR
from arcticseg.ice.geo import GeoGrid, check_extent
from arcticseg.ice.scenes import hdf5
from arcticseg.ice.scenes.access import reading
from arcticseg.ice.scenes.classic import check_whole
from arcticseg.ice.scenes.names import facts_of, service_of
from arcticseg.ice.scenes.numbers import Meaning, meaning
from arcticseg.ice.scenes.planes import class_plane
from arcticseg.ice.scenes.scene import Float, Scene, coarse_cells
from arcticseg.ice.sigrid import CHARTS
from arcticseg.ice.simulated import is_simulated

# The last zone of the distance map.
LAST_ZONE = 41

# More pixels than any scene of Sentinel-1 has, grid points or polygons: sizes that a damaged or hostile file declares.
_MOST_PIXELS = 1 << 30
_MOST_POINTS = 1 << 20
# Pixels a byte of the file: deflate packs a byte at most into 1/1032. Chunks that nobody wrote take no byte, so a
# scene of the archive's size may be smaller.
_MOST_PACKED = 1032
_MOST_UNWRITTEN = 120_000_000

# Unit of the variables that are no channel; positions of both kinds of file have the same last word.
_UNITS = {
    "polygon_icechart": "polygon",
    "sar_grid_line": "pixel",
    "sar_grid_sample": "pixel",
    "sar_grid_incidenceangle": "degree",
} | {f"{grid}_{name}": name for grid in ("sar_grid", "sar_grid2d") for name in ("latitude", "longitude")}
_UNITS |= dict.fromkeys(CHARTS, "class")


class _NetcdfScene(Scene):
    """The common part of raw and ready-to-train files: the dataset, its checks and its reading."""

    # Channels that the file holds as z-scores.
    scored: frozenset[str] = frozenset()

    def __init__(self, path: Path, dataset: xr.Dataset, n_threads: int, pixel_spacing: float) -> None:
        self.path, self.name, self._dataset = path, path.stem, dataset
        self.threads, self.pixel_spacing = n_threads, pixel_spacing
        product = {"upstream_id": dataset[SAR["hh"]].attrs.get("upstream_id", "")} if SAR["hh"] in dataset else {}
        self.take_facts(facts_of(path.name, dataset.attrs | product))
        self.ice_service = service_of(path.name)
        # The archive's scenes are NERSC's, and do not say it; `arcticseg chart` writes what it is for others.
        method = str(dataset.attrs.get("denoising", "nersc"))
        self.denoising = method if method in denoising.METHODS else None
        self.simulated = is_simulated(dataset.attrs)
        self._need([*SAR.values()])
        self.polarisations = tuple(SAR)
        shape = dataset[SAR["hh"]].shape
        if len(shape) != 2 or min(shape) < 2:
            raise SceneError(f"{path}: {SAR['hh']} has shape {shape}; expected lines x samples; get the file again")
        self.shape = (int(shape[0]), int(shape[1]))
        if shape[0] * shape[1] > min(_MOST_PIXELS, max(_MOST_UNWRITTEN, _MOST_PACKED * path.stat().st_size)):
            raise SceneError(f"{path}: declares {shape[0]} x {shape[1]} pixels; cut the scene, or get the file again")
        self._check_shape(SAR["hv"], self.shape)
        if "distance_map" in dataset:
            self._check_shape("distance_map", self.shape)
        cells = tuple(coarse_cells(n, pixel_spacing) for n in self.shape)
        for group in ("amsr2", "era5"):
            names = [name for name in COARSE if CHANNELS[name].group == group]
            if any(name in dataset for name in names):
                self._need(names)
                for name in names:
                    self._check_shape(name, cells)

    def _need(self, names: list[str]) -> None:
        """Check that the file has variables."""
        missing = [name for name in names if name not in self._dataset.variables]
        if missing:
            raise SceneError(
                f"{self.path}: variable {', '.join(missing)} is missing; expected a raw or ready-to-train AI4Arctic "
                "scene; get the file again or leave it out"
            )

    def _check_shape(self, name: str, expected: tuple[int, ...]) -> None:
        """Check the shape of a variable."""
        shape = self._dataset[name].shape
        if shape != expected:
            raise SceneError(f"{self.path}: {name} has shape {shape}, expected {expected}; get the file again")

    def _points(self, name: str, dims: int) -> NDArray[np.float64]:
        """A variable of the geolocation grid, float64 [points] or [samples, lines], in pixels or degrees."""
        shape = self._dataset[name].shape
        if len(shape) != dims or not 4 <= self._dataset[name].size <= _MOST_POINTS:
            raise SceneError(f"{self.path}: {name} has shape {shape}, not that of a grid; get the file again")
        values, how = self._stored(name)
        return how.decode(values, np.float64)

    def _stored(self, name: str) -> tuple[NDArray[Any], Meaning]:
        """The numbers of a variable, as stored, and what they mean."""
        variable = self._dataset[name]
        if variable.dtype.kind not in "fiu":
            raise SceneError(f"{self.path}: {name} has dtype {variable.dtype}, expected numbers; get the file again")
        unit = _UNITS[name] if name in _UNITS else CHANNELS[name].unit
        with _naming(self.path):
            how = meaning(name, variable.attrs, variable.dtype, unit, name in self.scored)
        values = hdf5.read_chunked(self.path, name, self.threads, self._memory)
        if values is not None and self._reuses and values.shape == self.shape:
            self._memory = values
        if values is None:
            with reading(self.path):
                values = np.asarray(variable.values)
        return values, how

    def _float(self, name: str) -> Float:
        """A variable as float32 in its unit; NaN where there is no data; -inf (zero power) is a value."""
        values, how = self._stored(name)
        with _naming(self.path, name):
            return how.decode(values)

    def _zones(self, values: Float) -> Float:
        """Distance zones, checked; means of zones may be beyond the first and last zone by their rounding."""
        low, high = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
        if low < -0.5 or high > LAST_ZONE + 0.5:
            raise SceneError(
                f"{self.path}: distance_map holds {low:g} to {high:g}, zones are 0 to {LAST_ZONE}; get the file again"
            )
        return values

    def close(self) -> None:
        self._dataset.close()


class RawScene(_NetcdfScene):
    """A raw AI4Arctic scene: 40 m, dB, polygon ids and codes."""

    kind = "raw AI4Arctic netCDF"

    def __init__(self, path: Path, dataset: xr.Dataset, n_threads: int = 1) -> None:
        super().__init__(path, dataset, n_threads, RAW_SPACING)
        self.has_chart = "polygon_icechart" in dataset.variables
        if self.has_chart:
            self._need(["polygon_codes"])
            self._check_shape("polygon_icechart", self.shape)
        self._need([f"sar_grid_{part}" for part in ("line", "sample", "latitude", "longitude", "incidenceangle")])
        self.geo = self._geolocation()

    def _geolocation(self) -> GeoGrid:
        line, sample = self._points("sar_grid_line", 1), self._points("sar_grid_sample", 1)
        if not (np.isfinite(line).all() and np.isfinite(sample).all()):
            raise SceneError(f"{self.path}: sar_grid_line or sar_grid_sample lacks a number; get the file again")
        lines, samples = np.unique(line), np.unique(sample)
        if line.shape != sample.shape or lines.size * samples.size != line.size:
            raise SceneError(
                f"{self.path}: sar_grid_line and sar_grid_sample ({line.size} points) are not a regular grid; "
                "get the file again"
            )
        order = np.lexsort((sample, line))
        mesh = np.meshgrid(lines, samples, indexing="ij")
        if any((a[order] != b.ravel()).any() for a, b in zip((line, sample), mesh, strict=True)):
            raise SceneError(
                f"{self.path}: sar_grid_line and sar_grid_sample hold a point twice and lack another; "
                "get the file again"
            )
        fields = []
        for part in ("latitude", "longitude", "incidenceangle"):
            values = self._points(f"sar_grid_{part}", 1)
            if values.shape != line.shape:
                raise SceneError(
                    f"{self.path}: sar_grid_{part} has shape {values.shape}, expected {line.shape}; get the file again"
                )
            fields.append(values[order].reshape(lines.size, samples.size))
        with _naming(self.path):
            return check_extent(GeoGrid(lines, samples, *fields), self.shape)

    def sar(self, polarisation: str) -> Float:
        return self._float(SAR[polarisation])

    def distance(self) -> Float | None:
        return self._zones(self._float("distance_map")) if "distance_map" in self._dataset else None

    def coarse(self, name: str) -> Float | None:
        return self._float(name) if name in self._dataset else None

    def polygon_codes(self) -> charts.PolygonCodes:
        """The code table of the chart.

        Raises:
            SceneError: the table is malformed.
        """
        size = self._dataset["polygon_codes"].size
        if size > _MOST_POINTS:
            raise SceneError(f"{self.path}: polygon_codes declares {size} rows; get the file again")
        with reading(self.path):
            rows = [_text(row) for row in np.atleast_1d(self._dataset["polygon_codes"].values)]
        return charts.parse_polygon_codes(rows, str(self.path))

    def polygons(self) -> Float:
        """Polygon ids, float32 [H, W]; NaN = no chart.

        Raises:
            SceneError: the file is damaged.
        """
        return self._float("polygon_icechart")

    def indexed_chart(self, rules: str = "autoice", strict: bool = False) -> indexed.IndexedChart | None:
        if not self.has_chart:
            return None
        table = self.polygon_codes()
        classes = charts.polygon_classes(table, rules, strict, str(self.path))
        return indexed.rasterise(self.polygons(), table, classes, str(self.path), self.threads)


class RttScene(_NetcdfScene):
    """A ready-to-train AI4Arctic scene: 80 m, z-scored with the published statistics, fill 0, charts as classes."""

    scored = frozenset(CHANNELS)

    kind = "ready-to-train AI4Arctic netCDF"

    def __init__(self, path: Path, dataset: xr.Dataset, n_threads: int = 1) -> None:
        super().__init__(path, dataset, n_threads, RTT_SPACING)
        self._need(["sar_grid2d_latitude", "sar_grid2d_longitude", "sar_incidenceangle"])
        self._check_shape("sar_incidenceangle", self.shape)
        self.has_chart = any(name in dataset.variables for name in CHARTS)
        if self.has_chart:
            self._need(list(CHARTS))
            for name in CHARTS:
                self._check_shape(name, self.shape)
        self.ice_service = str(dataset.attrs.get("ice_service", "")) or self.ice_service
        self.geo = self._geolocation()

    def _physical(self, name: str) -> Float:
        """A z-scored variable in its unit; NaN where there is no data."""
        channel = CHANNELS[name]
        scored = self._float(name)
        physical = scored * np.float32(channel.std) + np.float32(channel.mean)
        return np.where(scored == 0, np.float32(np.nan), physical)

    def _geolocation(self) -> GeoGrid:
        # The file's dimensions are (sample, line); it has no pixel coordinates: the points span the scene evenly.
        latitude, longitude = (self._points(f"sar_grid2d_{part}", 2).T for part in ("latitude", "longitude"))
        if latitude.shape != longitude.shape:
            raise SceneError(
                f"{self.path}: sar_grid2d_latitude has shape {latitude.T.shape}, sar_grid2d_longitude "
                f"{longitude.T.shape}; get the file again"
            )
        lines, samples = (np.linspace(0, n - 1, points) for n, points in zip(self.shape, latitude.shape, strict=True))
        raster = self._physical("sar_incidenceangle")
        with np.errstate(invalid="ignore"):
            incidence = raster[np.ix_(np.rint(lines).astype(int), np.rint(samples).astype(int))].astype(np.float64)
        # To within hundredths of a degree the angle depends on the sample alone, and nearly linearly: a parabola along
        # the samples fills the grid points outside the swath.
        valid = np.isfinite(incidence)
        across = raster[np.rint(lines).astype(int)]
        counts, columns = np.isfinite(across).sum(0), np.arange(self.shape[1])
        profile = np.nansum(across, 0, dtype=np.float64) / np.maximum(counts, 1)
        if np.count_nonzero(counts) >= 3:
            parabola = np.polynomial.Polynomial.fit(columns[counts > 0], profile[counts > 0], 2)
            incidence = np.where(valid, incidence, parabola(samples))
        with _naming(self.path):
            return GeoGrid(lines, samples, latitude, longitude, incidence)

    def sar(self, polarisation: str) -> Float:
        return self._physical(SAR[polarisation])

    def distance(self) -> Float | None:
        return self._zones(self._physical("distance_map")) if "distance_map" in self._dataset else None

    def coarse(self, name: str) -> Float | None:
        return self._physical(name) if name in self._dataset else None

    def indexed_chart(self, rules: str = "autoice", strict: bool = False) -> indexed.IndexedChart | None:
        """The file's own charts, made with the `autoice` rules.

        Raises:
            SceneError: other rules are given, or a value is not a class.
        """
        if not self.has_chart:
            return None
        if rules != "autoice":
            raise SceneError(
                f"{self.path}: ready-to-train charts follow the rules 'autoice'; {rules!r} needs the raw file"
            )
        planes = np.empty((len(CHARTS), *self.shape), np.uint8)
        for plane, name in zip(planes, CHARTS, strict=True):
            values, how = self._stored(name)
            with _naming(self.path):
                plane[...] = class_plane(values, how, name)
        return indexed.index_planes(planes)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


@contextmanager
def _naming(path: Path, variable: str = "") -> Iterator[None]:
    """Put the file, and the variable, in front of an error that does not know it."""
    try:
        yield
    except SceneError as error:
        raise SceneError(f"{path}: {f'{variable}: ' if variable else ''}{error}") from error


def open_netcdf(path: Path, n_threads: int = 1) -> Scene:
    """Open a scene; its variables say whether it is raw or ready-to-train.

    Raises:
        SceneError: the file is not netCDF, or a variable is missing or of the wrong shape.
    """
    with reading(path):
        check_whole(path)
        hdf5.check_self_contained(path)
        # An absolute path is never taken for the address of a server.
        dataset = xr.open_dataset(
            os.path.abspath(path),
            engine="netcdf4",
            mask_and_scale=False,
            decode_times=False,
            decode_coords=False,
            cache=False,
        )
    try:
        ready = "sar_grid2d_latitude" in dataset.variables
        with reading(path):
            return RttScene(path, dataset, n_threads) if ready else RawScene(path, dataset, n_threads)
    except BaseException:
        dataset.close()
        raise
