"""The command line of a training."""

from __future__ import annotations

import os
import socket
import sys


def command(config: str, overrides: list[str], resume: bool = False, ranks: int = 1) -> list[str]:
    """The command line that trains in processes of its own."""
    tail = ["--config", config, *(["--resume"] if resume else []), *overrides]
    if ranks == 1:
        return [sys.executable, "-m", "launchers.train", *tail]
    # Several launchers on one machine must not meet on DeepSpeed's one port.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--master_port", port, "--no_local_rank"]
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    # DeepSpeed counts its devices from the machine's first, unless they are named.
    where = ["--include", f"localhost:{devices}"] if devices else ["--num_accelerators", str(ranks)]
    return [*launcher, *where, "--module", "launchers.train", *tail]
