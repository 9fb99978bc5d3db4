"""The one door to the process group: who am I, sums over ranks, barriers."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from arcticseg.errors import ArcticSegError, ConfigError
from arcticseg.ranks import SLURM_VARIABLES, free_port


@dataclass(frozen=True)
class Ranks:
    """This process among all."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Rank 0 writes logs and weights."""
        return self.rank == 0


def _environment() -> None:
    """Fill in what the launcher did not set: from SLURM under srun, else for a single process."""
    if "RANK" not in os.environ and "SLURM_PROCID" in os.environ and "MASTER_ADDR" in os.environ:
        for name, source in SLURM_VARIABLES.items():
            if source in os.environ:
                os.environ.setdefault(name, os.environ[source])
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in alone.items():
        os.environ.setdefault(name, value)
    if "MASTER_PORT" not in os.environ:
        if os.environ["WORLD_SIZE"] != "1":
            raise ConfigError(
                "MASTER_PORT is not set for several ranks; start them with deepspeed, torchrun or the sbatch script"
            )
        os.environ["MASTER_PORT"] = str(free_port())


def start() -> Ranks:
    """Join the process group that the launcher describes, or a group of one.

    Raises:
        ConfigError: no C++ compiler, without which DeepSpeed does not start on CPU; or a variable of the launcher is missing.
    """
    _environment()
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "c++")):
            raise ConfigError(
                "g++ is missing; DeepSpeed compiles a part of itself on CPU; install g++ (apt-get install g++)"
            )
    # DeepSpeed calls ninja by name; in an environment that is not activated it is beside the interpreter only.
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    import deepspeed

    local_rank = int(os.environ["LOCAL_RANK"])
    if cuda:
        torch.cuda.set_device(local_rank)
    if not dist.is_initialized():
        # It prints to stdout that it has compiled a part of itself, which is not output of ours.
        with contextlib.redirect_stdout(io.StringIO()):
            deepspeed.init_distributed(dist_backend="nccl" if cuda else "gloo", verbose=False)
    world_size = int(os.environ["WORLD_SIZE"])
    return Ranks(
        rank=int(os.environ["RANK"]),
        local_rank=local_rank,
        world_size=world_size,
        local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", world_size))),
        device=torch.device("cuda", local_rank) if cuda else torch.device("cpu"),
    )


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor over ranks, in place."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
    return values


def sum_array(values: NDArray, device: torch.device) -> NDArray:
    """Sum a numpy array over ranks."""
    tensor = torch.from_numpy(np.ascontiguousarray(values)).to(device)
    return sum_over_ranks(tensor).cpu().numpy()


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


def gather(value: Any) -> list[Any]:
    """What each rank has, any value that can be pickled, in the order of the ranks, on all of them."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def agree(error: ArcticSegError | None, device: torch.device) -> None:
    """See that no rank has an error; all ranks must call this together.

    Raises:
        ArcticSegError: the error of the first rank that has one, the same on all.
    """
    if sum_over_ranks(torch.tensor([float(error is not None)], device=device)).item():
        raise next(caught for caught in gather(error) if caught is not None)
