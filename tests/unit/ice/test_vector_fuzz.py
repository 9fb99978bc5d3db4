"""Damaged vector charts: each is a clean error, or gives what GDAL gets from the same file."""

from __future__ import annotations

import contextlib
import os
import resource
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely
from charts_on_disk import SQUARES, write_chart
from polygons import local_grid

from arcticseg.errors import SceneError
from arcticseg.ice.chart import parse_polygon_codes, polygon_classes
from arcticseg.ice.vector import polygon_codes, read_chart
from arcticseg.ice.vector_raster import rasterise

pytestmark = pytest.mark.slow

COUNT = 25 * int(os.environ.get("ARCTICSEG_FUZZ_SCALE", "1"))
Random = np.random.Generator


def flip(data: bytearray, draw: Random) -> None:
    for _ in range(int(draw.integers(1, 9))):
        data[draw.integers(len(data))] = draw.integers(256)


def flip_early(data: bytearray, draw: Random) -> None:
    data[draw.integers(min(len(data), 256))] = draw.integers(256)


def large_number(data: bytearray, draw: Random) -> None:
    at = int(draw.integers(len(data) - 8))
    numbers = [2**31 - 1, 10**9, 2**32 - 1, 0, 0x80000000]
    data[at : at + 4] = int(draw.choice(numbers)).to_bytes(4, str(draw.choice(["little", "big"])))  # type: ignore[arg-type]


def no_number(data: bytearray, draw: Random) -> None:
    at = int(draw.integers(len(data) - 8))
    data[at : at + 8] = np.array(draw.choice([np.nan, np.inf, 1e308, -1e300, 1e-310])).tobytes()


def cut(data: bytearray, draw: Random) -> None:
    del data[int(draw.integers(len(data))) :]


def lengthen(data: bytearray, draw: Random) -> None:
    data += draw.bytes(int(draw.integers(1, 5000)))


def lose(data: bytearray, draw: Random) -> None:
    at = int(draw.integers(len(data)))
    del data[at : at + int(draw.integers(1, 300))]


def repeat(data: bytearray, draw: Random) -> None:
    at = int(draw.integers(len(data)))
    data[at:at] = data[at : at + int(draw.integers(1, 300))]


def zeros(data: bytearray, draw: Random) -> None:
    at, length = int(draw.integers(len(data))), int(draw.integers(1, 2000))
    data[at : at + length] = bytes(len(data[at : at + length]))


DAMAGES = (flip, flip, flip_early, large_number, no_number, cut, lengthen, lose, repeat, zeros)


def triangles(draw: Random) -> list[shapely.Geometry]:
    points = draw.uniform((-3, 69), (3, 72), (int(draw.integers(1, 9)), 3, 2))
    return [*map(shapely.Polygon, points), *SQUARES]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".shp", ".gpkg"])
def test_damaged_charts(tmp_path: Path, suffix: str) -> None:
    geo = local_grid(70.5, 0.5, 40, spacing=2000)
    outcomes: Counter[str] = Counter()
    lines: list[str] = []
    for seed in range(COUNT):
        draw = np.random.default_rng([seed, len(suffix)])
        path = write_chart(tmp_path / f"{seed}{suffix}", triangles(draw))
        parts = sorted(each for each in tmp_path.glob(f"{seed}.*") if each.suffix not in (".cpg",))
        part = parts[draw.integers(len(parts))] if draw.random() < 0.5 else path
        data = bytearray(part.read_bytes())
        DAMAGES[draw.integers(len(DAMAGES))](data, draw)
        part.write_bytes(data)
        begin = time.monotonic()
        try:
            chart = read_chart(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rasterise(chart, geo, (40, 40))
                polygon_classes(parse_polygon_codes(polygon_codes(chart), "a"))
            outcomes["read"] += 1
            # Another reference system puts the same coordinates elsewhere.
            if not chart.repairs and part.suffix != ".prj":
                compare_with_gdal(path, chart.polygons)
        except SceneError as error:
            outcomes["refused"] += 1
            lines.append(str(error))
        assert time.monotonic() - begin < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 << 20
    print(suffix, dict(outcomes))
    assert outcomes["refused"] > COUNT / 5
    assert outcomes["read"] > 0
    assert not any("\n" in line for line in lines)


def compare_with_gdal(path: Path, polygons: tuple[shapely.Geometry, ...]) -> None:
    """Polygons as GDAL reads them, where pyogrio reads the file (some damage of a .prj ends in a fault of its own)."""
    faults = (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, UnicodeDecodeError, UnboundLocalError)
    with contextlib.suppress(*faults):
        _, _, blobs, _ = pyogrio.raw.read(path, columns=[])
        expected = [shapely.from_wkb(blob) for blob in blobs]
        assert len(expected) == len(polygons)
        assert all(mine.equals(other) for mine, other in zip(polygons, expected, strict=True))
