"""Which sample stands at which place in training: pure arithmetic, no I/O and no table of samples.

Places are numbered 0, 1, 2, ... over the whole training. An optimiser step takes the next G places for global batch
size G; ranks and workers only choose slices of them (see `share`). So the order knows nothing of ranks and workers, the
position of a training is a single number, samples consumed, and resume is exact on any number of ranks and workers.

`mix: none`: epoch e is one permutation of all samples. `mix: weights`: places come in blocks with an exact quota of
each stream (a stream is the samples of one resolution of one shard set), shuffled within the block; each stream runs
through its samples in passes, each in a permutation of its own.

A permutation is computed where it is needed (a Feistel network over pairs of digits, whose cycles are followed until
they lead back inside), so 10^8 samples cost no memory and nothing at the start of an epoch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt

import numpy as np
import xxhash
from numpy.typing import NDArray

Indices = NDArray[np.integer]

# Places to ask for at once where many are needed: the cost is that of a call, hardly that of its places.
AT_ONCE = 256

_ROUNDS = 6
_29, _31, _32 = (np.uint64(bits) for bits in (29, 31, 32))
_FACTORS = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA0761D6478BD642F)
# A network over few values has few permutations; over the square of this many values it has enough.
_LEAST_DIGIT = 8


def _digest(*key: object) -> int:
    return xxhash.xxh3_128_intdigest("\x1f".join(map(str, key)).encode())


def generator(*key: object) -> np.random.Generator:
    """A random generator that depends on the key's printed form alone, on any machine."""
    return np.random.Generator(np.random.Philox(key=_digest(*key)))


def generators(*key: object, ends: Iterable[object]) -> Iterator[np.random.Generator]:
    """`generator(*key, end)` for each end, in a fraction of the time; each may be used until the next is asked for."""
    bits = np.random.Philox(key=0)
    random, fresh = np.random.Generator(bits), bits.state
    for end in ends:
        high, low = divmod(_digest(*key, end), 1 << 64)
        fresh["state"]["key"][:] = low, high
        bits.state = fresh
        yield random


@lru_cache(maxsize=256)
def _round_keys(*key: object) -> tuple[np.uint64, ...]:
    return tuple(np.uint64(_digest(*key, i) % (1 << 64)) for i in range(_ROUNDS))


def _scramble(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64 bits in which each bit of the result depends on all of the value."""
    values = (values ^ values >> _31) * _FACTORS[0]
    values = (values ^ values >> _29) * _FACTORS[1]
    return values ^ values >> _32


def permute(positions: Indices, size: int, *key: object) -> NDArray[np.int64]:
    """Where a permutation of `size` positions, drawn by the key, sends some of them.

    Args:
        positions: integers [N], 0 <= position < size.

    Returns:
        int64 [N].
    """
    images = np.array(positions, np.uint64)
    if size < 2:
        return images.astype(np.int64)
    keys = _round_keys(*key)
    base = np.uint64(max(isqrt(size - 1) + 1, _LEAST_DIGIT))
    outside = np.arange(len(images))
    while len(outside):
        high, low = np.divmod(images[outside], base)
        for round_key in keys:
            high, low = low, (high + _scramble(low ^ round_key) % base) % base
        images[outside] = high * base + low
        # The network permutes base x base positions; following its cycle leads back to one of the first `size`.
        outside = outside[images[outside] >= size]
    return images.astype(np.int64)


def quotas(weights: Sequence[float], block: int) -> tuple[int, ...]:
    """Places of each stream in a block of `block` places, by largest remainder (Hamilton).

    Raises:
        ValueError: a weight is not positive, or the block is so short that a stream gets no place.
    """
    if not weights or any(not weight > 0 for weight in weights):
        raise ValueError(f"weights must be positive, not {list(weights)}")
    exact = np.asarray(weights, np.float64) / np.sum(weights) * block
    whole = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(-(exact - whole), kind="stable")
    whole[by_remainder[: block - int(whole.sum())]] += 1
    if (whole == 0).any():
        raise ValueError(f"a block of {block} places has none for a stream of weights {list(weights)}; lengthen it")
    return tuple(map(int, whole))


@dataclass(frozen=True, eq=False)
class Stream:
    """Samples that a training takes in passes, each pass in another order.

    Attributes:
        samples: their numbers; those of a shard stand together.
        starts: where in `samples` each shard starts, and last where the last shard ends; empty: all samples are
            shuffled together.
        window: shards that are shuffled together; on each pass the shards fall into other windows.
    """

    samples: Indices | range
    starts: Indices | tuple[int, ...] = ()
    window: int = 1

    def __len__(self) -> int:
        return len(self.samples)

    def at(self, positions: Indices, *key: object) -> NDArray[np.int64]:
        """The numbers, int64 [N], of the samples at positions [N], counted over all passes."""
        passes, places = np.divmod(positions, len(self.samples))
        indices = np.empty(len(positions), np.int64)
        for number in set(passes.tolist()):
            chosen = passes == number
            indices[chosen] = self._of_pass(places[chosen], *key, number)
        if isinstance(self.samples, range):
            return self.samples.start + self.samples.step * indices
        return self.samples[indices].astype(np.int64)

    def _of_pass(self, places: Indices, *key: object) -> NDArray[np.int64]:
        """Places [N] of a pass -> indices [N] into `samples`."""
        if not len(self.starts):
            return permute(places, len(self.samples), *key)
        starts, begins = _walk(self, *key)
        firsts = (np.searchsorted(begins, places, side="right") - 1) // self.window * self.window
        shuffled = np.empty(len(places), np.int64)
        for first in set(firsts.tolist()):
            chosen = firsts == first
            begin, end = int(begins[first]), int(begins[min(first + self.window, len(starts))])
            shuffled[chosen] = begin + permute(places[chosen] - begin, end - begin, *key, first)
        at = np.searchsorted(begins, shuffled, side="right") - 1
        return starts[at] + shuffled - begins[at]


@lru_cache(maxsize=32)
def _walk(stream: Stream, *key: object) -> tuple[Indices, Indices]:
    """Where each shard starts in `samples`, in the order of a pass, and where it begins in the pass, with the end."""
    starts = np.asarray(stream.starts)
    sizes = np.diff(starts)
    shards = generator("shards", *key).permutation(len(sizes))
    return starts[shards], np.concatenate([[0], np.cumsum(sizes[shards])])


@dataclass(frozen=True, eq=False)
class Order:
    """The order of one training.

    Attributes:
        fingerprint: of the list of selected samples.
        streams: a single stream under `mix: none`.
        seed: of the shuffle.
        weights: of the streams under `mix: weights`; empty under `mix: none`.
        block: places in a block under `mix: weights`.
    """

    fingerprint: str
    streams: tuple[Stream, ...]
    seed: int = 0
    weights: tuple[float, ...] = ()
    block: int = 1024

    def _find(self, places: Indices) -> tuple[Indices, Indices]:
        """Index of the stream of each place, and position in that stream; int64 [N] each."""
        if not self.weights:
            return np.zeros(len(places), np.int64), places
        quota = _quotas(self.weights, self.block)
        blocks, offsets = np.divmod(places, self.block)
        streams, positions = np.empty((2, len(places)), np.int64)
        for block in set(blocks.tolist()):
            chosen = blocks == block
            of_block, ranks = _block(quota, self.fingerprint, self.seed, block)
            streams[chosen] = of_block[offsets[chosen]]
            positions[chosen] = block * np.array(quota)[streams[chosen]] + ranks[offsets[chosen]]
        return streams, positions

    def samples(self, places: Sequence[int] | Indices, quarantine: Collection[int] = ()) -> list[int]:
        """The numbers of the samples at places; many places cost little more than a single one.

        Args:
            places: integers >= 0.
            quarantine: numbers of samples not to use; each is replaced by a sample of its stream, drawn by the place.

        Raises:
            LookupError: all samples of a stream are in quarantine.
        """
        places = np.asarray(places, np.int64)
        streams, positions = self._find(places)
        drawn = np.empty(len(places), np.int64)
        for index in set(streams.tolist()):
            chosen = streams == index
            drawn[chosen] = self.streams[index].at(positions[chosen], self.fingerprint, self.seed, index)
        numbers: list[int] = drawn.tolist()
        if quarantine:
            for i, number in enumerate(numbers):
                if number in quarantine:
                    numbers[i] = self._substitute(self.streams[streams[i]], int(places[i]), quarantine)
        return numbers

    def _substitute(self, stream: Stream, place: int, quarantine: Collection[int]) -> int:
        """Another sample of a stream, drawn by the place."""
        for attempt in range(len(stream)):
            position = np.array([attempt])
            index = permute(position, len(stream), self.fingerprint, self.seed, "substitute", place)
            number = int(stream.samples[index.item()])
            if number not in quarantine:
                return number
        raise LookupError(f"all {len(stream)} samples of a stream are in quarantine")

    def __len__(self) -> int:
        """Samples in all streams together."""
        return sum(map(len, self.streams))


@lru_cache(maxsize=64)
def _quotas(weights: tuple[float, ...], block: int) -> tuple[int, ...]:
    return quotas(weights, block)


@lru_cache(maxsize=64)
def _block(quota: tuple[int, ...], fingerprint: str, seed: int, block: int) -> tuple[Indices, Indices]:
    """Stream of each place of a block, and how many places of that stream come before it in the block."""
    streams = np.repeat(np.arange(len(quota)), quota)
    streams = streams[generator("block", fingerprint, seed, block).permutation(len(streams))]
    ranks = np.empty(len(streams), np.int64)
    ranks[np.argsort(streams, kind="stable")] = np.concatenate([np.arange(count) for count in quota])
    return streams, ranks
