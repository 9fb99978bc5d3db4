"""A worker of a `ring.Ring`, which reads and decodes: a loop over requests, in a process or a thread of its own.

No torch here, so that a process starts in a fraction of a second and takes little memory. It ends when its parent
does, in whatever way: the connection closes, or the system gives it another parent.
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

from arcticseg.data.decode import Arrays, Decoder, Layout
from arcticseg.data.quarantine import Damage, DamagedSample
from arcticseg.data.reader import SampleReader
from arcticseg.errors import ArcticSegError

# Of each worker: the sample that it reads, counted from 1 (0 = none), and since when, in ns of the monotonic clock.
_STATUS_BYTES = 16
# Samples that a worker opens before it decodes them; it holds their bytes meanwhile.
_AT_A_TIME = 8


@dataclass(frozen=True)
class Request:
    """Samples to be decoded into consecutive rows of a slot.

    Attributes:
        ticket: number of the request.
        slot: index of the slot.
        first: row of the first sample.
        numbers: of the samples.
    """

    ticket: int
    slot: int
    first: int
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """The end of a request: what is wrong with samples, by row, or the error that ended it."""

    ticket: int
    damages: dict[int, Damage]
    error: Exception | None = None


class Mailbox:
    """Requests to a thread, and its answers, with the methods of the `Connection` that a process has."""

    def __init__(self, answers: SimpleQueue[Answer]) -> None:
        self._requests: SimpleQueue[Request | None] = SimpleQueue()
        self._answers = answers
        self._closed = False

    def give(self, request: Request) -> None:
        """Queue a request for the thread."""
        self._requests.put(request)

    def close(self) -> None:
        """End the thread's loop; answers that come later are refused."""
        self._closed = True
        self._requests.put(None)

    def poll(self) -> bool:
        """Whether `recv` returns at once."""
        return not self._requests.empty()

    def recv(self) -> Request:
        """The next request.

        Raises:
            EOFError: there is none, and will be none.
        """
        request = self._requests.get()
        if request is None:
            raise EOFError
        return request

    def send(self, answer: Answer) -> None:
        """Give an answer.

        Raises:
            OSError: nobody waits for it.
        """
        if self._closed:
            raise OSError("closed")
        self._answers.put(answer)


@dataclass(frozen=True)
class Setup:
    """What a worker needs to know; `bytes` of memory hold the slots and, after them, the status."""

    reader: SampleReader
    layout: Layout
    micro_batch: int
    slots: int
    workers: int

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot."""
        return self.layout.bytes(self.micro_batch)

    @property
    def bytes(self) -> int:
        """Bytes of all slots and the status."""
        return self.slots * self.slot_bytes + self.workers * _STATUS_BYTES

    def views(self, memory: memoryview) -> tuple[list[dict[str, NDArray[Any]]], NDArray[Any]]:
        """Arrays [micro batch, ...] of each slot, and the status, int64 [workers, 2]."""
        size = self.slot_bytes
        slots = [self.layout.views(memory[i * size :], self.micro_batch) for i in range(self.slots)]
        return slots, np.frombuffer(memory, np.int64, 2 * self.workers, self.slots * size).reshape(-1, 2)


def read(
    reader: SampleReader, numbers: Sequence[int], decoders: Sequence[Decoder], status: NDArray[Any] | None = None
) -> dict[int, Damage]:
    """Read samples, each with a decoder; the arrays of a damaged sample hold no data and masked labels.

    Args:
        numbers: of the samples.
        decoders: at least as many.
        status: int64 [2], told which sample is read since when; see `crew.Crew`.

    Returns:
        What is wrong, by position in `numbers`.

    Raises:
        ShardError: the source fails, or a sample as it was built cannot be decoded.
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
                    decoders[i].blank()
                    damages[i] = error.damage
            for i, data in fetched:
                decoders[i].open(data)
            for i, _ in fetched:
                status[:] = numbers[i] + 1, time.monotonic_ns()
                decoders[i].finish()
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
    """Answer requests until the connection closes.

    Args:
        connection: gives requests and takes answers.
        reader: of the samples; closed in the end.
        layout: of the arrays of `slots`.
        slots: arrays [micro batch, ...] of each slot.
        status: int64 [2], told which sample is read since when; see `crew.Crew`.
        announce: tell local disks early which samples will be read.
    """
    decoders = [layout.decoders(slot) for slot in slots]
    requests: deque[Request] = deque()
    try:
        while True:
            while not requests or connection.poll():
                requests.append(connection.recv())
                # The disk reads what is announced while this process decodes. Of several threads, some read while
                # others decode, and each announcement would cost them the interpreter's lock.
                if announce:
                    reader.expect(requests[-1].numbers)
            request = requests.popleft()
            damages: dict[int, Damage] = {}
            error: Exception | None = None
            try:
                by_position = read(reader, request.numbers, decoders[request.slot][request.first :], status)
                damages = {request.first + i: damage for i, damage in by_position.items()}
            except ArcticSegError as reported:
                error = reported
            except Exception:
                error = RuntimeError(f"a loader worker failed:\n{traceback.format_exc()}")
            connection.send(Answer(request.ticket, damages, error))
    except (EOFError, OSError):
        pass  # the ring was closed
    finally:
        reader.close()


def _end_with_parent(connection: Connection) -> None:
    """End this process when its parent is gone, even while a read hangs."""
    parent = os.getppid()
    poll = select.poll()
    poll.register(connection.fileno(), 0)  # a hang-up is reported whatever the mask

    def watch() -> None:
        while os.getppid() == parent and not poll.poll(1000):
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Serve as a process; the arguments are `connection memory setup index`: three file descriptors and a number."""
    connected, shared, described, index = map(int, sys.argv[1:])
    # The trainer handles these for all: it makes a checkpoint, and then closes the ring.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    connection = Connection(connected)
    _end_with_parent(connection)
    setup: Setup = pickle.loads(mmap.mmap(described, 0, access=mmap.ACCESS_READ))
    memory = mmap.mmap(shared, setup.bytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    slots, status = setup.views(memoryview(memory))
    serve(connection, setup.reader, setup.layout, slots, status[index], announce=True)
