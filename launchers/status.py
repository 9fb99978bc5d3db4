"""How commands end: exit statuses, and the line that tells an error which the user can repair."""

from __future__ import annotations

import sys
from collections.abc import Callable

from arcticseg.errors import ArcticSegError
from arcticseg.ranks import is_main_rank

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

# Begins the line on stderr by which a sweep reads why its training failed.
ERROR_PREFIX = "arcticseg: error: "

# Package -> the extra that installs it.
_EXTRAS = {
    "torch": "train",
    "deepspeed": "train",
    "timm": "train",
    "wandb": "train",
    "safetensors": "train",
    "ray": "sweep",
}


def guarded(body: Callable[[], int | None]) -> int:
    """Run a command; an error that the user can repair becomes a line on stderr and USER_ERROR."""
    try:
        return body() or DONE
    except ArcticSegError as error:
        # Every rank of a job meets the same error; the line of the first is enough.
        if is_main_rank():
            print(f"{ERROR_PREFIX}{' '.join(str(error).split())}", file=sys.stderr)
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
