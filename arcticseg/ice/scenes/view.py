"""A scene as people look at it: an xarray dataset by the CF conventions, and a summary.

Rasters of the scene's own size are read when their values are asked for.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from datetime import UTC
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from arcticseg.ice import land, simulated
from arcticseg.ice.channels import CHANNELS, COARSE, COARSE_SPACING
from arcticseg.ice.geo import GeoGrid, interpolate
from arcticseg.ice.sigrid import CHARTS, CLASS_NAMES, IGNORE_INDEX, N_CLASSES

if TYPE_CHECKING:
    import xarray as xr

    from arcticseg.ice.scenes.scene import Scene

# The first conventions that allow unsigned bytes are CF-1.9.
CONVENTIONS = "CF-1.10"
_IMAGE = ("line", "sample")
_CELLS = ("line_2km", "sample_2km")

_LONG_NAMES = {
    "SIC": "sea ice concentration class",
    "SOD": "stage of development class",
    "FLOE": "floe size class",
}
# CF standard names and long names of channels on the 2 km grid.
_ERA5 = {
    "u10m_rotated": ("", "ERA5 wind at 10 m, component along the image"),
    "v10m_rotated": ("", "ERA5 wind at 10 m, component along the image"),
    "t2m": ("air_temperature", "ERA5 air temperature at 2 m"),
    "skt": ("surface_temperature", "ERA5 skin temperature"),
    "tcwv": ("atmosphere_mass_content_of_water_vapor", "ERA5 total column water vapour"),
    "tclw": ("atmosphere_mass_content_of_cloud_liquid_water", "ERA5 total cloud liquid water"),
}
_CF_UNITS = {"m/s": "m s-1", "kg/m2": "kg m-2"}
# Rows whose positions are computed at once.
_BAND = 256

# Rows and columns of a raster: whole numbers, slices or arrays of indices.
_Key = tuple[Any, Any]


def chart_attributes(chart: str) -> dict[str, Any]:
    """CF attributes of the classes of SIC, SOD or FLOE."""
    meanings = (name.replace(" ", "_").replace("%", "percent") for name in CLASS_NAMES[chart])
    return {
        "long_name": _LONG_NAMES[chart],
        "flag_values": np.arange(N_CLASSES[chart], dtype=np.uint8),
        "flag_meanings": " ".join(meanings),
    }


def position_attributes(name: str) -> dict[str, str]:
    """CF attributes of `latitude` or `longitude`."""
    return {"standard_name": name, "units": {"latitude": "degrees_north", "longitude": "degrees_east"}[name]}


# Dataset ------------------------------------------------------------------------------------------------------------


def dataset(scene: Scene, rules: str) -> xr.Dataset:
    """See `Scene.to_xarray`."""
    import xarray as xr

    variables = _images(scene, rules) | _cells(scene)
    lines, samples = scene.shape
    coordinates: dict[str, Any] = {
        "line": ("line", np.arange(lines), {"long_name": "line of the image, the first in time"}),
        "sample": ("sample", np.arange(samples), {"long_name": "sample of the image"}),
        **_positions(scene.geo, "", _IMAGE, *(np.arange(n, dtype=np.float64) for n in scene.shape)),
    }
    if any(name in variables for name in COARSE):
        shape = next(variables[name][1].shape for name in COARSE if name in variables)
        pixels = COARSE_SPACING / scene.pixel_spacing
        centres = [(np.arange(n) + 0.5) * pixels - 0.5 for n in shape]
        for name, values in zip(_CELLS, centres, strict=True):
            axis = name.removesuffix("_2km")
            coordinates[name] = (name, values, {"long_name": f"{axis} of the image at the centre of the 2 km cell"})
        coordinates |= _positions(scene.geo, "_2km", _CELLS, *centres)
    if scene.time is not None:
        start = np.datetime64(scene.time.astimezone(UTC).replace(tzinfo=None), "ns")
        coordinates["time"] = ((), start, {"standard_name": "time", "long_name": "start of acquisition"})
    data = xr.Dataset(variables, coordinates, _attributes(scene))
    for chart in CHARTS:
        if chart in data:
            data[chart].encoding = {"dtype": "uint8", "_FillValue": np.uint8(IGNORE_INDEX)}
    for name in _CELLS:
        if name in data:
            data[name].encoding = {"_FillValue": None}
    data.set_close(scene.close)
    return data


def _lazy(shape: tuple[int, int], read: Callable[[_Key], NDArray[np.float32]]) -> Any:
    """A float32 raster [H, W] of which xarray reads rows and columns when it needs them."""
    from xarray.backends import BackendArray
    from xarray.core import indexing

    class Raster(BackendArray):
        """Answers to rows and columns."""

        def __init__(self) -> None:
            self.shape, self.dtype = shape, np.dtype(np.float32)

        def __getitem__(self, key: Any) -> NDArray[np.float32]:
            support = indexing.IndexingSupport.OUTER
            return np.asarray(indexing.explicit_indexing_adapter(key, self.shape, support, read))

    return indexing.LazilyIndexedArray(Raster())


def _images(scene: Scene, rules: str) -> dict[str, tuple[Any, ...]]:
    """Name -> dimensions, raster and attributes of what the scene has for every pixel."""

    def whole(read: Callable[[], NDArray[Any]]) -> Any:
        """A raster that is read as a whole."""
        return _lazy(scene.shape, lambda key: read()[key[0]][..., key[1]].astype(np.float32, copy=False))

    @cache
    def charts() -> NDArray[np.uint8]:
        planes = scene.chart(rules)
        assert planes is not None, "asked for only where there is a chart"
        return planes

    def classes(plane: int) -> NDArray[np.float32]:
        values = charts()[plane]
        return np.where(values == IGNORE_INDEX, np.float32(np.nan), values)

    images: dict[str, tuple[Any, ...]] = {}
    for name in scene.polarisations:
        attributes = {
            "standard_name": "surface_backwards_scattering_coefficient_of_radar_wave",
            "long_name": f"{name.upper()} backscatter, sigma0",
            "units": "dB",
        }
        images[name] = (_IMAGE, whole(lambda name=name: scene.sar(name)), attributes)  # type: ignore[misc]
    if np.isfinite(scene.geo.incidence).any():
        angle = _on_grid(scene.geo, 2, *(np.arange(n, dtype=np.float64) for n in scene.shape))
        attributes = {"standard_name": "angle_of_incidence", "long_name": "incidence angle", "units": "degree"}
        images["incidence_angle"] = (_IMAGE, angle, attributes)
    ends = ", ".join(f"{end:g}" for end in land.ZONE_ENDS_KM)
    attributes = {
        "long_name": "zone of the distance to land",
        "comment": f"0: land; zones 1 to {len(land.ZONE_ENDS_KM)} end at {ends} km; of a coastline of 1 km where the "
        "scene file has no distance map",
    }
    images["distance_map"] = (_IMAGE, whole(lambda: _zones(scene)), attributes)
    if scene.has_chart:
        for plane, chart in enumerate(CHARTS):
            raster = whole(lambda plane=plane: classes(plane))  # type: ignore[misc]
            images[chart] = (_IMAGE, raster, chart_attributes(chart))
    return images


def _zones(scene: Scene) -> NDArray[Any]:
    """Distance zones of every pixel."""
    zones = scene.distance()
    return land.zones_of(scene, [1])[1] if zones is None else zones


def _cells(scene: Scene) -> dict[str, tuple[Any, ...]]:
    """Name -> dimensions, values and attributes of the channels on the 2 km grid that the scene has."""
    cells = {}
    for name in COARSE:
        values = scene.coarse(name)
        if values is not None:
            frequency, polarisation = name[-5:-1].strip("_"), {"h": "horizontal", "v": "vertical"}.get(name[-1], "")
            standard, long = _ERA5.get(
                name, ("brightness_temperature", f"AMSR2, {frequency.replace('_', '.')} GHz, {polarisation}")
            )
            attributes = {"long_name": long, "units": _CF_UNITS.get(CHANNELS[name].unit, CHANNELS[name].unit)}
            cells[name] = (_CELLS, values, attributes | ({"standard_name": standard} if standard else {}))
    return cells


def _on_grid(geo: GeoGrid, which: int, lines: NDArray[np.float64], samples: NDArray[np.float64]) -> Any:
    """Latitude (0), longitude (1) or incidence angle (2) at pixel coordinates, computed when it is needed."""

    def read(key: _Key) -> NDArray[np.float32]:
        rows, columns = np.atleast_1d(lines[key[0]]), np.atleast_1d(samples[key[1]])
        values = np.empty((rows.size, columns.size), np.float32)
        for first in range(0, rows.size, _BAND):
            values[first : first + _BAND] = interpolate(geo, rows[first : first + _BAND], columns)[which]
        scalars = tuple(0 if np.ndim(at[k]) == 0 else slice(None) for at, k in zip((lines, samples), key, strict=True))
        return values[scalars]

    return _lazy((lines.size, samples.size), read)


def _positions(
    geo: GeoGrid, suffix: str, dimensions: tuple[str, str], lines: NDArray[np.float64], samples: NDArray[np.float64]
) -> dict[str, tuple[Any, ...]]:
    """Latitude and longitude at pixel coordinates, as coordinates of a dataset."""
    return {
        f"{name}{suffix}": (dimensions, _on_grid(geo, which, lines, samples), position_attributes(name))
        for which, name in enumerate(("latitude", "longitude"))
    }


def _attributes(scene: Scene) -> dict[str, Any]:
    """Attributes of the whole dataset."""
    facts: Mapping[str, Any] = {
        "Conventions": CONVENTIONS,
        "title": f"{f'{simulated.MARK}: ' if scene.simulated else ''}Scene {scene.name}",
        "source": scene.kind,
        "history": f"{scene.path.name} opened by arcticseg.open_scene",
        "pixel_spacing": float(scene.pixel_spacing),
        "time_coverage_start": None if scene.time is None else scene.time.isoformat(),
        "platform": scene.satellite,
        "orbit": scene.orbit,
        "denoising": scene.denoising,
        "ice_service": scene.ice_service,
        "comment": "; ".join(scene.notes) or None,
        simulated.ATTRIBUTE: simulated.statement("the scene is simulated") if scene.simulated else None,
    }
    return {name: value for name, value in facts.items() if value is not None}


# Summary ------------------------------------------------------------------------------------------------------------


def summary(scene: Scene) -> dict[str, str]:
    """What a person wants to know of a scene first: label -> text."""
    lines, samples = scene.shape
    high, wide = (n * scene.pixel_spacing / 1000 for n in scene.shape)
    satellite = ", ".join(
        text for text in (scene.satellite, None if scene.orbit is None else f"orbit {scene.orbit}") if text
    )
    rows = {
        "file": scene.kind,
        "image": f"{lines} x {samples} pixels of {scene.pixel_spacing:.4g} m ({high:.0f} x {wide:.0f} km)",
        "time": "unknown" if scene.time is None else f"{scene.time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "satellite": satellite or "unknown",
        "polarisations": ", ".join(name.upper() for name in scene.polarisations),
        "denoising": scene.denoising or "",
        "chart": (scene.ice_service or "yes") if scene.has_chart else "none",
        "extent": extent(scene.geo),
        "notes": "; ".join(scene.notes),
        "simulated": "yes" if scene.simulated else "",
    }
    return {label: text for label, text in rows.items() if text}


def extent(geo: GeoGrid) -> str:
    """Latitudes and longitudes that a grid spans, such as `74.21 N to 76.10 N, 170.00 E to 175.53 W`."""
    south, north = float(geo.latitude.min()), float(geo.latitude.max())
    degrees = np.sort(np.unique(geo.longitude.ravel() % 360))
    gaps = np.diff(degrees, append=degrees[0] + 360)
    widest = int(gaps.argmax())
    # Round the pole the nodes leave no half of the circle free.
    if gaps[widest] < 180:
        south, north = (south, 90.0) if north > 0 else (-90.0, north)
        return f"{_compass(south, 'NS')} to {_compass(north, 'NS')}, all longitudes"
    west, east = degrees[(widest + 1) % degrees.size], degrees[widest]
    around = " to ".join(_compass((value + 180) % 360 - 180, "EW") for value in (west, east))
    return f"{_compass(south, 'NS')} to {_compass(north, 'NS')}, {around}"


def _compass(degrees: float, letters: str) -> str:
    return f"{abs(degrees):.2f} {letters[0] if degrees >= 0 else letters[1]}"


def text(scene: Scene) -> str:
    """The summary for a terminal."""
    rows = summary(scene)
    width = max(map(len, rows))
    return "\n".join([f"<Scene {scene.name}>", *(f"  {label:{width}}  {value}" for label, value in rows.items())])


def page(scene: Scene) -> str:
    """The summary for a notebook, as HTML."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{label}</th><td style='text-align:left'>{html.escape(value)}</td></tr>"
        for label, value in summary(scene).items()
    )
    return f"<table><caption>{html.escape(scene.name)}</caption>{rows}</table>"
