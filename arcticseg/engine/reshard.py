"""What reaches into DeepSpeed's wrapped optimisers: which part of which parameter a rank's masters hold.

DeepSpeed cuts float32 masters and optimiser state differently in each ZeRO stage, and offers no way to read or set them
that works in all (0.19.8). Here each rank's masters are seen as pieces of named parameters, so that checkpoints need to
know neither ranks nor stages. `tests/unit/engine/test_reshard.py` tests each fact about DeepSpeed that this rests on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn

# Whole parameters by name, such as the tensors of a checkpoint.
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Piece:
    """Part of a parameter on this rank: its values [start, stop), flat, lie at `offset` of a tensor, flat.

    Attributes:
        holder: float32 master, which the optimiser steps; of a parameter that does not learn, what holds its values.
        learns: whether `holder` is a master.
    """

    name: str
    start: int
    stop: int
    holder: Tensor
    offset: int
    learns: bool = True

    def of(self, like_holder: Tensor) -> Tensor:
        """The piece, flat, of a tensor that is laid out like the holder, as the slots of an optimiser are."""
        return like_holder.detach().reshape(-1)[self.offset : self.offset + self.stop - self.start]

    def put(self, like_holder: Tensor, whole: Tensor) -> None:
        """Copy the piece of a whole parameter into a tensor that is laid out like the holder."""
        value = whole.reshape(-1)[self.start : self.stop]
        if value.numel() == like_holder.numel():
            like_holder.detach().copy_(value.view(like_holder.shape))
        else:
            like_holder.detach().view(-1)[self.offset : self.offset + value.numel()].copy_(value)


def module(engine: Any) -> nn.Module:
    """What an engine trains."""
    return cast(nn.Module, engine.module)


def shapes(engine: Any) -> dict[str, torch.Size]:
    """Name -> shape of each parameter, in the order of the module."""
    return {
        name: torch.Size(getattr(parameter, "ds_shape", parameter.shape))
        for name, parameter in engine.module.named_parameters()
    }


def pieces(engine: Any) -> list[Piece]:
    """What this rank holds of each parameter, in the order of the module."""
    stage = engine.zero_optimization_stage()
    cut = _pieces_0 if stage == 0 else _pieces_3 if stage == 3 else _pieces_1_2
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    place = {name: number for number, name in enumerate(names.values())}
    learned = list(cut(engine.optimizer, engine.module, names))
    fixed = _fixed(engine)
    return sorted([*learned, *fixed], key=lambda piece: place[piece.name])


def _pieces_0(_: Any, module: nn.Module, names: Mapping[int, str]) -> Iterator[Piece]:
    """Stage 0: each rank has all, and the parameters are their own masters."""
    for parameter in module.parameters():
        if parameter.requires_grad:
            yield Piece(names[id(parameter)], 0, parameter.numel(), parameter, 0)


def _pieces_1_2(optimizer: Any, _: nn.Module, names: Mapping[int, str]) -> Iterator[Piece]:
    """Stages 1 and 2: parameters of a group one after the other, cut into equal parts, one a rank."""
    for group, master in zip(_groups(optimizer), _masters(optimizer), strict=True):
        for parameter in group:
            mapping = parameter._hp_mapping
            if mapping is not None:
                start, count = mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel
                offset = mapping.hp_fragment_address.start
                yield Piece(names[id(parameter)], start, start + count, master, offset)


def _pieces_3(optimizer: Any, _: nn.Module, names: Mapping[int, str]) -> Iterator[Piece]:
    """Stage 3: each parameter cut into equal parts, the last filled up; those of a group one after the other."""
    for group, master in zip(_groups(optimizer), _masters(optimizer), strict=True):
        offset = 0
        for parameter in group:
            start, stop = _own_part(parameter, optimizer.dp_process_group)
            if start < stop:
                yield Piece(names[id(parameter)], start, stop, master, offset)
            offset += parameter.ds_tensor.ds_numel


def _own_part(parameter: Any, group: Any) -> tuple[int, int]:
    count = parameter.ds_tensor.ds_numel
    start = torch.distributed.get_rank(group) * count
    return start, min(start + count, parameter.ds_numel)


def keep_fixed(engine: Any, exact: Tensors) -> None:
    """Remember the float32 values of parameters that do not learn, of which the engine has a rounded copy."""
    engine.exact_fixed = {name: exact[name] for name, p in engine.module.named_parameters() if not p.requires_grad}


def _fixed(engine: Any) -> Iterator[Piece]:
    """Parameters that do not learn; only rank 0 has them to save, unless they are cut."""
    parameters: Iterator[tuple[str, Any]] = engine.module.named_parameters()
    for name, parameter in parameters:
        if parameter.requires_grad:
            continue
        if hasattr(parameter, "ds_tensor"):
            start, stop = _own_part(parameter, parameter.ds_process_group)
            if start < stop:
                value = parameter.ds_tensor[: stop - start]
                yield Piece(name, start, stop, _exact(engine, name, value, start), 0, learns=False)
        elif engine.global_rank == 0:
            yield Piece(name, 0, parameter.numel(), _exact(engine, name, parameter, 0), 0, learns=False)


def _exact(engine: Any, name: str, value: Tensor, start: int) -> Tensor:
    """The float32 values of which these are a rounded copy, unless somebody has changed them since."""
    kept: Tensor | None = getattr(engine, "exact_fixed", {}).get(name)
    if kept is None:
        return value
    part = kept.reshape(-1)[start : start + value.numel()].view(value.shape).to(value.device)
    return part if torch.equal(part.to(value.dtype), value) else value.float()


def _groups(optimizer: Any) -> Sequence[Sequence[Any]]:
    """The parameters of each master."""
    for name in ("bf16_groups", "bit16_groups", "fp16_groups"):
        if hasattr(optimizer, name):
            return cast(Sequence[Sequence[Any]], getattr(optimizer, name))
    raise AssertionError(f"{type(optimizer).__name__} of DeepSpeed is not known")


def _masters(optimizer: Any) -> Sequence[Tensor]:
    """What this rank steps of a wrapped optimiser, float32, flat."""
    for name in ("fp32_groups_flat_partition", "single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
        if hasattr(optimizer, name):
            return cast(Sequence[Tensor], getattr(optimizer, name))
    raise AssertionError(f"{type(optimizer).__name__} of DeepSpeed is not known")


def inner(engine: Any) -> torch.optim.Optimizer:
    """The optimiser that steps the masters, inside DeepSpeed's."""
    return cast(torch.optim.Optimizer, getattr(engine.optimizer, "optimizer", engine.optimizer))


def gradients(engine: Any) -> list[Tensor]:
    """What this rank will step with: gradients averaged over ranks, before the engine's step.

    In stage 0 those of all parameters, else those of this rank's pieces; times the loss scale.
    """
    optimizer, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage == 0:
        return [p.grad for p in engine.module.parameters() if p.grad is not None]
    if hasattr(optimizer, "fp32_groups_gradient_flat_partition"):
        return list(optimizer.fp32_groups_gradient_flat_partition)
    if _offloads(optimizer):
        return [master.grad for master in _masters(optimizer) if master.grad is not None]
    averaged = [group for _, group in sorted(optimizer.averaged_gradients.items())]
    return [part for group in averaged if group is not None for part in _parts(group) if part is not None]


def loss_scale(engine: Any) -> float:
    """By what fp16's gradients are multiplied; 1 in other precisions. The host knows it."""
    return float(getattr(engine.optimizer, "loss_scale", 1.0)) if engine.fp16_enabled() else 1.0


def _parts(group: Any) -> Sequence[Tensor]:
    return [group] if isinstance(group, Tensor) else list(group)


def _offloads(optimizer: Any) -> bool:
    return bool(getattr(optimizer, "cpu_offload", False) or getattr(optimizer, "offload_optimizer", False))


def slots(engine: Any, piece: Piece) -> tuple[dict[str, Tensor], dict[str, float]]:
    """State of the optimiser for a master: tensors laid out like it, and single numbers, as Adam's `step`."""
    state = inner(engine).state.get(piece.holder, {}) if piece.learns else {}
    tensors = {key: value for key, value in state.items() if _is_like(value, piece.holder)}
    numbers = {key: float(value) for key, value in state.items() if key not in tensors and value is not None}
    return tensors, numbers


def _is_like(value: Any, holder: Tensor) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.numel() == holder.numel()


def fill(
    engine: Any, module: Tensors, optimiser: Mapping[str, Tensors], numbers: Mapping[str, Mapping[str, float]]
) -> None:
    """Give the masters of this rank, and the state of its optimiser, their values.

    The copy that the network computes with is left alone: it was made of the same values when the engine was.

    Args:
        module: name -> whole parameter; those that are missing stay.
        optimiser: slot -> name -> whole tensor. Where some parameters of a master have a slot, it is 0 for the others.
        numbers: slot -> name -> number.
    """
    optimizer = inner(engine)
    for piece in pieces(engine):
        if not piece.learns:
            continue
        if piece.name in module:
            piece.put(piece.holder, module[piece.name])
        state = optimizer.state[piece.holder]
        for slot, tensors in optimiser.items():
            if piece.name in tensors:
                if slot not in state:
                    state[slot] = torch.zeros_like(piece.holder.detach())
                piece.put(state[slot], tensors[piece.name])
        for slot, by_name in numbers.items():
            if piece.name in by_name:
                state[slot] = _number(by_name[piece.name], optimizer, piece.holder)


def _number(value: float, optimizer: torch.optim.Optimizer, holder: Tensor) -> Tensor:
    """A number of the state where torch's optimisers keep it: beside the parameter if fused, else on the CPU."""
    fused = bool(optimizer.defaults.get("fused") or optimizer.defaults.get("capturable"))
    return torch.tensor(value, dtype=torch.float32, device=holder.device if fused else "cpu")


# Of DeepSpeed's dynamic loss scaler.
_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def scaler_state(engine: Any) -> dict[str, float]:
    """What fp16's loss scaler has learnt; empty in other precisions."""
    scaler = getattr(engine.optimizer, "loss_scaler", None) if engine.fp16_enabled() else None
    return {name: getattr(scaler, name) for name in _SCALER if hasattr(scaler, name)}


def set_scaler(engine: Any, state: Mapping[str, float]) -> None:
    """Go on from what `scaler_state` gave."""
    for name, value in state.items():
        if engine.fp16_enabled():
            setattr(engine.optimizer.loss_scaler, name, value)


def step_without_waiting(engine: Any) -> None:
    """Make an engine's step leave the host alone, where DeepSpeed's own asks the device for the norm of the gradient.

    Norm, clipping and the check for NaN are `engine.skip`'s, on the device. Stage 1 under bf16 needs this; in the other
    stages settings of `deepspeed_config` do as much as DeepSpeed allows.
    """
    optimizer = engine.optimizer
    whole = hasattr(optimizer, "fp32_groups_gradient_flat_partition")
    if whole:
        optimizer.begun = False
        for method in (step, zero_grad, backward_prologue, update_hp_grads):
            setattr(optimizer, method.__name__, MethodType(method, optimizer))
    if engine.dp_world_size == 1 and (whole or engine.zero_optimization_stage() == 0):
        # Nobody to sum with: DeepSpeed would copy all gradients to and fro.
        engine.enable_backward_allreduce = False


# Methods of DeepSpeed's `BF16_Optimizer` (stage 1 under bf16): what they do there, in fewer passes over the gradients
# and fewer kernels, less norm, clipping and check. `begun`: whether a backward of the step has given its gradients.


def backward_prologue(optimizer: Any) -> None:
    """The last backward has left no gradients."""


@torch.no_grad()
def update_hp_grads(optimizer: Any, clear_lp_grads: bool = False) -> None:
    """Add the gradients of a backward to the float32 ones; those of the first take their place."""
    weights = [weight for group in optimizer.bf16_groups for weight in group]
    sums = [part for group in optimizer.fp32_groups_gradients for part in group]
    given = [(part, weight.grad) for part, weight in zip(sums, weights, strict=True) if weight.grad is not None]
    if not optimizer.begun and len(given) < len(sums):
        optimizer.clear_hp_grads()
    add = torch._foreach_add_ if optimizer.begun else torch._foreach_copy_
    if given:
        add([part for part, _ in given], [gradient.reshape(-1) for _, gradient in given])
    for weight in weights:
        weight.grad = None
    optimizer.begun = True


@torch.no_grad()
def step(optimizer: Any) -> None:
    """Step the masters, and give the network what comes of it."""
    masters, parts = optimizer.fp32_groups_flat_partition, optimizer.fp32_groups_gradient_flat_partition
    for master, part in zip(masters, parts, strict=True):
        master.grad = part
    optimizer.optimizer.step()
    optimizer._lazy_init_hp_params_optimizer_state()
    optimizer.update_lp_params()
    optimizer.begun = False


def zero_grad(optimizer: Any, set_to_none: bool = True) -> None:
    """The first backward of the next step writes over all gradients."""
