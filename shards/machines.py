"""Where scenes are worked on, and how much of it a build takes; the output does not depend on it."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from arcticseg.errors import ConfigError
from shards.resources import cores, machine_memory
from shards.workers import Pool, Workers


class Machines(Protocol):
    """Where scenes are worked on: `Machine`, or those of a cluster."""

    @property
    def time_limit(self) -> float:
        """Seconds after which a scene counts as unreadable."""
        ...

    def check(self) -> None:
        """Raise ConfigError where the values cannot work."""
        ...

    def room(self) -> tuple[int, int]:
        """Bytes of memory that scenes in work on one machine may take, and those of the largest machine."""
        ...

    def pool(self, memory: int) -> AbstractContextManager[Pool]:
        """What is given the jobs; on each machine their costs add up to `memory` at most."""
        ...

    def threads(self, costs: Collection[int], memory: int) -> int:
        """Threads for each of the scenes of such costs."""
        ...


@dataclass(frozen=True)
class Machine:
    """This machine, and how much of it a build takes.

    Attributes:
        workers: scenes in work at a time, each in a process of its own.
        memory: bytes that the scenes in work may take by `scene_memory`; a scene that takes more is worked on alone;
            None: what is free.
        time_limit: seconds after which a scene counts as unreadable.
    """

    workers: int = 1
    memory: int | None = None
    time_limit: float = 3600

    def check(self) -> None:
        """Raise ConfigError, naming key, value and remedy, where the values cannot work."""
        for key in ("workers", "time_limit"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"key '{key}' is {getattr(self, key)!r}; set more than 0")

    def room(self) -> tuple[int, int]:
        """See `Machines`."""
        free, total = machine_memory()
        return free if self.memory is None else self.memory, total

    def pool(self, memory: int) -> AbstractContextManager[Pool]:
        """See `Machines`."""
        return Workers(self.workers, memory)

    def threads(self, costs: Collection[int], memory: int) -> int:
        """Cores without a scene of their own help with the scenes of others."""
        at_once = min(self.workers, len(costs), memory // max(costs, default=1))
        return max(1, cores() // max(1, at_once))
