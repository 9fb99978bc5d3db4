"""Copies of what an engine learns, as of averages: each rank has those of its pieces of the float32 masters.

Under ZeRO they take 4 bytes a parameter, shared out among the ranks; in stage 0 each rank has all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from arcticseg.engine import reshard
from arcticseg.engine.process_group import Ranks
from arcticseg.engine.whole import whole_copies

# Name of a parameter that learns -> float32, flat, as long as this rank's piece of it.
Copies = Mapping[str, Tensor]


def masters(engine: Any) -> dict[str, Tensor]:
    """This rank's pieces of the masters, flat: views, which change as training goes on."""
    return {piece.name: piece.of(piece.holder) for piece in reshard.pieces(engine) if piece.learns}


def cut(engine: Any, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This rank's copies of whole tensors; of a parameter that is missing there, its master as it is now."""
    copies = {}
    for piece in reshard.pieces(engine):
        if piece.learns:
            master = piece.of(piece.holder)
            given = whole[piece.name].reshape(-1)[piece.start : piece.stop] if piece.name in whole else master
            copies[piece.name] = torch.empty_like(master).copy_(given)
    return copies


def put_together(engine: Any, copies: Copies, ranks: Ranks) -> dict[str, Tensor]:
    """The whole of the copies of all ranks, on the CPU of rank 0, nothing on the others; every rank must call it."""
    return {name: value.cpu() for name, value in whole_copies(engine, copies, ranks) if value is not None}


@contextlib.contextmanager
def computing_with(engine: Any, copies: Copies, ranks: Ranks) -> Iterator[None]:
    """Have the network compute with copies; then, bit for bit, with what it had; every rank must enter it."""
    if engine.zero_optimization_stage() == 0:
        # The network's weights are the masters.
        own = masters(engine)
        kept = {name: value.clone() for name, value in own.items()}
        _fill(own, copies)
        try:
            yield
        finally:
            _fill(own, kept)
        return
    _give(engine, copies, ranks)
    try:
        yield
    finally:
        # What the network computes with are the masters, rounded.
        _give(engine, masters(engine), ranks)


@torch.no_grad()
def _fill(own: Copies, values: Copies) -> None:
    for name, value in own.items():
        value.copy_(values[name])


@torch.no_grad()
def _give(engine: Any, values: Copies, ranks: Ranks) -> None:
    """Give the network, on all ranks, the whole of what ranks have, rounded to its precision."""
    import deepspeed

    parameters = dict(engine.module.named_parameters())
    shapes = reshard.shapes(engine)
    for name, value in whole_copies(engine, values, ranks):
        whole = torch.empty(shapes[name], device=ranks.device) if value is None else value.to(ranks.device).contiguous()
        if ranks.world_size > 1:
            dist.broadcast(whole, 0)
        parameter = parameters[name]
        is_cut = engine.zero_optimization_stage() == 3
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=is_cut):
            parameter.data.copy_(whole)
