"""Configs of the engine and the optimiser, and how a global batch is shared out; no torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from arcticseg.errors import ConfigError


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, linear warm-up, cosine decay."""

    lr: float = 1e-4
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    # Share of all steps spent on warm-up.
    warmup: float = 0.05
    # Final learning rate as a share of lr.
    final_lr: float = 0.01
    # Largest norm of the gradient; 0: no clipping.
    clip: float = 1.0


@dataclass(frozen=True)
class EngineConfig:
    """DeepSpeed."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    # Samples to one optimiser step, over all ranks; stays what it is on any number of ranks.
    global_batch_size: int = 16
    # Samples to one forward pass of one rank; null: all of the rank's share.
    micro_batch_size: int | None = None
    # CPU threads a rank; null: cores divided by local ranks.
    threads: int | None = None


def accumulation_steps(engine: EngineConfig, world_size: int, pairs: bool = False) -> tuple[int, int]:
    """(micro batch size, accumulation steps) of one rank: global batch = micro x accumulation x world size.

    Args:
        pairs: micro batches must not part pairs of places, as CutMix needs it.

    Raises:
        ConfigError: the sizes do not divide.
    """
    total = engine.global_batch_size
    if total % world_size:
        raise ConfigError(
            f"key 'engine.global_batch_size' is {total}; set a multiple of the number of ranks ({world_size})"
        )
    share = total // world_size
    # A micro batch larger than the share, as after a move to more ranks, shrinks to it.
    micro = min(engine.micro_batch_size or share, share)
    if share % micro:
        raise ConfigError(
            f"key 'engine.micro_batch_size' is {micro}; set a divisor of {share}, "
            f"the share of one of {world_size} ranks of engine.global_batch_size {total}"
        )
    if pairs and micro % 2:
        raise ConfigError(
            f"key 'data.augment.cutmix' mixes pairs of samples, and a rank's micro batches are of {micro}; set an even "
            f"engine.micro_batch_size, and engine.global_batch_size to a multiple of {2 * world_size}"
        )
    return micro, share // micro
