"""The one door to the process group: who am I, sums over ranks, barriers."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from arcticseg.engine import compiled, rendezvous
from arcticseg.engine.addresses import interface_to
from arcticseg.engine.config import COLLECTIVE_SECONDS
from arcticseg.engine.progress import beat
from arcticseg.errors import ArcticSegError, ConfigError
from arcticseg.ranks import SLURM_VARIABLES, find_master, free_port, several_ranks, tasks_here

T = TypeVar("T")
# Gives a tensor that is still being made, to the stream of whoever asks.
Later = Callable[[], Tensor]
# Seconds that a rank with an error waits for the others, to tell them, before it tells the error itself.
_LAST_WAIT = 20.0
# Seconds that rank 0 stays with an error, for others that meet the same a little later.
_STORE_STAYS = 1.5
# Who wants the process group to stay.
_keepers: list[Ranks] = []

_control: Any = None


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
    if "MASTER_ADDR" in os.environ:
        # An IPv6 address, as in [fd00::1], which the libraries below take without brackets.
        os.environ["MASTER_ADDR"] = os.environ["MASTER_ADDR"].strip("[]")
    if "RANK" not in os.environ:
        find_master(os.environ)
    if "RANK" not in os.environ and "SLURM_PROCID" in os.environ and "MASTER_ADDR" in os.environ:
        here = tasks_here(os.environ)
        if here is not None:
            os.environ.setdefault("LOCAL_WORLD_SIZE", str(here))
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


def start_agreed(prepare: Callable[[], T]) -> tuple[Ranks, T]:
    """Prepare on each rank, and join; all ranks go on with what they have prepared, or all end.

    Raises:
        ArcticSegError: `prepare` failed on a rank: the first such error, the same on all; or as `start`.
    """
    _environment()
    try:
        prepared = prepare()
    except ArcticSegError as error:
        if several_ranks():
            _tell_others(error)
        raise
    ranks = start()
    try:
        agree(None)
    except ArcticSegError:
        stop()
        raise
    return ranks, prepared


def _tell_others(error: ArcticSegError) -> None:
    """Give the other ranks an error, if they come soon.

    Raises:
        ArcticSegError: that of the first rank which has one.
    """
    try:
        start(min(_LAST_WAIT, rendezvous.longest_wait()))
    except ArcticSegError:
        return
    try:
        agree(error)
    finally:
        stop()


def start(seconds: float | None = None) -> Ranks:
    """Join the process group that the launcher describes, or a group of one.

    Args:
        seconds: to wait for other ranks.

    Raises:
        ConfigError: no C++ compiler, without which DeepSpeed does not start on CPU; the launcher set no MASTER_PORT;
            there are more ranks than GPUs; or the others do not come.
    """
    _environment()
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "c++")):
            raise ConfigError(
                "g++ is not found; DeepSpeed compiles a part of itself on CPU; install g++ (apt-get install g++)"
            )
    # DeepSpeed calls ninja by name; in an environment that is not activated it is beside the interpreter only.
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    import deepspeed

    local_rank, world_size = int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"])
    ranks = Ranks(
        rank=int(os.environ["RANK"]),
        local_rank=local_rank,
        world_size=world_size,
        local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", world_size))),
        device=torch.device("cuda", local_rank) if cuda else torch.device("cpu"),
    )
    if cuda:
        _take_gpu(ranks)
    else:
        compiled.load()
    if not dist.is_initialized():
        _join(ranks, rendezvous.longest_wait() if seconds is None else seconds)
        # It prints to stdout that it has compiled a part of itself, which is not output of ours.
        with contextlib.redirect_stdout(io.StringIO()):
            deepspeed.init_distributed(dist_backend="nccl" if cuda else "gloo", verbose=False)
    return ranks


def _take_gpu(ranks: Ranks) -> None:
    """Choose the rank's GPU: of those in CUDA_VISIBLE_DEVICES, however it names them, the rank's own in their order.

    Raises:
        ConfigError: there are too few.
    """
    devices = torch.cuda.device_count()
    # SLURM's count may be that of other steps of the job, and without any it is that of all machines.
    counted = "SLURM_PROCID" not in os.environ and {"LOCAL_WORLD_SIZE", "LOCAL_SIZE"} & os.environ.keys()
    wanted = max(ranks.local_rank + 1, ranks.local_world_size if counted else 0)
    if wanted > devices:
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        told = "the machine" if named is None else f"CUDA_VISIBLE_DEVICES '{named}'"
        raise ConfigError(
            f"{wanted} or more ranks on this machine, and {told} has {devices} GPUs for them; start at most "
            f"{devices} ranks, or name more GPUs"
        )
    torch.cuda.set_device(ranks.local_rank)


def _join(ranks: Ranks, seconds: float) -> None:
    """Make the process group, once all ranks are there."""
    # Where nobody else is to come, nobody is to be reached.
    interface = "lo" if ranks.world_size == 1 else interface_to(os.environ["MASTER_ADDR"])
    if interface is not None:
        # By itself gloo takes the address of the machine's name, which is often that of the loopback device.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    store = rendezvous.meet(ranks.rank, ranks.world_size, seconds)
    cuda = ranks.device.type == "cuda"
    # As DeepSpeed makes it.
    device = ranks.device if cuda and ranks.world_size > 1 else None
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=store,
        rank=ranks.rank,
        world_size=ranks.world_size,
        device_id=device,
        timeout=timedelta(seconds=COLLECTIVE_SECONDS),
    )


def stop() -> None:
    """Leave the process group, unless it is `kept`."""
    global _control
    if dist.is_initialized() and not _keepers:
        _control = None
        dist.destroy_process_group()


@contextlib.contextmanager
def kept() -> Iterator[Ranks]:
    """Join, and stay until the end: for several trainings in one process, as DeepSpeed knows its first group only."""
    ranks = start()
    _keepers.append(ranks)
    try:
        yield ranks
    finally:
        _keepers.pop()
        stop()


def _several() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor over ranks, in place."""
    beat()
    if _several():
        dist.all_reduce(values)
    return values


def take_from_main(values: Sequence[Tensor]) -> None:
    """Give tensors the values that they have on rank 0, in place."""
    beat()
    for value in values if _several() else ():
        dist.broadcast(value, 0)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return sum_over_ranks(values.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Each rank's loss has the sum in it, and all have the same.
        return gradient * dist.get_world_size()


@torch.compiler.disable
def sum_with_gradient(values: Tensor) -> Tensor:
    """A tensor summed over ranks, of which each rank computes an equal share of the loss: its gradient is the whole."""
    return cast(Tensor, _Sum.apply(values)) if _several() else values


def sum_later(values: Tensor) -> Later:
    """Begin to sum a tensor over ranks, in place; the sum comes to whoever asks for it, or to his CUDA stream."""
    if not _several():
        return lambda: values
    work = dist.all_reduce(values, async_op=True)

    def give() -> Tensor:
        work.wait()
        return values

    return give


def any_later(flags: Sequence[Callable[[], bool]]) -> Callable[[], list[bool]]:
    """Begin to tell all ranks, by the host alone, whether each flag is set on any of them.

    Where there are several ranks a flag is read now, where there is one when the answer is asked for.
    """
    if not _several():
        return lambda: [flag() for flag in flags]
    values = torch.tensor([flag() for flag in flags], dtype=torch.uint8)
    work = dist.all_reduce(values, dist.ReduceOp.MAX, control_group(), async_op=True)

    def give() -> list[bool]:
        beat()
        work.wait()
        return [bool(value) for value in values.tolist()]

    return give


def control_group() -> Any:
    """A gloo group of all ranks beside the main one: what hosts tell each other waits for no device, nor is in its way.

    All ranks must call this together the first time.
    """
    global _control
    if _control is None:
        _control = dist.new_group(backend="gloo", timeout=timedelta(seconds=COLLECTIVE_SECONDS))
    return _control


def barrier() -> None:
    """Wait for all ranks."""
    beat()
    if _several():
        dist.barrier()


def gather(value: Any) -> list[Any]:
    """What each rank has, any value that can be pickled, in the order of the ranks, on all of them."""
    beat()
    if not _several():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, control_group())
    for rank, of_rank in enumerate(values):
        for part in of_rank if isinstance(of_rank, tuple) else (of_rank,):
            if isinstance(part, ArcticSegError):
                part.met_by = rank
    return values


def share(error: ArcticSegError) -> None:
    """Settle which rank tells an error that others may meet at the same time, without waiting for them."""
    if error.met_by is not None or not dist.is_initialized() or dist.get_world_size() == 1:
        return
    key = f"arcticseg/error/{hashlib.sha256(str(error).encode()).hexdigest()}"
    # Where rank 0 has gone with its store, each tells its own.
    with contextlib.suppress(RuntimeError):
        store = dist.distributed_c10d._get_default_store()
        error.met_by = int(store.compare_set(key, "", str(dist.get_rank())))
    if error.met_by != dist.get_rank():
        # When one rank ends, launchers end the others: not before the error is told.
        time.sleep(2 * _STORE_STAYS)
    elif dist.get_rank() == 0:
        time.sleep(_STORE_STAYS)


def agree(error: ArcticSegError | None) -> None:
    """See that no rank has an error; all ranks must call this together.

    Raises:
        ArcticSegError: the error of the first rank that has one, the same on all.
    """
    (failed,) = any_later([lambda: error is not None])()
    if failed:
        raise next(caught for caught in gather(error) if caught is not None)
