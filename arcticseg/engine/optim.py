"""The optimiser, with decay and rates where they belong, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn

from arcticseg.engine.config import OptimConfig
from arcticseg.errors import BadValueError
from arcticseg.tasks.task import Objective

# Positions and tokens are no weights of a linear map, so decay would only pull them to 0.
_NO_DECAY = ("pos_embed", "cls_token", "mask_token", "reg_token")

# Values of 2 bytes in 16 bytes.
_ALIGNED = 8

_ENCODER = "encoder."


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    scale: Callable[[str], float] = lambda _: 1.0,
    taken: Mapping[str, float] | None = None,
) -> list[dict[str, object]]:
    """Groups of two kinds: matrices and kernels decay; biases, norms, positions and tokens do not.

    A group's `lr_scale` multiplies the learning rate of a step. ZeRO lays the weights of a group one after the other,
    and compiled kernels read 16 bytes at a time: so a weight that would misplace what follows has a group of its own.

    Args:
        model: its parameters that do not learn are left out.
        scale: name -> `lr_scale`.
        taken: name -> steps that the optimiser has taken for a parameter so far. Under ZeRO the optimiser counts them
            once for all of a group, so parameters with other counts, as after unfreezing, are of other groups.
    """
    shared: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    alone: list[dict[str, object]] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_plain = parameter.ndim < 2 or name.rpartition(".")[2] in _NO_DECAY
        rate, steps = scale(name), (taken or {}).get(name, 0.0)
        if parameter.numel() % _ALIGNED:
            alone.append(_group([parameter], is_plain, weight_decay, rate))
        else:
            shared.setdefault((is_plain, -steps, rate), []).append(parameter)
    # Those that decay first; the longest trained first, which stay so as training goes on.
    groups = [_group(shared[key], key[0], weight_decay, key[2]) for key in sorted(shared)]
    return [*groups, *alone]


def _group(parameters: list[nn.Parameter], is_plain: bool, weight_decay: float, rate: float) -> dict[str, object]:
    return {"params": parameters, "weight_decay": 0.0 if is_plain else weight_decay, "lr_scale": rate}


def rate_scales(model: nn.Module, cfg: OptimConfig) -> Callable[[str], float]:
    """Name of a parameter -> what multiplies its learning rate: the encoder's own rate, and less for early layers.

    Of an encoder's layer i of n it is `layer_decay` to the power of n - i, as BEiT and MAE are fine-tuned (Bao et al.
    2022, appendix; Clark et al. 2020); `encoder.layer_of(name)` says i, `encoder.n_layers` n, which what comes after
    the layers has, too, such as a last norm. Decoders and heads have 1.

    Raises:
        BadValueError: the encoder does not say which layer a parameter is of.
    """
    network: Any = model.network if isinstance(model, Objective) else model
    prefix = "network." if isinstance(model, Objective) else ""
    encoder = getattr(network, "encoder", None)
    if cfg.layer_decay != 1 and not hasattr(encoder, "layer_of"):
        remedy = f"set 1: {type(encoder).__name__} does not say which layer a weight is of"
        raise BadValueError("optim.layer_decay", cfg.layer_decay, remedy)

    def scale(name: str) -> float:
        name = name.removeprefix(prefix)
        if not name.startswith(_ENCODER):
            return 1.0
        if cfg.layer_decay == 1:
            return cfg.encoder_rate
        above: int = cast(Any, encoder).n_layers - cast(Any, encoder).layer_of(name.removeprefix(_ENCODER))
        return float(cfg.encoder_rate * cfg.layer_decay**above)

    return scale


def make_optimizer(
    model: nn.Module, cfg: OptimConfig, taken: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """The optimiser that the config names; torch's own, fused, which needs no compiling.

    Args:
        taken: as of `parameter_groups`.

    Raises:
        BadValueError: as of `rate_scales`.
    """
    groups = parameter_groups(model, cfg.weight_decay, rate_scales(model, cfg), taken)
    return cast(torch.optim.Optimizer, cfg.make(groups))


def learning_rate(step: float, total: int, cfg: OptimConfig) -> float:
    """Learning rate of step `step` (from 0) of `total`: linear warm-up, then half a cosine down to final_lr.

    With several cycles it goes up to lr again after each but the last (Loshchilov and Hutter 2017).
    """
    warmup = round(cfg.warmup * total)
    if step < warmup:
        return cfg.lr * (cfg.warmup_from + (1 - cfg.warmup_from) * (step + 1) / warmup)
    progress = min((step - warmup) / max(1, total - warmup), 1.0) * cfg.cycles
    # The end of the training is that of the last cycle, not the beginning of one more.
    within = progress - min(math.floor(progress), cfg.cycles - 1)
    floor = cfg.lr * cfg.final_lr
    return floor + (cfg.lr - floor) * 0.5 * (1 + math.cos(math.pi * within))
