"""Raw scenes to ready-to-train ones: `arcticseg rtt`.

By the recipe of the archive's ready-to-train files: backscatter (in dB), incidence angle and distance are averaged over
2 x 2 pixels, charts take the maximum, where masked wins; a pixel without data in one of them has no data in all; then
everything is normalised with the published statistics, and no data is 0, in charts 255. Coarse channels stay on their
2 km grid.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from arcticseg.errors import ConfigError, SceneError
from arcticseg.files import atomic_path, make_folder
from arcticseg.ice.channels import CHANNELS, COARSE, RTT_SPACING, SAR
from arcticseg.ice.geo import GeoGrid, interpolate
from arcticseg.ice.indexed import IndexedChart
from arcticseg.ice.layers import check_backscatter
from arcticseg.ice.reference import short_name
from arcticseg.ice.resample import coarse_shape
from arcticseg.ice.scenes.netcdf import RawScene, RttScene
from arcticseg.ice.scenes.numbers import descriptive
from arcticseg.ice.scenes.open import open_scene
from arcticseg.ice.scenes.resampled import need_own_pixels
from arcticseg.ice.scenes.scene import GEO_POINTS
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX
from arcticseg.ice.simulated import ATTRIBUTE
from shards.progress import OnProgress, ignore
from shards.resources import cores
from shards.workers import Job, LostError, Outcome, Workers

Float = NDArray[np.float32]

_STEP = 2
_IMAGE = ("sar_lines", "sar_samples")
_COARSE = ("2km_grid_lines", "2km_grid_samples")
# The samples come first in the archive's files.
_POINTS = ("sar_sample_2dgrid_points", "sar_line_2dgrid_points")
_CHART_NAMES = {"SIC": "Sea Ice Concentration [%]", "SOD": "Stage of Development", "FLOE": "Floe Size"}
_CHUNK = 1000
# Rows of 80 m handled at once.
_BAND = 256


def ready_name(name: str) -> str:
    """File name of the ready-to-train form of a scene: time and ice service, or its name where it lacks either."""
    return f"{short_name(name) or name}_prep.nc"


def mean_incidence(geo: GeoGrid, shape: tuple[int, int]) -> Float:
    """Mean incidence angle over 2 x 2 pixels, float32 [H // 2, W // 2], of the angle interpolated to every pixel.

    Bilinear interpolation is two sums with weights, one along each axis, and so is its mean.
    """
    down, across = (_pair_weights(knots, edge) for knots, edge in zip((geo.lines, geo.samples), shape, strict=True))
    return np.asarray(down @ geo.incidence @ across.T, np.float32)


def _pair_weights(knots: NDArray[np.float64], edge: int) -> NDArray[np.float64]:
    """Weights [edge // 2, knots] of linear interpolation, beyond the outermost knots too, averaged over pixel pairs."""
    at = np.arange(edge // _STEP * _STEP)
    left = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, len(knots) - 2)
    part = (at - knots[left]) / (knots[left + 1] - knots[left])
    weights = np.zeros((len(at), len(knots)))
    weights[at, left], weights[at, left + 1] = 1 - part, part
    return np.asarray(weights.reshape(-1, _STEP, len(knots)).mean(axis=1))


def _quarters(plane: NDArray) -> Iterator[tuple[slice, list[NDArray]]]:
    """Bands of rows of [H // 2, W // 2], and for each the four pixels of [H, W] under its pixels."""
    rows, columns = (edge // _STEP for edge in plane.shape)
    for first in range(0, rows, _BAND):
        last = min(first + _BAND, rows)
        band = plane[_STEP * first : _STEP * last, : _STEP * columns]
        yield slice(first, last), [band[i::_STEP, j::_STEP] for i in range(_STEP) for j in range(_STEP)]


def _halved(values: Float) -> tuple[Float, NDArray[np.bool_]]:
    """Means over 2 x 2 pixels, and where one of the four is NaN; zero power (-inf dB) is data, but enters no mean."""
    mean = np.empty([edge // _STEP for edge in values.shape], np.float32)
    missing = np.empty(mean.shape, bool)
    for rows, quarters in _quarters(values):
        missing[rows] = np.logical_or.reduce([np.isnan(part) for part in quarters])
        finite = [np.isfinite(part) for part in quarters]
        count = np.add.reduce(finite, dtype=np.float32)
        total = np.add.reduce([np.where(there, part, 0) for there, part in zip(finite, quarters, strict=True)])
        with np.errstate(invalid="ignore"):
            mean[rows] = total / count
    return mean, missing


def _largest(chart: IndexedChart) -> NDArray[np.uint8]:
    """The largest class of 2 x 2 pixels, uint8 [3, H // 2, W // 2]; masked (255) is larger than any."""
    out = np.empty((len(CHARTS), *coarse_shape(chart.index.shape, _STEP)), np.uint8)
    for rows, quarters in _quarters(chart.index):
        for plane, classes in zip(out, chart.classes.T, strict=True):
            plane[rows] = np.maximum.reduce([classes[part] for part in quarters])
    return out


def ready_layers(scene: RawScene, strict: bool = False) -> tuple[dict[str, Float], NDArray[np.uint8] | None]:
    """Full-resolution layers of a ready-to-train scene in physical units, NaN = no data, and its charts.

    A layer without any data, such as a polarisation that the scene lacks, does not rule out the others.

    Returns:
        channel -> float32 [H // 2, W // 2]; uint8 [3, H // 2, W // 2] or None.

    Raises:
        SceneError: the scene is damaged, smaller than 2 x 2 pixels or, if `strict`, has an unlisted code.
    """
    shape = coarse_shape(scene.shape, _STEP)
    if not min(shape):
        raise SceneError(f"{scene.path}: {scene.shape} pixels are less than a pixel of 80 m; leave the scene out")
    out: dict[str, Float] = {}
    missing = np.zeros(shape, bool)
    labels = None
    with scene.reusing_memory():
        chart = scene.indexed_chart(strict=strict)
        if chart is not None:
            labels = _largest(chart)
            # Where there is no chart, SIC is masked; where there is a chart, SOD and FLOE may be masked, too.
            missing |= labels[CHARTS.index("SIC")] == IGNORE_INDEX
        for name in (*SAR, "distance"):
            values = scene.sar(name) if name in SAR else scene.distance()
            if values is not None and name in SAR:
                check_backscatter(scene, name, values)
            if values is not None:
                channel = SAR.get(name, "distance_map")
                out[channel], lost = _halved(values)
                missing |= lost & ~lost.all()
    out["sar_incidenceangle"] = mean_incidence(scene.geo, scene.shape)
    for values in out.values():
        values[missing] = np.nan
    if labels is not None:
        labels[:, missing] = IGNORE_INDEX
    return out, labels


def normalised(name: str, values: NDArray[np.floating]) -> Float:
    """Values of a channel as z-scores with the published statistics; 0 where there is no data."""
    channel = CHANNELS[name]
    scores = (values - np.float32(channel.mean)) / np.float32(channel.std)
    return np.where(np.isfinite(scores), scores, 0).astype(np.float32)


def write_ready(
    scene_path: Path, out: Path, strict: bool = False, n_threads: int | None = None
) -> tuple[Path, list[str]]:
    """Write the ready-to-train file of a raw scene to the folder `out`, whole or not at all.

    A whole file of that scene that is there already is kept. n_threads: as in `open_scene`.

    Returns:
        the file, and the warnings given.

    Raises:
        SceneError: the scene cannot be read, is not a raw scene, or `out` holds a file of that name of another scene.
        OutputError: the file cannot be written.
    """
    with warnings.catch_warnings(record=True) as caught, open_scene(scene_path, n_threads=n_threads) as scene:
        warnings.simplefilter("always")
        need_own_pixels(scene)
        if not isinstance(scene, RawScene):
            raise SceneError(f"{scene_path}: is not a raw scene; give raw AI4Arctic scenes, or turn it into one first")
        path = out / ready_name(scene.name)
        if not _is_there(path, scene_path):
            with (
                netCDF4.Dataset(os.path.abspath(scene_path)) as source,
                atomic_path(path) as temporary,
                netCDF4.Dataset(temporary, "w", format="NETCDF4") as target,
            ):
                _write(target, source, scene, path.name, strict)
    return path, [str(item.message) for item in caught]


def _is_there(path: Path, scene_path: Path) -> bool:
    """Whether the ready-to-train file of that scene is there; raise SceneError where it is of another scene."""
    if not path.exists():
        return False
    with open_scene(path) as existing, netCDF4.Dataset(path) as file:
        original = getattr(file, "original_id", None)
        if not isinstance(existing, RttScene) or original != scene_path.name:
            raise SceneError(f"{path}: is there, made of {original}, not of {scene_path.name}; choose another folder")
    return True


def _write(target: netCDF4.Dataset, source: netCDF4.Dataset, scene: RawScene, name: str, strict: bool) -> None:
    """Variables, types and attributes in the order of the archive's files."""
    layers, labels = ready_layers(scene, strict)
    shape = coarse_shape(scene.shape, _STEP)
    target.setncatts({
        "scene_id": name,
        "original_id": scene.path.name,
        "ice_service": scene.ice_service or "",
        "flip": 0,
        "pixel_spacing": int(RTT_SPACING),
    })  # fmt: skip
    if ATTRIBUTE in source.ncattrs():
        target.setncattr(ATTRIBUTE, source.getncattr(ATTRIBUTE))
    for dimension, edge in zip((*_IMAGE, *_POINTS), (*shape, GEO_POINTS, GEO_POINTS), strict=True):
        target.createDimension(dimension, edge)
    for chart, plane in zip(CHARTS, labels if labels is not None else (), strict=False):
        _image(target, chart, plane, {"polygon": _CHART_NAMES[chart], "chart_fill_value": IGNORE_INDEX})
    # The points span the scene evenly, from the centre of its first pixel of 80 m to that of its last.
    lines, samples = (_STEP * np.linspace(0, edge - 1, GEO_POINTS) + (_STEP - 1) / 2 for edge in shape)
    for part, values in zip(("latitude", "longitude"), interpolate(scene.geo, lines, samples), strict=False):
        target.createVariable(f"sar_grid2d_{part}", "f8", _POINTS)[:] = values.T
    for channel in (*SAR.values(), "sar_incidenceangle", "distance_map"):
        if channel in layers:
            filled = {} if channel == "distance_map" else {"variable_fill_value": 0}
            attributes = _attributes(source, channel) | filled
            _image(target, channel, normalised(channel, layers.pop(channel)), attributes)
    for channel in COARSE:
        coarse = scene.coarse(channel)
        if coarse is None:
            continue
        for dimension, edge in zip(_COARSE, coarse.shape, strict=True):
            if dimension not in target.dimensions:
                target.createDimension(dimension, edge)
        variable = target.createVariable(channel, "f4", _COARSE, zlib=True, complevel=1)
        variable.setncatts(_attributes(source, channel))
        variable[:] = normalised(channel, coarse)


def _attributes(source: netCDF4.Dataset, name: str) -> dict[str, Any]:
    """Attributes of a variable of the raw scene, which stay."""
    if name not in source.variables:
        return {}
    variable = source.variables[name]
    attributes = {key: variable.getncattr(key) for key in variable.ncattrs()}
    return descriptive(attributes, CHANNELS[name].unit)


def _image(target: netCDF4.Dataset, name: str, values: NDArray, attributes: Mapping[str, Any]) -> None:
    chunks = tuple(min(_CHUNK, edge) for edge in values.shape)
    variable = target.createVariable(name, values.dtype, _IMAGE, zlib=True, complevel=1, chunksizes=chunks)
    variable.setncatts(attributes)
    variable[:] = values


def make_ready(
    scenes: Sequence[Path],
    out: Path,
    workers: int = 1,
    on_error: str = "stop",
    strict: bool = False,
    report: Callable[[str], None] = lambda text: None,
    progress: OnProgress = ignore,
) -> tuple[list[Path], list[Path]]:
    """Ready-to-train files of raw scenes; files that are there already are kept.

    Args:
        workers: scenes at a time, each in a process of its own.
        on_error: `stop` at a scene that cannot be read, or `skip` it.
        strict: an unlisted ice code is an error.
        report: is told warnings and which scenes are skipped.
        progress: is told (scenes done, scenes in all).

    Returns:
        the files, and the scenes that were skipped.

    Raises:
        ConfigError: two scenes with the same time and ice service.
        SceneError, OutputError: see `write_ready`.
    """
    names = [ready_name(scene.stem) for scene in scenes]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise ConfigError(f"{scenes[i]}: would be {name} like {scenes[names.index(name)].name}; rename one of them")
    out = make_folder(out)
    made, skipped = [], []
    for done, (scene, outcome) in enumerate(_each(scenes, out, workers, strict), start=1):
        if isinstance(outcome.error, SceneError | LostError):
            text = str(outcome.error) if isinstance(outcome.error, SceneError) else f"{scene}: {outcome.error}"
            if on_error == "stop":
                raise SceneError(text) from outcome.error
            report(f"skipped: {text}")
            skipped.append(scene)
        else:
            path, warned = outcome.result()
            for text in warned:
                report(f"warning: {text}")
            made.append(path)
        progress(done, len(scenes))
    return sorted(made), skipped


def _each(scenes: Sequence[Path], out: Path, workers: int, strict: bool) -> Iterator[tuple[Path, Outcome]]:
    """Each scene and the outcome of its work, as they end."""
    threads = max(1, cores() // max(1, workers))
    with Workers(workers) as pool:
        for job, outcome in pool.map(write_ready, [Job((scene, out, strict, threads)) for scene in scenes]):
            yield job.arguments[0], outcome
