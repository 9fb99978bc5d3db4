"""How launchers tell a process of a training, in its environment, which rank it is."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, MutableMapping

from arcticseg.errors import ConfigError

# What torch and DeepSpeed read -> what SLURM's srun sets in its place.
SLURM_VARIABLES = {
    "RANK": "SLURM_PROCID",
    "LOCAL_RANK": "SLURM_LOCALID",
    "WORLD_SIZE": "SLURM_NTASKS",
    "LOCAL_WORLD_SIZE": "SLURM_NTASKS_PER_NODE",
}
# Set by torchrun or DeepSpeed's launcher for each rank.
RANK_VARIABLES = (*SLURM_VARIABLES, "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


# A node or several, such as `n[1-3,07]x`; a list of them.
_NODE = re.compile(r"(?:[^\s,\[\]]|\[\w+(?:-\w+)?(?:,\w+(?:-\w+)?)*\])+")
_NODES = re.compile(rf"{_NODE.pattern}(?:,{_NODE.pattern})*")

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


def first_node(nodes: str) -> str | None:
    """The first name of a list of nodes as SLURM writes it; None: the text is no such list.

    >>> first_node("gpu-a[01-03,07]x,node[1-2]")
    'gpu-a01x'
    """
    if _NODES.fullmatch(nodes) is None:
        return None
    first = _NODE.match(nodes)
    return None if first is None else re.sub(r"\[(\w+)[^]]*\]", r"\1", first[0])


def tasks_here(environment: Mapping[str, str]) -> int | None:
    """Tasks that a SLURM step has on this node, from a text such as `2(x3),1`; None: it does not tell."""
    text, node = environment.get("SLURM_STEP_TASKS_PER_NODE", ""), environment.get("SLURM_NODEID", "")
    groups = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in text.split(",")]
    if None in groups or not node.isdecimal():
        return None
    counts = [int(group[1]) for group in groups if group is not None for _ in range(int(group[2] or 1))]
    return counts[int(node)] if int(node) < len(counts) else None


def find_master(environment: MutableMapping[str, str]) -> None:
    """Where the tasks of a SLURM step meet: on its first node, at a port from the job's number, if nothing else is set.

    Raises:
        ConfigError: there are several tasks, of SLURM or MPI, and this cannot be told; each would train by itself.
    """
    job = environment.get("SLURM_JOB_ID", "")
    several = _tasks(environment, "SLURM_STEP_NUM_TASKS") > 1
    if several and job.isdecimal():
        # Below the ports that systems hand out by themselves.
        environment.setdefault("MASTER_PORT", str(10000 + int(job) % 20000))
    if several and "MASTER_ADDR" not in environment:
        nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", ""))
        first = first_node(nodes)
        if first is None or not job.isdecimal():
            raise ConfigError(
                f"SLURM_STEP_NUM_TASKS is {environment['SLURM_STEP_NUM_TASKS']}, and MASTER_ADDR is not set; set it to "
                "the first node's name, and MASTER_PORT to a free port"
            )
        environment["MASTER_ADDR"] = first
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        if "SLURM_PROCID" not in environment and _tasks(environment, name) > 1:
            raise ConfigError(
                f"{name} is {environment[name]}, and RANK is not set; set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR "
                "and MASTER_PORT for each task, or start the ranks with torchrun"
            )


def _tasks(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    return int(text) if text.isdecimal() else 1


def lost_peer(error: BaseException) -> bool:
    """Whether an error of torch.distributed says that another rank has gone."""
    text = f"{type(error).__name__}: {error}"
    return any(sign in text for sign in _LOST)


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
