import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arcticseg.ice import resample
from arcticseg.ice.indexed import COMBINATIONS, IndexedChart, index_planes
from arcticseg.ice.partials import PolygonRow

SHAPES = [((12, 20), 2), ((13, 22), 3), ((41, 37), 10), ((300, 9), 2), ((7, 5), 1)]
FACTORS = tuple(range(1, 11))


def blocks(array: np.ndarray, factor: int, of_block: Callable[[np.ndarray], float]) -> np.ndarray:
    """A value for each whole block, block by block."""
    rows, columns = array.shape[0] // factor, array.shape[1] // factor
    values = np.empty((rows, columns))
    for i in range(rows):
        for j in range(columns):
            values[i, j] = of_block(array[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor].ravel())
    return values


def holed(shape: tuple[int, int], seed: int = 0, share: float = 0.4) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = random.normal(-15, 5, shape).astype(np.float32)
    values[random.random(shape) < share] = np.nan
    values[: shape[0] // 3, : shape[1] // 3] = np.nan
    return values


def mean_of(block: np.ndarray, min_valid: float) -> float:
    finite = [float(value) for value in block if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite and len(finite) >= min_valid * len(block) else math.nan


def decibels_of(block: np.ndarray) -> float:
    powers = [10 ** (float(value) / 10) for value in block if not math.isnan(value)]
    if len(powers) < 0.5 * len(block) or not powers:
        return math.nan
    power = math.fsum(powers) / len(powers)
    return 10 * math.log10(power) if power else -math.inf


def vote_of(block: np.ndarray) -> int:
    votes = Counter(int(value) for value in block if value != 255)
    return min(votes, key=lambda value: (-votes[value], value), default=255)


def pixels_of(array: np.ndarray, factor: int) -> np.ndarray:
    """The pixels of each whole block, [rows, columns, factor * factor]; numbers as float64."""
    rows, columns = array.shape[0] // factor, array.shape[1] // factor
    whole = array[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    pixels = whole.swapaxes(1, 2).reshape(rows, columns, factor * factor)
    return pixels.astype(np.float64) if pixels.dtype.kind == "f" else pixels


def mean_of_pixels(pixels: np.ndarray, least: int) -> np.ndarray:
    """Mean over the finite pixels of each block; NaN where there are fewer than `least`."""
    finite = np.isfinite(pixels)
    counts = finite.sum(axis=-1)
    return np.where(counts >= least, np.where(finite, pixels, 0).sum(axis=-1) / np.maximum(counts, 1), np.nan)


def by_bytes(labels: np.ndarray, factor: int, how: str) -> np.ndarray:
    """`block_charts` of a single plane of labels, which is all three of a chart whose polygons are single classes."""
    planes = resample.block_charts(chart_of(labels), [factor], how)[factor].planes()
    assert planes.dtype == np.uint8
    np.testing.assert_array_equal(planes[0], planes[1])
    return planes[0]


def chart_of(index: np.ndarray, classes: np.ndarray | None = None) -> IndexedChart:
    """A chart of polygons 0, 1, ... (255: none), whose classes uint8 [P, 3] are 0 to 5 by default."""
    if classes is None:
        classes = np.repeat(np.arange(6, dtype=np.uint8)[:, None], 3, axis=1)
    rows = np.where(index == 255, len(classes), index).astype(np.uint8)
    table = tuple(PolygonRow(tuple(row)) for row in classes.tolist())
    return IndexedChart(rows, np.vstack([classes, COMBINATIONS]), table)


@pytest.mark.parametrize(("shape", "factor"), SHAPES)
@pytest.mark.parametrize("min_valid", [0.0, 0.5, 1.0])
def test_means_are_over_finite_values(shape: tuple[int, int], factor: int, min_valid: float) -> None:
    values = holed(shape)
    means = resample.block_means(values, [factor], min_valid)[factor]
    assert means.dtype == np.float32
    np.testing.assert_allclose(means, blocks(values, factor, lambda block: mean_of(block, min_valid)), rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    factors=st.sets(st.integers(1, 30), min_size=1, max_size=6),
    min_valid=st.floats(0, 1),
    holes=st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]),
    shared=st.sampled_from([1, 12, 1080]),
    n_threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
@example((61, 67), {2, 4, 8, 6, 10}, 0.3, 0.5, 12, 2, 0)
def test_a_pyramid_equals_the_factors_alone(
    shape: tuple[int, int],
    factors: set[int],
    min_valid: float,
    holes: float,
    shared: int,
    n_threads: int,
    seed: int,
) -> None:
    """Means of values and of power, majority, maximum: the same as for each factor alone."""
    random = np.random.default_rng(seed)
    values = holed(shape, seed, holes)
    zero = values.copy()
    zero[random.random(shape) < 0.1] = -np.inf
    index = random.integers(0, 7, shape).astype(np.uint8)
    # Most blocks of a chart have a single class.
    index[: shape[0] // 2] = 3
    classes = random.integers(0, 5, (7, 3)).astype(np.uint8)
    classes[random.random((7, 3)) < 0.3] = 255
    with pytest.MonkeyPatch.context() as patch:
        # Windows of a few pixels; of a single pixel they would take long.
        patch.setattr(resample, "_WINDOW", max(shared, 6))
        patch.setattr(resample, "_SHARED", shared)
        means = resample.block_means(values, factors, min_valid, n_threads=n_threads)
        power = resample.block_means_db(zero, factors, min_valid, n_threads=n_threads)
        labels = {
            how: resample.block_charts(chart_of(index, classes), factors, how, n_threads)
            for how in ("majority", "maximum")
        }
    assert set(means) == set(power) == set(labels["majority"]) == set(labels["maximum"]) == factors
    for factor in factors:
        # The count that a block needs is rounded up with a tolerance: see the test of exact shares below.
        least = max(1, math.ceil(min_valid * factor**2 - 1e-9))
        np.testing.assert_allclose(means[factor], mean_of_pixels(pixels_of(values, factor), least), rtol=2e-6)
        with np.errstate(divide="ignore"):
            expected = 10 * np.log10(mean_of_pixels(10 ** (pixels_of(zero, factor) / 10), least))
        np.testing.assert_allclose(power[factor], expected, rtol=1e-5, atol=1e-5)
        for plane, of_row, largest in zip(
            labels["majority"][factor].planes(), classes.T, labels["maximum"][factor].planes(), strict=True
        ):
            pixels = pixels_of(of_row[index], factor)
            votes = np.stack([(pixels == value).sum(axis=-1) for value in range(5)])
            np.testing.assert_array_equal(plane, np.where(votes.any(axis=0), votes.argmax(axis=0), 255))
            np.testing.assert_array_equal(largest, pixels.max(axis=-1))


def test_factors_are_made_from_their_largest_divisor() -> None:
    assert resample.parents(range(2, 11)) == {2: 1, 3: 1, 4: 2, 5: 1, 6: 3, 7: 1, 8: 4, 9: 3, 10: 5}
    assert resample.parents([10, 4, 1, 4]) == {1: 1, 4: 1, 10: 1}


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resample, "_WINDOW", 60)
    values = holed((605, 490), share=0.1)
    single, several = (resample.block_means_db(values, FACTORS, n_threads=n) for n in (1, 3))
    for factor in FACTORS:
        assert single[factor].tobytes() == several[factor].tobytes()


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
    means = resample.block_means_db(values, [factor])[factor]
    np.testing.assert_allclose(means, blocks(values, factor, decibels_of), rtol=1e-5)


def test_average_of_decibels() -> None:
    values = np.array([[-10, -20], [np.nan, -30]], np.float32)
    assert resample.block_means_db(values, [2], average="db")[2][0, 0] == -20
    # Zero power has no decibels: two of four values are left.
    values[0, 0] = -np.inf
    assert resample.block_means_db(values, [2], average="db")[2][0, 0] == -25
    with pytest.raises(ValueError, match=r"average.*'power'"):
        resample.block_means_db(values, [2], average="power")


def test_all_zero_power_stays_zero_power() -> None:
    assert resample.block_means_db(np.full((4, 4), -np.inf, np.float32), [2])[2][0, 0] == -np.inf


def test_the_input_is_not_changed() -> None:
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
    labels = np.random.default_rng(3).integers(0, 6, shape).astype(np.uint8)
    centre = factor // 2
    expected = blocks(labels, factor, lambda block: block[centre * factor + centre])
    np.testing.assert_array_equal(by_bytes(labels, factor, "nearest"), expected)


def polygon_of(pixels: list[int], labels: tuple[int, ...], classes: list[tuple[int, ...]]) -> int | None:
    """The polygon with most pixels, the lower number on a tie, of those that have these labels; None: none has."""
    votes = Counter(pixel for pixel in pixels if classes[pixel] == labels)
    return min(votes, key=lambda polygon: (-votes[polygon], polygon), default=None)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    factors=st.sets(st.integers(1, 9), min_size=1, max_size=4),
    how=st.sampled_from(["majority", "maximum", "nearest"]),
    seed=st.integers(0, 1000),
)
def test_the_polygon_of_a_block_has_the_labels_of_the_block(
    shape: tuple[int, int], factors: set[int], how: str, seed: int
) -> None:
    """Pixel by pixel; several polygons have the same labels, and in some blocks no polygon has the block's."""
    random = np.random.default_rng(seed)
    index = random.integers(0, 6, shape).astype(np.uint8)
    index[random.random(shape) < 0.3] = 255
    index[: shape[0] // 2][random.random((shape[0] // 2, shape[1])) < 0.6] = 2
    classes = random.integers(0, 3, (6, 3)).astype(np.uint8)
    classes[random.random((6, 3)) < 0.3] = 255
    classes[5] = classes[2]
    chart = chart_of(index, classes)
    triples = [*map(tuple, classes.tolist()), (255, 255, 255)]
    for factor, reduced in resample.block_charts(chart, factors, how, n_threads=2).items():
        for (i, j), row in np.ndenumerate(reduced.index):
            block = chart.index[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor].ravel().tolist()
            centre = block[factor // 2 * factor + factor // 2]
            labels = tuple(
                {"majority": vote_of, "maximum": max}[how](np.array([triples[pixel][k] for pixel in block]))
                if how != "nearest"
                else triples[centre][k]
                for k in range(3)
            )
            assert tuple(reduced.classes[row].tolist()) == labels
            polygon = centre if how == "nearest" else polygon_of(block, labels, triples)
            assert row == polygon if polygon is not None else row >= len(classes)
            assert reduced.row(row).label == labels


@pytest.mark.parametrize("how", ["majority", "maximum", "nearest"])
def test_a_chart_of_classes_alone_votes_in_the_same_way(how: str) -> None:
    random = np.random.default_rng(5)
    planes = np.stack([random.integers(0, n, (41, 37)) for n in (4, 3, 5)]).astype(np.uint8)
    planes[random.random(planes.shape) < 0.3] = 255
    reduced = resample.block_charts(index_planes(planes), [3], how)[3]
    for plane, labels in zip(reduced.planes(), planes, strict=True):
        of_block = {"majority": vote_of, "maximum": max, "nearest": lambda block: block[4]}[how]
        np.testing.assert_array_equal(plane, blocks(labels, 3, of_block))


@pytest.mark.parametrize(("shape", "factor"), SHAPES)
def test_any_pixel_of_a_block(shape: tuple[int, int], factor: int) -> None:
    flags = np.random.default_rng(6).random(shape) < 0.1
    np.testing.assert_array_equal(resample.block_any(flags, [factor])[factor], blocks(flags, factor, any))


@pytest.mark.parametrize(("shape", "factor"), SHAPES)
def test_zone_is_the_rounded_mean(shape: tuple[int, int], factor: int) -> None:
    random = np.random.default_rng(4)
    zones = random.integers(0, 42, shape).astype(np.float32)
    zones[random.random(shape) < 0.5] = np.nan

    def zone(block: np.ndarray) -> int:
        finite = [value for value in block if not math.isnan(value)]
        return round(float(np.float32(math.fsum(finite) / len(finite)))) if finite else 255

    means = resample.block_zones(zones, [factor])[factor]
    assert means.dtype == np.uint8
    np.testing.assert_array_equal(means, blocks(zones, factor, zone))
