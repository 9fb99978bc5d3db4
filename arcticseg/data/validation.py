"""Passes over the validation samples."""

from __future__ import annotations

import math
from collections.abc import Iterator

from arcticseg.data.batch import Batch
from arcticseg.data.decode import Layout
from arcticseg.data.quarantine import Damage
from arcticseg.data.reader import SampleReader
from arcticseg.data.ring import Ring


class Evaluation:
    """Every sample once over all ranks, in passes: (batch, how many of its samples count).

    All ranks get the same number of batches (ZeRO-3 needs that); the last are filled up with samples that do not count.
    A damaged sample has no data and masked labels, so it counts for nothing; `damages` lists those of the last pass.
    """

    def __init__(
        self,
        reader: SampleReader,
        layout: Layout,
        micro_batch: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
        patience: float = 60.0,
    ) -> None:
        self._total, self._micro_batch = len(reader.selection), micro_batch
        self._rank, self._world_size = rank, world_size
        self._open = lambda: Ring(reader, layout, micro_batch, workers, 1 + max(2, 2 * workers), pin_memory, patience)
        self.damages: list[Damage] = []

    def __len__(self) -> int:
        """Batches of one rank."""
        return math.ceil(self._total / (self._micro_batch * self._world_size))

    def __iter__(self) -> Iterator[tuple[Batch, int]]:
        """One pass, with workers of its own; a batch is to be done with when the next is asked for."""
        micro = self._micro_batch
        firsts = [(i * self._world_size + self._rank) * micro for i in range(len(self))]
        rows = [[(number, number) for number in self._clipped(first)] for first in firsts]
        self.damages = []
        ring = self._open()
        try:
            for first, filled in zip(firsts, ring.fill(iter(rows)), strict=True):
                count = min(max(self._total - first, 0), micro)
                self.damages += [damage for row, damage in filled.damages.items() if row < count]
                yield filled.batch, count
                ring.release(filled)
        finally:
            ring.close()

    def _clipped(self, first: int) -> list[int]:
        return [min(first + i, self._total - 1) for i in range(self._micro_batch)]
