"""Processes that work on jobs, each on one at a time: a job that crashes or hangs costs only its own process.

Every process has a pipe of its own to the process that started it, so that a process that dies, even in the middle of a
message, does not block the others; pools that share a queue and its lock do not promise that.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import pickle
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from arcticseg.errors import ArcticSegError
from arcticseg.processes import ending_with

# Not forked: the fork of a process that holds threads of HDF5, blosc2 or torch can hang.
_CONTEXT = multiprocessing.get_context("spawn")
# A process that was killed, and is not gone after so many seconds, waits for a disk that does not answer: leave it.
_PATIENCE = 10


class LostError(ArcticSegError):
    """A process ended in the middle of its job, or was ended for taking too long; the message says how.

    `killed`: it was sent SIGKILL, as by the system when memory runs out, so a second try may succeed.
    """

    def __init__(self, message: str, killed: bool = False) -> None:
        super().__init__(message)
        self.killed = killed


@dataclass(frozen=True)
class Job:
    """A call that is to be made.

    Attributes:
        arguments: of the function.
        cost: bytes of memory that it is expected to take.
        time_limit: seconds that it may take.
        threads: cores that it keeps busy.
    """

    arguments: tuple[Any, ...]
    cost: float = 0
    time_limit: float = math.inf
    threads: int = 1


@dataclass(frozen=True)
class Outcome:
    """What a call returned, or why it did not: the exception that it raised, or `LostError`."""

    value: Any = None
    error: Exception | None = None

    def result(self) -> Any:
        """The value; or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


class Pool(Protocol):
    """What jobs are given to: `Workers`, or the like on other machines."""

    def map(self, function: Callable[..., Any], jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Call a function for each job; yield job and outcome as jobs end."""
        ...


def _end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends."""
    parent = multiprocessing.parent_process()
    ending_with(parent.pid if parent is not None and parent.pid else 0)()


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Outcome:
    """Call a function; an exception becomes a value that can be sent to another process."""
    try:
        return Outcome(function(*arguments))
    except Exception as error:
        error.add_note(traceback.format_exc())
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return Outcome(error=RuntimeError(traceback.format_exc()))
        return Outcome(error=error)


def _serve(connection: Connection) -> None:
    """Do jobs until there are no more; the first message says that this process is ready."""
    # Ctrl-C goes to the whole process group; only the parent acts on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    connection.send(Outcome())
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        connection.send(_call(function, arguments))


class _Worker:
    """A process; `job` is what it does now, `deadline` when it must be done."""

    def __init__(self) -> None:
        self.connection, other = _CONTEXT.Pipe()
        self.process: BaseProcess = _CONTEXT.Process(target=_serve, args=(other,), daemon=True)
        self.process.start()
        # While its other end is open here, too, the pipe does not end with the process.
        other.close()
        self.ready = False
        self.job: Job | None = None
        self.deadline = math.inf

    def send(self, function: Callable[..., Any], job: Job) -> None:
        self.job = job
        # The time to start does not count.
        self.deadline = time.monotonic() + job.time_limit if self.ready else math.inf
        # `receive` reports a process that has died meanwhile.
        with contextlib.suppress(OSError):
            self.connection.send((function, job.arguments))

    def begin(self) -> None:
        """The process is ready, and begins with its first job now."""
        assert self.job is not None
        self.ready, self.deadline = True, time.monotonic() + self.job.time_limit

    def receive(self) -> Outcome:
        """The answer, or how the process ended; waits for either."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join(_PATIENCE)
            status = self.process.exitcode
        if status == -signal.SIGKILL:
            return Outcome(error=LostError("its process was killed, most likely because memory ran out", killed=True))
        how = f"by {signal.Signals(-status).name}" if status is not None and status < 0 else f"with status {status}"
        return Outcome(error=LostError(f"its process ended {how}"))

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join(_PATIENCE)


class Workers:
    """Processes that share jobs; use it as a context, at whose end they are killed.

    Args:
        number: of jobs done at a time.
        memory: bytes that the costs of these jobs may add up to; a job that costs more is done alone.
    """

    def __init__(self, number: int, memory: float = math.inf) -> None:
        self._number, self._memory = max(1, number), memory
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def map(self, function: Callable[..., Any], jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Call a function for each job; yield job and outcome as jobs end.

        A job whose process was killed is done again, alone and last.

        Raises:
            ArcticSegError: processes end as soon as they start.
        """
        waiting = deque(jobs)
        while waiting or self._busy:
            while waiting and self._fits(waiting[0]):
                self._idle().send(function, waiting.popleft())
            for worker, outcome in self._answers():
                job, worker.job = worker.job, None
                assert job is not None
                if isinstance(outcome.error, LostError):
                    self._workers.remove(worker)
                    worker.end()
                    if outcome.error.killed and job.cost != math.inf:
                        waiting.append(replace(job, cost=math.inf))
                        continue
                yield job, outcome

    @property
    def _busy(self) -> Sequence[_Worker]:
        return [worker for worker in self._workers if worker.job is not None]

    def _fits(self, job: Job) -> bool:
        """Whether a process may begin with this job now."""
        costs = [worker.job.cost for worker in self._workers if worker.job is not None]
        return not costs or (len(costs) < self._number and sum(costs) + job.cost <= self._memory)

    def _idle(self) -> _Worker:
        for worker in self._workers:
            if worker.job is None:
                return worker
        self._workers.append(_Worker())
        return self._workers[-1]

    def _answers(self) -> Iterator[tuple[_Worker, Outcome]]:
        """Wait until processes answer, end or take too long, and yield these."""
        deadline = min(worker.deadline for worker in self._busy)
        left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        open_ends = {worker.connection: worker for worker in self._busy}
        for connection in wait(list(open_ends), left):
            worker = open_ends.pop(connection)  # type: ignore[call-overload]  # they are Connections
            outcome = worker.receive()
            if not worker.ready and outcome.error is None:
                worker.begin()
            elif worker.ready or (isinstance(outcome.error, LostError) and outcome.error.killed):
                yield worker, outcome
            else:
                raise ArcticSegError(
                    f"a process that should work on scenes could not start: {outcome.error}; see its own message above"
                )
        for worker in open_ends.values():
            if worker.job is not None and worker.deadline <= time.monotonic():
                yield worker, Outcome(error=LostError(f"it was not done after {worker.job.time_limit:g} s"))
