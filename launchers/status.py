"""How commands end: exit statuses, and the line that tells an error which the user can repair."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from arcticseg.errors import ERROR_PREFIX, ArcticSegError
from arcticseg.ranks import is_main_rank, lost_peer, rank, several_ranks
from arcticseg.shown import shown

# Exit statuses of all commands.
DONE = 0
# The command did its work and found problems: damaged shards, skipped scenes, failed trials.
PROBLEMS = 1
# Input, config or machine do not allow it; the line behind ERROR_PREFIX says why.
USER_ERROR = 2
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
}


# Seconds that ranks other than 0 wait before they tell an error, since most errors are those of all ranks: rank 0 tells
# it, and its launcher ends the others.
PATIENCE = 5.0
# Seconds before a rank tells that it has lost another, whose own error is the one to read first.
_LOST_PATIENCE = 8.0


def guarded(body: Callable[[], int | None], patience: float = 0.0) -> int:
    """Run a command; an error that the user can repair becomes a line on stderr and USER_ERROR.

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
            raise
        print(f"{ERROR_PREFIX}{error.name} is not installed; pip install 'arcticseg[{extra}]'", file=sys.stderr)
        return USER_ERROR
    except RuntimeError as error:
        if not (several_ranks() and lost_peer(error)):
            raise
        time.sleep(_LOST_PATIENCE)
        print(f"arcticseg: rank {rank()} ends, as another rank has gone; go on with --resume", file=sys.stderr)
        return PROBLEMS


def _tell(error: ArcticSegError, patience: float) -> None:
    """Print an error on the rank that met it first; rank 0 says which that is."""
    if error.met_by not in (None, rank()):
        if is_main_rank():
            print(f"arcticseg: rank {error.met_by} has met an error, so all ranks end", file=sys.stderr)
        return
    if error.met_by is None and not is_main_rank():
        time.sleep(patience)
    print(f"{ERROR_PREFIX}{shown(' '.join(str(error).split()))}", file=sys.stderr, flush=True)
