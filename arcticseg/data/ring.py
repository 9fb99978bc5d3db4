"""Samples decoded straight into a ring of reused buffers, in the order asked for.

A slot holds one micro batch; its arrays lie one after another in one piece of memory, laid out by `decode.Layout`. The
ring knows nothing of the order of training, of ranks or of quarantine: it is given rows, (place, sample number), and
gives batches of them back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcticseg.data.batch import Batch, make_batch
from arcticseg.data.decode import Layout, blank, decode_into
from arcticseg.data.stream import Damage, DamagedSample, SampleReader

Rows = list[tuple[int, int]]

# Arrays start at multiples of a page, and so of any vector's width.
_ALIGN = 4096


@dataclass
class Filled:
    """A slot that holds a micro batch.

    Attributes:
        batch: views of the slot; they are what they are until the slot is released.
        rows: (place, sample number) of each row.
        damages: row -> what is wrong with its sample; such a row holds no data and masked labels.
    """

    slot: int
    batch: Batch
    rows: Rows
    damages: dict[int, Damage] = field(default_factory=dict)


def slot_arrays(memory: memoryview, layout: Layout, samples: int) -> dict[str, NDArray[Any]]:
    """The arrays [samples, ...] of a slot as views of its memory."""
    arrays, offset = {}, 0
    for name, (dtype, shape) in layout.fields.items():
        count = samples * math.prod(shape)
        arrays[name] = np.frombuffer(memory, dtype, count, offset).reshape(samples, *shape)
        offset += -(-count * dtype.itemsize // _ALIGN) * _ALIGN
    return arrays


def slot_bytes(layout: Layout, samples: int) -> int:
    """Memory of a slot, a multiple of a page."""
    sizes = (samples * math.prod(shape) * dtype.itemsize for dtype, shape in layout.fields.values())
    return sum(-(-size // _ALIGN) * _ALIGN for size in sizes)


class Ring:
    """Batches of decoded samples.

    Args:
        reader: gives a sample's bytes, verified.
        layout: the arrays of a sample.
        micro_batch: samples to a slot.
        workers: processes that read and decode; 0: this process does.
        slots: micro batches held at once, those in use included.
        pin_memory: page-lock the buffers, so that copies to a GPU overlap with work.
        patience: seconds after which a read is named in a warning; ten times as long is an error.
    """

    def __init__(
        self,
        reader: SampleReader,
        layout: Layout,
        micro_batch: int,
        workers: int = 0,
        slots: int = 4,
        pin_memory: bool = False,
        patience: float = 60.0,
    ) -> None:
        self.reader, self.layout, self.micro_batch = reader, layout, micro_batch
        size = slot_bytes(layout, micro_batch)
        memory = memoryview(bytearray(size * slots))
        self._arrays = [slot_arrays(memory[i * size : (i + 1) * size], layout, micro_batch) for i in range(slots)]
        self._free = list(range(slots))

    def _row(self, slot: int, row: int) -> dict[str, NDArray[Any]]:
        return {name: array[row] for name, array in self._arrays[slot].items()}

    def _read(self, slot: int, row: int, number: int) -> Damage | None:
        """Read a sample into a row; where it is damaged, the row holds no data."""
        arrays = self._row(slot, row)
        try:
            decode_into(self.reader.fetch(number), self.layout, arrays)
        except DamagedSample as error:
            blank(arrays)
            return error.damage
        return None

    def fill(self, rows: Iterator[Rows]) -> Iterator[Filled]:
        """Micro batches in the order of `rows`, each of at most `micro_batch` samples.

        Raises:
            ShardError: the source of samples is out, or a sample cannot be decoded.
            RuntimeError: no slot is free, because none was released.
        """
        for asked in rows:
            if not self._free:
                raise RuntimeError(f"all {len(self._arrays)} slots are in use; release those that are done with")
            slot = self._free.pop(0)
            found = ((i, self._read(slot, i, number)) for i, (_, number) in enumerate(asked))
            damages = {i: damage for i, damage in found if damage is not None}
            yield Filled(slot, self._batch(slot, asked), list(asked), damages)

    def _batch(self, slot: int, rows: Rows) -> Batch:
        arrays = {name: array[: len(rows)] for name, array in self._arrays[slot].items()}
        arrays["place"] = np.array([place for place, _ in rows], np.int64)
        return make_batch(arrays, self.layout.coarse, self.layout.tile)

    def refill(self, filled: Filled, row: int, number: int) -> Damage | None:
        """Read another sample into a row of a slot in use; returns what is wrong with that one."""
        damage = self._read(filled.slot, row, number)
        filled.rows[row] = (filled.rows[row][0], number)
        filled.damages.pop(row, None)
        if damage is not None:
            filled.damages[row] = damage
        return damage

    def release(self, filled: Filled) -> None:
        """Give a slot back: its batch is used no more, except by copies to the device that have been started."""
        self._free.append(filled.slot)

    def close(self) -> None:
        """End worker processes and close files."""
        self.reader.close()
