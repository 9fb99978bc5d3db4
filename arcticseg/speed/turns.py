"""Measurements side by side on one device: each compiles when it likes, one at a time is on the clock."""

from __future__ import annotations

import fcntl
import os
from typing import IO

# Names a file that is locked by who is on the clock; unset: nobody else measures.
VARIABLE = "ARCTICSEG_SPEED_TURN"
# Steps in which compilation happens, before a turn is waited for.
COMPILED = 3


class TurnOnTheClock:
    """A turn on the clock, from `take` to `give`."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None

    def take(self) -> None:
        """Wait until nobody else is on the clock."""
        path = os.environ.get(VARIABLE)
        if path is not None and self._file is None:
            self._file = open(path, "wb")  # noqa: SIM115  closed by `give`
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def give(self) -> None:
        """Let the next one measure."""
        if self._file is not None:
            self._file.close()
            self._file = None
