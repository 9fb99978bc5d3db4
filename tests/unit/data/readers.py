"""Readers for loader workers in tests; no torch here, since worker processes import this."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from arcticseg.data.quarantine import Damage, DamagedSample
from arcticseg.data.reader import SampleReader
from arcticseg.data.select import Selection
from arcticseg.errors import ShardError


class Odd(SampleReader):
    """Does something else than read at some samples.

    Attributes:
        jitter: longest pause before a read, in seconds.
        damaged, out, broken: samples that are damaged, whose source fails, at which the program fails.
        hangs: sample -> seconds that its read takes.
        kills: sample -> times that the process kills itself there, counted in `folder`.
    """

    def __init__(
        self,
        selection: Selection,
        folder: Path,
        jitter: float = 0.0,
        damaged: tuple[int, ...] = (),
        out: tuple[int, ...] = (),
        broken: tuple[int, ...] = (),
        hangs: dict[int, float] | None = None,
        kills: dict[int, int] | None = None,
    ) -> None:
        super().__init__(selection)
        self.folder, self.jitter, self.damaged, self.out, self.broken = folder, jitter, damaged, out, broken
        self.hangs, self.kills = hangs or {}, kills or {}

    def __copy__(self) -> Odd:
        others = (self.jitter, self.damaged, self.out, self.broken, self.hangs, self.kills)
        return Odd(self.selection, self.folder, *others)

    def fetch(self, number: int) -> bytes:
        time.sleep(self.jitter * random.random() + self.hangs.get(number, 0))
        marks = list(self.folder.glob(f"killed-{number}-*"))
        if len(marks) < self.kills.get(number, 0):
            (self.folder / f"killed-{number}-{len(marks)}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if number in self.damaged:
            raise DamagedSample(Damage(number, "train-000000.tar", 512, "checksum differs"))
        if number in self.out:
            raise ShardError(f"{self.where(number)}: the source fails; repair it")
        if number in self.broken:
            raise KeyError("a fault of the program")
        return super().fetch(number)
