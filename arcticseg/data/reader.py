"""The bytes of selected samples, verified before they are decoded."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import xxhash

from arcticseg.data import sample
from arcticseg.data.cache import Cache
from arcticseg.data.quarantine import Damage, DamagedSample
from arcticseg.data.select import Selection
from arcticseg.data.source import Folder
from arcticseg.data.tile import Tile


class SampleReader:
    """Reads samples by number, verified; travels to other processes, where it opens files and connections anew.

    Args:
        core_only: read SAR, metadata and labels only.
        cache: where to keep whole shards; None: ranges are read where the shards are.
    """

    def __init__(self, selection: Selection, core_only: bool = False, cache: Cache | None = None) -> None:
        self.selection, self.core_only, self.cache = selection, core_only, cache
        # Open files and connections are one reader's, and so one thread's own.
        self._sources = tuple(map(copy.copy, selection.sources))

    def __copy__(self) -> SampleReader:
        return SampleReader(self.selection, self.core_only, copy.copy(self.cache))

    def where(self, number: int) -> str:
        """Where a sample is, for people: shard and offset."""
        chosen = self.selection
        return f"{chosen.address(chosen.shard[number])}: sample at byte {chosen.offset[number]}"

    def expect(self, numbers: Sequence[int]) -> None:
        """Have local disks begin with samples that are soon fetched, so that reading overlaps with decoding."""
        chosen = self.selection
        for number in numbers:
            index, shard = chosen.shards[chosen.shard.item(number)]
            source = self._sources[index]
            if isinstance(source, Folder):
                core = chosen.core.item(number) if self.core_only else 0
                source.expect(shard.name, chosen.offset.item(number) + core, chosen.size.item(number) - core)

    def fetch(self, number: int) -> bytes:
        """The bytes of a sample's range, or of its core.

        Raises:
            DamagedSample: they differ from the index, and did so when they were read again.
            ShardError: the shard cannot be read.
        """
        chosen = self.selection
        index, shard = chosen.shards[chosen.shard.item(number)]
        core = chosen.core.item(number) if self.core_only else 0
        start, size = chosen.offset.item(number) + core, chosen.size.item(number) - core
        expected = (chosen.core_xxh3 if self.core_only else chosen.xxh3).item(number)
        source = self._sources[index]
        data = self.cache.read_range(source, shard, start, size) if self.cache else None
        if data is not None:
            if _fault(data, size, expected) is None:
                return data
            # The shard was whole when it came, so this disk has changed it.
            assert self.cache is not None
            self.cache.drop(shard)
        else:
            data = source.read_range(shard.name, start, size)
            if _fault(data, size, expected) is None:
                return data
            source.close()  # a file that was replaced meanwhile is met under its name only
        data = source.read_range(shard.name, start, size)
        fault = _fault(data, size, expected)
        if fault is not None:
            raise DamagedSample(Damage(number, f"{source.address}/{shard.name}", int(chosen.offset[number]), fault))
        return data

    def read(self, number: int) -> Tile:
        """The tile of a sample, of a reader of whole samples.

        Raises:
            ShardError: see `fetch`.
        """
        return sample.decode(*sample.split_members(self.fetch(number)))

    def close(self) -> None:
        """Close files and connections."""
        for source in self._sources:
            source.close()
        if self.cache is not None:
            self.cache.close()


def _fault(data: bytes, size: int, expected: int) -> str | None:
    """What is wrong with a sample's bytes; None: nothing."""
    if len(data) != size:
        return f"{len(data)} of {size} bytes"
    return None if xxhash.xxh3_64_intdigest(data) == expected else "checksum differs"
