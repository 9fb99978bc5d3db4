"""Scene files for tests: random numbers in the schemas of AI4Arctic, with nothing else in common with real scenes.

`raw` and `rtt` give the variables of a file, which a test may change before `write` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

RAW_NAME = (
    "S1A_EW_GRDM_1SDH_20180721T120156_20180721T120256_022892_027B98_56D9_icechart_cis_SGRDIMID_20180721T1203Z_pl_a"
)
RTT_NAME = "20180607T184326_dmi_prep"
RTT_ORIGINAL = (
    "S1B_EW_GRDM_1SDH_20180607T184326_20180607T184426_011271_014B00_0BEC_icechart_dmi_201806071840_CentralEast_RIC.nc"
)
HEADER = "poly_id;CT;CA;SA;FA;CB;SB;FB;CC;SC;FC;CN;CD;CF;POLY_TYPE"
# Polygons: 9/10 old ice in vast floes; 6/10 of two kinds; new ice; open water; land.
ROWS = (
    "11;91;90;95;06;10;93;05;-9;-9;-9;-9;-9;06-9;I",
    "12;60;30;93;05;30;84;03;-9;-9;-9;-9;-9;05-9;I",
    "15;92;-9;81;99;-9;-9;-9;-9;-9;-9;-9;-9;99-9;I",
    "17;02;-9;98;10;-9;-9;-9;-9;-9;-9;-9;-9;10-9;W",
    "18;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;L",
)
# Id -> (SIC, SOD, FLOE) of the rows above, worked out by hand.
CLASSES = {11: (10, 5, 5), 12: (6, 255, 255), 15: (10, 1, 255), 17: (0, 0, 0), 18: (255, 255, 255)}

AMSR2 = tuple(
    f"btemp_{frequency}{polarisation}"
    for frequency in ("6_9", "7_3", "10_7", "18_7", "23_8", "36_5", "89_0")
    for polarisation in "hv"
)
ERA5 = ("u10m_rotated", "v10m_rotated", "t2m", "skt", "tcwv", "tclw")
# Middle and half width of the values that `raw` draws on the 2 km grid.
COARSE_RANGE = dict.fromkeys(AMSR2, (200.0, 40.0)) | {
    "u10m_rotated": (0.0, 15.0),
    "v10m_rotated": (0.0, 15.0),
    "t2m": (265.0, 20.0),
    "skt": (265.0, 20.0),
    "tcwv": (8.0, 7.0),
    "tclw": (0.2, 0.19),
}
SAR_DIMS = ("sar_lines", "sar_samples")
POINT_DIMS = ("sar_grid_points",)
COARSE_DIMS = ("2km_grid_lines", "2km_grid_samples")

Variable = tuple[tuple[str, ...], NDArray[Any]]


def geolocation(lines: int, samples: int, points: int = 21) -> dict[str, NDArray[np.float64]]:
    """Line, sample, latitude, longitude and incidence angle of points x points grid points, each [points, points]."""
    line, sample = np.meshgrid(np.linspace(0, lines - 1, points), np.linspace(0, samples - 1, points), indexing="ij")
    # On a plane that touches the Earth near 75 N, 60 W; wrong by a few hundred metres, which no test notices.
    north, east = (lines / 2 - line) * 0.04, (sample - samples / 2) * 0.04
    latitude = 75 + north / 111.2
    return {
        "line": line,
        "sample": sample,
        "latitude": latitude,
        "longitude": -60 + east / (111.2 * np.cos(np.radians(latitude))),
        "incidenceangle": 20 + 25 * sample / max(samples - 1, 1),
    }


def raw(
    lines: int = 600, samples: int = 650, seed: int = 0, rows: Sequence[str] | None = ROWS, chart: bool = True
) -> dict[str, Variable]:
    """The variables of a raw scene: NaN at the left swath edge, polygons in blocks, a corner without chart."""
    random = np.random.default_rng(seed)
    shape = (lines, samples)
    variables: dict[str, Variable] = {}
    for name, middle in (("nersc_sar_primary", -14.0), ("nersc_sar_secondary", -25.0)):
        decibels = random.normal(middle, 4.0, shape).astype(np.float32)
        decibels[:, : samples // 20] = np.nan
        variables[name] = (SAR_DIMS, decibels)
    if chart:
        assert rows is not None
        ids = np.array([int(row.split(";")[0]) for row in rows], np.float32)
        tall, wide = -(-lines // 3), -(-samples // 3)
        blocks = np.repeat(np.repeat(random.permutation(np.resize(ids, 9)).reshape(3, 3), tall, 0), wide, 1)
        polygons = np.ascontiguousarray(blocks[:lines, :samples])
        polygons[-lines // 10 :, -samples // 10 :] = np.nan
        variables["polygon_icechart"] = (SAR_DIMS, polygons)
        variables["polygon_codes"] = (("polygon_codes",), np.array([HEADER, *rows], dtype=object))
    zones = np.clip(np.arange(samples) // 15, 0, 41).astype(np.float32)
    variables["distance_map"] = (SAR_DIMS, np.tile(zones, (lines, 1)))
    for name, values in geolocation(lines, samples).items():
        variables[f"sar_grid_{name}"] = (POINT_DIMS, values.ravel())
    variables["sar_grid_height"] = (POINT_DIMS, np.zeros(441))
    cells = (lines * 40 // 2000, samples * 40 // 2000)
    for name, (middle, half) in COARSE_RANGE.items():
        variables[name] = (COARSE_DIMS, random.uniform(middle - half, middle + half, cells))
    variables["amsr2_swath_map"] = (COARSE_DIMS, np.zeros(cells, np.uint8))
    return variables


def rtt(
    statistics: Mapping[str, tuple[float, float]], lines: int = 300, samples: int = 325, seed: int = 0
) -> tuple[dict[str, Variable], dict[str, Variable]]:
    """The variables of a ready-to-train scene, and the same in physical units with NaN for no data.

    Args:
        statistics: channel -> (mean, std) of the z-scores.
    """
    random = np.random.default_rng(seed)
    shape = (lines, samples)
    physical: dict[str, Variable] = {}
    for name, middle in (("nersc_sar_primary", -14.0), ("nersc_sar_secondary", -25.0)):
        physical[name] = (SAR_DIMS, random.normal(middle, 4.0, shape))
    incidence = np.tile(20 + 25 * np.arange(samples) / (samples - 1), (lines, 1))
    physical["sar_incidenceangle"] = (SAR_DIMS, incidence)
    physical["distance_map"] = (SAR_DIMS, np.tile(np.clip(np.arange(samples) // 8, 0, 41) * 1.0, (lines, 1)))
    for _, values in physical.values():
        values[:, : samples // 20] = np.nan
    cells = (lines * 80 // 2000, samples * 80 // 2000)
    for name, (middle, half) in COARSE_RANGE.items():
        physical[name] = (COARSE_DIMS, random.uniform(middle - half, middle + half, cells))
    physical["btemp_89_0v"][1][0, 0] = np.nan
    scored: dict[str, Variable] = {}
    for name, (dims, values) in physical.items():
        mean, std = statistics[name]
        scored[name] = (dims, np.nan_to_num((values - mean) / std, nan=0.0).astype(np.float32))
    for name, classes in (("SIC", 11), ("SOD", 6), ("FLOE", 7)):
        labels = random.integers(0, classes, shape).astype(np.uint8)
        labels[random.random(shape) < 0.1] = 255
        labels[:, : samples // 20] = 255
        scored[name] = (SAR_DIMS, labels)
    grid = geolocation(2 * lines, 2 * samples)
    for name in ("latitude", "longitude"):
        # The real files have the samples first.
        scored[f"sar_grid2d_{name}"] = (("sar_sample_2dgrid_points", "sar_line_2dgrid_points"), grid[name].T.copy())
    return scored, physical


RTT_ATTRIBUTES = {
    "scene_id": f"{RTT_NAME}.nc",
    "original_id": RTT_ORIGINAL,
    "ice_service": "dmi",
    "flip": 0,
    "pixel_spacing": 80,
}


def write(
    path: Path,
    variables: Mapping[str, Variable],
    attributes: Mapping[str, Any] | None = None,
    attributes_of: Mapping[str, Mapping[str, Any]] | None = None,
    chunked: bool = True,
) -> Path:
    """Write a scene file; dimensions take their length from the first variable that has them.

    Args:
        attributes: of the file.
        attributes_of: name of a variable -> its attributes, `_FillValue` among them.
        chunked: in compressed chunks; else whole, so that the netCDF library reads them alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with netCDF4.Dataset(path, "w") as file:
        file.setncatts(dict(attributes or {}))
        for name, (dims, values) in variables.items():
            used = list(dims)
            for i, (dim, length) in enumerate(zip(dims, values.shape, strict=True)):
                if dim in file.dimensions and len(file.dimensions[dim]) != length:
                    used[i] = f"{dim}_of_{name}"
                if used[i] not in file.dimensions:
                    file.createDimension(used[i], length)
            if values.dtype == object:
                file.createVariable(name, str, used)[:] = values
                continue
            own = dict((attributes_of or {}).get(name, {}))
            variable = file.createVariable(
                name,
                values.dtype,
                used,
                endian="big" if values.dtype.byteorder == ">" else "native",
                fill_value=own.pop("_FillValue", None),
                zlib=chunked,
                complevel=1,
            )
            variable.set_auto_maskandscale(False)
            variable.setncatts(own)
            variable[:] = values
    return path


def write_raw(path: Path, **options: Any) -> Path:
    """Write the raw scene that `raw` gives."""
    return write(path, raw(**options), {"title": "numbers drawn by a test"})
