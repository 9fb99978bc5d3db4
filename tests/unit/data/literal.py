"""The input of a sample by loops over its pixels, one at a time, in plain numbers and physical units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from arcticseg.data.tile import Tile, decode_coarse, decode_sar
from arcticseg.ice.channels import COARSE, INPUTS

NAN = math.nan


@dataclass(frozen=True)
class Drawn:
    """What is drawn for a sample; by default nothing."""

    crop: tuple[int, int, int] | None = None
    angle: float = 0.0
    zoom: float = 1.0
    transpose: bool = False
    flip_rows: bool = False
    flip_cols: bool = False
    speckle: float = 0.0
    noise: int = 0
    trend: tuple[float, float] = (0.0, 0.0)

    @staticmethod
    def of(draws: Any, i: int) -> Drawn:
        """Sample i of `batch.Draws`."""
        given = {name: value[i].tolist() for name, value in vars(draws).items() if value is not None}
        return Drawn(**{name: value for name, value in given.items() if name not in ("drop", "mix")})


def place(drawn: Drawn, size: int, r: int, c: int) -> tuple[float, float]:
    """Row and column on the tile of a pixel of the input: what was done last is undone first."""
    if drawn.flip_cols:
        c = size - 1 - c
    if drawn.flip_rows:
        r = size - 1 - r
    if drawn.transpose:
        r, c = c, r
    top, left, edge = drawn.crop or (0, 0, size)
    # To the right and upwards of the centre, in pixels of the tile.
    x, y = ((c + 0.5 - size / 2) * edge / size * drawn.zoom, (size / 2 - r - 0.5) * edge / size * drawn.zoom)
    back = math.radians(-drawn.angle)
    x, y = x * math.cos(back) - y * math.sin(back), x * math.sin(back) + y * math.cos(back)
    return top + edge / 2 - y - 0.5, left + edge / 2 + x - 0.5


def around(points: np.ndarray, at: float, hold: bool) -> list[tuple[int, float]]:
    """The points of an axis that have a weight at a coordinate."""
    at = min(max(at, points[0]), points[-1]) if hold else at
    i = 0
    while i < len(points) - 2 and at >= points[i + 1]:
        i += 1
    share = (at - points[i]) / (points[i + 1] - points[i])
    return [(j, weight) for j, weight in ((i, 1 - share), (i + 1, share)) if abs(weight) > 1e-9]


def four(rows: np.ndarray, cols: np.ndarray, at: tuple[float, float], hold: bool) -> list[tuple[int, int, float]]:
    return [(i, j, a * b) for i, a in around(rows, at[0], hold) for j, b in around(cols, at[1], hold)]


def valid_mean(values: np.ndarray, cells: list[tuple[int, int, float]]) -> float:
    known = [(values[i, j], weight) for i, j, weight in cells if not math.isnan(values[i, j])]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total > 1e-6 else NAN


def wind(tile: Tile, drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
    """u and v of each cell in m/s along the input's axes: each vector is taken apart, turned, and put together."""
    values = decode_coarse(tile.aux).astype(float)
    fields = [values[COARSE.index(name)] for name in ("u10m_rotated", "v10m_rotated")]
    out = [np.full(fields[0].shape, NAN) for _ in fields]
    for i in range(fields[0].shape[0]):
        for j in range(fields[0].shape[1]):
            u, v = fields[0][i, j], fields[1][i, j]
            # A vector of length and direction; the direction is counted counter-clockwise from the right.
            length, direction = math.hypot(u, v), math.atan2(-v, u) + math.radians(drawn.angle)
            across, down = length * math.cos(direction), -length * math.sin(direction)
            if drawn.transpose:
                across, down = down, across
            out[0][i, j] = -across if drawn.flip_cols else across
            out[1][i, j] = -down if drawn.flip_rows else down
    return out[0], out[1]


def hashed(value: int) -> int:
    for _ in range(2):
        value = ((value >> 16 ^ value) * 0x45D9F3B) % 2**32
    return value >> 16 ^ value


def normal(noise: int, number: int) -> tuple[float, float]:
    """Two normal numbers of a pixel."""
    first = hashed(hashed(number + 1) ^ noise)
    second = hashed(first ^ 0x9E3779B9)
    radius = math.sqrt(-2 * math.log(((first >> 8) + 0.5) / 2**24))
    turn = 2 * math.pi * (second >> 8) / 2**24
    return radius * math.cos(turn), radius * math.sin(turn)


def angle_at(tile: Tile, at: tuple[float, float]) -> float:
    """NaN where angles that are not known have a weight of a thousandth."""
    cells = [(tile.geo[2, i, j], weight) for i, j, weight in four(tile.geo_rows, tile.geo_cols, at, False)]
    known = [(angle, weight) for angle, weight in cells if not math.isnan(angle)]
    whole = abs(sum(weight for _, weight in known) - 1) < 1e-3
    return float(sum(angle * weight for angle, weight in known)) if whole else NAN


def once(tile: Tile, drawn: Drawn, name: str) -> float:
    """What a sample of 3 February has once."""
    if name == "pixel_spacing":
        edge = drawn.crop[2] / tile.hh.shape[0] if drawn.crop else 1
        return math.log2(tile.pixel_spacing / 40 * edge * drawn.zoom)
    if tile.time is None:
        return NAN
    turn = 2 * math.pi * (1.5 / 12 if name.startswith("month") else 33.5 / 365.25)
    by_end = {"sin": math.sin(turn), "cos": math.cos(turn)}
    return by_end[name[-3:]] if name[-3:] in by_end else {"month": 2.0, "day": 34.0}[name]


def value(tile: Tile, drawn: Drawn, name: str, r: int, c: int) -> float:
    """A channel at a pixel of the input, in its unit; NaN = no data."""
    size = tile.hh.shape[0]
    if INPUTS[name].grid == "scene":
        return once(tile, drawn, name)
    at = place(drawn, size, r, c)
    row, col = (math.floor(x + 0.5) for x in at)
    if not (0 <= row < size and 0 <= col < size):
        return NAN
    if name == "distance_map":
        return NAN if tile.dist[row, col] == 255 else float(tile.dist[row, col])
    if name in ("nersc_sar_primary", "nersc_sar_secondary"):
        which = ("nersc_sar_primary", "nersc_sar_secondary").index(name)
        codes = (tile.hh, tile.hv)[which]
        if codes[row, col] == 0:
            return NAN
        pixels = np.arange(size, dtype=float)
        decibels = valid_mean(decode_sar(codes).astype(float), four(pixels, pixels, at, True))
        angle = angle_at(tile, at)
        decibels += 0.0 if math.isnan(angle) else drawn.trend[which] * (angle - 33.998018)
        return decibels + drawn.speckle * normal(drawn.noise, r * size + c)[which]
    if name in COARSE:
        if not tile.aux.size:
            return NAN
        fields = dict(zip(("u10m_rotated", "v10m_rotated"), wind(tile, drawn), strict=True))
        field = fields.get(name, decode_coarse(tile.aux)[COARSE.index(name)].astype(float))
        return valid_mean(field, four(tile.aux_rows, tile.aux_cols, at, True))
    if name == "sar_incidenceangle":
        return angle_at(tile, at)
    vector = np.zeros(3)
    for i, j, weight in four(tile.geo_rows, tile.geo_cols, at, False):
        latitude, longitude = (math.radians(x) for x in tile.geo[:2, i, j])
        flat = math.cos(latitude)
        vector += weight * np.array([flat * math.cos(longitude), flat * math.sin(longitude), math.sin(latitude)])
    if name.startswith("position_"):
        return float(vector["xyz".index(name[-1])] / np.linalg.norm(vector))
    if name == "sar_grid_latitude":
        return math.degrees(math.atan2(vector[2], math.hypot(vector[0], vector[1])))
    return math.degrees(math.atan2(vector[1], vector[0]))


def plane(tile: Tile, drawn: Drawn, name: str) -> np.ndarray:
    """A channel of the input, float64 [H, W], in its unit; NaN = no data."""
    size = tile.hh.shape[0]
    return np.array([[value(tile, drawn, name, r, c) for c in range(size)] for r in range(size)])


def labels(tile: Tile, drawn: Drawn) -> np.ndarray:
    """uint8 [3, H, W]."""
    size = tile.hh.shape[0]
    out = np.full((3, size, size), 255, np.uint8)
    for r in range(size):
        for c in range(size):
            row, col = (math.floor(x + 0.5) for x in place(drawn, size, r, c))
            if tile.lab is not None and 0 <= row < size and 0 <= col < size:
                out[:, r, c] = tile.lab[:, row, col]
    return out
