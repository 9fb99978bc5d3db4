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


def without_rank_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that is not a rank of the training around it."""
    return {name: value for name, value in environment.items() if name not in RANK_VARIABLES}


def is_main_rank() -> bool:
    """Whether this process is rank 0, or the only one; known before the process group is."""
    return os.environ.get("RANK", os.environ.get(SLURM_VARIABLES["RANK"], "0")) == "0"


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
