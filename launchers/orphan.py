"""Ranks of `deepspeed` and `torchrun` end when these do: both leave their ranks behind when they are killed.

`deepspeed` itself ends at SIGTERM without a word to its ranks. So each rank looks whether the processes that have
started it still live, up to the ssh session of pdsh on another node, and whether pdsh still holds the other end of this
session's standard input; if not, it gets SIGTERM (a checkpoint), and later SIGKILL.
"""

from __future__ import annotations

import os
import re
import select
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

_POLL = 1.0
# Seconds for the checkpoint.
_GRACE = 120.0
# A word with which their command lines begin, behind the interpreter's.
_LAUNCHERS = re.compile(
    r"(.*/)?(deepspeed|torchrun|torch/distributed/run\.py|deepspeed/launcher/\w+\.py)"
    r"|torch\.distributed\.run|deepspeed\.launcher\.\w+"
)
# Those of them that pdsh starts; whoever else starts one over ssh may close its input when he likes.
_BY_PDSH = re.compile(r"(.*/)?deepspeed/launcher/\w+\.py|deepspeed\.launcher\.\w+")
# What sshd runs a command by; what it is called while it serves a session without a terminal, as that of pdsh.
_SHELLS = re.compile(r"-?(.*/)?(ba|da|k|z|tc|c|)sh")
_SESSION = re.compile(r"(.*/)?sshd(-session)?: .*@notty")


def watch(poll: float = _POLL, grace: float = _GRACE) -> None:
    """Begin to watch the launchers above this process, if there are any."""
    above = launchers(os.getpid()) if "RANK" in os.environ else {}
    if above:
        # Without a session the input is that of a terminal, or of nobody.
        by_pdsh = any(_BY_PDSH.fullmatch(word) for process in above for word in _command(process))
        fed = by_pdsh and any(map(_is_session, above)) and not _cut_off()
        threading.Thread(target=_watch, args=(above, fed, poll, grace), daemon=True).start()


def launchers(process: int, command: Callable[[int], list[str]] | None = None) -> dict[int, str]:
    """The launchers directly above a process, with the time at which each began.

    Args:
        command: gives the first words of a process's command line.
    """
    command = command or _command
    above: dict[int, str] = {}
    while (status := _status(process)) is not None:
        process = int(status[1])
        started = _status(process)
        if started is None or not any(map(_LAUNCHERS.fullmatch, command(process))):
            break
        above[process] = started[19]
    # Whoever starts it by nohup wants it to outlive the session.
    if above and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        above |= _session(process, command)
    return above


def _session(process: int, command: Callable[[int], list[str]]) -> dict[int, str]:
    """The ssh session that a launcher was started in, with the time at which it began; empty: there is none.

    When pdsh or the first node has gone, nobody tells the launcher: only its session ends.

    Args:
        process: above the launcher: the session, or a shell in it.
    """
    if any(map(_SHELLS.fullmatch, command(process)[:1])) and (status := _status(process)) is not None:
        process = int(status[1])
    started = _status(process)
    return {process: started[19]} if started is not None and _is_session(process, command) else {}


def _is_session(process: int, command: Callable[[int], list[str]] | None = None) -> bool:
    return any(map(_SESSION.match, (command or _command)(process)[:1]))


def _cut_off() -> bool:
    """Whether nobody holds the other end of standard input, or it has none."""
    try:
        poll = select.poll()
        poll.register(0, 0)
        return bool(poll.poll(0))
    except OSError:
        return True


def _watch(above: dict[int, str], fed: bool, poll: float, grace: float) -> None:
    while all(_lives(process, started) for process, started in above.items()) and not (fed and _cut_off()):
        time.sleep(poll)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    os.kill(os.getpid(), signal.SIGKILL)


def _lives(process: int, started: str) -> bool:
    status = _status(process)
    return status is not None and status[0] != "Z" and status[19] == started


def _status(process: int) -> list[str] | None:
    """The fields of /proc/N/stat from the state on; None: the process has gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _command(process: int) -> list[str]:
    """The first words of a command line: interpreter, its options, program; the rest may be anything."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
    return [word.decode(errors="replace") for word in words[:4]]
