"""Which sample stands at which place in training: pure arithmetic, no I/O and no table of samples.

Places are numbered 0, 1, 2, ... over the whole training. An optimiser step takes the next G places for global batch
size G; ranks and workers only choose slices of that. So the order knows nothing of them, the position is one number,
samples consumed, and resume is exact on any number of ranks and workers.

`mix: none`: epoch e is one permutation of all samples. `mix: weights`: places come in blocks with an exact quota of
each stream (a stream is the samples of one resolution of one shard set), shuffled within the block; each stream runs
through its own permutation, drawn anew on each pass.

A permutation is computed position by position (a Feistel network over pairs of digits, and steps along its cycles
until they end inside), so 10^8 samples cost no memory and nothing at the start of an epoch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt

import numpy as np
import xxhash
from numpy.typing import NDArray

Indices = NDArray[np.integer]

_MASK = (1 << 64) - 1
_ROUNDS = 6
# A network over a handful of values has few keys that differ; over this many squared it has enough.
_LEAST_DIGIT = 8


def _digest(*key: object) -> int:
    return xxhash.xxh3_128_intdigest("\x1f".join(map(str, key)).encode())


def generator(*key: object) -> np.random.Generator:
    """A random generator that depends on the key's printed form alone, on any machine."""
    return np.random.Generator(np.random.Philox(key=_digest(*key)))


@lru_cache(maxsize=256)
def _round_keys(*key: object) -> tuple[int, ...]:
    return tuple(_digest(*key, i) & _MASK for i in range(_ROUNDS))


def _scramble(value: int) -> int:
    """A bijection of 64 bits in which each bit of the result depends on all of the value."""
    value = ((value ^ value >> 31) * 0xD6E8FEB86659FD93) & _MASK
    value = ((value ^ value >> 29) * 0xA0761D6478BD642F) & _MASK
    return value ^ value >> 32


def permute(position: int, size: int, *key: object) -> int:
    """Where a permutation of `size` positions, drawn by the key, sends one of them."""
    if size < 2:
        return position
    keys = _round_keys(*key)
    base = max(isqrt(size - 1) + 1, _LEAST_DIGIT)
    while True:
        high, low = divmod(position, base)
        for round_key in keys:
            high, low = low, (high + _scramble(low ^ round_key)) % base
        position = high * base + low
        # The network permutes base x base positions; following its cycle leads back to one of the first `size`.
        if position < size:
            return position


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

    def at(self, position: int, *key: object) -> int:
        """The sample at a position, counted over all passes."""
        turn, place = divmod(position, len(self.samples))
        if not len(self.starts):
            return int(self.samples[permute(place, len(self.samples), *key, turn)])
        shards, begins = _walk(self, *key, turn)
        first = (bisect_right(begins, place) - 1) // self.window * self.window
        begin, end = begins[first], begins[min(first + self.window, len(shards))]
        place = begin + permute(place - begin, end - begin, *key, turn, first)
        found = bisect_right(begins, place) - 1
        return int(self.samples[int(self.starts[shards[found]]) + place - begins[found]])


@lru_cache(maxsize=32)
def _walk(stream: Stream, *key: object) -> tuple[list[int], list[int]]:
    """The shards in the order of a pass, and where each begins in it, with the end."""
    sizes = np.diff(stream.starts)
    shards = generator("shards", *key).permutation(len(sizes))
    return shards.tolist(), [0, *np.cumsum(sizes[shards]).tolist()]


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

    def _find(self, place: int) -> tuple[int, int]:
        """Stream of a place, and position in the stream."""
        if not self.weights:
            return 0, place
        quota = _quotas(self.weights, self.block)
        block, offset = divmod(place, self.block)
        streams, ranks = _block(quota, self.fingerprint, self.seed, block)
        stream = int(streams[offset])
        return stream, block * quota[stream] + int(ranks[offset])

    def sample(self, place: int, quarantine: Collection[int] = ()) -> int:
        """The number of the sample at a place, 0 <= place.

        Args:
            quarantine: numbers of samples not to use. Where one stands, another of its stream is drawn by the place.

        Raises:
            LookupError: all samples of the stream are in quarantine.
        """
        index, position = self._find(place)
        stream = self.streams[index]
        number = stream.at(position, self.fingerprint, self.seed, index)
        if number not in quarantine:
            return number
        for attempt in range(len(stream)):
            drawn = permute(attempt, len(stream), self.fingerprint, self.seed, "substitute", place)
            if (number := int(stream.samples[drawn])) not in quarantine:
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
    for stream, count in enumerate(quota):
        ranks[streams == stream] = np.arange(count)
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
