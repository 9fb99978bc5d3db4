"""A raw scene read and cut slowly, by the words of docs/data-format.md, with netCDF4 and nothing of the project."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np

from tests.rules import COLUMNS, EMPTY, HEADER, read_literally
from tests.scenes import AMSR2, ERA5

# Written out from the tables of the page.
OFFSETS = dict.fromkeys(AMSR2, (20.0, 0.005)) | {
    "u10m_rotated": (-60.0, 0.002),
    "v10m_rotated": (-60.0, 0.002),
    "t2m": (180.0, 0.0025),
    "skt": (180.0, 0.0025),
    "tcwv": (0.0, 0.002),
    "tclw": (0.0, 0.0001),
}
# What is no number is a number that no table lists.
GARBLED = -999


def classes_of(row: dict[str, str]) -> tuple[int, int, int]:
    """SIC, SOD, FLOE of one polygon, rules `autoice`."""
    code = {name: number(row[name]) for name in COLUMNS}
    if code["CT"] == GARBLED and row["POLY_TYPE"].strip().upper() != "W":
        return 255, 255, 255
    cells = {name: str(code.get(name, row[name].strip())) for name in HEADER.split(";")}
    return read_literally(";".join(cells.values()), "autoice")[0]


def number(cell: str) -> int:
    """A code; -9 where the cell is empty."""
    text = cell.strip()
    if text in ("", "9-"):
        return EMPTY
    digits = text.removesuffix(".0").lstrip("+-")
    return int(text.removesuffix(".0")) if digits.isascii() and digits.isdecimal() and len(digits) < 8 else GARBLED


def plain(file: netCDF4.Dataset, name: str) -> np.ndarray:
    """The values of a variable by the attributes that the netCDF library knows; NaN where there is no data."""
    variable = file[name]
    if variable.dtype is str or variable.dtype.kind not in "fiu":
        raise ValueError(f"{name} holds no numbers")
    variable.set_auto_maskandscale(True)
    with np.errstate(over="ignore"):
        values = np.ma.filled(variable[:].astype(np.float64), np.nan).astype(np.float32)
    return np.where(values > 1e30, np.float32(np.nan), values)


def blocks(values: np.ndarray, k: int) -> np.ndarray:
    """[H, W] -> [H // k, W // k, k * k]."""
    rows, columns = values.shape[0] // k, values.shape[1] // k
    return values[: rows * k, : columns * k].reshape(rows, k, columns, k).swapaxes(1, 2).reshape(rows, columns, k * k)


def mean(values: np.ndarray, k: int, needed: float) -> np.ndarray:
    """float64 mean over finite values of blocks; NaN where fewer than `needed`, or none, of them are."""
    parts = blocks(values.astype(np.float64), k)
    count = np.isfinite(parts).sum(-1)
    total = np.where(np.isfinite(parts), parts, 0).sum(-1)
    return np.where((count >= needed * k * k) & (count > 0), total / np.maximum(count, 1), np.nan)


def majority(labels: np.ndarray, k: int) -> np.ndarray:
    """The most frequent class of the labelled pixels, the lowest of several; 255 where none is labelled."""
    parts = blocks(labels, k)
    votes = np.stack([(parts == value).sum(-1) for value in range(11)])
    return np.where(votes.sum(0) > 0, votes.argmax(0), 255)


def steps(length: int, tile: int) -> list[int]:
    """First pixels of tiles."""
    return [0] if length <= tile else [*range(0, length - tile, tile), length - tile]


@dataclass
class Scene:
    """What a scene file holds.

    Attributes:
        sar: hh, hv -> dB [H, W], NaN = none.
        zones: distance zones [H, W], or None.
        charts: classes uint8 [3, H, W], or None.
        coarse: channel -> codes int [h, w] of the 2 km grid, for the groups that are there.
        cells: h, w; 0, 0 where no group is there.
        points: (line, sample), rounded -> latitude, longitude, incidence angle.
    """

    sar: dict[str, np.ndarray]
    zones: np.ndarray | None
    charts: np.ndarray | None
    coarse: dict[str, list[list[int]]]
    cells: tuple[int, ...]
    points: dict[tuple[float, float], tuple[float, ...]]


def read(path: Path) -> Scene:
    """Read a scene file; raise an exception of any kind where it cannot be a scene."""
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        sar = {"hh": plain(file, "nersc_sar_primary"), "hv": plain(file, "nersc_sar_secondary")}
        shape = sar["hh"].shape
        assert len(shape) == 2
        zones = plain(file, "distance_map") if "distance_map" in file.variables else None
        cells = tuple(n * 40 // 2000 for n in shape)
        groups = [group for group in (AMSR2, ERA5) if any(name in file.variables for name in group)]
        coarse = {name: plain(file, name) for group in groups for name in group}
        ids, table = None, {}
        if "polygon_icechart" in file.variables:
            ids = plain(file, "polygon_icechart")
            text = [str(row) for row in np.atleast_1d(file["polygon_codes"][:])]
            header = text[0].split(";")
            for line in text[1:]:
                row = dict(zip(header, line.split(";"), strict=True))
                table[int(row["poly_id"])] = classes_of(row)
        names = ("line", "sample", "latitude", "longitude", "incidenceangle")
        grid = [np.asarray(file[f"sar_grid_{name}"][:]).ravel() for name in names]
    for values in (sar["hv"], zones, ids):
        assert values is None or values.shape == shape
    assert all(values.shape == cells for values in coarse.values())
    if zones is not None and np.any((zones < -0.5) | (zones > 41.5)):
        raise ValueError("zones are 0 to 41")
    points = {
        (round(float(line), 3), round(float(sample), 3)): tuple(float(np.float32(value)) for value in rest)
        for line, sample, *rest in zip(*grid, strict=True)
    }
    charts = None
    if ids is not None:
        charts = np.full((3, *shape), 255, np.uint8)
        for identity, classes in table.items():
            charts[:, ids == identity] = np.array(classes, np.uint8)[:, None]
    codes = {name: [[coarse_code(name, float(v)) for v in row] for row in values] for name, values in coarse.items()}
    return Scene(sar, zones, charts, codes, cells if coarse else (0, 0), points)


def tiles_of(path: Path, tile: int, factors: tuple[int, ...]) -> dict[tuple[int, int, int], dict[str, Any]]:
    """(factor, row, column) -> what the sample should hold, of each tile with a quarter of valid pixels.

    hh, hv: exact dB [H, W], NaN = none. dist, lab: as stored; dist is None where the file has none, since it is from a
    coastline then. scene: the `Scene`.
    """
    scene = read(path)
    out = {}
    for k in factors:
        with np.errstate(divide="ignore", over="ignore"):
            decibels = {
                name: 10 * np.log10(mean(np.power(np.float32(10), values / np.float32(10)), k, 0.5))
                for name, values in scene.sar.items()
            }
        rows, columns = decibels["hh"].shape
        distance = None
        if scene.zones is not None:
            average = mean(scene.zones, k, 0)
            distance = np.where(np.isnan(average), 255, np.rint(average))
        labels = None if scene.charts is None else np.stack([majority(plane, k) for plane in scene.charts])
        # A pixel without backscatter has no label: it needs each polarisation that has any data.
        lost = [np.isnan(values) for values in decibels.values() if not np.isnan(values).all()]
        if labels is not None and lost:
            labels[:, np.logical_or.reduce(lost)] = 255
        for row in steps(rows, tile):
            for column in steps(columns, tile):
                window = np.s_[row : row + tile, column : column + tile]
                valid = ~np.isnan(decibels["hh"][window]) | ~np.isnan(decibels["hv"][window])
                if valid.mean() < 0.25 or not valid.any():
                    continue

                def cut(values: np.ndarray, fill: float, window: Any = window) -> np.ndarray:
                    inside = values[window]
                    return np.pad(inside, [(0, tile - n) for n in inside.shape], constant_values=fill)

                out[k, row, column] = {
                    **{name: cut(values, np.nan) for name, values in decibels.items()},
                    "dist": None if distance is None else cut(distance, 255),
                    "lab": None if labels is None else np.stack([cut(plane, 255) for plane in labels]),
                    "scene": scene,
                }
    return out


def coarse_code(name: str, value: float) -> int:
    """The code of a value on the 2 km grid."""
    offset, scale = OFFSETS[name]
    if math.isnan(value):
        return 0
    step = (value - offset) / scale
    return (round(min(max(step, 0.0), 65534.0))) + 1


def differences(tile: Any, expected: dict[str, Any]) -> list[str]:
    """What of a stored tile is not what the literal reading says."""
    wrong = []
    k = tile.factor
    for name in ("hh", "hv"):
        codes, exact = getattr(tile, name).astype(np.float64), expected[name]
        nothing = np.isnan(exact)
        if ((codes == 0) != nothing).any():
            wrong.append(f"{name}: no data in {(codes == 0).sum()} pixels, not in {nothing.sum()}")
        stored, limited = -60 + 0.05 * (codes - 1), np.clip(exact, -60, 40)
        if (np.abs(stored - limited)[~nothing & (codes > 0)] > 0.026).any():
            wrong.append(f"{name}: off by {np.nanmax(np.abs(stored - limited)[codes > 0])} dB")
    if expected["dist"] is not None and (tile.dist != expected["dist"]).any():
        wrong.append("dist")
    if (tile.lab is None) != (expected["lab"] is None) or (
        tile.lab is not None and (tile.lab != expected["lab"]).any()
    ):
        wrong.append("lab")
    scene: Scene = expected["scene"]
    last = tile.hh.shape[0] - 1
    rows, columns = ((np.asarray(at) + first + 0.5) * k * 40 / 2000 - 0.5 for at, first in (
        (tile.aux_rows, tile.row), (tile.aux_cols, tile.col)))  # fmt: skip
    if tile.aux.shape[1:] != (len(rows), len(columns)):
        wrong.append("aux does not fit its coordinates")
    for at, n, own in ((rows, scene.cells[0], tile.aux_rows), (columns, scene.cells[1], tile.aux_cols)):
        whole = list(np.rint(at).astype(int))
        if np.abs(at - whole).max(initial=0) > 1e-6 or whole != list(range(whole[0], whole[-1] + 1) if whole else []):
            wrong.append("aux_rows or aux_cols are not cells")
        elif n and not ((own[0] <= 0 or whole[0] == 0) and (own[-1] >= last or whole[-1] == n - 1)):
            wrong.append("aux does not cover the tile")
    for plane, name in zip(tile.aux.tolist(), (*AMSR2, *ERA5), strict=True):
        known = scene.coarse.get(name)
        for i, row in enumerate(np.rint(rows).astype(int).tolist()):
            for j, column in enumerate(np.rint(columns).astype(int).tolist()):
                code = 0 if known is None else known[row][column]
                if abs(plane[i][j] - code) > (code > 0):
                    wrong.append(f"{name}[{row}, {column}]: code {plane[i][j]}, not {code}")
    return wrong + geolocation_differences(tile, scene)


def geolocation_differences(tile: Any, scene: Scene) -> list[str]:
    """What of a stored tile's geolocation is not in the scene's grid."""
    wrong = []
    k = tile.factor
    lines, samples = ((np.asarray(at) + first) * k + (k - 1) / 2 for at, first in (
        (tile.geo_rows, tile.row), (tile.geo_cols, tile.col)))  # fmt: skip
    latitude, longitude, incidence = tile.geo.tolist()
    for i, line in enumerate(lines.tolist()):
        for j, sample in enumerate(samples.tolist()):
            known = scene.points.get((round(line, 3), round(sample, 3)))
            stored = (latitude[i][j], longitude[i][j], incidence[i][j])
            if known is None or not all(a == b or (a != a and b != b) for a, b in zip(stored, known, strict=True)):
                wrong.append(f"geo at {line}, {sample}: {stored}, not {known}")
    if min(len(lines), len(samples)) < 2:
        wrong.append("geo is not a grid")
    return wrong
