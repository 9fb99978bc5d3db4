"""The bytes of selected samples, verified before they are decoded."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import xxhash

from arcticseg.data import sample
from arcticseg.data.cache import Cache
from arcticseg.data.manifest import ShardEntry
from arcticseg.data.quarantine import Damage, DamagedSample
from arcticseg.data.select import Selection
from arcticseg.data.source import Folder
from arcticseg.data.tile import Tile

# Scenes of which a sample is looked at to learn whether shards hold polygons.
_LOOKED_AT = 16


class SampleReader:
    """Reads samples by number, verified; a copy in another process or thread opens its own files and connections.

    Args:
        selection: the samples.
        core_only: read SAR, metadata and labels only.
        cache: where to keep whole shards; None: ranges are read where the shards are.
    """

    def __init__(self, selection: Selection, core_only: bool = False, cache: Cache | None = None) -> None:
        self.selection, self.core_only, self.cache = selection, core_only, cache
        # Open files and connections belong to a single reader, and so to a single thread.
        self._sources = tuple(map(copy.copy, selection.sources))

    def __copy__(self) -> SampleReader:
        return SampleReader(self.selection, self.core_only, copy.copy(self.cache))

    def where(self, number: int) -> str:
        """Where a sample is, for people: shard and offset."""
        selection = self.selection
        return f"{selection.address(selection.shard[number])}: sample at byte {selection.offset[number]}"

    def expect(self, numbers: Sequence[int]) -> None:
        """Let local disks begin with samples that will be fetched soon, so that reading overlaps with decoding."""
        for number in numbers:
            index, shard, start, size = self._range(number)
            source = self._sources[index]
            if isinstance(source, Folder):
                source.expect(shard.name, start, size)

    def _range(self, number: int) -> tuple[int, ShardEntry, int, int]:
        """Index of the set, shard, first byte and number of bytes of a sample, or of its core."""
        selection = self.selection
        index, shard = selection.shards[selection.shard.item(number)]
        core = selection.core.item(number) if self.core_only else 0
        return index, shard, selection.offset.item(number) + core, selection.size.item(number) - core

    def fetch(self, number: int) -> bytes:
        """The bytes of a sample's range, or of its core.

        Raises:
            DamagedSample: they differ from the index, also when they are read again.
            ShardError: the shard cannot be read.
        """
        selection = self.selection
        index, shard, start, size = self._range(number)
        expected = (selection.core_xxh3 if self.core_only else selection.xxh3).item(number)
        source = self._sources[index]
        data = self.cache.read_range(source, shard, start, size) if self.cache else None
        if data is not None:
            if _fault(data, size, expected) is None:
                return data
            # The shard was whole when it was downloaded, so this disk has changed it.
            assert self.cache is not None
            self.cache.drop(shard)
        else:
            data = source.read_range(shard.name, start, size)
            if _fault(data, size, expected) is None:
                return data
            source.close()  # a file that has been replaced meanwhile is another file under the same name
        data = source.read_range(shard.name, start, size)
        fault = _fault(data, size, expected)
        if fault is not None:
            raise DamagedSample(Damage(number, f"{source.address}/{shard.name}", int(selection.offset[number]), fault))
        return data

    def read(self, number: int) -> Tile:
        """The tile of a sample; the reader must read whole samples.

        Raises:
            ShardError: see `fetch`; or the sample cannot be decoded.
        """
        return sample.decode(*sample.split_members(self.fetch(number)))

    def close(self) -> None:
        """Close files and connections."""
        for source in self._sources:
            source.close()
        if self.cache is not None:
            self.cache.close()


def has_polygons(selection: Selection) -> bool:
    """Whether some sample holds polygons: looked up in the first samples of some scenes.

    Raises:
        ShardError: a shard cannot be read; damaged samples are passed over.
    """
    reader = SampleReader(selection)
    _, firsts = np.unique(selection.scene, return_index=True)
    numbers = firsts[:: max(1, len(firsts) // _LOOKED_AT)].tolist()
    try:
        for number in numbers:
            try:
                _, members = sample.split_members(reader.fetch(number))
            except DamagedSample:
                continue
            if "aux_poly.zst" in members:
                return True
        return False
    finally:
        reader.close()


def _fault(data: bytes, size: int, expected: int) -> str | None:
    """What is wrong with a sample's bytes; None where they are sound."""
    if len(data) != size:
        return f"{len(data)} of {size} bytes"
    return None if xxhash.xxh3_64_intdigest(data) == expected else "checksum differs"
