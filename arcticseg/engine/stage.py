"""Batches to the device, and from codes to inputs: beside compute where there is CUDA, else in its turn.

On CUDA a stream of its own copies batches, counts them and assembles each while the one before is trained on. Inputs
lie in two memories in turn: an assembly waits, on the device, until what was in its memory has been used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from arcticseg.data.batch import Batch
from arcticseg.data.inputs import Inputs
from arcticseg.data.transforms import Assemble, Planes
from arcticseg.engine.process_group import Later

# Gives inputs that are being assembled; its caller's stream waits for them.
Started = Callable[[], Inputs]


class Stage(ABC):
    """Where batches become inputs.

    Attributes:
        stream: on which batches are copied; None: the one of compute.
        keeps: whether a batch on the host is in use until its inputs are.
    """

    stream: Any = None
    keeps: bool

    @abstractmethod
    def copied(self, batches: Iterable[Batch]) -> list[Batch]:
        """Batches on the device, or on their way there."""

    @abstractmethod
    def counted(self, count: Callable[[], Later]) -> Later:
        """Let batches of `copied` be counted; the counts come to the stream of whoever asks for them."""

    @abstractmethod
    def start(self, batch: Batch) -> Started:
        """Start to assemble a batch of `copied`."""

    @abstractmethod
    def used(self) -> None:
        """Tell that the work on the inputs taken last has been started in full."""

    @abstractmethod
    def passing(self, batches: Iterable[tuple[Batch, int]]) -> Iterator[tuple[Inputs, int]]:
        """Inputs of batches, each with the number that comes with the batch."""


class Plain(Stage):
    """On a CPU, where nothing is copied, and assembling takes the cores that compute needs."""

    keeps = True

    def __init__(self, assemble: Assemble) -> None:
        self._assemble = assemble

    def copied(self, batches: Iterable[Batch]) -> list[Batch]:
        return list(batches)

    def counted(self, count: Callable[[], Later]) -> Later:
        return count()

    def start(self, batch: Batch) -> Started:
        return lambda: self._assemble(batch)

    def used(self) -> None:
        pass

    def passing(self, batches: Iterable[tuple[Batch, int]]) -> Iterator[tuple[Inputs, int]]:
        for batch, number in batches:
            yield self._assemble(batch), number


class _Memory:
    """Inputs' memory, and a CUDA event after which it may be overwritten."""

    def __init__(self) -> None:
        self.planes: Planes | None = None
        self.free: Any = None


class Beside(Stage):
    """On CUDA, on a stream beside that of compute."""

    keeps = False

    def __init__(self, assemble: Assemble, device: torch.device) -> None:
        self._assemble, self._device = assemble, device
        self.stream = torch.cuda.Stream(device)
        self._memories = [_Memory(), _Memory()]
        self._last: _Memory | None = None

    def copied(self, batches: Iterable[Batch]) -> list[Batch]:
        with torch.cuda.stream(self.stream):
            return [self._assemble.moved(batch, self._device) for batch in batches]

    def counted(self, count: Callable[[], Later]) -> Later:
        with torch.cuda.stream(self.stream):
            later = count()
            done = self.stream.record_event()

        def give() -> Tensor:
            current = torch.cuda.current_stream()
            current.wait_event(done)
            counts = later()
            counts.record_stream(current)
            return counts

        return give

    def start(self, batch: Batch) -> Started:
        memory = self._memories.pop(0)
        self._memories.append(memory)
        with torch.cuda.stream(self.stream):
            if memory.planes is None or memory.planes.x.shape[0] != len(batch):
                memory.planes = self._assemble.empty(len(batch), batch.size, self._device)
            if memory.free is not None:
                self.stream.wait_event(memory.free)
            inputs = self._assemble.into(batch, memory.planes)
            done = self.stream.record_event()

        def give() -> Inputs:
            current = torch.cuda.current_stream()
            current.wait_event(done)
            for field in fields(inputs):
                value = getattr(inputs, field.name)
                if isinstance(value, Tensor) and value.is_cuda:
                    value.record_stream(current)
            self._last = memory
            return inputs

        return give

    def used(self) -> None:
        if self._last is not None:
            self._last.free = torch.cuda.current_stream().record_event()

    def passing(self, batches: Iterable[tuple[Batch, int]]) -> Iterator[tuple[Inputs, int]]:
        ahead: tuple[Started, int] | None = None
        for batch, number in batches:
            started = self.start(*self.copied([batch])), number
            if ahead is not None:
                yield ahead[0](), ahead[1]
                self.used()
            ahead = started
        if ahead is not None:
            yield ahead[0](), ahead[1]
            self.used()


def make_stage(assemble: Assemble, device: torch.device) -> Stage:
    """The stage of a device."""
    return Beside(assemble, device) if device.type == "cuda" else Plain(assemble)
