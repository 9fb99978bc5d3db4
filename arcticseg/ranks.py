"""How launchers tell a process of a training, in its environment, which rank it is."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

# What torch and DeepSpeed read -> what SLURM's srun sets in its place.
SLURM_VARIABLES = {
    "RANK": "SLURM_PROCID",
    "LOCAL_RANK": "SLURM_LOCALID",
    "WORLD_SIZE": "SLURM_NTASKS",
    "LOCAL_WORLD_SIZE": "SLURM_NTASKS_PER_NODE",
}
# Set by torchrun or DeepSpeed's launcher for each rank.
RANK_VARIABLES = (*SLURM_VARIABLES, "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


# How errors of gloo, NCCL and torch's store begin when another rank has gone.
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "/gloo/transport/",
    "DistBackendError",
    "DistNetworkError",
    "NCCL communicator was aborted",
)


def without_rank_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that is not a rank of the training around it."""
    return {name: value for name, value in environment.items() if name not in RANK_VARIABLES}


def rank() -> int:
    """Number of this process among all; known before the process group is."""
    return _number("RANK", 0)


def is_main_rank() -> bool:
    """Whether this process is rank 0, or the only one."""
    return rank() == 0


def several_ranks() -> bool:
    """Whether a launcher says that there are other ranks."""
    return _number("WORLD_SIZE", 1) > 1


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, os.environ.get(SLURM_VARIABLES[name], ""))
    return int(text) if text.isdecimal() else default


def lost_peer(error: BaseException) -> bool:
    """Whether an error of torch.distributed says that another rank has gone."""
    text = f"{type(error).__name__}: {error}"
    return any(sign in text for sign in _LOST)


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
