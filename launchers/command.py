"""The command line of a training in processes of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from arcticseg.ranks import free_port
from launchers.imports import absolute


def command(
    config: str, overrides: Sequence[str] = (), resume: bool = False, ranks: int = 1, imports: Sequence[str] = ()
) -> list[str]:
    """The command line that trains with a config, on so many ranks of this machine.

    Args:
        imports: modules that the training imports first, as of `--import`.
    """
    tail = ["--config", config, *(["--resume"] if resume else [])]
    for name in absolute(imports):
        tail += ["--import", name]
    tail += overrides
    if ranks == 1:
        return [sys.executable, "-m", "launchers.train", *tail]
    # Several launchers on a machine must not all use DeepSpeed's default port.
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--master_port", str(free_port()), "--no_local_rank"]
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    # DeepSpeed counts its devices from the machine's first, unless they are named.
    where = ["--include", f"localhost:{devices}"] if devices else ["--num_accelerators", str(ranks)]
    return [*launcher, *where, "--module", "launchers.train", *tail]
