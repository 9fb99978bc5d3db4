"""A hook that times a training from within: samples a second, memory, waits for the device, what the device does."""

from __future__ import annotations

import time
import traceback
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from arcticseg.engine.hooks.hook import Hook, Training, Values, numbers
from arcticseg.speed.device import synchronise
from arcticseg.speed.talk import Talk
from arcticseg.speed.turns import COMPILED, TurnOnTheClock

_OURS = str(Path(__file__).parents[1])
# What the profiler calls a wait of the host for the device.
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


class MeasuredError(Exception):
    """All is measured: ends the training without validation, checkpoint and weights."""


@dataclass(frozen=True)
class Phases:
    """Steps of each part of a measurement, in this order.

    Attributes:
        warmup: before anything is measured.
        timed: on the clock.
        watched: in which each wait of the host for the device is told by the place that asks for it; slow.
        profiled: under torch's profiler; slow.
    """

    warmup: int
    timed: int
    watched: int = 0
    profiled: int = 0

    @property
    def total(self) -> int:
        """Steps that a training must have at least; it ends after the last phase."""
        return self.warmup + self.timed + self.watched + self.profiled + 1


@dataclass
class Clock(Hook):
    """Measures as `Phases` says, then ends the training by `MeasuredError`.

    Attributes:
        batch: samples of a step.
        row: what was measured.
    """

    phases: Phases
    batch: int
    communication: bool = False
    row: dict[str, Any] = field(default_factory=dict)

    name = "clock"

    def __post_init__(self) -> None:
        self._waited: list[float] = []
        self._talk: Talk | None = None
        self._turn = TurnOnTheClock()

    def on_start(self, training: Training) -> None:
        self.device, self._first = training.ranks.device, training.first
        p = self.phases
        ends = {p.warmup: [self._start_timing], p.warmup + p.timed: [self._stop_timing]}
        watched = p.warmup + p.timed
        if p.watched and self.device.type == "cuda":
            self._waits = Waits()
            ends[watched] += [self._waits.start]
            ends[watched + p.watched] = [self._stop_watching]
        if p.profiled and self.device.type == "cuda":
            ends.setdefault(watched + p.watched, []).append(self._start_profile)
            ends[watched + p.watched + p.profiled] = [self._stop_profile]
        self._ends = ends

    def on_step(self, step: int, values: Values | None) -> None:
        done = step - self._first
        if done == COMPILED:
            self._turn.take()
        if values is not None and self.phases.warmup < done <= self.phases.warmup + self.phases.timed:
            self._waited += [value for name, value in numbers(values).items() if name == "data_wait"]
        for action in self._ends.get(done, ()):
            action()
        if done > self.phases.warmup and done < self.phases.warmup + self.phases.timed:
            self._steps.append(time.perf_counter())
        if done == self.phases.total - 1:
            self._turn.give()
            raise MeasuredError

    def _start_timing(self) -> None:
        synchronise(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        if self.communication:
            self._talk = Talk(self.device)
            self._talk.start()
        self._cpu, self._began = time.process_time(), time.perf_counter()
        self._steps = [self._began]

    def _stop_timing(self) -> None:
        synchronise(self.device)
        seconds = time.perf_counter() - self._began
        timed = self.phases.timed
        self.row |= {"samples_per_s": self.batch * timed / seconds, "step_ms": 1e3 * seconds / timed}
        self.row["cpu_s_a_step"] = (time.process_time() - self._cpu) / timed
        if self._waited:
            self.row["data_wait"] = fmean(self._waited)
        if self.device.type == "cuda":
            self.row["memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        if self._talk is not None:
            self._talk.stop()
            self.row["communication"] = self._talk.seconds / seconds

    def _stop_watching(self) -> None:
        self.row |= self._waits.stop(self.phases.watched)

    def _start_profile(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        synchronise(self.device)
        self._profile = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
        self._profile.start()
        self._began = time.perf_counter()

    def _stop_profile(self) -> None:
        synchronise(self.device)
        seconds = time.perf_counter() - self._began
        self._profile.stop()
        self.row |= profiled(self._profile, seconds, self.phases.profiled)


class Waits:
    """Counts the host's waits for the device by whose code asks: the innermost frame that is not torch's."""

    def start(self) -> None:
        """Begin; every wait is a warning of torch from now on."""
        self.places: Counter[str] = Counter()
        self._context = warnings.catch_warnings()
        self._context.__enter__()
        warnings.simplefilter("always")
        warnings.showwarning = self._show
        torch.cuda.set_sync_debug_mode("warn")

    def stop(self, steps: int) -> dict[str, Any]:
        """End; waits a step from calls in our code, from others' code, and where they are."""
        torch.cuda.set_sync_debug_mode("default")
        self._context.__exit__(None, None, None)
        ours = sum(count for place, count in self.places.items() if not place.startswith("deepspeed"))
        total = sum(self.places.values())
        return {
            "waits_ours": ours / steps,
            "waits_deepspeed": (total - ours) / steps,
            "waits_at": {place: count / steps for place, count in self.places.most_common(12)},
        }

    def _show(self, message: Any, *_: Any, **__: Any) -> None:
        if "synchroniz" in str(message):
            self.places[_place(traceback.extract_stack())] += 1


def _place(stack: traceback.StackSummary) -> str:
    """Whose call it is: the innermost frame of DeepSpeed or of ours, this file apart."""
    for frame in reversed(stack):
        if "/deepspeed/" in frame.filename:
            return f"deepspeed{frame.filename.rpartition('/deepspeed')[2]}:{frame.lineno}"
        if frame.filename.startswith(_OURS) and frame.filename != __file__:
            return f"arcticseg{frame.filename.removeprefix(_OURS)}:{frame.lineno}"
    return "elsewhere"


def profiled(profile: Any, seconds: float, steps: int) -> dict[str, Any]:
    """What torch's profiler says of some steps."""
    events = profile.key_averages()
    kernels = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(e.self_device_time_total for e in kernels) / 1e6
    shared = sum(e.self_device_time_total for e in kernels if "nccl" in e.key.lower()) / 1e6
    top = sorted(kernels, key=lambda e: -e.self_device_time_total)[:15]
    return {
        "device_busy": busy / seconds,
        "device_ms_a_step": 1e3 * busy / steps,
        "device_communication": shared / seconds,
        "waits": {name: sum(e.count for e in events if e.key == name) / steps for name in _WAITS},
        "items": sum(e.count for e in events if e.key == "aten::item") / steps,
        "launches": sum(e.count for e in events if e.key.startswith(("cudaLaunch", "cuLaunch"))) / steps,
        "kernels": [(e.key[:60], e.count / steps, round(e.self_device_time_total / 1e3 / steps, 3)) for e in top],
    }


def middle(rows: list[float]) -> tuple[float, float, float]:
    """Median, least and greatest."""
    return median(rows), min(rows), max(rows)


def rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose numbers have four digits, for people."""
    return {name: float(f"{v:.4g}") if isinstance(v, float) else v for name, v in values.items()}
