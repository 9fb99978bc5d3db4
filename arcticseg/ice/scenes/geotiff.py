"""SAR GeoTIFFs as scenes: backscatter with ground control points or a projection, and nothing else.

The geolocation grid of such a scene spans it with 21 x 21 points, like that of an AI4Arctic scene. Control points may
lie anywhere: a smooth polynomial is fitted to them, and the misfit is kept.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyproj
import rasterio
from numpy.typing import NDArray

from arcticseg.errors import SceneError
from arcticseg.ice.geo import EARTH_RADIUS, Frame, GeoGrid, positions, unit_vectors
from arcticseg.ice.scenes import spacing
from arcticseg.ice.scenes.bands import UNITS, band_numbers
from arcticseg.ice.scenes.gdal import check_beside, open_raster, read_band
from arcticseg.ice.scenes.names import facts_of
from arcticseg.ice.scenes.scene import GEO_POINTS, Scene
from arcticseg.ice.simulated import is_simulated

Float = NDArray[np.float64]

# (degree, control points for a polynomial of this degree): more than its 10, 6 and 3 terms.
_POINTS_FOR_DEGREE = ((3, 20), (2, 9), (1, 4))
# Root mean square misfit, in pixels, above which control points do not give a geolocation.
_MAX_MISFIT = 2.0
# Control points span at least this share of the lines and samples: a polynomial means nothing far outside them.
_LEAST_SPAN = 0.5

# HH or HV as a word: sigma0_HV and s1a-ew-grd-hv-... contain it, 1SDH does not.
_POLARISATION = re.compile(r"(?<![A-Za-z0-9])(HH|HV|VV|VH)(?![A-Za-z0-9])", re.IGNORECASE)
_POLARISATION_TAGS = ("polarization", "polarisation", "name", "NETCDF_VARNAME", "long_name", "suffix")


class GeoTiffScene(Scene):
    """A SAR GeoTIFF. Incidence angle is unknown (NaN); there is no chart, no distance map and no coarse channel.

    Args:
        polarisation, units: as in `open_geotiff`.

    Attributes:
        misfit: root mean square distance in metres between the control points and the geolocation fitted to them; 0 for
            a file with a projection; beside the attributes of every scene.

    Raises:
        SceneError: see `open_geotiff`.
    """

    kind = "SAR GeoTIFF"

    def __init__(self, path: Path, polarisation: str | None, units: str | None) -> None:
        self.path, self.name = path, path.stem
        self.ice_service, self.has_chart = None, False
        check_beside(path)
        with open_raster(path) as source:
            self.shape = (int(source.height), int(source.width))
            if min(self.shape) < 2:
                raise SceneError(f"{path}: has {self.shape[0]} x {self.shape[1]} pixels; give a larger file")
            tags = source.tags()
            self.simulated = is_simulated(tags)
            self.take_facts(facts_of(path.name, tags))
            self._bands = _bands(source, path, polarisation)
            self._numbers = {name: band_numbers(source, band, path, units) for name, band in self._bands.items()}
            latitude, longitude, self.misfit = _geolocation(source, path)
        self.polarisations = tuple(name for name in ("hh", "hv") if name in self._bands)
        lines, samples = _grid_coordinates(self.shape)
        try:
            self.geo = GeoGrid(lines, samples, latitude, longitude, np.full(latitude.shape, np.nan))
        except SceneError as error:
            raise SceneError(f"{path}: {error}") from error
        self.pixel_spacing = sum(spacing.medians(self.geo)) / 2
        if self.misfit > _MAX_MISFIT * self.pixel_spacing:
            raise SceneError(
                f"{path}: ground control points miss a smooth geolocation by {self.misfit:.0f} m (rms) at pixels "
                f"of {self.pixel_spacing:.1f} m; correct the points or project the file with gdalwarp"
            )
        spacing.sides(self.geo, path)

    def sar(self, polarisation: str) -> NDArray[np.float32]:
        """Backscatter in dB, float32 [H, W]; NaN where the file has no data or power that is not positive.

        Raises:
            SceneError: the file lacks the polarisation or is damaged, or its values do not fit its unit.
        """
        if polarisation not in self._bands:
            raise SceneError(
                f"{self.path}: no {polarisation.upper()} in it, only {', '.join(self.polarisations).upper()}; "
                "use that or give another file"
            )
        numbers = self._numbers[polarisation]
        values = numbers.values(*read_band(self.path, self._bands[polarisation]))
        if numbers.decibels:
            return values
        valid, negative = np.count_nonzero(np.isfinite(values)), np.count_nonzero(values < 0)
        # Noise subtraction leaves some power below zero, never most of it.
        if negative > 0.5 * valid:
            raise SceneError(
                f"{self.path}: {negative} of {valid} values are negative, which linear power cannot be; if they are "
                "dB, set the band's tag units=dB"
            )
        values[~(values > 0)] = np.nan
        np.log10(values, out=values)
        values *= 10
        return np.asarray(values)


def open_geotiff(path: str | Path, polarisation: str | None = None, units: str | None = None) -> GeoTiffScene:
    """Open a SAR GeoTIFF as a scene.

    Args:
        polarisation: `hh` or `hv` for a file with a single band; None: as the band's description or tags say, else the
            file name.
        units: `linear` (power) or `db`; None: as the band's tag `units` says, else linear power.

    Raises:
        SceneError: the file cannot be read, is not calibrated or not geolocated to within two pixels, its pixels are
            not squares, or it does not say its polarisation.
    """
    if units is not None and units not in UNITS:
        raise SceneError(f"{path}: unknown units {units!r}; give one of {', '.join(UNITS)}")
    if polarisation is not None and polarisation not in ("hh", "hv"):
        raise SceneError(f"{path}: unknown polarisation {polarisation!r}; give hh or hv")
    return GeoTiffScene(Path(path), polarisation, units)


def _said(text: str) -> str | None:
    """The polarisation that a text names, in lower case; None where it names none or several."""
    names = {match.lower() for match in _POLARISATION.findall(text.replace("_", " "))}
    return names.pop() if len(names) == 1 else None


def _bands(source: rasterio.DatasetReader, path: Path, polarisation: str | None) -> dict[str, int]:
    """Polarisation -> band number."""
    if polarisation is not None:
        if source.count != 1:
            raise SceneError(
                f"{path}: a single polarisation ({polarisation}) for {source.count} bands; describe the bands in it"
            )
        return {polarisation: 1}
    bands: dict[str, int] = {}
    for band in range(1, source.count + 1):
        tags = source.tags(band)
        texts = [source.descriptions[band - 1] or "", *(tags.get(tag, "") for tag in _POLARISATION_TAGS)]
        name = next((name for name in map(_said, texts) if name), None)
        if name in bands:
            raise SceneError(f"{path}: bands {bands[name]} and {band} are both {name.upper()}; leave one out")
        if name:
            bands[name] = band
    if not bands and source.count == 1:
        name = _said(path.stem)
        bands = {name: 1} if name else {}
    usable = {name: band for name, band in bands.items() if name in ("hh", "hv")}
    if not usable:
        named = f"only {', '.join(bands).upper()}" if bands else "no polarisation"
        raise SceneError(
            f"{path}: {named} in its band descriptions, tags or name; it must be HH or HV: write that into the band's "
            "description, or into the file name as a word"
        )
    return usable


def _grid_coordinates(shape: tuple[int, int]) -> tuple[Float, Float]:
    """Lines and samples of the geolocation grid."""
    return np.linspace(0, shape[0] - 1, GEO_POINTS), np.linspace(0, shape[1] - 1, GEO_POINTS)


def _geolocation(source: rasterio.DatasetReader, path: Path) -> tuple[Float, Float, float]:
    """Latitude and longitude [21, 21] of the grid points and the misfit in metres.

    GDAL counts pixels from the corner: the first pixel's centre is at (0.5, 0.5).
    """
    lines, samples = np.meshgrid(*_grid_coordinates((source.height, source.width)), indexing="ij")
    points, points_crs = source.gcps
    if points and points_crs is not None:
        rows, columns, x, y = (
            np.array([getattr(p, key) for p in points], np.float64) for key in ("row", "col", "x", "y")
        )
        _check_span(rows, source.height, "lines", path)
        _check_span(columns, source.width, "samples", path)
        longitude, latitude = _lonlat(points_crs.to_wkt(), x, y, path)
        return _fitted(rows - 0.5, columns - 0.5, unit_vectors(latitude, longitude), lines, samples, path)
    if source.crs is None or source.transform.is_identity:
        raise SceneError(
            f"{path}: neither ground control points nor a projection; add them with gdal_translate -gcp or -a_ullr and "
            "-a_srs"
        )
    affine, columns, rows = source.transform, samples + 0.5, lines + 0.5
    x = affine.a * columns + affine.b * rows + affine.c
    y = affine.d * columns + affine.e * rows + affine.f
    longitude, latitude = _lonlat(source.crs.to_wkt(), x, y, path)
    return latitude, longitude, 0.0


def _check_span(at: Float, pixels: int, name: str, path: Path) -> None:
    """Refuse control points that leave most of the scene to extrapolation, or have no place in it."""
    if not np.ptp(np.clip(at, 0, pixels)) >= _LEAST_SPAN * pixels:
        raise SceneError(
            f"{path}: the {at.size} ground control points do not span the scene: {np.min(at):g} to {np.max(at):g} of "
            f"{pixels} {name}; add some"
        )


def _lonlat(crs: str, x: Float, y: Float, path: Path) -> tuple[Float, Float]:
    """Longitude and latitude in degrees of coordinates in a reference system."""
    try:
        transformer = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    except pyproj.exceptions.ProjError as error:
        reason = " ".join(str(error).split())
        raise SceneError(f"{path}: reference system that cannot be used ({reason}); set another with -a_srs") from error
    longitude, latitude = transformer.transform(x, y)
    if not (np.isfinite(longitude).all() and (np.abs(latitude) <= 90).all()):
        raise SceneError(
            f"{path}: positions outside its reference system; set the right one with gdal_translate -a_srs"
        )
    return np.asarray(longitude), np.asarray(latitude)


def _fitted(
    at_lines: Float, at_samples: Float, vectors: Float, lines: Float, samples: Float, path: Path
) -> tuple[Float, Float, float]:
    """Latitude and longitude at (lines, samples) by a polynomial through control points, and its rms misfit in metres.

    The polynomial gives coordinates in a plane that touches the Earth in the middle of the points, far from pole and
    date line.
    """
    degree = next((degree for degree, enough in _POINTS_FOR_DEGREE if len(at_lines) >= enough), 0)
    if not degree:
        raise SceneError(f"{path}: {len(at_lines)} ground control points; at least 4 are needed; add some")
    frame = Frame(vectors)
    plane = frame.stereographic(vectors)
    middle = np.array([at_lines.mean(), at_samples.mean()])
    scale = np.maximum([np.ptp(at_lines), np.ptp(at_samples)], 1.0) / 2

    def terms(line: Float, sample: Float) -> Float:
        u, v = (line - middle[0]) / scale[0], (sample - middle[1]) / scale[1]
        return np.stack([u**i * v**j for i in range(degree + 1) for j in range(degree + 1 - i)], axis=-1)

    design = terms(at_lines, at_samples)
    coefficients, _, rank, _ = np.linalg.lstsq(design, plane, rcond=1e-10)
    if rank < design.shape[1]:
        raise SceneError(f"{path}: the {len(at_lines)} ground control points do not span the scene; add some")
    misfit = float(np.sqrt(((design @ coefficients - plane) ** 2).sum(axis=1).mean()) * EARTH_RADIUS)
    latitude, longitude = positions(frame.unstereographic(terms(lines, samples) @ coefficients))
    return latitude, longitude, misfit
