"""Random fields: unit variance, the same whatever the block, smooth at their spacing."""

from __future__ import annotations

import numpy as np
import pytest

from shards.simulation.noise import Extent, Fractal, SmoothNoise, generator, low_discrepancy, upsample

EXTENT = Extent(0, 0, 400, 400)
ALL = np.arange(400.0)


def test_unit_variance() -> None:
    noise = SmoothNoise(generator(1), 4, EXTENT)(ALL, ALL)
    assert noise.dtype == np.float32
    assert noise.shape == (400, 400)
    assert noise.mean() == pytest.approx(0, abs=0.05)
    assert noise.std() == pytest.approx(1, abs=0.05)
    assert Fractal(generator(2), 16, EXTENT, 3)(ALL, ALL).std() == pytest.approx(1, abs=0.1)


def test_a_block_sees_the_same_field_as_the_whole() -> None:
    noise = Fractal(generator(3), 30, EXTENT, 3)
    whole = noise(ALL, ALL)
    assert np.array_equal(noise(ALL[100:130], ALL[7:300:5]), whole[100:130, 7:300:5])


def test_neighbours_resemble_each_other_and_distant_places_do_not() -> None:
    noise = SmoothNoise(generator(4), 10, EXTENT)(ALL, ALL)
    near = np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]
    far = np.corrcoef(noise[:, :-60].ravel(), noise[:, 60:].ravel())[0, 1]
    assert near > 0.95
    assert abs(far) < 0.1


def test_upsample_is_bilinear() -> None:
    rows, columns = np.mgrid[0:5, 0:4]
    plane = (3 * rows - 2 * columns).astype(np.float32)
    at, across = np.array([0.0, 7.0, 15.5, 40.0]), np.array([1.0, 29.9])
    fine = upsample(plane, 10, at, across)
    assert fine == pytest.approx(3 * at[:, None] / 10 - 2 * across[None, :] / 10, abs=1e-5)


def test_low_discrepancy_fills_the_interval_more_evenly_than_chance() -> None:
    for dimension in range(8):
        for seed in range(3):
            points = [low_discrepancy(place, dimension, seed) for place in range(50)]
            counts, _ = np.histogram(points, 10, (0, 1))
            assert counts.min() >= 3, dimension
            assert counts.max() <= 7, dimension
