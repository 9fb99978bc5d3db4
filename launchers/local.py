"""Several ranks on this machine: starts them, hands signals on to them, and ends all when one ends badly.

Ranks are in process groups of their own, so Ctrl-C on a terminal reaches them once, from here, and they end with this
process, however it ends. They meet on the loopback device; which GPU is whose follows from CUDA_VISIBLE_DEVICES, of
which rank i takes the i-th.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence

from arcticseg.errors import ConfigError
from arcticseg.processes import ending_with
from arcticseg.ranks import free_port, without_rank_variables
from launchers import train
from launchers.command import command, without_credentials
from launchers.status import DONE, INTERRUPTED, STOPPED, guarded
from launchers.terminal import note

# A signal to this process -> what the ranks get. A trainer writes a checkpoint at either.
_FORWARDED = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGUSR1: signal.SIGUSR1,
    signal.SIGINT: signal.SIGTERM,
    signal.SIGHUP: signal.SIGTERM,
}
# Seconds that the others have, once a rank has ended badly, to tell what they know; less than `status.PATIENCE`, so
# that an error of all is told once.
_AFTER_FIRST = 2.5
_POLL = 0.05

Process = subprocess.Popen[bytes]


def start(arguments: argparse.Namespace) -> int:
    """Check the config, then run `arguments.ranks` ranks to their end; the exit status of all.

    Raises:
        ArcticSegError: the config cannot work.
    """
    if arguments.ranks < 1:
        raise ConfigError(f"--ranks is {arguments.ranks}; set 1 or more")
    from arcticseg.run.config import load

    with warnings.catch_warnings():
        # Rank 0 shows them.
        warnings.simplefilter("ignore")
        load(arguments.config, arguments.overrides, arguments.imports)
    one = command(
        arguments.config, arguments.overrides, arguments.resume, 1, arguments.imports, changes=arguments.change
    )
    return run(one, arguments.ranks)


def run(command_line: Sequence[str], ranks: int) -> int:
    """Run a command as so many ranks.

    Returns:
        DONE; STOPPED when a signal stopped all; the first bad status of a rank, 128 + number for a signal.
    """
    asked: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: asked.append(number)) for number in _FORWARDED}
    processes: list[Process] = []
    try:
        environment = _environment(ranks)
        for rank in range(ranks):
            own = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(_start(command_line, own))
        return _watch(processes, asked)
    finally:
        _kill(processes)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _environment(ranks: int) -> dict[str, str]:
    """What all ranks find in their environment."""
    # Nothing of a training on one machine listens to others.
    chosen = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} | without_rank_variables(os.environ)
    size = str(ranks)
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return chosen | where | {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}


def _start(command_line: Sequence[str], environment: Mapping[str, str]) -> Process:
    return subprocess.Popen(
        command_line, env=environment, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=ending_with(os.getpid())
    )


def _watch(processes: Sequence[Process], asked: Sequence[int]) -> int:
    """Wait for all ranks, handing on the signals that are asked for."""
    handed, first, until = 0, 0, float("inf")
    while True:
        for number in asked[handed:]:
            handed += 1
            if asked[:handed].count(signal.SIGINT) > 1:
                note("arcticseg: stopped at once; go on from the last checkpoint with --resume")
                return INTERRUPTED
            for process in processes:
                process.send_signal(_FORWARDED[signal.Signals(number)])
        statuses = [process.poll() for process in processes]
        bad = [rank for rank, status in enumerate(statuses) if status not in (None, DONE, STOPPED)]
        if bad and not first:
            # A rank that was killed explains others that noticed it.
            rank = min(bad, key=lambda rank: statuses[rank] or 0)
            first = _told(rank, processes[rank], bool(asked))
            until = time.monotonic() + _AFTER_FIRST
        if None not in statuses:
            return first or (STOPPED if STOPPED in statuses else DONE)
        if time.monotonic() > until:
            return first
        time.sleep(_POLL)


def _told(rank: int, process: Process, asked: bool) -> int:
    """Say how a rank ended, where it could not; the status that all end with."""
    status = process.returncode
    if asked and -status in _FORWARDED.values():
        note("arcticseg: stopped before the first step, or after the last; start it again with --resume")
        return STOPPED
    if status < 0:
        name = signal.Signals(-status).name
        memory = ", perhaps because memory ran out" if name == "SIGKILL" else ""
        note(f"arcticseg: error: rank {rank} was ended by {name}{memory}; go on with --resume")
        return 128 - status
    return status


def _kill(processes: Sequence[Process]) -> None:
    """Kill the ranks with what they have started, and wait for them."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    for process in processes:
        process.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m launchers.local --ranks N` and the arguments of `launchers.train`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    train.add_arguments(parser)
    add_ranks_argument(parser)
    arguments = parser.parse_intermixed_args(without_credentials(argv))
    return guarded(lambda: start(arguments))


def add_ranks_argument(parser: argparse.ArgumentParser) -> None:
    """`--ranks`."""
    parser.add_argument("--ranks", type=int, default=1, metavar="N", help="processes on this machine (default 1)")


if __name__ == "__main__":
    sys.exit(main())
