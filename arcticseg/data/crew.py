"""Who reads and decodes for a `ring.Ring`: threads of this process, or processes of their own.

A task goes to whoever has the least to do. Nothing but sample numbers and damages passes between a crew and its ring.
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
from arcticseg.data.worker import Done, Mailbox, Setup, Task
from arcticseg.errors import ShardError

# Times that samples are given to a process before its death is taken to be their doing.
_ATTEMPTS = 3


class Crew(Protocol):
    """Workers, and the memory that they decode into.

    Attributes:
        memory: holds the slots.
        slots: arrays [micro batch, ...] of each slot.
        status: int64 [workers, 2]: the sample that each is reading, counted from 1 (0 = none), and since when, in ns
            of the monotonic clock.
    """

    memory: Any
    slots: list[dict[str, NDArray[Any]]]
    status: NDArray[Any]

    def give(self, task: Task) -> None:
        """Have a task done."""
        ...

    def collect(self, seconds: float) -> list[Done]:
        """Tasks that are done; none where none is within a time.

        Raises:
            ShardError: workers die again and again.
        """
        ...

    def close(self) -> None:
        """End the workers."""
        ...


def _load(tasks: dict[int, Task]) -> int:
    """Samples still to be read."""
    return sum(len(task.numbers) for task in tasks.values())


def _dismiss(mailboxes: Sequence[Mailbox]) -> None:
    for mailbox in mailboxes:
        mailbox.close()


class Threads:
    """A crew of threads: the decoders let go of the interpreter's lock."""

    def __init__(self, setup: Setup) -> None:
        self.memory = allocate(setup.bytes)
        self.slots, self.status = setup.views(memoryview(self.memory))
        self._done: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self._mailboxes = [Mailbox(self._done) for _ in range(setup.workers)]
        self._tasks: list[dict[int, Task]] = [{} for _ in self._mailboxes]
        weakref.finalize(self, _dismiss, self._mailboxes)
        for index, mailbox in enumerate(self._mailboxes):
            arguments = (mailbox, copy.copy(setup.reader), setup.layout, self.slots, self.status[index], False)
            threading.Thread(target=worker.serve, args=arguments, daemon=True, name=f"ring-{index}").start()

    def give(self, task: Task) -> None:
        index = min(range(len(self._tasks)), key=lambda i: _load(self._tasks[i]))
        self._tasks[index][task.ticket] = task
        self._mailboxes[index].give(task)

    def collect(self, seconds: float) -> list[Done]:
        try:
            done = self._done.get(timeout=seconds)
        except queue.Empty:
            return []
        for tasks in self._tasks:
            tasks.pop(done.ticket, None)
        return [done]

    def close(self) -> None:
        _dismiss(self._mailboxes)


@dataclass
class _Process:
    """A process as its crew sees it, with the tasks given to it and not done, oldest first."""

    index: int
    connection: Connection
    process: subprocess.Popen[bytes]
    tasks: dict[int, Task] = field(default_factory=dict)


def _shared_file(name: str, size: int) -> int:
    """File descriptor of memory that other processes can map; unlike /dev/shm it has no limit of its own."""
    descriptor = os.memfd_create(name)
    os.ftruncate(descriptor, size)
    return descriptor


def _end(workers: list[_Process], descriptors: list[int]) -> None:
    """End processes, whatever they do."""
    for each in workers:
        each.connection.close()
    for each in workers:
        try:
            each.process.wait(2)
        except subprocess.TimeoutExpired:
            each.process.kill()
            each.process.wait()
    workers.clear()
    for descriptor in descriptors:
        os.close(descriptor)
    descriptors.clear()


class Processes:
    """A crew of processes; one that dies is replaced, and its tasks are given to the next."""

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
        self._attempts: dict[int, int] = {}  # by ticket
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
        found = _Process(index, ours, process)
        self._selector.register(ours, selectors.EVENT_READ, found)
        return found

    def give(self, task: Task) -> None:
        self._send(min(self.workers, key=lambda each: _load(each.tasks)), task)

    def _send(self, to: _Process, task: Task) -> None:
        to.tasks[task.ticket] = task
        with contextlib.suppress(OSError):  # it is dead, which the next collection finds out
            to.connection.send(task)

    def collect(self, seconds: float) -> list[Done]:
        found: list[Done] = []
        for key, _ in self._selector.select(seconds):
            each: _Process = key.data
            try:
                done: Done = each.connection.recv()
            except (EOFError, OSError):
                self._replace(each)
                continue
            del each.tasks[done.ticket]
            self._attempts.pop(done.ticket, None)
            found.append(done)
        return found

    def _replace(self, dead: _Process) -> None:
        """Start another process in the place of one that died, and give it the same tasks.

        Raises:
            ShardError: the first of them has killed too many.
        """
        self._selector.unregister(dead.connection)
        dead.connection.close()
        code = dead.process.wait()
        number = int(self.status[dead.index, 0]) - 1
        new = self._start(dead.index)
        self.workers[self.workers.index(dead)] = new
        for task in dead.tasks.values():
            self._send(new, task)
        if dead.tasks:
            first = next(iter(dead.tasks))
            self._attempts[first] = self._attempts.get(first, 1) + 1
            at = self._reader.where(max(number, dead.tasks[first].numbers[0]))
            if self._attempts[first] > _ATTEMPTS:
                raise ShardError(
                    f"{at}: loader workers died here {_ATTEMPTS} times (status {code}); "
                    "see the system's log for what killed them; if memory is short, lower data.workers"
                )
            warnings.warn(f"{at}: a loader worker died here (status {code}); another does its work again", stacklevel=2)

    def close(self) -> None:
        self._selector.close()
        _end(self.workers, self._descriptors)
