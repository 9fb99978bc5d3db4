"""Passes over the validation samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from arcticseg.data.batch import Batch
from arcticseg.data.decode import Layout
from arcticseg.data.quarantine import Damage
from arcticseg.data.reader import SampleReader
from arcticseg.data.ring import Ring
from arcticseg.data.share import Share


class ValidationLoader:
    """Every sample once over all ranks, in passes that give (batch, how many of its samples count).

    All ranks get the same number of batches (ZeRO-3 needs that); the last are filled up with samples that do not count.
    A damaged sample has no data and masked labels, so it counts for nothing.

    Args:
        reader: of the validation samples.
        layout: the arrays of a sample.
        share: rank, world size and micro batch; its global batch has no meaning here.
        workers: processes that read and decode; 0: threads of this process do.
        pin_memory: page-lock the buffers, so that copies to a GPU overlap with work.
        patience: seconds after which a read is named in a warning.

    Attributes:
        damages: damaged samples of the last pass.
        stream: CUDA stream on which batches are copied; None: the current one.
    """

    def __init__(
        self,
        reader: SampleReader,
        layout: Layout,
        share: Share,
        workers: int = 0,
        pin_memory: bool = False,
        patience: float = 60.0,
    ) -> None:
        self._total, self._share = len(reader.selection), share
        micro, slots = share.micro_batch, 1 + max(2, 2 * workers)
        self._open = lambda: Ring(reader, layout, micro, workers, slots, pin_memory, patience)
        self.damages: list[Damage] = []
        self.stream: Any = None

    def __len__(self) -> int:
        """Batches of one rank."""
        return math.ceil(self._total / (self._share.micro_batch * self._share.world_size))

    def __iter__(self) -> Iterator[tuple[Batch, int]]:
        """One pass, with workers of its own; a batch may be used until the next is requested.

        Raises:
            ShardError: the source of samples fails, or a sample cannot be decoded.
        """
        micro = self._share.micro_batch
        firsts = [(i * self._share.world_size + self._share.rank) * micro for i in range(len(self))]
        samples = [[(number, number) for number in self._clipped(first)] for first in firsts]
        self.damages = []
        ring = self._open()
        ring.stream = self.stream
        try:
            for first, filled in zip(firsts, ring.fill(iter(samples)), strict=True):
                count = min(max(self._total - first, 0), micro)
                self.damages += [damage for row, damage in filled.damages.items() if row < count]
                yield filled.batch, count
                ring.release(filled)
        finally:
            ring.close()

    def _clipped(self, first: int) -> list[int]:
        """Numbers of the samples of a batch; the last sample again where there are no more."""
        return [min(first + i, self._total - 1) for i in range(self._share.micro_batch)]
