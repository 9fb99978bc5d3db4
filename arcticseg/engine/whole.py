"""Whole tensors of an engine, put together from the pieces that ranks hold, each on one rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from arcticseg.engine import reshard
from arcticseg.engine.process_group import Ranks, gather
from arcticseg.engine.reshard import Piece

# Kinds of tensors in their names: `module/NAME`, `optimiser.SLOT/NAME`.
MODULE, OPTIMISER = "module", "optimiser"


@dataclass(frozen=True)
class _Part:
    """What a rank tells the others of a piece."""

    name: str
    start: int
    stop: int
    dtype: torch.dtype
    slots: tuple[str, ...]


def whole_tensors(engine: object, ranks: Ranks, owner: int | None = None) -> Iterator[tuple[str, Tensor]]:
    """Name and value of the tensors that fall to this rank; every rank must take all of them.

    Weights are the float32 masters; frozen weights and buffers are as they are. A tensor that one rank holds stays
    there, uncopied; the others are shared out so that ranks get as many bytes each.

    Args:
        owner: the rank that gets all, weights only; None: each gets its share, also of the optimiser's state.
    """
    own = reshard.pieces(engine)
    by_name = _held([_part(engine, piece, owner is None) for piece in own])
    pieces = {piece.name: piece for piece in own}
    load = [0] * ranks.world_size
    for name, shape in reshard.shapes(engine).items():
        held = by_name[name]
        full = [rank for rank, part in held if part.stop - part.start == shape.numel()]
        to = min(full or range(ranks.world_size), key=load.__getitem__) if owner is None else owner
        slots = sorted({slot for _, part in held for slot in part.slots})
        load[to] += shape.numel() * (1 + len(slots))
        for slot in ("", *slots):
            piece = pieces.get(name)
            part = None if piece is None else piece.of(reshard.slots(engine, piece)[0][slot] if slot else piece.holder)
            value = _collected(part, held, torch.float32 if slot else held[0][1].dtype, to, ranks)
            if value is not None:
                yield f"{f'{OPTIMISER}.{slot}' if slot else MODULE}/{name}", value.view(shape)
    if ranks.rank == (owner or 0):
        yield from ((f"{MODULE}/{name}", value) for name, value in buffers(reshard.module(engine)))


def whole_copies(engine: object, copies: Mapping[str, Tensor], ranks: Ranks) -> Iterator[tuple[str, Tensor | None]]:
    """Name of each parameter that learns, and on rank 0 the whole of what ranks have beside their pieces of it.

    Every rank must take all of them.

    Args:
        copies: name -> float32, flat, as long as this rank's piece.
    """
    own = [piece for piece in reshard.pieces(engine) if piece.learns]
    by_name, shapes = _held([_part(engine, piece, with_slots=False) for piece in own]), reshard.shapes(engine)
    for name in [name for name in shapes if name in by_name]:
        value = _collected(copies.get(name), by_name[name], torch.float32, 0, ranks)
        yield name, None if value is None else value.view(shapes[name])


def _held(own: Sequence[_Part]) -> dict[str, list[tuple[int, _Part]]]:
    """Parameter -> which ranks hold which parts of it; every rank must call it, with its own."""
    by_name: dict[str, list[tuple[int, _Part]]] = {}
    for rank, of_rank in enumerate(gather(own)):
        for part in of_rank:
            by_name.setdefault(part.name, []).append((rank, part))
    return by_name


def _part(engine: object, piece: Piece, with_slots: bool) -> _Part:
    slots = tuple(reshard.slots(engine, piece)[0]) if with_slots else ()
    return _Part(piece.name, piece.start, piece.stop, piece.holder.dtype, slots)


def _collected(
    value: Tensor | None, held: Sequence[tuple[int, _Part]], dtype: torch.dtype, to: int, ranks: Ranks
) -> Tensor | None:
    """A tensor of which each rank has a piece, as of a parameter, whole and flat on rank `to`; None on the others."""
    total = max(part.stop for _, part in held)
    if any(rank == to and part.stop - part.start == total for rank, part in held):
        return value if ranks.rank == to else None
    size = max(part.stop - part.start for _, part in held)
    sent = torch.zeros(size, dtype=dtype, device=ranks.device)
    if value is not None:
        sent[: len(value)] = value
    received = [torch.empty_like(sent) for _ in range(ranks.world_size)] if ranks.rank == to else None
    dist.gather(sent, received, dst=to)
    if received is None:
        return None
    result = torch.empty(total, dtype=dtype, device=ranks.device)
    for rank, part in held:
        result[part.start : part.stop] = received[rank][: part.stop - part.start]
    return result


def buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and value of the buffers that belong to a module's state."""
    for prefix, part in module.named_modules():
        for name, value in part.named_buffers(recurse=False):
            if name not in part._non_persistent_buffers_set:
                yield (f"{prefix}.{name}" if prefix else name), value


def numbers_of(engine: object) -> dict[str, dict[str, float]]:
    """Slot -> parameter -> number, of all ranks, such as Adam's `step`; every rank must call it."""
    own = [(piece.name, reshard.slots(engine, piece)[1]) for piece in reshard.pieces(engine)]
    numbers: dict[str, dict[str, float]] = {}
    for of_rank in gather(own):
        for name, slots in of_rank:
            for slot, value in slots.items():
                numbers.setdefault(slot, {})[name] = value
    return numbers
