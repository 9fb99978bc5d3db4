"""How long ranks talk: the seconds in the collectives that DeepSpeed calls."""

from __future__ import annotations

import time
from typing import Any

from arcticseg.speed.device import synchronise

_COLLECTIVES = (
    "all_reduce",
    "all_reduce_coalesced",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_coalesced",
    "broadcast",
)


class Talk:
    """Times each collective of DeepSpeed's backend from its call to its end, a rank's wait for the others included."""

    def __init__(self, device: Any) -> None:
        self._device, self.seconds = device, 0.0

    def start(self) -> None:
        """Begin."""
        from deepspeed.comm import comm

        self._backend: Any = comm.cdb
        self._names = [name for name in _COLLECTIVES if hasattr(self._backend, name)]
        for name in self._names:
            setattr(self._backend, name, self._timed(getattr(self._backend, name)))

    def stop(self) -> None:
        """End; the backend's own methods come back."""
        for name in self._names:
            delattr(self._backend, name)

    def _timed(self, collective: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            synchronise(self._device)
            began, before = time.perf_counter(), self.seconds
            work = collective(*arguments, **named)
            if hasattr(work, "wait"):
                work.wait()
            synchronise(self._device)
            # One collective may call another, which is not to count twice.
            self.seconds = before + time.perf_counter() - began
            return work

        return call
