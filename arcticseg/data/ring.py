"""Samples decoded straight into a ring of reused buffers, in the order asked for.

A slot holds one micro batch; its arrays lie one after another in one piece of memory, laid out by `decode.Layout`. A
crew of processes or threads fills slots. The ring knows nothing of the order of training, of ranks or of quarantine:
it is given rows, (place, sample number), and gives batches of them back.
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
from arcticseg.data.decode import Layout, Row
from arcticseg.data.quarantine import Damage
from arcticseg.data.reader import SampleReader
from arcticseg.data.worker import Setup, Task
from arcticseg.errors import ShardError

Rows = list[tuple[int, int]]

# Threads that decode where there are no worker processes.
_THREADS = 2
# A read that takes so many times as long as the ring is patient ends the run.
_LIMIT = 10


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


@dataclass
class _Job:
    """A slot that is being filled; `wanted` until whoever asked for it has gone."""

    slot: int
    rows: Rows
    open: set[int] = field(default_factory=set)  # tickets
    damages: dict[int, Damage] = field(default_factory=dict)
    error: Exception | None = None
    wanted: bool = True


class Ring:
    """Batches of decoded samples.

    Args:
        reader: `fetch` gives a sample's bytes, verified; `where` says where it is; each worker has a copy.
        layout: the arrays of a sample.
        micro_batch: samples to a slot.
        workers: processes that read and decode; 0: threads of this process do.
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
        self.reader, self.layout, self.patience = reader, layout, patience
        setup = Setup(reader, layout, micro_batch, slots, workers or _THREADS)
        self._crew: Crew = Processes(setup) if workers else Threads(setup)
        self._pinned = pin_memory and _pin(self, self._crew.memory)
        # Views are made once.
        place = {"place": np.zeros(micro_batch, np.int64)}
        self._batches = [make_batch(slot | place, layout.coarse, layout.tile) for slot in self._crew.slots]
        self._fences: dict[int, Any] = {}
        self._free = deque(range(slots))
        self._jobs: dict[int, _Job] = {}  # by ticket
        self._tickets = 0
        self._warned: dict[int, int] = {}  # worker -> since when it reads what was named

    def fill(self, rows: Iterator[Rows]) -> Iterator[Filled]:
        """Micro batches in the order of `rows`, each of at most `micro_batch` samples; free slots are filled ahead.

        Raises:
            ShardError: the source of samples is out, a sample cannot be decoded, workers die or reads hang.
            RuntimeError: no slot is free, because none was released.
        """
        jobs: deque[_Job] = deque()
        try:
            while True:
                while self._free and (asked := next(rows, None)) is not None:
                    jobs.append(self._begin(list(asked)))
                if not jobs:
                    if self._free:
                        return
                    raise RuntimeError(
                        f"all {len(self._crew.slots)} slots are in use; release those that are done with"
                    )
                while jobs[0].open:
                    self._collect()
                job = jobs.popleft()
                if job.error is not None:
                    self._free.append(job.slot)
                    raise job.error
                yield Filled(job.slot, self._batch(job.slot, job.rows), job.rows, job.damages)
        finally:
            for job in jobs:
                job.wanted = False
                self._settle(job)

    def _begin(self, rows: Rows) -> _Job:
        """Give the rows of a free slot to the workers."""
        job = _Job(self._free.popleft(), rows)
        fence = self._fences.pop(job.slot, None)
        if fence is not None:
            fence.synchronize()
        step = -(-len(rows) // len(self._crew.status))
        for first in range(0, len(rows), step):
            numbers = tuple(number for _, number in rows[first : first + step])
            self._tickets += 1
            job.open.add(self._tickets)
            self._jobs[self._tickets] = job
            self._crew.give(Task(self._tickets, job.slot, first, numbers))
        return job

    def _collect(self) -> None:
        """Wait a while for tasks to be done; where none is, look after the workers."""
        found = self._crew.collect(min(1.0, self.patience / 4))
        for done in found:
            job = self._jobs.pop(done.ticket)
            job.open.discard(done.ticket)
            job.damages |= done.damages
            job.error = job.error or done.error
            self._settle(job)
        if not found:
            self._watch()

    def _settle(self, job: _Job) -> None:
        """Free the slot of a job that nobody waits for, once no worker writes to it."""
        if not job.wanted and not job.open:
            self._free.append(job.slot)

    def _watch(self) -> None:
        """Name reads that take long.

        Raises:
            ShardError: one takes far too long.
        """
        now = time.monotonic_ns()
        for index, (number, since) in enumerate(self._crew.status.tolist()):
            seconds = (now - since) / 1e9
            if number and seconds > self.patience:
                at = self.reader.where(number - 1)
                if seconds > _LIMIT * self.patience:
                    raise ShardError(f"{at}: not read within {seconds:.0f} s; check the disk or server that holds it")
                if self._warned.get(index) != since:
                    warnings.warn(f"{at}: has been read for {seconds:.0f} s; the source is slow", stacklevel=2)
                    self._warned[index] = since

    def _batch(self, slot: int, rows: Rows) -> Batch:
        whole = self._batches[slot]
        part = whole if len(rows) == len(whole) else whole.part(slice(len(rows)))
        return replace(part, place=torch.tensor([place for place, _ in rows]))

    def refill(self, filled: Filled, row: int, number: int) -> Damage | None:
        """Read another sample into a row of a slot in use; returns what is wrong with that one."""
        arrays = {name: array[row] for name, array in self._crew.slots[filled.slot].items()}
        damage = worker.read(self.reader, (number,), (Row(self.layout, arrays),)).get(0)
        filled.rows[row] = (filled.rows[row][0], number)
        filled.damages.pop(row, None)
        if damage is not None:
            filled.damages[row] = damage
        return damage

    def release(self, filled: Filled) -> None:
        """Give a slot back: its batch is used no more, except by copies to the device that were started before."""
        if self._pinned:
            self._fences[filled.slot] = torch.cuda.Event()
            self._fences[filled.slot].record()
        self._free.append(filled.slot)

    def close(self) -> None:
        """End the workers and close files; batches that are still held stay as they are."""
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
