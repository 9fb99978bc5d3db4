"""What reads and decodes for a `ring.Ring`: a loop over tasks, in a process or a thread of its own.

No torch here, so that a process starts in a fraction of a second and takes little memory. It ends when its parent
does, however that ends: the connection closes, or the system gives it another parent.
"""

from __future__ import annotations

import mmap
import os
import pickle
import select
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcticseg.data.decode import Arrays, Layout, Row
from arcticseg.data.quarantine import Damage, DamagedSample
from arcticseg.data.reader import SampleReader
from arcticseg.errors import ArcticSegError

# Of each worker: the sample being read, counted from 1 (0 = none), and since when, in ns of the monotonic clock.
_STATUS_BYTES = 16
# Samples that a worker opens before it decodes them; their bytes are held meanwhile.
_AT_A_TIME = 8


@dataclass(frozen=True)
class Task:
    """Samples to be decoded into consecutive rows of a slot."""

    ticket: int
    slot: int
    first: int
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Done:
    """A task's end: damages by row, or the error that ended it."""

    ticket: int
    damages: dict[int, Damage]
    error: Exception | None = None


class Mailbox:
    """Tasks for a thread, and its answers: what it does with them is what a process does with a `Connection`."""

    def __init__(self, answers: SimpleQueue[Done]) -> None:
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._answers = answers
        self._closed = False

    def give(self, task: Task) -> None:
        """A task for the thread."""
        self._tasks.put(task)

    def close(self) -> None:
        """No more tasks, nor answers to those that were given."""
        self._closed = True
        self._tasks.put(None)

    def poll(self) -> bool:
        """Whether `recv` has something at once."""
        return not self._tasks.empty()

    def recv(self) -> Task:
        """The next task.

        Raises:
            EOFError: there is no more.
        """
        task = self._tasks.get()
        if task is None:
            raise EOFError
        return task

    def send(self, done: Done) -> None:
        """An answer.

        Raises:
            OSError: nobody waits for it.
        """
        if self._closed:
            raise OSError("closed")
        self._answers.put(done)


@dataclass(frozen=True)
class Setup:
    """What a worker process needs to know; `bytes` of memory hold the slots and, after them, the status."""

    reader: SampleReader
    layout: Layout
    micro_batch: int
    slots: int
    workers: int

    @property
    def slot_bytes(self) -> int:
        """Memory of a slot."""
        return self.layout.bytes(self.micro_batch)

    @property
    def bytes(self) -> int:
        """Memory of all."""
        return self.slots * self.slot_bytes + self.workers * _STATUS_BYTES

    def views(self, memory: memoryview) -> tuple[list[dict[str, NDArray[Any]]], NDArray[Any]]:
        """Arrays of each slot, and the status, int64 [workers, 2]."""
        size = self.slot_bytes
        slots = [self.layout.views(memory[i * size :], self.micro_batch) for i in range(self.slots)]
        return slots, np.frombuffer(memory, np.int64, 2 * self.workers, self.slots * size).reshape(-1, 2)


def read(
    reader: SampleReader, numbers: Sequence[int], rows: Sequence[Row], status: NDArray[Any] | None = None
) -> dict[int, Damage]:
    """Read samples, each into a row; a row whose sample is damaged holds no data and masked labels.

    Returns:
        what is wrong, by position in `numbers`.

    Raises:
        ShardError: the source is out, or what was built cannot be decoded.
    """
    damages: dict[int, Damage] = {}
    status = np.zeros(2, np.int64) if status is None else status
    try:
        for first in range(0, len(numbers), _AT_A_TIME):
            fetched = []
            for i in range(first, min(first + _AT_A_TIME, len(numbers))):
                status[:] = numbers[i] + 1, time.monotonic_ns()
                try:
                    fetched.append((i, reader.fetch(numbers[i])))
                except DamagedSample as error:
                    rows[i].blank()
                    damages[i] = error.damage
            for i, data in fetched:
                rows[i].open(data)
            for i, _ in fetched:
                status[:] = numbers[i] + 1, time.monotonic_ns()
                rows[i].finish()
    finally:
        status[0] = 0
    return damages


def serve(
    connection: Connection | Mailbox,
    reader: SampleReader,
    layout: Layout,
    slots: Sequence[Arrays],
    status: NDArray[Any],
    announce: bool,
) -> None:
    """Do tasks until the connection closes; `status` [2] says which sample is being read."""
    rows = [layout.rows(slot) for slot in slots]
    tasks: deque[Task] = deque()
    try:
        while True:
            while not tasks or connection.poll():
                tasks.append(connection.recv())
                # All that is asked for is announced to the disk at once; it reads while this decodes. Of threads, one
                # reads while others decode, and each announcement would cost them the interpreter's lock.
                if announce:
                    reader.expect(tasks[-1].numbers)
            task = tasks.popleft()
            damages: dict[int, Damage] = {}
            error: Exception | None = None
            try:
                met = read(reader, task.numbers, rows[task.slot][task.first :], status)
                damages = {task.first + i: damage for i, damage in met.items()}
            except ArcticSegError as found:
                error = found
            except Exception:
                error = RuntimeError(f"a loader worker failed:\n{traceback.format_exc()}")
            connection.send(Done(task.ticket, damages, error))
    except (EOFError, OSError):
        pass  # the ring was closed
    finally:
        reader.close()


def _end_with_parent(connection: Connection) -> None:
    """End this process when its parent is gone, even while a read hangs."""
    parent = os.getppid()
    poll = select.poll()
    poll.register(connection.fileno(), 0)  # a hang-up is told in any case

    def watch() -> None:
        while os.getppid() == parent and not poll.poll(1000):
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Serve as a process: `connection memory setup index`, three file descriptors and the worker's number."""
    connected, shared, described, index = map(int, sys.argv[1:])
    # The trainer answers these for all: it makes a checkpoint, and then closes the ring.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    connection = Connection(connected)
    _end_with_parent(connection)
    setup: Setup = pickle.loads(mmap.mmap(described, 0, access=mmap.ACCESS_READ))
    memory = mmap.mmap(shared, setup.bytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    slots, status = setup.views(memoryview(memory))
    serve(connection, setup.reader, setup.layout, slots, status[index], announce=True)
