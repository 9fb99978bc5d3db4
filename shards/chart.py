"""A scene and a vector chart to a raw scene: `arcticseg chart`, for a group's own scenes with its own charts."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import netCDF4
import numpy as np
from numpy.typing import NDArray

from arcticseg.errors import ConfigError, SceneError
from arcticseg.files import atomic_path, make_folder
from arcticseg.ice import vector
from arcticseg.ice.channels import SAR
from arcticseg.ice.chart import parse_polygon_codes, polygon_classes
from arcticseg.ice.scenes.names import time_of
from arcticseg.ice.scenes.netcdf import RttScene
from arcticseg.ice.scenes.open import open_scene
from arcticseg.ice.scenes.resampled import need_own_pixels
from arcticseg.ice.scenes.scene import Scene
from arcticseg.ice.scenes.spacing import multiple
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX
from arcticseg.ice.simulated import ATTRIBUTE, statement
from arcticseg.ice.vector_raster import rasterise
from shards.copying import copy_variables

_IMAGE = ("sar_lines", "sar_samples")
_POINTS = "sar_grid_points"
_CODES, _IDS = "polygon_codes", "polygon_icechart"
_CHUNK = 1000


@dataclass(frozen=True)
class ChartedScene:
    """The file that was made, and what the user should know of it, a sentence each."""

    path: Path
    notes: tuple[str, ...]


def chart_scene(
    scene_path: Path,
    chart_path: Path,
    out: Path,
    ct_ranges: str = "mask",
    polarisation: str | None = None,
    layer: str | None = None,
    max_lost: float | None = None,
) -> ChartedScene:
    """Write a raw scene that holds a scene's SAR and the polygons of a vector chart, whole or not at all.

    Args:
        scene_path: a SAR GeoTIFF, or a raw scene, of which a chart of its own is replaced.
        chart_path: an ice chart, shapefile or GeoPackage.
        out: a file (.nc), or a folder to write to under the scene's name, from which time, ice service and satellite
            pass are read.
        ct_ranges: `mean` or `mask`, see `vector.resolve_ranges`.
        polarisation: of a GeoTIFF that does not say it.
        layer, max_lost: see `vector.read_chart`.

    Raises:
        ConfigError: `out` is the scene itself, or `max_lost` is no per cent.
        SceneError: a file that cannot be read, or a chart without ice information in the scene.
        OutputError: the scene cannot be written.
    """
    if max_lost is not None and not 0 <= max_lost <= 100:
        raise ConfigError(f"--max-lost is {max_lost:g}; give per cent from 0 to 100")
    chart, ranges = vector.resolve_ranges(vector.read_chart(chart_path, layer, max_lost), ct_ranges)
    with open_scene(scene_path, polarisation) as scene:
        if isinstance(scene, RttScene):
            raise SceneError(f"{scene_path}: is ready-to-train; give the raw scene or a GeoTIFF")
        if scene_path.suffix.lower() == ".nc":
            need_own_pixels(scene)
        ids = rasterise(chart, scene.geo, scene.shape)
        shown = set(np.unique(ids[np.isfinite(ids)]).astype(int).tolist())
        if not shown:
            raise SceneError(f"{chart_path}: has no ice information within {scene_path}; give the chart of that place")
        header, *rows = vector.polygon_codes(chart)
        codes = [header, *(row for row in rows if int(row.split(";")[0]) in shown)]
        path = _place(out, scene)
        if path.resolve() == scene_path.resolve():
            raise ConfigError(
                f"--out is '{out}'; the new scene would replace {scene_path}; choose another folder or name"
            )
        notes = [*(f"repaired: {text}" for text in chart.repairs), *chart.notes]
        notes += [f"range: {text}" for text in ranges]
        notes += _describe(ids, codes, chart.name, scene)
        with atomic_path(path) as temporary, netCDF4.Dataset(temporary, "w", format="NETCDF4") as target:
            if scene_path.suffix.lower() == ".nc":
                copy_variables(scene_path, target, leave_out=(_CODES, _IDS))
            else:
                _write_scene(target, scene)
            target.history = f"arcticseg {version('arcticseg')}: {scene_path.name} with the ice chart {chart_path.name}"
            _write_chart(target, ids, codes, chart.name)
    return ChartedScene(path, tuple(notes))


def _place(out: Path, scene: Scene) -> Path:
    """The file to write; warn where its name does not say the time of the scene."""
    if out.suffix != ".nc":
        start = "" if scene.time is None or time_of(scene.name) else f"{scene.time:%Y%m%dT%H%M%S}_"
        return make_folder(out) / f"{start}{scene.name}.nc"
    make_folder(out.parent)
    if scene.time is not None and time_of(out.name) != scene.time:
        warnings.warn(
            f"{out}: the name does not say the time of the scene, {scene.time:%Y%m%dT%H%M%S}; keep it in the name, "
            "since it is read from there",
            stacklevel=3,
        )
    return out


def _describe(ids: NDArray[np.float32], codes: list[str], name: str, scene: Scene) -> list[str]:
    """Sentences on what a chart shows of a scene, and which codes are masked."""
    table = parse_polygon_codes(codes, name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        classes = polygon_classes(table, source=name)
    pixels = np.bincount(ids[np.isfinite(ids)].astype(np.int64), minlength=int(table.ids.max()) + 1)[table.ids]
    notes = [f"{item.message}" for item in caught]
    notes += scene.notes
    if (native := multiple(scene.pixel_spacing)) > 1:
        notes.append(f"pixels of {scene.pixel_spacing:.1f} m give no factors but multiples of {native}")
    notes.append(f"{len(table.ids)} polygons cover {pixels.sum() / ids.size:.1%} of the scene")
    for i, chart in enumerate(CHARTS):
        area = np.bincount(classes[:, i], weights=pixels, minlength=IGNORE_INDEX + 1)
        shares = [f"{'masked' if c == IGNORE_INDEX else c} {area[c] / ids.size:.1%}" for c in np.flatnonzero(area)]
        notes.append(f"{chart} classes: {', '.join(shares)}")
    return notes


def _image(
    target: netCDF4.Dataset, name: str, shape: tuple[int, int], dimensions: tuple[str, ...] = _IMAGE
) -> netCDF4.Variable:
    chunks = tuple(min(_CHUNK, edge) for edge in shape)
    return target.createVariable(name, "f4", dimensions, zlib=True, complevel=1, shuffle=True, chunksizes=chunks)


def _write_scene(target: netCDF4.Dataset, scene: Scene) -> None:
    """Write SAR and geolocation as raw scenes have them; what the scene lacks is NaN."""
    target.title = f"Sentinel-1 SAR of {scene.path.name} with an ice chart, in the form of a raw AI4Arctic scene"
    if scene.notes:
        target.comment = "; ".join(scene.notes)
    target.denoising = scene.denoising or "unknown"
    if scene.simulated:
        target.setncattr(ATTRIBUTE, statement("the SAR is simulated"))
    for name, edge in zip(_IMAGE, scene.shape, strict=True):
        target.createDimension(name, edge)
    for polarisation, name in SAR.items():
        there = polarisation in scene.polarisations
        variable = _image(target, name, scene.shape)
        variable.setncatts({"polarisation": polarisation.upper(), "description": "Sigma0 in dB"})
        variable[:] = scene.sar(polarisation) if there else np.full(scene.shape, np.nan, np.float32)
    line, sample = np.meshgrid(scene.geo.lines, scene.geo.samples, indexing="ij")
    points = {
        "line": line,
        "sample": sample,
        "latitude": scene.geo.latitude,
        "longitude": scene.geo.longitude,
        "incidenceangle": scene.geo.incidence,
    }
    target.createDimension(_POINTS, line.size)
    for name, values in points.items():
        target.createVariable(f"sar_grid_{name}", "f8", (_POINTS,))[:] = values.ravel()


def _write_chart(target: netCDF4.Dataset, ids: NDArray[np.float32], codes: list[str], name: str) -> None:
    target.createDimension(_CODES, len(codes))
    variable = target.createVariable(_CODES, str, (_CODES,))
    variable.icechart_id = name
    variable[:] = np.array(codes, dtype=object)
    # A scene that is copied may have dimensions of other names.
    variable = _image(target, _IDS, (ids.shape[0], ids.shape[1]), target[SAR["hh"]].dimensions)
    variable.setncatts({"description": "Polygon icechart - ids of the polygons on the SAR pixels", "icechart_id": name})
    variable[:] = ids
