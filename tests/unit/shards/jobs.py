"""What the tests of `shards.workers` do in other processes; quick to import, since each process does so."""

import ctypes
import os
import signal
import time
from pathlib import Path

from arcticseg.errors import SceneError


class UnpicklableError(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


def square(x: int) -> int:
    return x * x


def process() -> int:
    return os.getpid()


def abort() -> None:
    os.abort()


def leave(status: int) -> None:
    os._exit(status)


def hang_with_the_lock(pid_file: str = "") -> None:
    """Never return nor let another thread run, as a decoder in an endless loop."""
    if pid_file:
        Path(pid_file).write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(3600)


def killed_once(mark: str) -> str:
    """Killed at the first try, as by the system for want of memory."""
    if Path(mark).exists():
        return "done"
    Path(mark).touch()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("alive")


def refuse() -> None:
    raise SceneError("a.nc: is cut; get it again")


def divide() -> float:
    return 1 / 0


def unpicklable() -> None:
    raise UnpicklableError(1, 2)


def note_time(folder: str, name: str, seconds: float) -> None:
    """Say when this job began and ended."""
    began = time.monotonic()
    time.sleep(seconds)
    (Path(folder) / name).write_text(f"{began} {time.monotonic()}")


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fragile_part(scene: Path, part: Path, *more: object) -> list[str]:
    """In the place of `build_part`: breaks on scenes whose names say so."""
    from shards.part import build_part

    if "crash" in scene.name:
        os.abort()
    if "hang" in scene.name:
        hang_with_the_lock()
    if "fault" in scene.name:
        divide()
    return build_part(scene, part, *more)  # type: ignore[arg-type]
