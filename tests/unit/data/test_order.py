import subprocess
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcticseg.data.order import Order, generator, quotas, rank_places

few = settings(max_examples=25, deadline=None)
fingerprints = st.text("0123456789abcdef", min_size=1, max_size=32)
seeds = st.integers(0, 2**63)


@st.composite
def mixes(draw: st.DrawFn) -> Order:
    """Orders of 1 to 5 streams of 1 to 40 samples with weights that give each stream a place in each block."""
    lengths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    weights = draw(st.lists(st.floats(0.2, 5), min_size=len(lengths), max_size=len(lengths)))
    block = draw(st.integers(200, 400))
    ends = np.cumsum(lengths)
    streams = tuple(np.arange(end - n, end) for n, end in zip(lengths, ends, strict=True))
    return Order(draw(fingerprints), streams, draw(seeds), weights=tuple(weights), block=block)


@few
@given(fingerprints, seeds, st.integers(1, 200), st.integers(0, 50))
def test_every_sample_once_an_epoch(fingerprint: str, seed: int, n: int, epoch: int) -> None:
    samples = np.random.default_rng(0).permutation(3 * n)[:n]
    order = Order(fingerprint, (samples,), seed)
    assert len(order) == n
    found = [order.sample(place) for place in range(epoch * n, (epoch + 1) * n)]
    assert sorted(found) == sorted(samples.tolist())
    assert all(type(number) is int for number in found)


def test_epochs_and_seeds_and_fingerprints_differ() -> None:
    samples = (np.arange(100),)

    def first(order: Order, epoch: int = 0) -> list[int]:
        return [order.sample(100 * epoch + place) for place in range(100)]

    orders = [first(Order("a", samples, 0)), first(Order("a", samples, 0), 1)]
    orders += [first(Order("a", samples, 1)), first(Order("b", samples, 0))]
    assert len({tuple(order) for order in orders}) == 4
    assert all(order != sorted(order) for order in orders)


@few
@given(mixes(), st.integers(0, 30))
def test_every_block_has_exact_quotas(order: Order, block: int) -> None:
    exact = np.array(order.weights) / sum(order.weights) * order.block
    streams = Counter(
        next(i for i, samples in enumerate(order.streams) if order.sample(place) in samples)
        for place in range(block * order.block, (block + 1) * order.block)
    )
    counts = [streams[i] for i in range(len(order.streams))]
    assert sum(counts) == order.block
    assert np.abs(counts - exact).max() < 1
    assert counts == list(quotas(order.weights, order.block))


@few
@given(mixes())
def test_every_sample_once_a_pass_of_its_stream(order: Order) -> None:
    drawn = [order.sample(place) for place in range(4 * order.block)]
    for samples in order.streams:
        of_stream = [number for number in drawn if number in samples]
        for first in range(0, len(of_stream) - len(samples) + 1, len(samples)):
            assert sorted(of_stream[first : first + len(samples)]) == samples.tolist()


def test_passes_of_a_stream_are_shuffled_anew() -> None:
    order = Order("a", (np.arange(50), np.arange(50, 60)), 0, weights=(1, 1), block=100)
    drawn = [number for number in map(order.sample, range(200)) if number < 50]
    assert drawn[:50] != drawn[50:]


def test_streams_are_mixed_within_a_block() -> None:
    order = Order("a", (np.arange(1000), np.arange(1000, 2000)), 0, weights=(1, 1), block=100)
    blocks = [[order.sample(100 * block + place) < 1000 for place in range(100)] for block in range(3)]
    assert blocks[0] != blocks[1] != blocks[2]
    for block in blocks:
        assert 30 < sum(a != b for a, b in pairwise(block)) < 70


@few
@given(mixes(), st.integers(0, 10**9))
def test_any_place_is_found_without_those_before_it(order: Order, place: int) -> None:
    again = Order(order.fingerprint, order.streams, order.seed, weights=order.weights, block=order.block)
    assert again.sample(place) == order.sample(place)


def test_without_shuffle_the_order_is_that_of_the_streams() -> None:
    order = Order("a", (np.array([5, 3, 9]),), 0, shuffle=False)
    assert [order.sample(place) for place in range(7)] == [5, 3, 9, 5, 3, 9, 5]


@pytest.mark.parametrize(
    ("weights", "block", "expected"),
    [
        ([1, 1, 1], 10, (4, 3, 3)),
        ([1, 1], 7, (4, 3)),
        ([0.5, 0.25, 0.25], 8, (4, 2, 2)),
        # Remainders .6, .3 and .1: the place left over goes to the largest.
        ([4.6, 3.3, 2.1], 10, (5, 3, 2)),
        ([1], 5, (5,)),
    ],
)
def test_quotas_by_largest_remainder(weights: list[float], block: int, expected: tuple[int, ...]) -> None:
    assert quotas(weights, block) == expected


@pytest.mark.parametrize(
    ("weights", "block"), [([], 5), ([1, 0], 5), ([1, -1], 5), ([1, float("nan")], 5), ([1, 9], 2)]
)
def test_quotas_that_cannot_be(weights: list[float], block: int) -> None:
    with pytest.raises(ValueError, match=r"weights must be positive|gives a stream of weights"):
        quotas(weights, block)


@given(st.integers(0, 10**6), st.integers(1, 16), st.integers(1, 16))
def test_ranks_share_the_places_of_a_step(step: int, world_size: int, share: int) -> None:
    total = world_size * share
    places = [rank_places(step * total, total, rank, world_size) for rank in range(world_size)]
    assert all(len(part) == share for part in places)
    assert [place for part in places for place in part] == list(range(step * total, (step + 1) * total))


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="global batch size 10 is no multiple of 4 ranks"):
        rank_places(0, 10, 0, 4)


def test_the_order_is_this_one() -> None:
    """Written down: another order would silently change what a resumed training sees."""
    order = Order("f", (np.arange(5),), 7)
    assert [order.sample(place) for place in range(10)] == [1, 0, 4, 3, 2, 3, 4, 1, 2, 0]
    mix = Order("f", (np.arange(5), np.arange(5, 8)), 7, weights=(2.0, 1.0), block=6)
    assert [mix.sample(place) for place in range(12)] == [7, 1, 0, 4, 6, 3, 2, 5, 3, 6, 4, 1]
    assert generator("augment", 3, 4).integers(1000) == 497


def test_the_order_does_not_depend_on_the_process() -> None:
    code = (
        "import numpy as np; from arcticseg.data.order import Order;"
        "o = Order('f', (np.arange(50), np.arange(50, 90)), 3, weights=(1.0, 2.0), block=30);"
        "print([o.sample(p) for p in range(100)])"
    )
    order = Order("f", (np.arange(50), np.arange(50, 90)), 3, weights=(1.0, 2.0), block=30)
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str([order.sample(place) for place in range(100)])


def test_generator_keys_are_told_apart() -> None:
    draws = {generator(*key).integers(1 << 60) for key in (("a", 1, 2), ("a", 12), ("a", 1), ("a", 2, 1), (1, "a"))}
    assert len(draws) == 5
