import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from arcticseg.ice import resample

SHAPES = [((12, 20), 2), ((13, 22), 3), ((41, 37), 10), ((300, 9), 2), ((7, 5), 1)]


def blocks(array: np.ndarray, factor: int, of_block: Callable[[np.ndarray], float]) -> np.ndarray:
    """A value for each whole block, one at a time."""
    rows, columns = array.shape[0] // factor, array.shape[1] // factor
    out = np.empty((rows, columns))
    for i in range(rows):
        for j in range(columns):
            out[i, j] = of_block(array[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor].ravel())
    return out


def holed(shape: tuple[int, int], seed: int = 0, share: float = 0.4) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = random.normal(-15, 5, shape).astype(np.float32)
    values[random.random(shape) < share] = np.nan
    values[: shape[0] // 3, : shape[1] // 3] = np.nan
    return values


@pytest.mark.parametrize(("shape", "factor"), SHAPES)
@pytest.mark.parametrize("min_valid", [0.0, 0.5, 1.0])
def test_block_mean_is_over_finite_values(shape: tuple[int, int], factor: int, min_valid: float) -> None:
    values = holed(shape)

    def mean(block: np.ndarray) -> float:
        finite = [float(value) for value in block if math.isfinite(value)]
        return math.fsum(finite) / len(finite) if finite and len(finite) >= min_valid * len(block) else math.nan

    found = resample.block_mean(values, factor, min_valid)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, blocks(values, factor, mean), rtol=1e-6)


@pytest.mark.parametrize("min_valid", [0.07, 0.29, 0.56])
def test_a_block_with_exactly_the_share_has_a_mean(min_valid: float) -> None:
    block = np.full((10, 10), np.nan, np.float32)
    block.ravel()[: round(100 * min_valid)] = 1
    assert resample.block_mean(block, 10, min_valid)[0, 0] == 1
    block.ravel()[0] = np.nan
    assert np.isnan(resample.block_mean(block, 10, min_valid)[0, 0])


@pytest.mark.parametrize(("shape", "factor"), SHAPES)
def test_linear_average_is_the_mean_of_power(shape: tuple[int, int], factor: int) -> None:
    values = holed(shape, share=0.1)
    values[::4, ::3] = -np.inf  # zero power is data

    def mean(block: np.ndarray) -> float:
        powers = [10 ** (float(value) / 10) for value in block if not math.isnan(value)]
        if 2 * len(powers) < len(block) or not powers:
            return math.nan
        power = math.fsum(powers) / len(powers)
        return 10 * math.log10(power) if power else -math.inf

    np.testing.assert_allclose(resample.block_mean_db(values, factor), blocks(values, factor, mean), rtol=1e-5)


def test_average_of_decibels() -> None:
    values = np.array([[-10, -20], [np.nan, -30]], np.float32)
    assert resample.block_mean_db(values, 2, average="db")[0, 0] == -20
    # Zero power has no decibels: two values are left of four.
    values[0, 0] = -np.inf
    assert resample.block_mean_db(values, 2, average="db")[0, 0] == -25
    with pytest.raises(ValueError, match="average must be"):
        resample.block_mean_db(values, 2, average="power")


def test_all_zero_power_stays_zero_power() -> None:
    assert resample.block_mean_db(np.full((4, 4), -np.inf, np.float32), 2)[0, 0] == -np.inf


@pytest.mark.parametrize(("shape", "factor"), SHAPES)
def test_majority_is_of_labelled_pixels_and_the_lower_class_wins_a_tie(shape: tuple[int, int], factor: int) -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 4, shape).astype(np.uint8)
    labels[random.random(shape) < 0.5] = 255

    def vote(block: np.ndarray) -> int:
        votes = Counter(int(value) for value in block if value != 255)
        return min(votes, key=lambda value: (-votes[value], value), default=255)

    found = resample.block_majority(labels, factor, 4)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, blocks(labels, factor, vote))


def test_a_tied_majority() -> None:
    labels = np.array([[3, 1], [255, 255], [5, 2], [2, 5]], np.uint8)
    assert resample.block_majority(labels, 2, 6).tolist() == [[1], [2]]


@pytest.mark.parametrize(("shape", "factor"), SHAPES)
def test_maximum_lets_the_masked_pixel_win(shape: tuple[int, int], factor: int) -> None:
    random = np.random.default_rng(2)
    labels = random.integers(0, 6, shape).astype(np.uint8)
    labels[random.random(shape) < 0.1] = 255
    np.testing.assert_array_equal(resample.block_maximum(labels, factor), blocks(labels, factor, max))


@pytest.mark.parametrize(("shape", "factor"), SHAPES)
def test_nearest_is_the_centre(shape: tuple[int, int], factor: int) -> None:
    labels = np.random.default_rng(3).integers(0, 250, shape).astype(np.uint8)
    centre = factor // 2
    expected = blocks(labels, factor, lambda block: block[centre * factor + centre])
    np.testing.assert_array_equal(resample.block_nearest(labels, factor), expected)


@pytest.mark.parametrize(("shape", "factor"), SHAPES)
def test_zone_is_the_rounded_mean(shape: tuple[int, int], factor: int) -> None:
    random = np.random.default_rng(4)
    zones = random.integers(0, 42, shape).astype(np.float32)
    zones[random.random(shape) < 0.5] = np.nan

    def zone(block: np.ndarray) -> int:
        finite = [value for value in block if not math.isnan(value)]
        return round(float(np.float32(math.fsum(finite) / len(finite)))) if finite else 255

    found = resample.block_zone(zones, factor)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, blocks(zones, factor, zone))


def test_coarse_shape_counts_whole_blocks() -> None:
    assert resample.coarse_shape((9985, 10372), 10) == (998, 1037)
