"""Samples decoded straight into a ring of reused buffers, in the order in which they are requested.

A slot holds one micro batch; its arrays lie one after another in one piece of memory, laid out by `decode.Layout`. A
crew of processes or threads fills slots. The ring knows nothing of the order of training, of ranks or of quarantine:
it takes lists of (place, sample number), and gives a batch for each.
"""

from __future__ import annotations

import mmap
import time
import warnings
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from arcticseg.data import worker
from arcticseg.data.batch import Batch, make_batch
from arcticseg.data.crew import Crew, Processes, Threads
from arcticseg.data.decode import Decoder, Layout
from arcticseg.data.quarantine import Damage
from arcticseg.data.reader import SampleReader
from arcticseg.data.worker import Request, Setup
from arcticseg.errors import ShardError

# (place, sample number) of each row of a micro batch.
PlacedSamples = list[tuple[int, int]]

# Threads that decode where there are no worker processes.
_THREADS = 2
# A read that takes this many times the ring's patience ends the run.
_LIMIT = 10


@dataclass
class Filled:
    """A slot that holds a micro batch.

    Attributes:
        slot: its index.
        batch: views of the slot; they keep their content until the slot is released.
        samples: (place, sample number) of each row.
        damages: row -> what is wrong with its sample; such a row holds no data and masked labels.
    """

    slot: int
    batch: Batch
    samples: PlacedSamples
    damages: dict[int, Damage] = field(default_factory=dict)


@dataclass
class _Filling:
    """A slot that is being filled.

    Attributes:
        slot: its index.
        samples: (place, sample number) of each row.
        open: tickets of the requests that have no answer yet.
        damages: row -> what is wrong with its sample.
        error: of the first request that failed.
        wanted: whether anybody waits for it.
    """

    slot: int
    samples: PlacedSamples
    open: set[int] = field(default_factory=set)
    damages: dict[int, Damage] = field(default_factory=dict)
    error: Exception | None = None
    wanted: bool = True


class Ring:
    """Batches of decoded samples.

    Args:
        reader: gives the bytes of samples; each worker has a copy.
        layout: the arrays of a sample.
        micro_batch: samples to a slot.
        workers: processes that read and decode; 0: threads of this process do.
        slots: micro batches held at once, those in use included.
        pin_memory: page-lock the buffers, so that copies to a GPU overlap with work.
        patience: seconds after which a read is named in a warning; ten times as long is an error.

    Attributes:
        stream: CUDA stream on which batches are copied; None: the current one.
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
        self.reader, self.layout, self.patience = reader, layout, patience
        self.stream: Any = None
        setup = Setup(reader, layout, micro_batch, slots, workers or _THREADS)
        self._crew: Crew = Processes(setup) if workers else Threads(setup)
        self._pinned = pin_memory and _pin(self, self._crew.memory)
        # Views are made once.
        place = {"place": np.zeros(micro_batch, np.int64)}
        self._batches = [make_batch(slot | place, layout.coarse, layout.tile) for slot in self._crew.slots]
        # Slot -> CUDA event after which it may be overwritten.
        self._fences: dict[int, Any] = {}
        self._free = deque(range(slots))
        self._by_ticket: dict[int, _Filling] = {}
        self._tickets = 0
        # Worker -> start of the read that was named in a warning.
        self._warned: dict[int, int] = {}
        # Seconds that `fill` was held up by workers.
        self.waited = 0.0

    def fill(self, requested: Iterator[PlacedSamples]) -> Iterator[Filled]:
        """Micro batches as they are requested, each of at most `micro_batch` samples; free slots are filled ahead.

        Raises:
            ShardError: the source of samples fails, a sample cannot be decoded, workers die or reads hang.
            RuntimeError: no slot is free, because none was released.
        """
        queue: deque[_Filling] = deque()
        try:
            while True:
                while self._find_free(wait=not queue) and (samples := next(requested, None)) is not None:
                    queue.append(self._begin(list(samples)))
                if not queue:
                    if self._free:
                        return
                    raise RuntimeError(f"all {len(self._crew.slots)} slots are in use; release some")
                while queue[0].open:
                    self._collect()
                filling = queue.popleft()
                if filling.error is not None:
                    self._free.append(filling.slot)
                    raise filling.error
                batch = self._batch(filling.slot, filling.samples)
                yield Filled(filling.slot, batch, filling.samples, filling.damages)
        finally:
            for filling in queue:
                filling.wanted = False
                self._settle(filling)

    def _find_free(self, wait: bool) -> bool:
        """Whether a slot is free to be overwritten, which is then the first of those that are free.

        Args:
            wait: for copies from it, where those of all free slots still run.
        """
        for _ in range(len(self._free)):
            fence = self._fences.get(self._free[0])
            if fence is None or fence.query():
                return True
            self._free.rotate(-1)
        if not self._free or not wait:
            return False
        self._fences[self._free[0]].synchronize()
        return True

    def _begin(self, samples: PlacedSamples) -> _Filling:
        """Let the workers fill a free slot."""
        filling = _Filling(self._free.popleft(), samples)
        self._fences.pop(filling.slot, None)
        step = -(-len(samples) // len(self._crew.status))
        for first in range(0, len(samples), step):
            numbers = tuple(number for _, number in samples[first : first + step])
            self._tickets += 1
            filling.open.add(self._tickets)
            self._by_ticket[self._tickets] = filling
            self._crew.give(Request(self._tickets, filling.slot, first, numbers))
        return filling

    def _collect(self) -> None:
        """Wait a while for answers; where none comes, look after the workers."""
        began = time.monotonic()
        answers = self._crew.collect(min(1.0, self.patience / 4))
        self.waited += time.monotonic() - began
        for answer in answers:
            filling = self._by_ticket.pop(answer.ticket)
            filling.open.discard(answer.ticket)
            filling.damages |= answer.damages
            filling.error = filling.error or answer.error
            self._settle(filling)
        if not answers:
            self._watch()

    def _settle(self, filling: _Filling) -> None:
        """Free a slot that nobody waits for, once no worker writes to it."""
        if not filling.wanted and not filling.open:
            self._free.append(filling.slot)

    def _watch(self) -> None:
        """Name reads that take long.

        Raises:
            ShardError: a read takes far too long.
        """
        now = time.monotonic_ns()
        for index, (number, since) in enumerate(self._crew.status.tolist()):
            seconds = (now - since) / 1e9
            if number and seconds > self.patience:
                where = self.reader.where(number - 1)
                if seconds > _LIMIT * self.patience:
                    raise ShardError(
                        f"{where}: not read within {seconds:.0f} s; check the disk or server that holds it"
                    )
                if self._warned.get(index) != since:
                    warnings.warn(f"{where}: has been read for {seconds:.0f} s; the source is slow", stacklevel=2)
                    self._warned[index] = since

    def _batch(self, slot: int, samples: PlacedSamples) -> Batch:
        whole = self._batches[slot]
        part = whole if len(samples) == len(whole) else whole.part(slice(len(samples)))
        return replace(part, place=torch.tensor([place for place, _ in samples]))

    def refill(self, filled: Filled, row: int, number: int) -> Damage | None:
        """Read another sample into a row of a slot in use; returns what is wrong with it, None where nothing is.

        Raises:
            ShardError: the source of samples fails, or the sample cannot be decoded.
        """
        arrays = {name: array[row] for name, array in self._crew.slots[filled.slot].items()}
        damage = worker.read(self.reader, (number,), (Decoder(self.layout, arrays),)).get(0)
        filled.samples[row] = (filled.samples[row][0], number)
        filled.damages.pop(row, None)
        if damage is not None:
            filled.damages[row] = damage
        return damage

    def release(self, filled: Filled) -> None:
        """Give a slot back: nothing uses its batch any more but copies to the device that have been started."""
        if self._pinned:
            self._fences[filled.slot] = torch.cuda.Event()
            self._fences[filled.slot].record(self.stream or torch.cuda.current_stream())
        self._free.append(filled.slot)

    def close(self) -> None:
        """End the workers and close files; batches that are still held keep their content."""
        self._crew.close()
        self.reader.close()


def _pin(ring: Ring, memory: mmap.mmap) -> bool:
    """Page-lock memory for as long as the ring lives; False where there is no CUDA or it refuses."""
    if not torch.cuda.is_available():
        return False
    runtime = torch.cuda.cudart()
    address = np.frombuffer(memory, np.uint8).ctypes.data
    if int(runtime.cudaHostRegister(address, len(memory), 0)) != 0:
        warnings.warn("the loader's memory cannot be page-locked; copies to the GPU will be slower", stacklevel=3)
        return False
    weakref.finalize(ring, runtime.cudaHostUnregister, address)
    return True
