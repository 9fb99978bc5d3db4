"""Who reads and decodes for a `ring.Ring`: threads of this process, or processes of their own.

A request goes to the worker that has the fewest samples to read. Nothing but sample numbers and damages passes between
a crew and its ring.
"""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import queue
import selectors
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from typing import Any, Protocol

from numpy.typing import NDArray

from arcticseg.data import worker
from arcticseg.data.memory import allocate
from arcticseg.data.worker import Answer, Mailbox, Request, Setup
from arcticseg.errors import ShardError

# Processes that may die over the same samples before that is an error.
_ATTEMPTS = 3


class Crew(Protocol):
    """Workers, and the memory that they decode into.

    Attributes:
        memory: holds the slots.
        slots: arrays [micro batch, ...] of each slot.
        status: int64 [workers, 2]: the sample that each worker reads, counted from 1 (0 = none), and since when, in ns
            of the monotonic clock.
    """

    memory: Any
    slots: list[dict[str, NDArray[Any]]]
    status: NDArray[Any]

    def give(self, request: Request) -> None:
        """Let a worker answer a request."""
        ...

    def collect(self, seconds: float) -> list[Answer]:
        """Answers that have come; an empty list where none comes within this time.

        Raises:
            ShardError: workers die again and again.
        """
        ...

    def close(self) -> None:
        """End the workers."""
        ...


def _load(requests: dict[int, Request]) -> int:
    """Samples still to be read."""
    return sum(len(request.numbers) for request in requests.values())


def _dismiss(mailboxes: Sequence[Mailbox]) -> None:
    for mailbox in mailboxes:
        mailbox.close()


class Threads:
    """A crew of threads: the decoders let go of the interpreter's lock."""

    def __init__(self, setup: Setup) -> None:
        self.memory = allocate(setup.bytes)
        self.slots, self.status = setup.views(memoryview(self.memory))
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._mailboxes = [Mailbox(self._answers) for _ in range(setup.workers)]
        # Of each thread, by ticket.
        self._requests: list[dict[int, Request]] = [{} for _ in self._mailboxes]
        weakref.finalize(self, _dismiss, self._mailboxes)
        for index, mailbox in enumerate(self._mailboxes):
            arguments = (mailbox, copy.copy(setup.reader), setup.layout, self.slots, self.status[index], False)
            threading.Thread(target=worker.serve, args=arguments, daemon=True, name=f"ring-{index}").start()

    def give(self, request: Request) -> None:
        index = min(range(len(self._requests)), key=lambda i: _load(self._requests[i]))
        self._requests[index][request.ticket] = request
        self._mailboxes[index].give(request)

    def collect(self, seconds: float) -> list[Answer]:
        try:
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            return []
        for requests in self._requests:
            requests.pop(answer.ticket, None)
        return [answer]

    def close(self) -> None:
        _dismiss(self._mailboxes)


@dataclass
class _Process:
    """A process as its crew sees it, with the requests that it has not answered, oldest first, by ticket."""

    index: int
    connection: Connection
    process: subprocess.Popen[bytes]
    requests: dict[int, Request] = field(default_factory=dict)


def _shared_file(name: str, size: int) -> int:
    """File descriptor of memory that other processes can map; unlike /dev/shm it has no limit of its own."""
    descriptor = os.memfd_create(name)
    os.ftruncate(descriptor, size)
    return descriptor


def _end(workers: list[_Process], descriptors: list[int]) -> None:
    """End processes, whatever they do."""
    for member in workers:
        member.connection.close()
    for member in workers:
        try:
            member.process.wait(2)
        except subprocess.TimeoutExpired:
            member.process.kill()
            member.process.wait()
    workers.clear()
    for descriptor in descriptors:
        os.close(descriptor)
    descriptors.clear()


class Processes:
    """A crew of processes; a process that dies is replaced, and the new process gets its requests."""

    def __init__(self, setup: Setup) -> None:
        self._reader = setup.reader
        described = pickle.dumps(setup)
        self._descriptors = [
            _shared_file("arcticseg-ring", setup.bytes),
            _shared_file("arcticseg-setup", len(described)),
        ]
        os.pwrite(self._descriptors[1], described, 0)
        self.memory = allocate(setup.bytes, self._descriptors[0])
        self.slots, self.status = setup.views(memoryview(self.memory))
        # Processes that have had a request, by its ticket, where the first has died.
        self._attempts: dict[int, int] = {}
        self._selector = selectors.DefaultSelector()
        self.workers: list[_Process] = []
        weakref.finalize(self, _end, self.workers, self._descriptors)
        for index in range(setup.workers):
            self.workers.append(self._start(index))

    def _start(self, index: int) -> _Process:
        """Start a process."""
        self.status[index] = 0
        ours, theirs = Pipe()
        passed = (theirs.fileno(), *self._descriptors)
        # One thread a process; the same modules as in this process.
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
        started = _Process(index, ours, process)
        self._selector.register(ours, selectors.EVENT_READ, started)
        return started

    def give(self, request: Request) -> None:
        self._send(min(self.workers, key=lambda member: _load(member.requests)), request)

    def _send(self, to: _Process, request: Request) -> None:
        to.requests[request.ticket] = request
        with contextlib.suppress(OSError):  # it is dead; `collect` notices that
            to.connection.send(request)

    def collect(self, seconds: float) -> list[Answer]:
        answers: list[Answer] = []
        for key, _ in self._selector.select(seconds):
            member: _Process = key.data
            try:
                answer: Answer = member.connection.recv()
            except (EOFError, OSError):
                self._replace(member)
                continue
            del member.requests[answer.ticket]
            self._attempts.pop(answer.ticket, None)
            answers.append(answer)
        return answers

    def _replace(self, dead: _Process) -> None:
        """Start another process in the place of a dead process, and give it the same requests.

        Raises:
            ShardError: too many processes have died over the first of them.
        """
        self._selector.unregister(dead.connection)
        dead.connection.close()
        code = dead.process.wait()
        number = int(self.status[dead.index, 0]) - 1
        new = self._start(dead.index)
        self.workers[self.workers.index(dead)] = new
        for request in dead.requests.values():
            self._send(new, request)
        if dead.requests:
            first = next(iter(dead.requests))
            self._attempts[first] = self._attempts.get(first, 1) + 1
            where = self._reader.where(max(number, dead.requests[first].numbers[0]))
            if self._attempts[first] > _ATTEMPTS:
                raise ShardError(
                    f"{where}: loader workers died here {_ATTEMPTS} times (status {code}); "
                    "see the system's log for what killed them; if memory is short, lower data.workers"
                )
            warnings.warn(
                f"{where}: a loader worker died here (status {code}); another does its work again", stacklevel=2
            )

    def close(self) -> None:
        self._selector.close()
        _end(self.workers, self._descriptors)
