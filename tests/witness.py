"""A hook that writes down, outside the run folder, where a training begins and each step that it does; by --import."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from arcticseg.engine.config import HookConfig
from arcticseg.engine.hooks.hook import Hook, Training, Values


class Witness(Hook):
    """Appends `begin N` and `step N` to a file of each rank, and makes steps take longer."""

    def __init__(self, folder: str, seconds: float) -> None:
        self._folder, self._seconds = Path(folder), seconds

    def on_start(self, training: Training) -> None:
        self._path = self._folder / f"rank{training.ranks.rank}"
        self._write(f"begin {training.first}")

    def on_step(self, step: int, values: Values | None) -> None:
        self._write(f"step {step}")
        time.sleep(self._seconds)

    def _write(self, line: str) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(file, f"{line}\n".encode())
        os.close(file)


@dataclass(frozen=True)
class WitnessConfig(HookConfig):
    """Where it writes, and the pause after each step."""

    name: str = "witness"
    folder: str = ""
    seconds: float = 0.05

    implementation: ClassVar[str] = f"{__name__}:Witness"


HookConfig.table["witness"] = WitnessConfig
