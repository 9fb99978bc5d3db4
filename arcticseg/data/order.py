"""Which sample stands at which place in training: pure arithmetic, no I/O.

Places are numbered 0, 1, 2, ... over the whole training. An optimiser step takes the next G places for global batch
size G; ranks and workers only choose slices of that. So the order knows nothing of them, the position is one number,
samples consumed, and resume is exact on any number of ranks and workers.

`mix: none`: epoch e is one permutation of all samples. `mix: weights`: places come in blocks with an exact quota of
each stream (a stream is, for example, one resolution), shuffled within the block; each stream runs through its own
permutation, drawn anew on each pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import xxhash
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def generator(*key: object) -> np.random.Generator:
    """A random generator that depends on the key's printed form alone, on any machine."""
    digest = xxhash.xxh3_128_intdigest("\x1f".join(map(str, key)).encode())
    return np.random.Generator(np.random.Philox(key=digest))


@lru_cache(maxsize=64)
def _permutation(size: int, *key: object) -> Indices:
    order = generator("permutation", *key).permutation(size)
    order.flags.writeable = False
    return order


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


@dataclass(frozen=True)
class Order:
    """The order of one training.

    Attributes:
        fingerprint: of the selected list of samples.
        streams: sample numbers of each stream; one stream under `mix: none`.
        seed: of the shuffle.
        shuffle: False keeps each stream in its own order.
        weights: of the streams under `mix: weights`; empty under `mix: none`.
        block: places in a block under `mix: weights`.
    """

    fingerprint: str
    streams: tuple[Indices, ...]
    seed: int = 0
    shuffle: bool = True
    weights: tuple[float, ...] = ()
    block: int = 1024

    def _in_stream(self, stream: int, position: int) -> int:
        samples = self.streams[stream]
        turn, place = divmod(position, len(samples))
        if not self.shuffle:
            return int(samples[place])
        return int(samples[_permutation(len(samples), self.fingerprint, self.seed, stream, turn)[place]])

    @property
    def _quotas(self) -> tuple[int, ...]:
        return quotas(self.weights, self.block)

    def sample(self, place: int) -> int:
        """The number of the sample at a place, 0 <= place."""
        if not self.weights:
            return self._in_stream(0, place)
        block, offset = divmod(place, self.block)
        streams, ranks = _block(self._quotas, self.fingerprint, self.seed, block if self.shuffle else 0)
        stream = int(streams[offset])
        return self._in_stream(stream, block * self._quotas[stream] + int(ranks[offset]))

    def __len__(self) -> int:
        """Samples in all streams together."""
        return sum(map(len, self.streams))


@lru_cache(maxsize=64)
def _block(quota: tuple[int, ...], fingerprint: str, seed: int, block: int) -> tuple[Indices, Indices]:
    """Stream of each place of a block, and how many places of that stream stand before it in the block."""
    streams = np.repeat(np.arange(len(quota)), quota)
    streams = streams[_permutation(len(streams), fingerprint, seed, "block", block)]
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
