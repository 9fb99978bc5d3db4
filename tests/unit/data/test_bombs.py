"""Members of a sample that say, or hold, far more than their tile has."""

from __future__ import annotations

import tracemalloc

import blosc2
import made
import numpy as np
import pytest
import zstandard

from arcticseg.data import sample
from arcticseg.errors import ShardError

MANY = 100_000_000


def zstd(content_size: bool) -> bytes:
    compressor = zstandard.ZstdCompressor(write_content_size=content_size)
    if content_size:
        return compressor.compress(bytes(MANY))
    stream = compressor.compressobj()
    return stream.compress(bytes(MANY)) + stream.flush()


BOMBS = {
    "dist.zst": [zstd(True), zstd(False)],
    "lab.zst": [zstd(True), zstd(False)],
    "hh.b2": [bytes(blosc2.compress2(np.zeros(MANY // 2, np.uint16)))],
    "aux.b2": [bytes(blosc2.compress2(np.zeros(MANY // 2, np.uint16)))],
}


@pytest.mark.parametrize(("member", "bomb"), [(name, bomb) for name, bombs in BOMBS.items() for bomb in bombs])
def test_a_bomb_is_not_unpacked(member: str, bomb: bytes) -> None:
    tile = made.tile(0)
    members = sample.encode(tile) | {member: bomb}
    tracemalloc.start()
    try:
        with pytest.raises(ShardError, match=rf"member {member} cannot be decoded"):
            sample.decode(tile.key, members)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
