"""Jobs on the machines of a Ray cluster, in the place of processes of one machine."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import secrets
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from arcticseg.errors import ConfigError
from arcticseg.files import make_folder
from launchers.ray_cluster import join
from launchers.ray_task import Site, code
from shards.workers import Job, LostError, Outcome, Pool

# How often a job is begun again that has lost its machine.
_RETRIES = 3
# Seconds after which it is looked whether any machine can do what is left.
_LOOK = 20.0


@contextlib.contextmanager
def joined(address: str) -> Iterator[None]:
    """Be part of a cluster, whose output is not shown here.

    Raises:
        ConfigError: it does not answer.
    """
    # What it keeps back for a while, Ray prints at its end, as if the main thread had.
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    import ray

    join(address, {"logging_level": logging.ERROR, "log_to_driver": False})
    with contextlib.redirect_stdout(_OfMainThread(sys.stdout)):
        try:
            yield
        finally:
            ray.shutdown()


class _OfMainThread(io.TextIOBase):
    """Standard output of the main thread; from another one Ray prints there whole logs of machines that were lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(text) if threading.current_thread() is threading.main_thread() else len(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()


def machines() -> list[dict[str, float]]:
    """What each machine of the cluster has in all: `CPU`, `GPU`, `memory` in bytes."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@dataclass(frozen=True)
class RayMachines:
    """The machines of the cluster that was joined, as `shards.machines.Machines`.

    Attributes:
        place: folder on a file system that all machines share.
        report: is told what the cluster lacks.
        time_limit: seconds after which a scene counts as unreadable.
    """

    place: Path
    report: Callable[[str], None]
    time_limit: float = 3600

    def check(self) -> None:
        """Raise ConfigError where there is no machine to work on scenes."""
        if not self.time_limit > 0:
            raise ConfigError(f"key 'time_limit' is {self.time_limit!r}; set more than 0")
        if not _cores():
            raise ConfigError("no machine of the Ray cluster has CPUs for tasks; start one with `ray start --num-cpus`")

    def room(self) -> tuple[int, int]:
        """See `Machines`; Ray itself sees to what is free."""
        most = int(max(node.get("memory", 0) for node in machines()))
        return most, most

    def pool(self, memory: int) -> AbstractContextManager[Pool]:
        """See `Machines`."""
        return RayWorkers(self.place, self.report)

    def threads(self, costs: Collection[int], memory: int) -> int:
        """Cores without a scene of their own help with the scenes of others."""
        return max(1, min(min(_cores()), sum(_cores()) // max(1, len(costs))))


def _cores() -> list[int]:
    return [int(node["CPU"]) for node in machines() if node.get("CPU", 0) >= 1]


class RayWorkers:
    """Does jobs as Ray tasks; use it as a context, at whose end those in work are cancelled.

    The first argument of each job is the file that it reads. A job whose machine is lost is done again elsewhere.

    Args:
        place: folder on a file system that all machines share.
        report: is told what the cluster lacks.
        gpus: that each job takes.
    """

    def __init__(self, place: Path, report: Callable[[str], None], gpus: int = 0) -> None:
        self._mark = place.absolute() / f".seen-{secrets.token_hex(8)}"
        self._report, self._gpus = report, gpus
        self._open: dict[Any, Job] = {}

    def __enter__(self) -> RayWorkers:
        import ray

        make_folder(self._mark.parent)
        self._mark.touch()

        # In here, so that it is sent as it is: by name it could not even be asked whether the machine has this code.
        def task(order: bytes) -> bytes:
            from launchers.ray_task import perform

            return perform(order)

        self._task = ray.remote(task)
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        for answer in self._open:
            ray.cancel(answer, force=True)
        self._open.clear()
        self._mark.unlink(missing_ok=True)

    def map(self, function: Callable[..., Any], jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Call a function for each job; yield job and outcome as jobs end.

        Raises:
            ConfigError: a machine has other code, or does not see the files.
        """
        import ray

        for job in jobs:
            self._open[self._begin(function, job)] = job
        heard = time.monotonic()
        while self._open:
            answers, _ = ray.wait(list(self._open), num_returns=1, timeout=_LOOK)
            for answer in answers:
                job = self._open.pop(answer)
                outcome = self._outcome(answer)
                if isinstance(outcome.error, ConfigError):
                    raise outcome.error
                heard = time.monotonic()
                yield job, outcome
            if not answers:
                heard = self._look(heard)

    def _begin(self, function: Callable[..., Any], job: Job) -> Any:
        scene = Path(job.arguments[0])
        site = Site(code(), self._mark, scene if scene.exists() else None, Path(os.getcwd()))
        order = pickle.dumps((site, pickle.dumps((function, job))))
        lent: dict[str, Any] = {"num_cpus": job.threads, "max_retries": _RETRIES}
        if job.cost:
            lent["memory"] = int(job.cost)
        if self._gpus:
            lent["num_gpus"] = self._gpus
        return self._task.options(**lent).remote(order)

    def _outcome(self, answer: Any) -> Outcome:
        import ray

        try:
            outcome = pickle.loads(ray.get(answer))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ModuleNotFoundError):
                raise ConfigError(
                    f"a machine of the Ray cluster has no {error.cause.name}; install the same arcticseg on all of them"
                ) from error
            raise
        except ray.exceptions.OutOfMemoryError as error:
            return Outcome(error=LostError(f"Ray has killed it, as memory ran out ({_line(error)})", killed=True))
        except ray.exceptions.RayError as error:
            lost = f"its machine or its process was lost {_RETRIES + 1} times ({_line(error)})"
            return Outcome(error=LostError(lost, killed=True))
        assert isinstance(outcome, Outcome)
        return outcome

    def _look(self, heard: float) -> float:
        """Tell where no machine is left that can do a job; when that was last looked for."""
        jobs = list(self._open.values())
        threads, memory = min(job.threads for job in jobs), min(job.cost for job in jobs)
        fits = [
            node
            for node in machines()
            if node.get("CPU", 0) >= threads and node.get("memory", 0) >= memory and node.get("GPU", 0) >= self._gpus
        ]
        if fits or time.monotonic() - heard < _LOOK:
            return heard
        self._report(
            f"warning: no machine of the Ray cluster is left that can do one of {len(jobs)} scenes; waiting for one"
        )
        return time.monotonic() + 10 * _LOOK


def _line(error: Exception) -> str:
    """An error of Ray in one short line."""
    return " ".join(str(error).split())[:300]
