import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arcticseg.ice import resample

SHAPES = [((12, 20), 2), ((13, 22), 3), ((41, 37), 10), ((300, 9), 2), ((7, 5), 1)]
FACTORS = tuple(range(1, 11))


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


def mean_of(block: np.ndarray, min_valid: float) -> float:
    finite = [float(value) for value in block if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite and len(finite) >= min_valid * len(block) else math.nan


def decibels_of(block: np.ndarray, min_valid: float = 0.5) -> float:
    powers = [10 ** (float(value) / 10) for value in block if not math.isnan(value)]
    if len(powers) < min_valid * len(block) or not powers:
        return math.nan
    power = math.fsum(powers) / len(powers)
    return 10 * math.log10(power) if power else -math.inf


def vote_of(block: np.ndarray) -> int:
    votes = Counter(int(value) for value in block if value != 255)
    return min(votes, key=lambda value: (-votes[value], value), default=255)


def by_bytes(labels: np.ndarray, factor: int, how: str) -> np.ndarray:
    """`block_labels` of one plane of labels."""
    every = np.arange(256, dtype=np.uint8)[:, None]
    found = resample.block_labels(labels, every, [factor], how)[factor]
    assert found.dtype == np.uint8
    return found[0]


@pytest.mark.parametrize(("shape", "factor"), SHAPES)
@pytest.mark.parametrize("min_valid", [0.0, 0.5, 1.0])
def test_means_are_over_finite_values(shape: tuple[int, int], factor: int, min_valid: float) -> None:
    values = holed(shape)
    found = resample.block_means(values, [factor], min_valid)[factor]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, blocks(values, factor, lambda block: mean_of(block, min_valid)), rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    factors=st.sets(st.integers(1, 30), min_size=1, max_size=6),
    min_valid=st.floats(0, 1),
    holes=st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]),
    window=st.sampled_from([1, 12, 1080]),
    n_threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
@example((61, 67), {2, 4, 8, 6, 10}, 0.3, 0.5, 12, 2, 0)
def test_a_pyramid_equals_brute_force(
    shape: tuple[int, int],
    factors: set[int],
    min_valid: float,
    holes: float,
    window: int,
    n_threads: int,
    seed: int,
) -> None:
    """Means of values and of power, majority, maximum: whatever the factors share, as if each were alone."""
    random = np.random.default_rng(seed)
    values = holed(shape, seed, holes)
    zero = values.copy()
    zero[random.random(shape) < 0.1] = -np.inf
    index = random.integers(0, 7, shape).astype(np.uint8)
    # Most blocks of a chart are of one kind.
    index[: shape[0] // 2] = 3
    classes = random.integers(0, 5, (7, 3)).astype(np.uint8)
    classes[random.random((7, 3)) < 0.3] = 255
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resample, "_WINDOW", window)
        patch.setattr(resample, "_SHARED", window)
        means = resample.block_means(values, factors, min_valid, n_threads=n_threads)
        power = resample.block_means_db(zero, factors, min_valid, n_threads=n_threads)
        labels = {
            how: resample.block_labels(index, classes, factors, how, n_threads) for how in ("majority", "maximum")
        }
    assert set(means) == set(power) == set(labels["majority"]) == set(labels["maximum"]) == factors
    for factor in factors:
        # The count that is needed is rounded up with a tolerance: see the test of exact shares below.
        least = math.ceil(min_valid * factor**2 - 1e-9) / factor**2
        expected = blocks(values, factor, lambda block, least=least: mean_of(block, least))
        np.testing.assert_allclose(means[factor], expected, rtol=2e-6)
        expected = blocks(zero, factor, lambda block, least=least: decibels_of(block, least))
        np.testing.assert_allclose(power[factor], expected, rtol=1e-5, atol=1e-5)
        for plane, of_row, largest in zip(
            labels["majority"][factor], classes.T, labels["maximum"][factor], strict=True
        ):
            np.testing.assert_array_equal(plane, blocks(of_row[index], factor, vote_of))
            np.testing.assert_array_equal(largest, blocks(of_row[index], factor, max))


def test_factors_are_made_from_their_largest_divisor() -> None:
    assert resample.parents(range(2, 11)) == {2: 1, 3: 1, 4: 2, 5: 1, 6: 3, 7: 1, 8: 4, 9: 3, 10: 5}
    assert resample.parents([10, 4, 1, 4]) == {1: 1, 4: 1, 10: 1}


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resample, "_WINDOW", 60)
    values = holed((605, 490), share=0.1)
    one, three = (resample.block_means_db(values, FACTORS, n_threads=n) for n in (1, 3))
    for factor in FACTORS:
        assert one[factor].tobytes() == three[factor].tobytes()


@pytest.mark.parametrize("min_valid", [0.07, 0.29, 0.56])
def test_a_block_with_exactly_the_share_has_a_mean(min_valid: float) -> None:
    block = np.full((10, 10), np.nan, np.float32)
    block.ravel()[: round(100 * min_valid)] = 1
    assert resample.block_means(block, [10], min_valid)[10][0, 0] == 1
    block.ravel()[0] = np.nan
    assert np.isnan(resample.block_means(block, [10], min_valid)[10][0, 0])


@pytest.mark.parametrize(("shape", "factor"), SHAPES)
def test_linear_average_is_the_mean_of_power(shape: tuple[int, int], factor: int) -> None:
    values = holed(shape, share=0.1)
    values[::4, ::3] = -np.inf  # zero power is data
    found = resample.block_means_db(values, [factor])[factor]
    np.testing.assert_allclose(found, blocks(values, factor, decibels_of), rtol=1e-5)


def test_average_of_decibels() -> None:
    values = np.array([[-10, -20], [np.nan, -30]], np.float32)
    assert resample.block_means_db(values, [2], average="db")[2][0, 0] == -20
    # Zero power has no decibels: two values are left of four.
    values[0, 0] = -np.inf
    assert resample.block_means_db(values, [2], average="db")[2][0, 0] == -25
    with pytest.raises(ValueError, match="average must be"):
        resample.block_means_db(values, [2], average="power")


def test_all_zero_power_stays_zero_power() -> None:
    assert resample.block_means_db(np.full((4, 4), -np.inf, np.float32), [2])[2][0, 0] == -np.inf


def test_what_was_given_is_not_changed() -> None:
    values = holed((40, 40))
    before = values.copy()
    resample.block_means_db(values, FACTORS)
    resample.block_means(values, FACTORS)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize(("shape", "factor"), SHAPES)
def test_majority_is_of_labelled_pixels_and_the_lower_class_wins_a_tie(shape: tuple[int, int], factor: int) -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 4, shape).astype(np.uint8)
    labels[random.random(shape) < 0.5] = 255
    np.testing.assert_array_equal(by_bytes(labels, factor, "majority"), blocks(labels, factor, vote_of))


def test_a_tied_majority() -> None:
    labels = np.array([[3, 1], [255, 255], [5, 2], [2, 5]], np.uint8)
    assert by_bytes(labels, 2, "majority").tolist() == [[1], [2]]


@pytest.mark.parametrize(("shape", "factor"), SHAPES)
def test_maximum_lets_the_masked_pixel_win(shape: tuple[int, int], factor: int) -> None:
    random = np.random.default_rng(2)
    labels = random.integers(0, 6, shape).astype(np.uint8)
    labels[random.random(shape) < 0.1] = 255
    np.testing.assert_array_equal(by_bytes(labels, factor, "maximum"), blocks(labels, factor, max))


@pytest.mark.parametrize(("shape", "factor"), SHAPES)
def test_nearest_is_the_centre(shape: tuple[int, int], factor: int) -> None:
    labels = np.random.default_rng(3).integers(0, 250, shape).astype(np.uint8)
    centre = factor // 2
    expected = blocks(labels, factor, lambda block: block[centre * factor + centre])
    np.testing.assert_array_equal(by_bytes(labels, factor, "nearest"), expected)


@pytest.mark.parametrize(("shape", "factor"), SHAPES)
def test_zone_is_the_rounded_mean(shape: tuple[int, int], factor: int) -> None:
    random = np.random.default_rng(4)
    zones = random.integers(0, 42, shape).astype(np.float32)
    zones[random.random(shape) < 0.5] = np.nan

    def zone(block: np.ndarray) -> int:
        finite = [value for value in block if not math.isnan(value)]
        return round(float(np.float32(math.fsum(finite) / len(finite)))) if finite else 255

    found = resample.block_zones(zones, [factor])[factor]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, blocks(zones, factor, zone))
