"""How ranks meet at the start: each says whom it waits for, and gives up after a stated time."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from datetime import timedelta

import torch.distributed as dist

from arcticseg.engine.addresses import is_loopback
from arcticseg.errors import ConfigError

# Seconds that a rank waits for the others; another number by this variable.
WAIT_VARIABLE = "ARCTICSEG_WAIT"
_WAIT = 600.0
# Seconds before it says that it waits.
_TELL = 15.0
_POLL = 0.1


def longest_wait() -> float:
    """Seconds that a rank waits for the others.

    Raises:
        ConfigError: the variable holds no number.
    """
    text = os.environ.get(WAIT_VARIABLE, str(_WAIT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ConfigError(f"{WAIT_VARIABLE} is '{text}'; set seconds, such as 600")
    return seconds


def meet(rank: int, world_size: int, seconds: float) -> dist.Store:
    """Wait until all ranks are at MASTER_ADDR and MASTER_PORT; a store that they share.

    Raises:
        ConfigError: they are not within so many seconds, the port is in use or no port.
    """
    address, port = os.environ["MASTER_ADDR"], _port(os.environ["MASTER_PORT"])
    at = f"MASTER_ADDR {address}, MASTER_PORT {port}"
    until = time.monotonic() + seconds
    told = threading.Timer(_TELL, _note, [f"rank {rank} waits for rank 0 at {at}; gives up after {seconds:.0f} s"])
    told.daemon = True
    told.start()
    try:
        store = _store(address, port, rank, world_size, seconds)
    except (RuntimeError, OSError) as error:
        if rank == 0 and not _is_client():
            raise ConfigError(
                f"{at}: rank 0 cannot listen there ({_line(error)}); set another port or address"
            ) from None
        raise ConfigError(f"{at}: rank 0 does not answer rank {rank} within {seconds:.0f} s; see its log") from None
    finally:
        told.cancel()
    store = dist.PrefixStore(f"arcticseg/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    try:
        _wait(store, rank, world_size, until, seconds)
    except RuntimeError:
        raise ConfigError(f"{at}: rank 0 has gone while rank {rank} waited for the others; see its log") from None
    return store


def _port(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 1 << 16):
        raise ConfigError(f"MASTER_PORT is '{text}'; set a port from 1 to 65535")
    return int(text)


def _wait(store: dist.Store, rank: int, world_size: int, until: float, seconds: float) -> None:
    """Wait until each rank has been here."""
    store.set(f"rank/{rank}", "")
    here = store.add("ranks", 1)
    tell = time.monotonic() + _TELL
    while here < world_size:
        time.sleep(_POLL)
        here = store.add("ranks", 0)
        now = time.monotonic()
        if now > until:
            missing = _missing(store, world_size)
            raise ConfigError(
                f"{missing} of {world_size} did not start within {seconds:.0f} s; see the logs of these ranks"
            )
        if now > tell:
            # Rank 0 speaks for all.
            if rank == 0:
                left = f"gives up in {until - now:.0f} s"
                _note(f"rank 0 waits for {_missing(store, world_size)} of {world_size} to start; {left}")
            tell = float("inf")


def _missing(store: dist.Store, world_size: int) -> str:
    missing = [rank for rank in range(world_size) if not store.check([f"rank/{rank}"])]
    named = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
    return f"rank{'s' if len(missing) > 1 else ''} {named}"


def _is_client() -> bool:
    """Whether torchrun itself listens."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _store(address: str, port: int, rank: int, world_size: int, seconds: float) -> dist.Store:
    """Rank 0 listens, on the loopback device only where that is enough; the others connect."""
    listens = rank == 0 and not _is_client()
    options: dict[str, object] = {
        "timeout": timedelta(seconds=seconds),
        "wait_for_workers": False,
        "multi_tenant": True,
    }
    if listens and is_loopback(address):
        at, family = ("::1", socket.AF_INET6) if ":" in address else ("127.0.0.1", socket.AF_INET)
        listener = socket.create_server((at, port), family=family, backlog=max(128, world_size))
        port = listener.getsockname()[1]
        options["master_listen_fd"] = listener.detach()
    return dist.TCPStore(address, port, world_size, listens, **options)  # type: ignore[arg-type]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _note(text: str) -> None:
    print(f"arcticseg: {text}", file=sys.stderr, flush=True)
