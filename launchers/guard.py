"""Runs a command in a process group of its own, and ends the whole group when whoever asked for it goes away.

A training is a tree of processes: DeepSpeed's launcher, ranks, loaders, logging. Killing its root leaves the rest, on
GPUs that others believe free; and Ray kills a worker together with its children, and nothing below. So a trial starts
this guard, which leaves the worker's family at once and holds one end of a pipe: however the worker ends, even by
SIGKILL, the pipe closes, and the guard asks the group to stop (SIGTERM: the trainer writes a checkpoint), waits, and
kills it. A second process waits for the guard's own death, and then does the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Seconds that a training has for its checkpoint between SIGTERM and SIGKILL.
GRACE = 60.0
# Seconds for what a launcher that died leaves behind, which has nothing to save.
_DEBRIS_GRACE = 5.0
_POLL = 0.2

# The guard's answer when another training works in the folder.
LOCKED = "locked"


class Guarded:
    """A command under guard.

    Args:
        command: to run.
        log: file that takes what it prints, appended to.
        lock: file that is locked as long as a process of the command lives; a guard waits for an earlier guard's.
        environment: of the command.
        grace: seconds between asking its processes to stop and killing them.
    """

    def __init__(
        self, command: Sequence[str], log: Path, lock: Path, environment: Mapping[str, str], grace: float = GRACE
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(lock), str(log), str(grace), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environment),
            text=True,
        )
        # The guard forks and leaves; the process started here ends at once.
        self._process.wait()

    def wait(self, seconds: float) -> str | None:
        """Wait at most so long for the end: the exit status as text, LOCKED, empty if the guard died; None: not yet."""
        stdout = self._process.stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], seconds)
        return stdout.readline().strip() if ready else None

    def close(self) -> None:
        """End the command's processes, if any are left, without waiting for it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _end(group: int, grace: float, poll: Callable[[], object] = lambda: None) -> None:
    """Ask a process group to stop, wait, kill it; a child that is not waited for, by `poll`, stays in its group."""
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, grace)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            poll()
            if not _group_alive(group):
                return
            time.sleep(_POLL)


def _second(grace: float) -> int:
    """Fork a process that ends the command when the guard dies; the pipe that it reads the
    command's group from.

    It holds the lock as long as it lives, as the guard does. The guard's last word is a zero: there is nothing to end.
    """
    told, tell = os.pipe()
    if os.fork():
        os.close(told)
        return tell
    os.close(tell)
    # Nobody must wait for the pipes and the log of the guard because of this process.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    groups = [0]
    with open(told) as pipe:
        groups += [int(line) for line in pipe]
    if groups[-1]:
        _end(groups[-1], grace)
    os._exit(0)


def _lock(path: str, seconds: float) -> int | None:
    """Lock a file, waiting at most so long; None where another process holds it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > until:
                return None
            time.sleep(_POLL)


def _guard(lock: str, log: str, grace: float, command: Sequence[str]) -> str:
    """Run the command to its end, or to that of the pipe at standard input; its exit status as text."""
    if _lock(lock, 1.5 * grace) is None:
        return LOCKED
    second = _second(grace)
    with open(log, "ab") as file:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, process_group=0
        )
    os.write(second, f"{child.pid}\n".encode())
    while child.poll() is None:
        ready, _, _ = select.select([0], [], [], _POLL)
        if ready and not os.read(0, 1):
            _end(child.pid, grace, child.poll)
            break
    status = child.wait()
    _end(child.pid, _DEBRIS_GRACE)
    os.write(second, b"0\n")
    return str(status)


def main(arguments: Sequence[str]) -> None:
    """`guard.py LOCK LOG GRACE COMMAND...`: answers the exit status on standard output."""
    lock, log, grace, *command = arguments
    if os.fork():
        os._exit(0)
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Not SIG_IGN, which the command would inherit.
        signal.signal(number, lambda *_: None)
    status = _guard(lock, log, float(grace), command)
    with contextlib.suppress(BrokenPipeError):
        os.write(1, f"{status}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
