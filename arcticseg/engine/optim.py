"""The optimiser, with decay where it belongs, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import nn

from arcticseg.engine.config import OptimConfig

# Positions and tokens are no weights of a linear map, so decay would only pull them to 0.
_NO_DECAY = ("pos_embed", "cls_token", "mask_token", "reg_token")

# Values of 2 bytes in 16 bytes.
_ALIGNED = 8


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Groups of two kinds: matrices and kernels decay; biases, norms, positions and tokens do not.

    A group's `lr_scale` multiplies the learning rate of a step. ZeRO lays the weights of a group one after the other,
    and compiled kernels read 16 bytes at a time: so a weight that would misplace what follows has a group of its own.
    """
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    alone: list[dict[str, object]] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_plain = parameter.ndim < 2 or name.rpartition(".")[2] in _NO_DECAY
        if parameter.numel() % _ALIGNED:
            alone.append({"params": [parameter], "weight_decay": 0.0 if is_plain else weight_decay, "lr_scale": 1.0})
        else:
            (plain if is_plain else decay).append(parameter)
    groups: list[dict[str, object]] = [
        {"params": decay, "weight_decay": weight_decay, "lr_scale": 1.0},
        {"params": plain, "weight_decay": 0.0, "lr_scale": 1.0},
    ]
    return [*(group for group in groups if group["params"]), *alone]


def make_optimizer(model: nn.Module, cfg: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser that the config names; torch's own, fused, which needs no compiling."""
    return cast(torch.optim.Optimizer, cfg.make(parameter_groups(model, cfg.weight_decay)))


def learning_rate(step: float, total: int, cfg: OptimConfig) -> float:
    """Learning rate of step `step` (from 0) of `total`: linear warm-up, then half a cosine down to final_lr."""
    warmup = round(cfg.warmup * total)
    if step < warmup:
        return cfg.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    floor = cfg.lr * cfg.final_lr
    return floor + (cfg.lr - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
