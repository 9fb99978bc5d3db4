"""How commands end: exit codes, the prefix of an error, one line for what the user can repair."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from arcticseg.errors import ArcticSegError


def guarded(body: Callable[[], int | None]) -> int:
    """Run a command; an error that the user can mend becomes one line on stderr and status 2."""
    try:
        return body() or 0
    except ArcticSegError as error:
        # Every rank of a job meets the same error; one line of it is enough.
        if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
            print(f"arcticseg: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("arcticseg: stopped", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        extras = {
            "torch": "train",
            "deepspeed": "train",
            "timm": "train",
            "wandb": "train",
            "safetensors": "train",
            "ray": "sweep",
        }
        extra = extras.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        print(f"arcticseg: error: {error.name} is not installed; pip install 'arcticseg[{extra}]'", file=sys.stderr)
        return 2
