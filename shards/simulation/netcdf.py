"""The raw AI4Arctic scene file: variables, dimensions, types and attributes, in the order of the real files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import netCDF4
import numpy as np
from numpy.typing import NDArray

from arcticseg.ice.geo import GeoGrid
from arcticseg.ice.land import ZONE_ENDS_KM
from arcticseg.ice.simulated import ATTRIBUTE, marked
from shards.simulation.noise import Array
from shards.simulation.passive import Passive

_IMAGE = ("sar_lines", "sar_samples")
_COARSE = ("2km_grid_lines", "2km_grid_samples")
_POINTS = ("sar_grid_points",)
_ERA5 = {
    "u10m_rotated": ("m/s", "ERA5 10m u-component of wind rotated to account for S-1 flight direction"),
    "v10m_rotated": ("m/s", "ERA5 10m v-component of wind rotated to account for S-1 flight direction"),
    "t2m": ("K", "ERA5 2m air temperature"),
    "skt": ("K", "ERA5 skin temperature"),
    "tcwv": ("kg/m2", "ERA5 total column water vapour"),
    "tclw": ("kg/m2", "ERA5 total cloud liquid water"),
}
_SAR = {"nersc_sar_primary": "HH", "nersc_sar_secondary": "HV"}
_SPELLED = {"h": "horizontal", "v": "vertical"}
# The titles of the archive's files, spelling included, since a schema check compares them.
_TITLE = (
    "Training data file from AI4Arctic_CCN challenge dataset\n"
    "Input: Sentinel-1 SAR dual HH-HV / AMSR2 PMR / ERA5 NWP /Land distance.\n"
    "Label: Sea-ice information (gridded polygon ids with accomanying SIGRID3 coding."
)
_GEOMETRIC_INFO = (
    "All variables are gridded to match SAR bands geographically.\n"
    "Sea-ice charts and distance maps are gridded in native EW-GRDM-resolution (approx. 40 m)\n"
    "AMSR2 and NWP are gridded 2 km spatial resolution.\n"
    "The ERA5 u- and v components are rotated to comply with the satellite flight direction as reference."
)
_DENOISING = (
    "Thermal Denoising of Cross-Polarized Sentinel-1 Data in\n"
    "Interferometric and Extra Wide Swath Modes, DOI: 10.1109/TGRS.2021.3131036\n"
    "Available at: https://ieeexplore.ieee.org/document/9627699\n"
)
_CHUNK = 1000
# Bits of the float32 mantissa that are kept: steps of at most 0.004 dB, a thousandth of the speckle, and half the size.
_MANTISSA_BITS = 12


def zonal_range_description() -> str:
    """The table of distance zones as the files spell it."""
    ends = [0.0, *ZONE_ENDS_KM]
    rows = [f"{zone}; {low:g} -> {high:g}" for zone, (low, high) in enumerate(pairwise(ends), 1)]
    return "\n".join(["", "dist_id; dist_range_km", "0; land", *rows, f"{len(ends)}; {ends[-1]:g} -> inf", ""])


def _rounded(values: Array) -> Array:
    """Values with a shorter mantissa; NaN stays NaN."""
    drop = 23 - _MANTISSA_BITS
    bits = values.view(np.uint32)
    rounded = ((bits + np.uint32(1 << (drop - 1))) & np.uint32(0xFFFFFFFF ^ ((1 << drop) - 1))).view(np.float32)
    return np.where(np.isfinite(values), rounded, np.float32(np.nan))


class SceneFile:
    """Writes a raw scene, its images block by block; use it as a context, at whose end the file is closed."""

    def __init__(
        self, path: Path, size: tuple[int, int], product: str, chart_name: str, simulated: str,
        codes: Sequence[str] | None,
    ) -> None:  # fmt: skip
        """codes: `polygon_codes`, header first; None for a scene without a chart."""
        self.file = netCDF4.Dataset(path, "w", format="NETCDF4")
        self.size = size
        self.limits: dict[str, tuple[float, float]] = {}
        self.file.setncatts({
            "title": f"{marked('scene', True)}, no observation, in the form of: {_TITLE}",
            "geometric_info": _GEOMETRIC_INFO,
            "sar_denoise_by_nersc_documentation": _DENOISING,
            ATTRIBUTE: simulated,
        })  # fmt: skip
        cells = tuple(count // 50 for count in size)
        for names, counts in ((_IMAGE, size), (_POINTS, (441,)), (_COARSE, cells)):
            for name, count in zip(names, counts, strict=True):
                self.file.createDimension(name, count)
        if codes is not None:
            self.file.createDimension("polygon_codes", len(codes))
            variable = self.file.createVariable("polygon_codes", str, ("polygon_codes",))
            variable.icechart_id = chart_name
            variable[:] = np.array(list(codes), dtype=object)
        for name, polarisation in _SAR.items():
            self._image(name).setncatts(
                {"polarisation": polarisation, "upstream_id": product, "description": "Sigma0 in dB"}
            )
        if codes is not None:
            self._image("polygon_icechart").setncatts({
                "description": "Polygon icechart - the polygon ids are gridded in native Sentinel-1 SAR geometry- and "
                "resolution",
                "icechart_id": chart_name,
            })  # fmt: skip
        self._image("distance_map").setncatts({
            "long_name": "Distance to land zones numbered with ids ranging from 0 to 41",
            "zonal_range_description": zonal_range_description(),
        })  # fmt: skip

    def __enter__(self) -> SceneFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def _image(self, name: str) -> netCDF4.Variable:
        chunks = tuple(min(_CHUNK, count) for count in self.size)
        return self.file.createVariable(name, "f4", _IMAGE, zlib=True, complevel=1, shuffle=True, chunksizes=chunks)

    def _coarse(self, name: str, values: NDArray, kind: str) -> netCDF4.Variable:
        variable = self.file.createVariable(name, kind, _COARSE, zlib=True, complevel=1)
        variable[:] = values
        return variable

    def write_block(self, first: int, images: Mapping[str, Array]) -> None:
        """Write lines `first` ... of full-resolution images, float32 [n, W]."""
        for name, values in images.items():
            if name in _SAR:
                values = _rounded(values)
                if np.isfinite(values).any():
                    low, high = self.limits.get(name, (np.inf, -np.inf))
                    self.limits[name] = (min(low, float(np.nanmin(values))), max(high, float(np.nanmax(values))))
            self.file[name][first : first + len(values)] = values

    def write_rest(self, geo: GeoGrid, passive: Passive, weather: Mapping[str, Array]) -> None:
        """Write everything that is not an image, and the attributes known only now."""
        for name, limits in self.limits.items():
            self.file[name].setncatts({key: f"{value:.6g}" for key, value in zip(("min", "max"), limits, strict=True)})
        line, sample = np.meshgrid(geo.lines, geo.samples, indexing="ij")
        points = {
            "line": line, "sample": sample, "latitude": geo.latitude, "longitude": geo.longitude,
            "incidenceangle": geo.incidence, "height": np.zeros_like(line),
        }  # fmt: skip
        for name, values in points.items():
            self.file.createVariable(f"sar_grid_{name}", "f8", _POINTS)[:] = values.ravel()
        swaths = {
            "AMSR2_swaths": str(list(passive.swaths)).replace("'GW", "u'GW"),
            "AMSR2_S1_delays": str(np.array(passive.delays)),
        }
        for name, values in passive.channels.items():
            frequency = f"{name.split('_')[1]}.{name.split('_')[2][:-1]}"
            known = values[np.isfinite(values)]
            low, high = (known.min(), known.max()) if known.size else (np.nan, np.nan)
            self._coarse(name, values, "f8").setncatts({
                **swaths, "min": str(float(low)), "max": str(float(high)),
                "description": f"Brightness temperature in K at {frequency}GHz. Polarization: {_SPELLED[name[-1]]}.",
            })  # fmt: skip
        self._coarse("amsr2_swath_map", passive.swath, "u1")
        self._coarse("swath_segmentation", passive.swath, "u1").setncatts(swaths)
        for name, (units, long_name) in _ERA5.items():
            self._coarse(name, weather[name], "f8").setncatts({"units": units, "long_name": long_name})
