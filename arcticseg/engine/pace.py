"""How fast a training goes between two log lines, on each rank: rate, waits for data, step times, memory.

Nothing of it waits for the device. On a GPU a step ends by an event in the stream of its work, and events are read
where the trainer waits for the device anyway; elsewhere by the clock.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence

import torch

from arcticseg.data.loader import Loader
from arcticseg.data.webdataset_reader import WebDatasetLoader
from arcticseg.engine.process_group import Ranks, gather

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Pace:
    """Measures from `restart` on.

    Args:
        batch: samples of a step, on all ranks.
    """

    def __init__(self, loader: Loader | WebDatasetLoader, ranks: Ranks, batch: int) -> None:
        self._loader, self._ranks, self._batch = loader, ranks, batch
        self._steps: Steps | EventSteps = EventSteps() if ranks.device.type == "cuda" else Steps()
        self.restart()

    def restart(self) -> None:
        """Begin anew, after what is no training step."""
        self._since, self._samples, self._waited = time.monotonic(), 0, self._loader.waited
        self._steps.restart()

    def stepped(self) -> None:
        """A step's work has been started."""
        self._samples += self._batch
        self._steps.stepped()

    def values(self) -> dict[str, float]:
        """What a log line tells; all ranks must ask together, once the steps' work is done.

        Returns:
            samples a second, of all ranks and of each; the share of the time that waits for data; for each rank the
            median and the 99th percentile of its steps' times in ms since the last line, and the highest memory of its
            process, and on its device, in GB.
        """
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        rate = self._samples / seconds
        told = {
            "samples_per_s": round(rate, 3),
            "data_wait": round((self._loader.waited - self._waited) / seconds, 5),
            "speed/samples_per_s_a_gpu": round(rate / self._ranks.world_size, 3),
        }
        for rank, own in enumerate(gather(self._own())):
            told |= {f"{name}/rank_{rank}": value for name, value in own.items()}
        self._since, self._samples, self._waited = now, 0, self._loader.waited
        return told

    def _own(self) -> dict[str, float]:
        """What this rank alone can tell."""
        times = sorted(self._steps.read())
        own = {}
        if times:
            own = {"speed/step_ms_p50": round(rank_of(times, 50), 3), "speed/step_ms_p99": round(rank_of(times, 99), 3)}
        own["memory/host_gb"] = round(_resident() / 1e9, 4)
        if self._ranks.device.type == "cuda":
            own["memory/device_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 4)
        return own


def rank_of(ordered: Sequence[float], percent: float) -> float:
    """The value that so many percent of some ordered values do not exceed, one of them (nearest rank)."""
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def _resident() -> int:
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * _PAGE


class Steps:
    """Times of steps by the clock."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._last = 0.0

    def restart(self) -> None:
        """The next step begins now."""
        self._last = time.perf_counter()

    def stepped(self) -> None:
        """A step ends, and the next begins."""
        now = time.perf_counter()
        self._times.append(1e3 * (now - self._last))
        self._last = now

    def read(self) -> list[float]:
        """Milliseconds of the steps since the last call."""
        times, self._times = self._times, []
        return times


class EventSteps:
    """Times of steps by the device, from the end of one step's work to that of the next."""

    def __init__(self) -> None:
        self._pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._last = _event()

    def restart(self) -> None:
        """The next step begins behind all work that was started."""
        self._last = _event()

    def stepped(self) -> None:
        """A step's work ends here, and the next begins."""
        now = _event()
        self._pairs.append((self._last, now))
        self._last = now

    def read(self) -> list[float]:
        """Milliseconds of the steps since the last call whose work is done."""
        done = [pair for pair in self._pairs if pair[1].query()]
        self._pairs = self._pairs[len(done) :]
        return [first.elapsed_time(last) for first, last in done]


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
