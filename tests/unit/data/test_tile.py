import math
from dataclasses import replace
from datetime import datetime

import numpy as np
import pyproj
import pytest
from imagined import layers_of, place
from scipy.interpolate import RegularGridInterpolator

from arcticseg.data.sample import decode, encode
from arcticseg.data.tile import (
    cut,
    decode_coarse,
    decode_sar,
    encode_coarse,
    encode_sar,
    interpolation_matrix,
    tile_key,
)
from arcticseg.ice.channels import CHANNELS, COARSE
from arcticseg.ice.geo import GeoGrid, positions, unit_vectors
from tests import scenes

SIZE = 64


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
    stored = decode_coarse(encode_coarse(coarse))
    assert np.isnan(stored[:, 0, 0]).all()
    assert np.isfinite(stored[:, 1:]).all()
    error = np.nanmax(np.abs(stored - coarse), axis=(1, 2))
    for name, largest in zip(COARSE, error, strict=True):
        assert largest <= CHANNELS[name].scale / 2 + 1e-9
        assert largest < 0.01
    # A value out of range becomes the end of the range, not a wrapped code.
    extreme = np.full((20, 1, 2), 1e6)
    extreme[:, 0, 1] = -1e6
    assert encode_coarse(extreme)[:, 0].tolist() == [[65535, 1]] * 20


@pytest.mark.parametrize("factor", [1, 2, 3, 7])
def test_coarse_windows_interpolate_as_the_whole_grid_does(factor: int) -> None:
    """Against scipy, which interpolates the scene's whole 2 km grid at the positions of the tile's pixels."""
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
        values = np.einsum("ri,cij,sj->crs", rows, decode_coarse(tile.aux), columns)
        # Full-resolution position of the pixels' centres; beyond the outermost cells the edge is held.
        lines, samples = (
            np.clip(factor * (first + np.arange(SIZE)) + (factor - 1) / 2, centres[0], centres[-1])
            for first, centres in zip((row, col), cells, strict=True)
        )
        expected = np.moveaxis(whole(np.stack(np.meshgrid(lines, samples, indexing="ij"), axis=-1)), -1, 0)
        assert np.abs(values - expected).max() < 0.01
        # The window is not larger than it must be.
        needed = math.ceil(SIZE * factor / 50) + 2
        assert max(tile.aux.shape[1:]) <= needed


@pytest.mark.parametrize("factor", [1, 2, 5])
def test_positions_are_kept_to_within_ten_metres(factor: int) -> None:
    """Across the date line, at the centre of each pixel, against the projection that gave the scene its positions."""
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
        line, sample = (factor * (first + np.arange(size)) + (factor - 1) / 2 for first in (row, col))
        true = plane(*place(*np.meshgrid(line, sample, indexing="ij")), inverse=True)
        _, _, distance = ellipsoid.inv(longitude, latitude, *true)
        assert distance.max() < 10
        incidence = np.einsum("ri,ij,sj->rs", rows, tile.geo[2], columns)
        np.testing.assert_allclose(incidence, np.tile(20 + sample / 400, (size, 1)), atol=1e-2 * 5)
        assert max(tile.geo.shape[1:]) <= math.ceil(size * factor / 500) + 2


@pytest.mark.parametrize("factor", [2, 7])
def test_positions_are_those_of_the_whole_grid(factor: int) -> None:
    """Against all 21 x 21 points of a scene that contains the pole, interpolated as unit vectors at full resolution."""
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
        latitude, longitude = positions(np.einsum("ri,ijx,sj->rsx", rows, vectors, columns))
        at = (factor * (first + np.arange(size)) + (factor - 1) / 2 for first in (row, col))
        expected = positions(whole(np.stack(np.meshgrid(*at, indexing="ij"), axis=-1)))
        _, _, distance = ellipsoid.inv(longitude, latitude, expected[1], expected[0])
        assert distance.max() < 10


def test_interpolation_matrix_of_few_points() -> None:
    assert interpolation_matrix(np.array([]), 4, clamp=True).shape == (4, 0)
    assert interpolation_matrix(np.array([7.0]), 3, clamp=True).tolist() == [[1], [1], [1]]
    held = interpolation_matrix(np.array([1.0, 3.0]), 5, clamp=True)
    np.testing.assert_allclose(held, [[1, 0], [1, 0], [0.5, 0.5], [0, 1], [0, 1]])
    extended = interpolation_matrix(np.array([1.0, 3.0]), 5, clamp=False)
    np.testing.assert_allclose(extended @ [1.0, 3.0], np.arange(5))


def test_class_counts_are_those_of_the_labels() -> None:
    tile = cut(layers_of((90, 120)), 0, 0, SIZE)
    assert tile.lab is not None
    counts = tile.class_counts()
    for plane, (chart, n) in zip(tile.lab, {"SIC": 11, "SOD": 6, "FLOE": 7}.items(), strict=True):
        assert counts[chart] == [int((plane == value).sum()) for value in (*range(n), 255)]


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
