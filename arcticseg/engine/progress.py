"""How far this process is in its training: what the watchdog compares between ranks."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from types import FrameType

# Code in which a rank waits for the others.
_COLLECTIVES = ("/torch/distributed/", "/deepspeed/comm/", "/arcticseg/engine/process_group.py")


@dataclass
class Progress:
    """Attributes:
    beats: places passed that all ranks pass in the same order, so who has the fewest is behind.
    signs: signs of life, beats included; their number differs between ranks.
    phase: what it is doing.
    steps: training steps begun.
    """

    beats: int = 0
    signs: int = 0
    phase: str = "the start"
    steps: int = 0


_progress = Progress()


def progress() -> Progress:
    """That of this process."""
    return _progress


def beat(phase: str | None = None) -> None:
    """Pass a place that all ranks pass in the same order; other threads than the main one do not count.

    Args:
        phase: what comes now; None: as before.
    """
    if threading.current_thread() is threading.main_thread():
        _progress.beats += 1
        _progress.signs += 1
        _progress.phase = phase or _progress.phase


def begin_step(step: int) -> None:
    """Pass the beginning of a training step."""
    _progress.steps += 1
    beat(f"step {step}")


def alive() -> None:
    """Give a sign of life in what takes long on some ranks only, such as each file that is written."""
    _progress.signs += 1


def waits() -> bool:
    """Whether the main thread, or one of autograd's, is in a call that waits for other ranks."""
    others = {thread.ident for thread in threading.enumerate() if thread is not threading.main_thread()}
    frames = (frame for ident, frame in sys._current_frames().items() if ident not in others)
    return any(map(_in_collective, frames))


def _in_collective(frame: FrameType | None) -> bool:
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in _COLLECTIVES):
            return True
        frame = frame.f_back
    return False
