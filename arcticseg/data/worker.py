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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcticseg.data.decode import Arrays, Layout, blank, decode_into
from arcticseg.data.stream import Damage, DamagedSample, SampleReader
from arcticseg.errors import ArcticSegError

# Of each worker: the sample being read, counted from 1 (0 = none), and since when, in ns of the monotonic clock.
_STATUS_BYTES = 16


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


def read(reader: SampleReader, layout: Layout, number: int, row: Arrays) -> Damage | None:
    """Read a sample into a row; where it is damaged, the row holds no data and masked labels.

    Raises:
        ShardError: the source is out, or what was built cannot be decoded.
    """
    try:
        decode_into(reader.fetch(number), layout, row)
    except DamagedSample as error:
        blank(row)
        return error.damage
    return None


def serve(
    connection: Connection, reader: SampleReader, layout: Layout, slots: Sequence[Arrays], status: NDArray[Any]
) -> None:
    """Do tasks until the connection closes; `status` [2] says which sample is being read."""
    tasks: deque[Task] = deque()
    try:
        while True:
            # All that is asked for is announced to the disk at once; it reads while this decodes.
            while not tasks or connection.poll():
                tasks.append(connection.recv())
                reader.expect(tasks[-1].numbers)
            task = tasks.popleft()
            damages: dict[int, Damage] = {}
            error: Exception | None = None
            try:
                for row, number in enumerate(task.numbers, task.first):
                    status[1] = time.monotonic_ns()
                    status[0] = number + 1
                    arrays = {name: array[row] for name, array in slots[task.slot].items()}
                    damage = read(reader, layout, number, arrays)
                    if damage is not None:
                        damages[row] = damage
            except ArcticSegError as found:
                error = found
            except Exception:
                error = RuntimeError(f"a loader worker failed:\n{traceback.format_exc()}")
            status[0] = 0
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
    serve(connection, setup.reader, setup.layout, slots, status[index])
