"""What a Ray task does on whichever machine: a job, in a process of its own, as on a single machine.

So a damaged file that crashes or hangs its reader costs its own scene here, too, and Ray deals with lost machines only.
"""

from __future__ import annotations

import functools
import os
import pickle
import socket
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import xxhash

import arcticseg
from arcticseg.errors import ConfigError
from shards.workers import Outcome, Workers

# Seconds until a file of another machine must be seen; network file systems take some.
_PATIENCE = 10.0
# Packages whose code must be the same everywhere.
_PACKAGES = ("arcticseg", "launchers", "shards")

# The process that does the jobs of this one, and the GPUs that it was given.
_crew: tuple[str | None, Workers] | None = None


@dataclass(frozen=True)
class Site:
    """What a machine must have to be of use.

    Attributes:
        code: see `code`.
        mark: a file that whoever asks has written in the output folder.
        scene: the file that the job reads; None: it is not there for whoever asks, either.
        folder: in which whoever asks was started, for modules that are named without a path.
    """

    code: str
    mark: Path
    scene: Path | None
    folder: Path


@functools.cache
def code() -> str:
    """Version and checksum of the code that runs here."""
    root = Path(arcticseg.__file__).parents[1]
    digest = xxhash.xxh3_64()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return f"{version('arcticseg')} ({digest.hexdigest()})"


def perform(order: bytes) -> bytes:
    """Do a job on this machine.

    Args:
        order: pickled (site, bytes), the latter pickled (function, job) that are not looked at on a machine of no use.

    Returns:
        pickled outcome, whose error is a ConfigError where this machine is of no use.
    """
    site, inner = pickle.loads(order)
    try:
        _check(site)
    except ConfigError as error:
        return pickle.dumps(Outcome(error=error))
    if str(site.folder) not in sys.path:
        sys.path.append(str(site.folder))
    function, job = pickle.loads(inner)
    (_, outcome), *_ = _workers().map(function, [job])
    return pickle.dumps(outcome)


def _workers() -> Workers:
    """One process, which keeps what it has loaded for the next job; another one where the GPU is another."""
    global _crew
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    if _crew is None or _crew[0] != gpus:
        if _crew is not None:
            _crew[1].__exit__()
        _crew = gpus, Workers(1)
    return _crew[1]


def _check(site: Site) -> None:
    here = f"machine {socket.gethostname()} of the Ray cluster"
    if site.code != code():
        root = Path(arcticseg.__file__).parents[1]
        raise ConfigError(
            f"{here}: has arcticseg {code()} in {root}, not {site.code}; install the same on all machines"
        )
    for path in filter(None, (site.mark, site.scene)):
        until = time.monotonic() + _PATIENCE
        while not path.exists():
            if time.monotonic() > until:
                place = path.parent if path == site.mark else path
                raise ConfigError(
                    f"{here}: does not see {place}; scenes and output must lie on a file system that all machines share"
                )
            time.sleep(0.2)
