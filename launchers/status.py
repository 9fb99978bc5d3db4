"""How commands end: exit statuses, and the line that tells an error which the user can repair."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from arcticseg.errors import ERROR_PREFIX, ArcticSegError
from arcticseg.ranks import is_main_rank, lost_peer, rank, several_ranks
from arcticseg.shown import redacted, shown
from arcticseg.system import told

# Exit statuses of all commands.
DONE = 0
# The command did its work and found problems: damaged shards, skipped scenes, failed trials.
PROBLEMS = 1
# Input, config or machine do not allow it; the line behind ERROR_PREFIX says why.
USER_ERROR = 2
# A fault of the program; the line says what to report.
FAULT = 4
# A signal stopped a training after a checkpoint: start it again with --resume.
STOPPED = 3
# Ctrl-C.
INTERRUPTED = 130

# Package -> the extra that installs it.
_EXTRAS = {
    "torch": "train",
    "deepspeed": "train",
    "timm": "train",
    "wandb": "train",
    "safetensors": "train",
    "ray": "sweep",
    "tensorboardX": "tensorboard",
}


# Seconds that ranks other than 0 wait before they tell an error, since most errors are those of all ranks: rank 0 tells
# it, and its launcher ends the others.
PATIENCE = 5.0
# Seconds before a rank tells that it has lost another, whose own error is the one to read first.
_LOST_PATIENCE = 8.0


# Characters of an error's line.
_LONGEST = 4000


def guarded(body: Callable[[], int | None], patience: float = 0.0) -> int:
    """Run a command; its exit status. An error becomes a line on stderr.

    Args:
        patience: seconds that ranks other than 0 wait before they tell an error on which ranks have not agreed.
    """
    try:
        return body() or DONE
    except ArcticSegError as error:
        _tell(error, patience)
        return USER_ERROR
    except KeyboardInterrupt:
        print("arcticseg: stopped", file=sys.stderr)
        return INTERRUPTED
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            return _others(error)
        print(f"{ERROR_PREFIX}{error.name} is not installed; pip install 'arcticseg[{extra}]'", file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:
        # Nobody reads what is printed; to flush it at the end would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PROBLEMS
    except Exception as error:
        return _others(error)


def _others(error: Exception) -> int:
    """Tell an error that nobody has foreseen; the exit status."""
    if isinstance(error, RuntimeError) and several_ranks() and lost_peer(error):
        time.sleep(_LOST_PATIENCE)
        print(f"arcticseg: rank {rank()} ends, as another rank has gone; go on with --resume", file=sys.stderr)
        return PROBLEMS
    line = told(error) if isinstance(error, OSError) else None
    if isinstance(error, MemoryError):
        line = "the memory of this machine is used up; use a larger machine, or fewer workers"
    if line is not None:
        print(f"{ERROR_PREFIX}{shown(line)}", file=sys.stderr, flush=True)
        return USER_ERROR
    place = traceback.extract_tb(error.__traceback__)[-1]
    what = " ".join(f"{type(error).__name__} {error}".split())[:500]
    print(
        f"arcticseg: fault of the program: {shown(what)} ({Path(place.filename).name}, line {place.lineno}); report it "
        f"with the command, the output of `arcticseg --version` and {_kept(error)}",
        file=sys.stderr,
        flush=True,
    )
    return FAULT


def _kept(error: Exception) -> str:
    """Where the traceback of a fault is kept; of a rank it is printed, since its machine may be another."""
    text = "".join(traceback.format_exception(error))
    try:
        if not several_ranks():
            with tempfile.NamedTemporaryFile("w", prefix="arcticseg-fault-", suffix=".txt", delete=False) as file:
                file.write(redacted(text))
            return file.name
    except OSError:
        pass
    print(redacted(text), file=sys.stderr)
    return "the traceback above"


def _tell(error: ArcticSegError, patience: float) -> None:
    """Print an error on the rank that met it first; rank 0 says which that is."""
    if error.met_by not in (None, rank()):
        if is_main_rank():
            print(f"arcticseg: rank {error.met_by} has met an error, so all ranks end", file=sys.stderr)
        return
    if error.met_by is None and not is_main_rank():
        time.sleep(patience)
    print(f"{ERROR_PREFIX}{shown(' '.join(str(error).split()))[:_LONGEST]}", file=sys.stderr, flush=True)
