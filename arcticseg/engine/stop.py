"""The wish of a scheduler or a person that a training ends with a checkpoint, told by a signal."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

# Numbers of the signals that ask for a checkpoint and a clean end: SLURM sends them before it kills.
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# Seconds in which a terminal's and a launcher's SIGINT are the same wish.
_SAME_WISH = 0.3


class StopWish:
    """Whether a signal has asked for an end, from `listen` on, until `close`.

    Attributes:
        asked: whether one has.
    """

    def __init__(self) -> None:
        self.asked, self._interrupted = False, float("inf")
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Take the signals; again, it does nothing."""
        if not self._before:
            self._before = {number: signal.signal(number, self._ask) for number in _STOP_SIGNALS}

    def close(self) -> None:
        """Give the signals back to who had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _ask(self, number: int, _: object) -> None:
        self.asked = True
        if number == signal.SIGINT:
            now = time.monotonic()
            if now > self._interrupted + _SAME_WISH:
                # The second ends at once.
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            self._interrupted = min(self._interrupted, now)
