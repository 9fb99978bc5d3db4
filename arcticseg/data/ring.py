"""Samples decoded straight into a ring of reused buffers, in the order asked for.

A slot holds one micro batch; its arrays lie one after another in one piece of memory, laid out by `decode.Layout`.
Workers, which are processes or threads, fill slots; nothing but sample numbers and damages passes between them and the
ring. The ring knows nothing of the order of training, of ranks or of quarantine: it is given rows, (place, sample
number), and gives batches of them back.
"""

from __future__ import annotations

import contextlib
import copy
import mmap
import os
import pickle
import selectors
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np
import torch

from arcticseg.data import worker
from arcticseg.data.batch import Batch, make_batch
from arcticseg.data.decode import Layout
from arcticseg.data.memory import allocate
from arcticseg.data.stream import Damage, SampleReader
from arcticseg.data.worker import Done, Setup, Task
from arcticseg.errors import ShardError

Rows = list[tuple[int, int]]

# Threads that decode where there are no worker processes; the decoders let go of the interpreter's lock.
_THREADS = 2
# Times that samples are given to a worker before its death is taken to be their doing.
_ATTEMPTS = 3
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


@dataclass
class _Worker:
    """A worker as the ring sees it: tasks given to it and not done, oldest first, and how often each was given."""

    index: int
    connection: Connection
    process: subprocess.Popen[bytes] | None
    tasks: dict[int, Task] = field(default_factory=dict)
    warned: int = 0

    @property
    def load(self) -> int:
        """Samples still to be read."""
        return sum(len(task.numbers) for task in self.tasks.values())


def _shared_file(name: str, size: int) -> int:
    """File descriptor of memory that other processes can map; unlike /dev/shm it has no limit of its own."""
    descriptor = os.memfd_create(name)
    os.ftruncate(descriptor, size)
    return descriptor


def _end(workers: list[_Worker], descriptors: list[int]) -> None:
    """End workers, whatever they do."""
    for each in workers:
        each.connection.close()
    for each in workers:
        if each.process is not None:
            try:
                each.process.wait(2)
            except subprocess.TimeoutExpired:
                each.process.kill()
                each.process.wait()
    workers.clear()
    for descriptor in descriptors:
        os.close(descriptor)
    descriptors.clear()


class Ring:
    """Batches of decoded samples.

    Args:
        reader: `fetch` gives a sample's bytes, verified; `where` says where it is; each worker has a copy.
        layout: the arrays of a sample.
        micro_batch: samples to a slot.
        workers: processes that read and decode; 0: two threads of this process do.
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
        self.reader, self.layout, self.micro_batch, self.patience = reader, layout, micro_batch, patience
        self._setup = Setup(reader, layout, micro_batch, slots, workers or _THREADS)
        self._descriptors: list[int] = []
        if workers:
            described = pickle.dumps(self._setup)
            self._descriptors.append(_shared_file("arcticseg-ring", self._setup.bytes))
            self._descriptors.append(_shared_file("arcticseg-setup", len(described)))
            os.pwrite(self._descriptors[1], described, 0)
        memory = allocate(self._setup.bytes, *self._descriptors[:1])
        self._slots, self._status = self._setup.views(memoryview(memory))
        self._pinned = pin_memory and _pin(self, memory)
        self._fences: dict[int, Any] = {}
        self._free = deque(range(slots))
        self._jobs: dict[int, _Job] = {}  # by ticket
        self._attempts: dict[int, int] = {}  # by ticket
        self._tickets = 0
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        weakref.finalize(self, _end, self._workers, self._descriptors)
        for index in range(self._setup.workers):
            self._workers.append(self._start(index))

    def _start(self, index: int) -> _Worker:
        """Start a worker."""
        self._status[index] = 0
        ours, theirs = Pipe()
        process = None
        if self._descriptors:
            passed = (theirs.fileno(), *self._descriptors)
            # One thread each; the modules that this process finds.
            environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path)
            command = "from arcticseg.data.worker import main; main()"
            process = subprocess.Popen(
                [sys.executable, "-c", command, *map(str, passed), str(index)],
                stdin=subprocess.DEVNULL,
                pass_fds=passed,
                env=environment,
            )
            theirs.close()
        else:
            arguments = (theirs, copy.copy(self.reader), self.layout, self._slots, self._status[index])
            threading.Thread(target=worker.serve, args=arguments, daemon=True, name=f"ring-{index}").start()
        found = _Worker(index, ours, process)
        self._selector.register(ours, selectors.EVENT_READ, found)
        return found

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
                    raise RuntimeError(f"all {len(self._slots)} slots are in use; release those that are done with")
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
        step = -(-len(rows) // len(self._workers))
        for first in range(0, len(rows), step):
            numbers = tuple(number for _, number in rows[first : first + step])
            self._tickets += 1
            job.open.add(self._tickets)
            self._jobs[self._tickets] = job
            self._give(Task(self._tickets, job.slot, first, numbers))
        return job

    def _give(self, task: Task) -> None:
        """Send a task to the worker that has the least to do."""
        chosen = min(self._workers, key=lambda each: each.load)
        chosen.tasks[task.ticket] = task
        with contextlib.suppress(OSError):  # it is dead, which the next collection finds out
            chosen.connection.send(task)

    def _collect(self) -> None:
        """Wait a while for tasks to be done, and look after the workers."""
        for key, _ in self._selector.select(min(1.0, self.patience / 4)):
            each: _Worker = key.data
            try:
                done: Done = each.connection.recv()
            except (EOFError, OSError):
                self._replace(each)
                continue
            del each.tasks[done.ticket]
            self._attempts.pop(done.ticket, None)
            job = self._jobs.pop(done.ticket)
            job.open.discard(done.ticket)
            job.damages |= done.damages
            job.error = job.error or done.error
            self._settle(job)
        self._watch()

    def _settle(self, job: _Job) -> None:
        """Free the slot of a job that nobody waits for, once no worker writes to it."""
        if not job.wanted and not job.open:
            self._free.append(job.slot)

    def _replace(self, dead: _Worker) -> None:
        """Start another worker in the place of one that died, and give it the same tasks.

        Raises:
            ShardError: the first of them has killed too many.
        """
        self._selector.unregister(dead.connection)
        dead.connection.close()
        assert dead.process is not None
        code = dead.process.wait()
        number = int(self._status[dead.index, 0]) - 1
        new = self._start(dead.index)
        self._workers[self._workers.index(dead)] = new
        for ticket, task in dead.tasks.items():
            new.tasks[ticket] = task
            with contextlib.suppress(OSError):
                new.connection.send(task)
        if dead.tasks:
            first = next(iter(dead.tasks))
            self._attempts[first] = self._attempts.get(first, 1) + 1
            at = self.reader.where(max(number, dead.tasks[first].numbers[0]))
            if self._attempts[first] > _ATTEMPTS:
                raise ShardError(
                    f"{at}: loader workers died here {_ATTEMPTS} times (status {code}); "
                    "see the system's log for what killed them; if memory is short, lower data.workers"
                )
            warnings.warn(f"{at}: a loader worker died here (status {code}); another does its work again", stacklevel=2)

    def _watch(self) -> None:
        """Name reads that take long.

        Raises:
            ShardError: one takes far too long.
        """
        now = time.monotonic_ns()
        for each, (number, since) in zip(self._workers, self._status.tolist(), strict=True):
            seconds = (now - since) / 1e9
            if number and seconds > self.patience:
                at = self.reader.where(number - 1)
                if seconds > _LIMIT * self.patience:
                    raise ShardError(f"{at}: not read within {seconds:.0f} s; check the disk or server that holds it")
                if each.warned != since:
                    warnings.warn(f"{at}: has been read for {seconds:.0f} s; the source is slow", stacklevel=2)
                    each.warned = since

    def _batch(self, slot: int, rows: Rows) -> Batch:
        arrays = {name: array[: len(rows)] for name, array in self._slots[slot].items()}
        arrays["place"] = np.array([place for place, _ in rows], np.int64)
        return make_batch(arrays, self.layout.coarse, self.layout.tile)

    def refill(self, filled: Filled, row: int, number: int) -> Damage | None:
        """Read another sample into a row of a slot in use; returns what is wrong with that one."""
        arrays = {name: array[row] for name, array in self._slots[filled.slot].items()}
        damage = worker.read(self.reader, self.layout, number, arrays)
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
        self._selector.close()
        _end(self._workers, self._descriptors)
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
