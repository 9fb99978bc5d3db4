import io
import json
import math
import tarfile
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyproj
import pytest
import webdataset
from scipy.interpolate import RegularGridInterpolator

from arcticseg.data import sample
from arcticseg.data.sample import decode, encode
from arcticseg.data.tile import (
    Tile,
    cut,
    decode_coarse,
    decode_sar,
    encode_coarse,
    encode_sar,
    interpolation_matrix,
    tile_key,
)
from arcticseg.errors import ShardError
from arcticseg.ice.channels import CHANNELS, COARSE
from arcticseg.ice.geo import GeoGrid, positions, unit_vectors
from arcticseg.ice.layers import Layers, read_layers
from arcticseg.ice.scenes.open import open_scene
from tests import scenes

SIZE = 64


def layers_of(shape: tuple[int, int] = (400, 420), factor: int = 3, seed: int = 0) -> Layers:
    """Layers of an imagined raw scene of `shape` pixels at a factor; 2 km fields smooth, positions on a true plane."""
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
        labels=np.stack([random.integers(0, n, (rows, columns)) for n in (11, 6, 7)]).astype(np.uint8),
        coarse=coarse.astype(np.float32),
        geo=GeoGrid(lines, samples, latitude, longitude, np.tile(20 + samples / 20, (21, 1))),
    )


def place(line: np.ndarray, sample_: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Plane coordinates in metres of full-resolution pixels: a scene turned by half a radian."""
    down, across = 40 * line, 40 * sample_
    return math.cos(0.5) * down - math.sin(0.5) * across, math.sin(0.5) * down + math.cos(0.5) * across


def assert_same(a: Tile, b: Tile) -> None:
    for field in fields(Tile):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype, field.name
        np.testing.assert_array_equal(left, right, err_msg=field.name)


@pytest.mark.parametrize(("row", "col"), [(0, 0), (31, 40), (133 - SIZE, 140 - SIZE)])
def test_round_trip(row: int, col: int) -> None:
    tile = cut(layers_of(), row, col, SIZE)
    members = encode(tile)
    assert sorted(members) == ["aux.b2", "dist.zst", "geo.bin", "hh.b2", "hv.b2", "json", "lab.zst"]
    assert all(isinstance(value, bytes) for value in members.values())
    assert_same(tile, decode(tile.key, members))
    assert encode(decode(tile.key, members)) == members


def test_round_trip_without_chart_and_weather() -> None:
    layers = replace(layers_of(), labels=None, coarse=np.zeros((20, 0, 0), np.float32), time=None, ice_service=None)
    tile = cut(layers, 3, 4, SIZE)
    assert tile.lab is None
    assert tile.class_counts() == {}
    assert tile.time is None
    members = encode(tile)
    assert "lab.zst" not in members
    assert_same(tile, decode(tile.key, members))


def test_cut_takes_the_window() -> None:
    layers = layers_of()
    tile = cut(layers, 30, 50, SIZE)
    window = np.s_[30 : 30 + SIZE, 50 : 50 + SIZE]
    np.testing.assert_allclose(decode_sar(tile.hh), layers.sar["hh"][window], atol=0.026)
    np.testing.assert_allclose(decode_sar(tile.hv), layers.sar["hv"][window], atol=0.026)
    np.testing.assert_array_equal(tile.dist, layers.distance[window])
    assert layers.labels is not None
    np.testing.assert_array_equal(tile.lab, layers.labels[(slice(None), *window)])
    assert (tile.scene, tile.factor, tile.row, tile.col) == (layers.scene, 3, 30, 50)
    assert (tile.pixel_spacing, tile.simulated, tile.ice_service) == (120, True, "cis")
    assert tile.time is not None
    assert datetime.fromisoformat(tile.time) == layers.time


def test_beyond_the_scene_there_is_no_data() -> None:
    layers = layers_of((90, 120))  # 30 x 40 at factor 3
    tile = cut(layers, 0, 0, SIZE)
    assert tile.hh.shape == (SIZE, SIZE)
    assert (tile.hh[30:] == 0).all()
    assert (tile.hv[:, 40:] == 0).all()
    assert (tile.dist[30:] == 255).all()
    assert tile.lab is not None
    assert (tile.lab[:, :, 40:] == 255).all()
    assert (tile.hv[:30, :40] > 0).all()


def test_backscatter_is_stored_to_within_half_a_step() -> None:
    decibels = np.random.default_rng(0).uniform(-60, 40, 200_000).astype(np.float32)
    decibels[:4] = -60, 40, -59.975, 39.975
    assert np.abs(decode_sar(encode_sar(decibels)) - decibels).max() < 0.026


def test_backscatter_beyond_the_codes() -> None:
    codes = encode_sar(np.array([np.nan, -np.inf, -100, -60, -59.95, 40, 41, 400], np.float32))
    assert codes.dtype == np.uint16
    assert codes.tolist() == [0, 1, 1, 1, 2, 2001, 2001, 2001]
    np.testing.assert_array_equal(decode_sar(codes[[0, 1, 5]]), np.array([np.nan, -60, 40], np.float32))


def test_coarse_channels_are_stored_to_within_a_hundredth() -> None:
    coarse = layers_of().coarse.astype(np.float64)
    coarse[:, 0, 0] = np.nan
    found = decode_coarse(encode_coarse(coarse))
    assert np.isnan(found[:, 0, 0]).all()
    assert np.isfinite(found[:, 1:]).all()
    error = np.nanmax(np.abs(found - coarse), axis=(1, 2))
    for name, largest in zip(COARSE, error, strict=True):
        assert largest <= CHANNELS[name].scale / 2 + 1e-9
        assert largest < 0.01
    # Out of range is the end of the range, not a wrapped code.
    extreme = np.full((20, 1, 2), 1e6)
    extreme[:, 0, 1] = -1e6
    assert encode_coarse(extreme)[:, 0].tolist() == [[65535, 1]] * 20


@pytest.mark.parametrize("factor", [1, 2, 3, 7])
def test_coarse_windows_interpolate_as_the_whole_grid_does(factor: int) -> None:
    """The oracle brings the scene's whole 2 km grid to full resolution by scipy, and picks the tile's pixels."""
    shape = (430 * factor // 2 + 50, 410 * factor // 2 + 70)
    layers = layers_of(shape, factor)
    cells = [(np.arange(n) * 50 + 24.5) for n in layers.coarse.shape[1:]]
    whole = RegularGridInterpolator(tuple(cells), np.moveaxis(layers.coarse.astype(np.float64), 0, -1))
    random = np.random.default_rng(factor)
    last = [n - SIZE for n in layers.shape]
    corners = [(0, 0), (last[0], last[1]), (0, last[1])]
    corners += [(int(random.integers(last[0])), int(random.integers(last[1]))) for _ in range(5)]
    for row, col in corners:
        tile = cut(layers, row, col, SIZE)
        rows = interpolation_matrix(tile.aux_rows, SIZE, clamp=True)
        columns = interpolation_matrix(tile.aux_cols, SIZE, clamp=True)
        found = np.einsum("ri,cij,sj->crs", rows, decode_coarse(tile.aux), columns)
        # Full-resolution position of the pixels' centres; beyond the outermost cells the edge is held.
        lines, samples = (
            np.clip(factor * (first + np.arange(SIZE)) + (factor - 1) / 2, centres[0], centres[-1])
            for first, centres in zip((row, col), cells, strict=True)
        )
        expected = np.moveaxis(whole(np.stack(np.meshgrid(lines, samples, indexing="ij"), axis=-1)), -1, 0)
        assert np.abs(found - expected).max() < 0.01
        # The window is no larger than it must be.
        needed = math.ceil(SIZE * factor / 50) + 2
        assert max(tile.aux.shape[1:]) <= needed


@pytest.mark.parametrize("factor", [1, 2, 5])
def test_positions_are_kept_to_within_ten_metres(factor: int) -> None:
    """Across the date line, at the centre of each pixel, against the projection that the scene was laid out in."""
    layers = layers_of((10_000, 10_400), 50)
    layers = replace(layers, factor=factor, step=factor, pixel_spacing=40.0 * factor)
    size, ellipsoid = 256, pyproj.Geod(ellps="sphere")
    plane = pyproj.Proj(proj="stere", lat_0=72, lon_0=179)
    for row, col in ((0, 0), (10_000 // factor - size, 10_400 // factor - size), (611, 903)):
        tile = decode("key", encode(cut(layers, row, col, size)))
        rows = interpolation_matrix(tile.geo_rows, size, clamp=False).astype(np.float64)
        columns = interpolation_matrix(tile.geo_cols, size, clamp=False).astype(np.float64)
        vectors = unit_vectors(tile.geo[0].astype(np.float64), tile.geo[1].astype(np.float64))
        latitude, longitude = positions(np.einsum("ri,ijx,sj->rsx", rows, vectors, columns))
        line, sample_ = (factor * (first + np.arange(size)) + (factor - 1) / 2 for first in (row, col))
        true = plane(*place(*np.meshgrid(line, sample_, indexing="ij")), inverse=True)
        _, _, distance = ellipsoid.inv(longitude, latitude, *true)
        assert distance.max() < 10
        incidence = np.einsum("ri,ij,sj->rs", rows, tile.geo[2], columns)
        np.testing.assert_allclose(incidence, np.tile(20 + sample_ / 20, (size, 1)), atol=1e-2 * 5)
        assert max(tile.geo.shape[1:]) <= math.ceil(size * factor / 500) + 2


@pytest.mark.parametrize("factor", [2, 7])
def test_positions_are_those_of_the_whole_grid(factor: int) -> None:
    """Against interpolating all 21 x 21 points of a scene that holds the pole, as unit vectors, at full resolution."""
    plane = pyproj.Proj(proj="stere", lat_0=89, lon_0=20)
    lines, samples = np.linspace(0, 9984, 21), np.linspace(0, 10371, 21)
    longitude, latitude = plane(*place(*np.meshgrid(lines - 5000, samples - 5000, indexing="ij")), inverse=True)
    geo = GeoGrid(lines, samples, latitude, longitude, np.tile(20 + samples / 400, (21, 1)))
    shape = (9985 // factor, 10372 // factor)
    layers = replace(
        layers_of((10_000, 10_400), 50),
        factor=factor,
        step=factor,
        pixel_spacing=40.0 * factor,
        geo=geo,
    )
    whole = RegularGridInterpolator((lines, samples), unit_vectors(latitude, longitude))
    size, ellipsoid = 128, pyproj.Geod(ellps="sphere")
    random = np.random.default_rng(factor)
    for row, col in random.integers(8, np.array(shape) - size - 8, (8, 2)).tolist():
        tile = decode("key", encode(cut(layers, row, col, size)))
        rows = interpolation_matrix(tile.geo_rows, size, clamp=False).astype(np.float64)
        columns = interpolation_matrix(tile.geo_cols, size, clamp=False).astype(np.float64)
        vectors = unit_vectors(tile.geo[0].astype(np.float64), tile.geo[1].astype(np.float64))
        found = positions(np.einsum("ri,ijx,sj->rsx", rows, vectors, columns))
        at = (factor * (first + np.arange(size)) + (factor - 1) / 2 for first in (row, col))
        expected = positions(whole(np.stack(np.meshgrid(*at, indexing="ij"), axis=-1)))
        _, _, distance = ellipsoid.inv(found[1], found[0], expected[1], expected[0])
        assert distance.max() < 10


def test_interpolation_matrix_of_few_points() -> None:
    assert interpolation_matrix(np.array([]), 4, clamp=True).shape == (4, 0)
    assert interpolation_matrix(np.array([7.0]), 3, clamp=True).tolist() == [[1], [1], [1]]
    held = interpolation_matrix(np.array([1.0, 3.0]), 5, clamp=True)
    np.testing.assert_allclose(held, [[1, 0], [1, 0], [0.5, 0.5], [0, 1], [0, 1]])
    on = interpolation_matrix(np.array([1.0, 3.0]), 5, clamp=False)
    np.testing.assert_allclose(on @ [1.0, 3.0], np.arange(5))


def test_class_counts_are_those_of_the_labels() -> None:
    tile = cut(layers_of((90, 120)), 0, 0, SIZE)
    assert tile.lab is not None
    counts = tile.class_counts()
    for plane, (chart, n) in zip(tile.lab, {"SIC": 11, "SOD": 6, "FLOE": 7}.items(), strict=True):
        assert counts[chart] == [int((plane == value).sum()) for value in (*range(n), 255)]


def test_metadata_is_plain_json() -> None:
    tile = cut(layers_of(), 5, 6, SIZE)
    meta = json.loads(encode(tile)["json"])
    assert meta["scene"] == scenes.RAW_NAME
    assert (meta["factor"], meta["row"], meta["col"], meta["pixel_spacing"]) == (3, 5, 6, 120)
    assert meta["time"] == "2018-07-21T12:01:56+00:00"
    assert meta["valid"] == int((np.isfinite(decode_sar(tile.hh)) | np.isfinite(decode_sar(tile.hv))).sum())
    assert meta["counts"] == tile.class_counts()


@pytest.mark.parametrize(
    ("member", "change", "message"),
    [
        ("hh.b2", None, "member hh.b2 cannot be decoded"),
        ("json", None, "member json cannot be decoded"),
        ("hv.b2", b"", "member hv.b2 cannot be decoded"),
        ("hv.b2", b"no blosc at all, but long enough", "member hv.b2 cannot be decoded"),
        ("dist.zst", b"\0" * 9, "member dist.zst cannot be decoded"),
        ("lab.zst", b"", "member lab.zst cannot be decoded"),
        ("geo.bin", b"\0" * 12, "member geo.bin cannot be decoded"),
        ("aux.b2", b"", "member aux.b2 cannot be decoded"),
        ("json", b'{"schema": 99}', "schema version 99, this program reads 2"),
    ],
)
def test_damaged_members_are_named(member: str, change: bytes | None, message: str) -> None:
    members = encode(cut(layers_of(), 0, 0, SIZE))
    if change is None:
        del members[member]
    else:
        members[member] = change
    with pytest.raises(ShardError, match=rf"^sample some_key: {message}"):
        decode("some_key", members)


@pytest.mark.parametrize("size", [SIZE // 2, 2 * SIZE])
def test_members_of_another_size_are_refused(size: int) -> None:
    members = encode(cut(layers_of(), 0, 0, SIZE))
    members["hh.b2"] = encode(cut(layers_of(), 0, 0, size))["hh.b2"]
    with pytest.raises(ShardError, match=r"member hh\.b2 cannot be decoded"):
        decode("key", members)


def in_tar(*tiles: Tile) -> bytes:
    file = io.BytesIO()
    with webdataset.TarWriter(file, encoder=False, mtime=0) as writer:
        for tile in tiles:
            writer.write({"__key__": tile.key, **encode(tile)})
    return file.getvalue()


def test_split_members_reads_what_webdataset_writes() -> None:
    tile = cut(layers_of(), 0, 0, SIZE)
    data = in_tar(tile)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        names = [member.name for member in members]
        end = members[-1].offset_data + (members[-1].size + 511) // 512 * 512
    assert names == [f"{tile.key}.{name}" for name in sorted(encode(tile))]
    key, found = sample.split_members(data[:end])
    assert key == tile.key
    assert found == encode(tile)


def test_split_members_refuses_what_is_no_sample() -> None:
    one, two = (cut(layers_of(), row, 0, SIZE) for row in (0, 1))
    data = in_tar(one, two)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        starts = [member.offset for member in members]
    length = starts[7]  # the second sample's first header
    sample.split_members(data[:length])
    for wrong, message in (
        (data[: 2 * length], "holds the keys"),
        (data[512 : 512 + length], "no tar header"),
        (data[: length - 512], "expected one"),
        (data[: length + 100], "holds the keys|no tar header"),
        (b"", "expected one"),
        (bytes(1024), "no tar header"),
        (data[:124] + b"-0000001000\0" + data[136:length], "no tar header"),
    ):
        with pytest.raises(ShardError, match=message):
            sample.split_members(wrong)


@pytest.mark.parametrize("scene", [scenes.RAW_NAME, "x" * 200, "a.b.c", "Grönland 3/4", "søndag_k02_1_2"])
def test_keys_fit_a_tar_header_and_hold_no_dot(scene: str) -> None:
    key = tile_key(scene, 10, 99_999, 99_999)
    assert len(f"{key}.dist.zst") <= 100
    assert key.isascii()
    assert not set(key) & set("./ ")


def test_keys_are_unique() -> None:
    keys = {
        tile_key(scene, factor, row, col)
        for scene in (scenes.RAW_NAME, scenes.RAW_NAME + "b", "a.b", "a-b")
        for factor in (2, 10, 100)
        for row in (0, 10)
        for col in (0, 10)
    }
    assert len(keys) == 48


def test_stock_webdataset_sees_every_member(tmp_path: Path) -> None:
    """What `tests/unit/shards` checks for built shards, here for one whose tiles are at hand."""
    path = scenes.write_raw(tmp_path / f"{scenes.RAW_NAME}.nc")
    with open_scene(path) as scene:
        (layers,) = read_layers(scene, [4])
    tiles = {tile.key: tile for tile in (cut(layers, row, col, SIZE) for row in (0, 64) for col in (0, 64))}
    (tmp_path / "a.tar").write_bytes(in_tar(*tiles.values()))
    found = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [item["__key__"] for item in found] == list(tiles)
    for item in found:
        members = {name: value for name, value in item.items() if not name.startswith("__")}
        assert_same(decode(item["__key__"], members), tiles[item["__key__"]])
