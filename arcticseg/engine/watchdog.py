"""Ends a training that makes no progress, and names the rank that the others wait for.

A thread of each rank tells all others by datagrams how far its rank is. They need no server, and nothing blocks: so
also rank 0 may be the one that hangs, and a rank that dies makes no noise here. Time counts only while this process
runs, so a job that is suspended as a whole is not taken for one that hangs.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from arcticseg.engine import progress
from arcticseg.engine.addresses import is_loopback, loopback, route
from arcticseg.engine.process_group import Ranks, gather
from arcticseg.errors import ERROR_PREFIX

# Exit status of ranks that the watchdog ends.
HUNG = 1
# Before the second step: compiling and the first look at all data take longer than anything later.
_START = 600.0
# Shortest and longest time between two messages.
_POLLS = (0.1, 5.0)
# Seconds in which all ranks print their stacks; rank 0 is the last to go, as others may need its store to the end.
_PRINTING, _LAST = 4.0, 0.5


@dataclass(frozen=True)
class Peer:
    """A rank, and how to reach it.

    Attributes:
        machine: the same for ranks that see each other's process ids.
        started: when the process was started, since process ids are used again.
    """

    machine: str
    pid: int
    started: str
    address: str
    port: int


@dataclass(frozen=True)
class Message:
    """What a rank tells all others.

    Attributes:
        tick: number of the message.
        age: seconds since its last sign of life.
        waits: whether it is in a call that waits for other ranks.
        verdict: ranks that hang, once a rank has found out; None: nothing yet.
        printed: whether it has printed its stacks.
    """

    token: str
    rank: int
    tick: int
    beats: int
    phase: str
    age: float
    waits: bool
    verdict: list[int] | None = None
    printed: bool = False


def culprits(messages: Mapping[int, Message], silent: set[int], ranks: int) -> list[int]:
    """The ranks that the others wait for; empty: that cannot be told.

    Args:
        messages: the last ones of the ranks that were heard of; of some machines there may be none.
        silent: ranks that have fallen silent: stopped, or in a call that keeps Python's lock.
    """
    if silent:
        return sorted(silent)
    least = min(message.beats for message in messages.values())
    behind = [rank for rank, message in messages.items() if message.beats == least]
    if len(behind) == len(messages) and ranks > 1:
        behind = [rank for rank, message in messages.items() if not message.waits]
    return sorted(behind) if len(behind) < ranks or ranks == 1 else []


@contextlib.contextmanager
def watched(seconds: float, ranks: Ranks) -> Iterator[None]:
    """Watch this rank meanwhile; every rank must call it.

    Args:
        seconds: without a sign of life after which all ranks end; 0: never.
    """
    if not seconds:
        yield
        return
    address, family = _own_address(ranks)
    plug = socket.socket(family, socket.SOCK_DGRAM)
    plug.bind((loopback(family) if is_loopback(address) else "", 0))
    own = Peer(_machine(), os.getpid(), _started(os.getpid()) or "", address, plug.getsockname()[1])
    told = gather((secrets.token_hex(8), asdict(own)))
    watchdog = Watchdog(seconds, ranks.rank, [Peer(**peer) for _, peer in told], told[0][0], plug)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()


class Watchdog(threading.Thread):
    """The thread of a rank.

    Args:
        seconds: without a sign of life after which all ranks end.
        peers: all ranks.
        token: that messages of this training bear.
        plug: socket that gets the messages of other ranks.
    """

    def __init__(self, seconds: float, rank: int, peers: list[Peer], token: str, plug: socket.socket) -> None:
        super().__init__(daemon=True, name="watchdog")
        self._seconds, self._rank, self._peers, self._token, self._plug = seconds, rank, peers, token, plug
        self._poll = min(max(seconds / 20, _POLLS[0]), _POLLS[1])
        self._done = threading.Event()
        self._tick, self._signs, self._age, self._last = 0, -1, 0.0, time.monotonic()
        self._messages: dict[int, Message] = {}
        # Seconds since the last message of a rank.
        self._silence: dict[int, float] = {}

    def stop(self) -> None:
        """End the thread."""
        self._done.set()
        own = self._peers[self._rank]
        with contextlib.suppress(OSError):
            # Wakes it.
            self._plug.sendto(b"", (loopback(self._plug.family), own.port))
        self.join()
        faulthandler.cancel_dump_traceback_later()
        self._plug.close()

    def run(self) -> None:
        """Exchange messages until the end."""
        while not self._done.is_set():
            self._measure()
            # Of a rank whose Python stands still, C can print the stacks.
            faulthandler.dump_traceback_later(max(0.7 * self._limit, 3 * self._poll), file=2)
            self._tell()
            self._listen(self._poll)
            verdict = self._verdict()
            if verdict is not None:
                self._end(verdict)

    @property
    def _limit(self) -> float:
        return self._seconds if progress.progress().steps > 1 else max(self._seconds, _START)

    def _measure(self) -> None:
        """How long this rank has given no sign of life, and others no message."""
        now, signs = time.monotonic(), progress.progress().signs
        # A process that was stopped has not lived in between.
        passed, self._last = min(now - self._last, 2 * self._poll), now
        self._age = self._age + passed if signs == self._signs else 0.0
        self._signs = signs
        for rank in self._silence:
            self._silence[rank] += passed

    def _tell(self, verdict: list[int] | None = None, printed: bool = False) -> None:
        self._tick += 1
        mine = progress.progress()
        message = Message(
            self._token,
            self._rank,
            self._tick,
            mine.beats,
            mine.phase,
            round(self._age, 2),
            progress.waits(),
            verdict,
            printed,
        )
        self._messages[self._rank] = message
        data = json.dumps(asdict(message)).encode()
        for rank, peer in enumerate(self._peers):
            if rank != self._rank:
                with contextlib.suppress(OSError):
                    self._plug.sendto(data, (peer.address, peer.port))

    def _listen(self, seconds: float) -> None:
        """Take messages for so many seconds."""
        until = time.monotonic() + seconds
        while not self._done.is_set() and (left := until - time.monotonic()) > 0:
            self._plug.settimeout(left)
            try:
                message = _parse(self._plug.recv(4096))
            except OSError:
                continue
            # Anybody can send a datagram: nothing of it is used before the token is seen to be this training's.
            if message is None or message.token != self._token:
                continue
            known = self._messages.get(message.rank)
            if known is None or message.tick > known.tick:
                self._messages[message.rank] = message
                self._silence[message.rank] = 0.0

    def _verdict(self) -> list[int] | None:
        """The ranks that hang, as found out here or by another rank; None: none does so far."""
        for message in self._messages.values():
            if message.verdict is not None:
                return message.verdict
        # Found out, and told, before the time is over.
        due = self._limit - 2 * self._poll
        if self._age < due:
            return None
        silent = self._silent(max(4 * self._poll, 1.0))
        named = culprits(self._messages, silent, len(self._peers))
        busy = any(self._messages[rank].age < due for rank in named if rank not in silent)
        return None if busy else named

    def _silent(self, seconds: float) -> set[int]:
        """The ranks without a message for so long."""
        return {rank for rank, passed in self._silence.items() if passed > seconds}

    def _end(self, verdict: list[int]) -> None:
        """Print what is known, with the other ranks, and end this process."""
        silent = self._silent(2 * self._poll) & set(verdict)
        living = [rank for rank in range(len(self._peers)) if rank not in silent]
        if self._rank == min(living):
            _print(self._sentence(verdict))
        _print("\n".join(f"rank {self._rank}: {line}" for line in _stacks().splitlines()))
        here = [rank for rank in living if self._peers[rank].machine == self._peers[self._rank].machine]
        for rank in sorted(silent):
            if self._rank == min(here) and self._peers[rank].machine == self._peers[self._rank].machine:
                _end_silent(rank, self._peers[rank])
        until = time.monotonic() + _PRINTING
        while time.monotonic() < until:
            self._tell(verdict, printed=True)
            if all(rank == self._rank or self._printed(rank) for rank in living):
                break
            self._listen(_POLLS[0])
        if self._rank == 0:
            time.sleep(_LAST)
        os._exit(HUNG)

    def _printed(self, rank: int) -> bool:
        message = self._messages.get(rank)
        return message is not None and message.printed

    def _sentence(self, verdict: list[int]) -> str:
        """The line that names the ranks, and what they do."""
        limit = f"no progress for {self._limit:.0f} s (engine.hang_seconds)"
        phases = {rank: self._messages[rank].phase for rank in verdict if rank in self._messages}
        names = [f"rank {rank}" + (f" in {phases[rank]}" if rank in phases else "") for rank in verdict]
        if not names:
            names = [f"all ranks wait for each other in {self._messages[self._rank].phase}, so the network, or"]
        return (
            f"{ERROR_PREFIX}{', '.join(names)} hangs: {limit}; the stacks of all ranks follow; go on with --resume, or "
            "raise engine.hang_seconds if this takes so long by right"
        )


def _parse(data: bytes) -> Message | None:
    try:
        return Message(**json.loads(data))
    except (ValueError, TypeError):
        return None


def _stacks() -> str:
    """The stacks of all threads of this process."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")


def _end_silent(rank: int, peer: Peer) -> None:
    """Say of a rank of this machine what /proc knows, and kill it."""
    if _started(peer.pid) != peer.started:
        _print(f"rank {rank}: process {peer.pid} has gone")
        return
    facts = []
    for name, words in (("status", ("State:", "Threads:")), ("wchan", ("",)), ("syscall", ("",))):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{peer.pid}/{name}").read_text()
            found = [" ".join(line.split()) for line in text.splitlines() if line.startswith(words)]
            facts += [f"{name} {line}" for line in found]
    _print(f"rank {rank}: prints nothing itself; /proc/{peer.pid} has: {', '.join(facts)}")
    with contextlib.suppress(OSError):
        os.kill(peer.pid, signal.SIGKILL)


def _print(text: str) -> None:
    """In one piece, past whatever stderr is replaced with."""
    with contextlib.suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{text}\n".encode())


def _machine() -> str:
    """What ranks that see each other's process ids have in common."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _started(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _own_address(ranks: Ranks) -> tuple[str, socket.AddressFamily]:
    """Where others reach this rank: where its machine speaks to rank 0 from; beside rank 0, where rank 0 is."""
    master = os.environ.get("MASTER_ADDR", "127.0.0.1")
    way = route(master)
    if way is None:
        return master, socket.AF_INET
    return master if ranks.rank == 0 or way.here else way.local, way.family
