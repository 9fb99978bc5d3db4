import math
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from arcticseg.data.order import Order, Stream, generator, generators, permute, quotas
from arcticseg.data.share import Share

few = settings(max_examples=25, deadline=None)
fingerprints = st.text("0123456789abcdef", min_size=1, max_size=32)
seeds = st.integers(0, 2**63)


@st.composite
def streams(draw: st.DrawFn, first: int = 0) -> Stream:
    """Some samples from number `first` on, shuffled together or by windows of shards."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    samples = np.arange(first, first + sum(sizes))
    if draw(st.booleans()):
        return Stream(samples)
    return Stream(samples, (0, *np.cumsum(sizes).tolist()), draw(st.integers(1, 4)))


@st.composite
def mixes(draw: st.DrawFn) -> Order:
    """Orders of 1 to 5 streams with weights that give each stream a place in each block."""
    parts: list[Stream] = []
    for _ in range(draw(st.integers(1, 5))):
        parts.append(draw(streams(sum(map(len, parts)))))
    weights = draw(st.lists(st.floats(0.2, 5), min_size=len(parts), max_size=len(parts)))
    block = draw(st.integers(200, 400))
    return Order(draw(fingerprints), tuple(parts), draw(seeds), tuple(weights), block)


def streams_of(order: Order) -> list[int]:
    """Index of the stream of each sample; the streams of `mixes` hold 0, 1, 2, ... one after another."""
    return [index for index, stream in enumerate(order.streams) for _ in range(len(stream))]


@given(st.integers(1, 3000), seeds)
def test_a_permutation_takes_each_position_once(size: int, seed: int) -> None:
    assert sorted(permute(np.arange(size), size, "key", seed)) == list(range(size))


def plainly(position: int, size: int, *key: object) -> int:
    """The same permutation, a single position in whole numbers of any size."""
    mask = 2**64 - 1
    base = max(math.isqrt(size - 1) + 1, 8)
    while True:
        high, low = divmod(position, base)
        for i in range(6):
            mixed = low ^ (xxhash.xxh3_128_intdigest("\x1f".join(map(str, (*key, i))).encode()) & mask)
            mixed = ((mixed ^ (mixed >> 31)) * 0xD6E8FEB86659FD93) & mask
            mixed = ((mixed ^ (mixed >> 29)) * 0xA0761D6478BD642F) & mask
            high, low = low, (high + (mixed ^ (mixed >> 32))) % base
        position = high * base + low
        if position < size:
            return position


@given(st.integers(2, 2**62), st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20), seeds)
def test_permutations_are_those_of_plain_arithmetic(size: int, shares: list[float], seed: int) -> None:
    positions = [min(int(share * size), size - 1) for share in shares]
    assert permute(np.array(positions), size, "key", seed).tolist() == [
        plainly(position, size, "key", seed) for position in positions
    ]


def test_all_permutations_of_four_are_equally_likely() -> None:
    n = 600
    counts = Counter(tuple(permute(np.arange(4), 4, "key", seed)) for seed in range(n))
    expected = n / math.factorial(4)
    # Chi squared of 23 degrees of freedom: it exceeds 49.7 once in a thousand times.
    assert len(counts) == 24
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 49.7


def test_large_permutations_are_computed_in_place() -> None:
    size = 10**8
    drawn = permute(np.arange(0, size, size // 20000), size, "key")
    assert len(np.unique(drawn)) == len(drawn)
    # Uniform: 100 bins of some 200 each, chi squared of 99 degrees of freedom.
    counts = np.bincount(drawn * 100 // size, minlength=100)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 148
    # Neighbours go to unrelated places: on average the difference of two uniform places is a third of the size.
    near = permute(np.arange(5000), size, "key")
    assert np.abs(np.diff(near)).mean() / size == pytest.approx(1 / 3, abs=0.02)


@few
@given(fingerprints, seeds, streams(), st.integers(0, 50))
def test_every_sample_once_an_epoch(fingerprint: str, seed: int, stream: Stream, epoch: int) -> None:
    order = Order(fingerprint, (stream,), seed)
    n = len(order)
    numbers = order.samples(range(epoch * n, (epoch + 1) * n))
    assert sorted(numbers) == list(range(n))
    assert all(type(number) is int for number in numbers)


def test_epochs_and_seeds_and_fingerprints_differ() -> None:
    samples = (Stream(range(100)),)

    def first(order: Order, epoch: int = 0) -> list[int]:
        return order.samples(range(100 * epoch, 100 * epoch + 100))

    orders = [first(Order("a", samples, 0)), first(Order("a", samples, 0), 1)]
    orders += [first(Order("a", samples, 1)), first(Order("b", samples, 0))]
    orders += [first(Order("a", (Stream(range(100), (0, 50, 100), 1),), 0))]
    assert len({tuple(order) for order in orders}) == 5
    assert all(order != sorted(order) for order in orders)


@few
@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 6), st.integers(0, 3), seeds)
def test_shuffling_by_blocks_stays_within_a_window_of_shards(
    sizes: list[int], window: int, turn: int, seed: int
) -> None:
    starts = np.array([0, *np.cumsum(sizes)])
    order = Order("a", (Stream(range(starts[-1]), starts, window),), seed)
    places = range(turn * len(order), (turn + 1) * len(order))
    shards = (np.searchsorted(starts, order.samples(places), side="right") - 1).tolist()
    seen: list[int] = []
    while shards:
        # The shards of a window, then those of the next: none comes back.
        here = list(dict.fromkeys(shards[: sum(sizes)]))[:window]
        block = sum(sizes[shard] for shard in here)
        assert set(shards[:block]) == set(here)
        seen, shards = seen + here, shards[block:]
    assert sorted(seen) == list(range(len(sizes)))


def test_windows_are_mixed_and_differ_from_pass_to_pass() -> None:
    starts = np.arange(0, 1001, 50)
    order = Order("a", (Stream(range(1000), starts, 4),), 0)
    passes = [[number // 50 for number in order.samples(range(turn * 1000, turn * 1000 + 200))] for turn in range(3)]
    assert len({frozenset(shards) for shards in passes}) == 3
    for shards in passes:
        assert len(set(shards)) == 4
        assert 120 < sum(a != b for a, b in pairwise(shards)) < 180  # 3 of 4, if well mixed


@few
@given(mixes(), st.integers(0, 30))
def test_every_block_has_exact_quotas(order: Order, block: int) -> None:
    exact = np.array(order.weights) / sum(order.weights) * order.block
    of = streams_of(order)
    places = range(block * order.block, (block + 1) * order.block)
    by_stream = Counter(of[number] for number in order.samples(places))
    counts = [by_stream[index] for index in range(len(order.streams))]
    assert sum(counts) == order.block
    assert np.abs(counts - exact).max() < 1
    assert counts == list(quotas(order.weights, order.block))


@few
@given(mixes())
def test_every_sample_once_a_pass_of_its_stream(order: Order) -> None:
    drawn, of = order.samples(range(2 * order.block)), streams_of(order)
    for index, stream in enumerate(order.streams):
        of_stream = [number for number in drawn if of[number] == index]
        expected = stream.samples.tolist()  # type: ignore[union-attr]
        for first in range(0, len(of_stream) - len(stream) + 1, len(stream)):
            assert sorted(of_stream[first : first + len(stream)]) == expected


def test_each_pass_of_a_stream_has_its_own_order() -> None:
    order = Order("a", (Stream(range(50)), Stream(range(50, 60))), 0, weights=(1, 1), block=100)
    drawn = [number for number in order.samples(range(200)) if number < 50]
    assert drawn[:50] != drawn[50:]


def test_streams_are_mixed_within_a_block() -> None:
    order = Order("a", (Stream(range(1000)), Stream(range(1000, 2000))), 0, weights=(1, 1), block=100)
    blocks = [[n < 1000 for n in order.samples(range(100 * block, 100 * block + 100))] for block in range(3)]
    assert blocks[0] != blocks[1] != blocks[2]
    for block in blocks:
        assert 30 < sum(a != b for a, b in pairwise(block)) < 70


@few
@given(mixes(), st.integers(0, 10**9))
def test_a_place_does_not_need_the_places_before_it(order: Order, place: int) -> None:
    again = Order(order.fingerprint, order.streams, order.seed, order.weights, order.block)
    assert again.samples([place]) == order.samples(range(place - place % 300, place + 1))[-1:]


@few
@given(mixes(), st.data())
def test_substitutes_are_of_the_same_stream_and_leave_the_others_alone(order: Order, data: st.DataObject) -> None:
    numbers = range(len(order))
    bad = data.draw(st.sets(st.sampled_from(numbers), max_size=len(order) - 1))
    places = range(100)
    plain = order.samples(places)
    for stream in order.streams:
        if set(stream.samples.tolist()) <= bad:
            bad -= {int(stream.samples[0])}
    substituted, of = order.samples(places, bad), streams_of(order)
    assert not set(substituted) & bad
    for before, after in zip(plain, substituted, strict=True):
        assert after == before or before in bad
        assert of[before] == of[after]
    # A pure function of place and set, whatever was drawn before.
    assert order.samples(places[::-1], frozenset(bad)) == substituted[::-1]


def test_substitutes_differ_from_place_to_place() -> None:
    order = Order("a", (Stream(range(50)),), 0)
    bad = set(range(25))
    places = [place for place, number in enumerate(order.samples(range(5000))) if number == 3]
    assert len(places) == 100
    assert len(set(order.samples(places, bad))) > 10


def test_no_substitute_is_left() -> None:
    order = Order("a", (Stream(range(5)), Stream(range(5, 8))), 0, weights=(1, 1), block=2)
    with pytest.raises(LookupError, match=r"all 3 samples"):
        order.samples(range(2), {5, 6, 7})


@few
@given(
    st.integers(1, 500),
    st.integers(1, 6),
    st.lists(st.sampled_from([1, 2, 3, 4, 8]), min_size=1, max_size=6),
    seeds,
    mixes(),
)
def test_a_changed_batch_size_loses_and_repeats_nothing(
    n: int, share: int, changes: list[int], seed: int, mix: Order
) -> None:
    """Steps of any sizes on any numbers of ranks, one after another, take the places 0, 1, 2, ... once each."""
    consumed, places = 0, []
    for world_size in changes:
        batch = share * world_size
        places += [place for rank in range(world_size) for place in Share(rank, world_size, batch, 1).places(consumed)]
        consumed += batch
    assert places == list(range(consumed))
    for order in (Order("a", (Stream(range(n)),), seed), mix):
        assert order.samples(places) == [order.samples([place])[0] for place in range(consumed)]


@pytest.mark.parametrize("window", [0, 8])
def test_scenes_in_a_batch_are_as_mixed_as_in_a_perfect_shuffle(window: int) -> None:
    """40 scenes over 40 shards, as the builder scatters them: batches of 16 hold as many scenes as drawn at random."""
    n, scenes, per_shard = 8000, 40, 200
    scene = np.random.default_rng(0).integers(0, scenes, n)
    starts = tuple(range(0, n + 1, per_shard)) if window else ()
    order = Order("a", (Stream(range(n), starts, window or 1),), 0)
    drawn = scene[order.samples(range(n))].reshape(-1, 16)
    distinct = np.mean([len(set(batch)) for batch in drawn.tolist()])
    perfect = scenes * (1 - (1 - 1 / scenes) ** 16)
    assert distinct == pytest.approx(perfect, rel=0.05)


@pytest.mark.parametrize(
    ("weights", "block", "expected"),
    [
        ([1, 1, 1], 10, (4, 3, 3)),
        ([1, 1], 7, (4, 3)),
        ([0.5, 0.25, 0.25], 8, (4, 2, 2)),
        # Remainders .6, .3 and .1: the last place goes to the largest.
        ([4.6, 3.3, 2.1], 10, (5, 3, 2)),
        ([1], 5, (5,)),
    ],
)
def test_quotas_by_largest_remainder(weights: list[float], block: int, expected: tuple[int, ...]) -> None:
    assert quotas(weights, block) == expected


@pytest.mark.parametrize(
    ("weights", "block"), [([], 5), ([1, 0], 5), ([1, -1], 5), ([1, float("nan")], 5), ([1, 9], 2)]
)
def test_impossible_quotas_are_refused(weights: list[float], block: int) -> None:
    with pytest.raises(ValueError, match=r"weights must be positive, not|a block of 2 places .* \[1, 9\]"):
        quotas(weights, block)


def test_the_order_is_this_one() -> None:
    """As written here: another order would silently change what a resumed training sees."""
    order = Order("f", (Stream(range(5)),), 7)
    assert order.samples(range(10)) == [2, 1, 4, 0, 3, 0, 3, 1, 4, 2]
    mix = Order("f", (Stream(range(5)), Stream(range(5, 8))), 7, weights=(2.0, 1.0), block=6)
    assert mix.samples(range(12)) == [2, 6, 1, 4, 0, 7, 3, 5, 0, 3, 1, 6]
    blocks = Order("f", (Stream(range(6), (0, 2, 3, 6), 2),), 7)
    assert blocks.samples(range(12), {1}) == [5, 4, 3, 2, 0, 3, 2, 0, 2, 4, 5, 3]
    assert generator("augment", 3, 4).integers(1000) == 497


def test_the_order_does_not_depend_on_the_process() -> None:
    code = (
        "from arcticseg.data.order import Order, Stream;"
        "o = Order('f', (Stream(range(50)), Stream(range(50, 90), (0, 10, 40), 1)), 3, (1.0, 2.0), 30);"
        "print(o.samples(range(100)))"
    )
    order = Order("f", (Stream(range(50)), Stream(range(50, 90), (0, 10, 40), 1)), 3, (1.0, 2.0), 30)
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(order.samples(range(100)))


def test_generator_keys_are_told_apart() -> None:
    draws = {generator(*key).integers(1 << 60) for key in (("a", 1, 2), ("a", 12), ("a", 1), ("a", 2, 1), (1, "a"))}
    assert len(draws) == 5


@pytest.mark.parametrize("used", [0, 1, 5])
def test_generators_of_many_keys_are_those_of_each(used: int) -> None:
    """Whatever the one before has drawn: halves of its last number are left over after an odd count."""
    ends = [0, 7, "a", 1 << 70]
    drawn = []
    for random in generators("x", 3, ends=ends):
        drawn.append(random.integers(1 << 60, size=4).tolist())
        random.random(used, np.float32)
    assert drawn == [generator("x", 3, end).integers(1 << 60, size=4).tolist() for end in ends]
