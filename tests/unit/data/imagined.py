"""Layers of a scene that is imagined, not read from a file."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pyproj

from arcticseg.ice.channels import CHANNELS, COARSE
from arcticseg.ice.geo import GeoGrid
from arcticseg.ice.indexed import index_planes
from arcticseg.ice.layers import Layers
from tests import scenes


def layers_of(shape: tuple[int, int] = (400, 420), factor: int = 3, seed: int = 0) -> Layers:
    """Layers of a raw scene of `shape` pixels at a factor, with noise in all channels and positions on a true plane."""
    random = np.random.default_rng(seed)
    rows, columns = shape[0] // factor, shape[1] // factor
    plane = pyproj.Proj(proj="stere", lat_0=72, lon_0=179)
    lines, samples = np.linspace(0, shape[0] - 1, 21), np.linspace(0, shape[1] - 1, 21)
    longitude, latitude = plane(*place(*np.meshgrid(lines, samples, indexing="ij")), inverse=True)
    coarse = np.stack(
        [
            random.uniform(CHANNELS[name].mean - CHANNELS[name].std / 2, CHANNELS[name].mean + CHANNELS[name].std)
            + random.normal(0, CHANNELS[name].std / 3, (shape[0] // 50, shape[1] // 50)).clip(0)
            for name in COARSE
        ]
    )
    hh, hv = (random.normal(middle, 3, (rows, columns)).astype(np.float32) for middle in (-14, -25))
    hh[:, :9] = np.nan
    return Layers(
        scene=scenes.RAW_NAME,
        factor=factor,
        step=factor,
        pixel_spacing=40.0 * factor,
        time=datetime(2018, 7, 21, 12, 1, 56, tzinfo=UTC),
        ice_service="cis",
        simulated=True,
        sar={"hh": hh, "hv": hv},
        distance=random.integers(0, 42, (rows, columns)).astype(np.uint8),
        chart=index_planes(np.stack([random.integers(0, n, (rows, columns)) for n in (11, 6, 7)]).astype(np.uint8)),
        coarse=coarse.astype(np.float32),
        geo=GeoGrid(lines, samples, latitude, longitude, np.tile(20 + samples / 400, (21, 1))),
    )


def place(line: np.ndarray, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Plane coordinates in metres of full-resolution pixels: a scene turned by half a radian."""
    down, across = 40 * line, 40 * sample
    return math.cos(0.5) * down - math.sin(0.5) * across, math.sin(0.5) * down + math.cos(0.5) * across
