"""Which sample stands at which place in training: pure arithmetic, no I/O and no table of samples.

Places are numbered 0, 1, 2, ... over the whole training. An optimiser step takes the next G places for global batch
size G; ranks and workers only choose slices of that. So the order knows nothing of them, the position is one number,
samples consumed, and resume is exact on any number of ranks and workers.

`mix: none`: epoch e is one permutation of all samples. `mix: weights`: places come in blocks with an exact quota of
each stream (a stream is the samples of one resolution of one shard set), shuffled within the block; each stream runs
through its own permutation, drawn anew on each pass.

A permutation is computed where it is asked for (a Feistel network over pairs of digits, and steps along its cycles
until they end inside), so 10^8 samples cost no memory and nothing at the start of an epoch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt

import numpy as np
import xxhash
from numpy.typing import NDArray

Indices = NDArray[np.integer]

# Places to ask for at once where many are needed: then one costs next to nothing.
AT_ONCE = 256

_ROUNDS = 6
_29, _31, _32 = (np.uint64(bits) for bits in (29, 31, 32))
_FACTORS = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA0761D6478BD642F)
# A network over a handful of values has few keys that differ; over this many squared it has enough.
_LEAST_DIGIT = 8


def _digest(*key: object) -> int:
    return xxhash.xxh3_128_intdigest("\x1f".join(map(str, key)).encode())


def generator(*key: object) -> np.random.Generator:
    """A random generator that depends on the key's printed form alone, on any machine."""
    return np.random.Generator(np.random.Philox(key=_digest(*key)))


@lru_cache(maxsize=256)
def _round_keys(*key: object) -> tuple[np.uint64, ...]:
    return tuple(np.uint64(_digest(*key, i) % (1 << 64)) for i in range(_ROUNDS))


def _scramble(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64 bits in which each bit of the result depends on all of the value."""
    values = (values ^ values >> _31) * _FACTORS[0]
    values = (values ^ values >> _29) * _FACTORS[1]
    return values ^ values >> _32


def permute(positions: Indices, size: int, *key: object) -> NDArray[np.int64]:
    """Where a permutation of `size` positions, drawn by the key, sends some of them; int64 [N] -> [N]."""
    found = np.array(positions, np.uint64)
    if size < 2:
        return found.astype(np.int64)
    keys = _round_keys(*key)
    base = np.uint64(max(isqrt(size - 1) + 1, _LEAST_DIGIT))
    outside = np.arange(len(found))
    while len(outside):
        high, low = np.divmod(found[outside], base)
        for round_key in keys:
            high, low = low, (high + _scramble(low ^ round_key) % base) % base
        found[outside] = high * base + low
        # The network permutes base x base positions; following its cycle leads back to one of the first `size`.
        outside = outside[found[outside] >= size]
    return found.astype(np.int64)


def quotas(weights: Sequence[float], block: int) -> tuple[int, ...]:
    """Places of each stream in a block of `block` places, by largest remainder (Hamilton).

    Raises:
        ValueError: a weight that is not positive, or a block so short that a stream gets no place.
    """
    if not weights or any(not weight > 0 for weight in weights):
        raise ValueError(f"weights must be positive, not {list(weights)}")
    exact = np.asarray(weights, np.float64) / np.sum(weights) * block
    whole = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(-(exact - whole), kind="stable")
    whole[by_remainder[: block - int(whole.sum())]] += 1
    if (whole == 0).any():
        raise ValueError(f"a block of {block} places gives a stream of weights {list(weights)} none; lengthen it")
    return tuple(map(int, whole))


@dataclass(frozen=True, eq=False)
class Stream:
    """Samples that are run through in passes, each pass in another order.

    Attributes:
        samples: their numbers; those of a shard stand together.
        starts: where in `samples` each shard starts, and their end; empty: all are shuffled as one.
        window: shards that are shuffled together; on each pass the shards fall into other windows.
    """

    samples: Indices | range
    starts: Indices | tuple[int, ...] = ()
    window: int = 1

    def __len__(self) -> int:
        return len(self.samples)

    def at(self, positions: Indices, *key: object) -> NDArray[np.int64]:
        """The samples at positions, counted over all passes; int64 [N] -> [N]."""
        turns, places = np.divmod(positions, len(self.samples))
        found = np.empty(len(positions), np.int64)
        for turn in set(turns.tolist()):
            chosen = turns == turn
            found[chosen] = self._of_pass(places[chosen], *key, turn)
        if isinstance(self.samples, range):
            return self.samples.start + self.samples.step * found
        return self.samples[found].astype(np.int64)

    def _of_pass(self, places: Indices, *key: object) -> NDArray[np.int64]:
        """Places of a pass -> positions in `samples`."""
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
    """Where in `samples` each shard starts, in the order of a pass, and where it begins in the pass, with the end."""
    starts = np.asarray(stream.starts)
    sizes = np.diff(starts)
    shards = generator("shards", *key).permutation(len(sizes))
    return starts[shards], np.concatenate([[0], np.cumsum(sizes[shards])])


@dataclass(frozen=True, eq=False)
class Order:
    """The order of one training.

    Attributes:
        fingerprint: of the selected list of samples.
        streams: one under `mix: none`.
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
        """Streams of places, and positions in the streams."""
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
        """The numbers of the samples at places, 0 <= place; many at a time cost little more than one.

        Args:
            quarantine: numbers of samples not to use. Where one stands, another of its stream is drawn by the place.

        Raises:
            LookupError: all samples of a stream are in quarantine.
        """
        asked = np.asarray(places, np.int64)
        streams, positions = self._find(asked)
        numbers = np.empty(len(asked), np.int64)
        for index in set(streams.tolist()):
            chosen = streams == index
            numbers[chosen] = self.streams[index].at(positions[chosen], self.fingerprint, self.seed, index)
        found: list[int] = numbers.tolist()
        if quarantine:
            for i, number in enumerate(found):
                if number in quarantine:
                    found[i] = self._substitute(self.streams[streams[i]], int(asked[i]), quarantine)
        return found

    def _substitute(self, stream: Stream, place: int, quarantine: Collection[int]) -> int:
        """Another sample of a stream, drawn by the place."""
        for attempt in range(len(stream)):
            at = np.array([attempt])
            drawn = permute(at, len(stream), self.fingerprint, self.seed, "substitute", place)
            number = int(stream.samples[drawn.item()])
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
    """Stream of each place of a block, and how many places of that stream stand before it in the block."""
    streams = np.repeat(np.arange(len(quota)), quota)
    streams = streams[generator("block", fingerprint, seed, block).permutation(len(streams))]
    ranks = np.empty(len(streams), np.int64)
    ranks[np.argsort(streams, kind="stable")] = np.concatenate([np.arange(count) for count in quota])
    return streams, ranks


def rank_places(consumed: int, global_batch: int, rank: int, world_size: int) -> range:
    """The places of one rank in the optimiser step that starts when `consumed` samples have been used.

    Raises:
        ValueError: the global batch size is no multiple of the world size.
    """
    if global_batch % world_size:
        raise ValueError(f"global batch size {global_batch} is no multiple of {world_size} ranks")
    share = global_batch // world_size
    first = consumed + rank * share
    return range(first, first + share)
