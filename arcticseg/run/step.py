"""A run's step: its engines, and what makes steps of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch

from arcticseg.engine.checkpoint import Checkpoint
from arcticseg.engine.config import AdamWConfig, EngineConfig
from arcticseg.engine.deepspeed_engine import DTYPES, make_engine
from arcticseg.engine.process_group import Ranks
from arcticseg.engine.step import DeepSpeedStep, Step
from arcticseg.run.config import RunConfig
from arcticseg.tasks.task import Task


def make_step(
    cfg: RunConfig, engine: Any, task: Task, ranks: Ranks, saved: Checkpoint | None, begun: int, last: int
) -> Step:
    """The step of a config, with its state of a checkpoint.

    Args:
        engine: around what the task trains, with its weights.
        begun: steps done.
        last: step that the training ends with.
    """
    dtype, clip = DTYPES[cfg.engine.precision], cfg.optim.clip
    adversarial = cfg.pretrain.adversarial if cfg.task == "pretrain" else None
    step: Step
    if adversarial is None:
        step = DeepSpeedStep(engine, task, dtype, ranks.world_size, clip)
    else:
        from arcticseg.engine.adversarial_step import AdversarialStep
        from arcticseg.tasks.adversarial import Adversarial

        step = AdversarialStep(
            engine,
            _discriminator(cfg, ranks, saved),
            cast(Adversarial, task),
            dtype,
            ranks.world_size,
            clip,
            weight=adversarial.weight,
            lr_scale=adversarial.lr_scale,
            begun=begun,
            start=round(adversarial.start * last),
        )
    if saved is not None:
        saved.load_step(step)
    return step


def _discriminator(cfg: RunConfig, ranks: Ranks, saved: Checkpoint | None) -> Any:
    """The engine of the discriminator, with the weights to begin with."""
    from arcticseg.models.discriminator import PatchDiscriminator

    adversarial = cfg.pretrain.adversarial
    assert adversarial is not None
    torch.manual_seed(cfg.seed)
    network = PatchDiscriminator(len(cfg.targets), adversarial.channels, adversarial.depth)
    if saved is not None:
        saved.load_module(network, "discriminator")
    optim = AdamWConfig(lr=cfg.optim.lr * adversarial.lr_scale, weight_decay=0.0, betas=adversarial.betas)
    return make_engine(network, _whole(cfg.engine), optim, ranks)


def _whole(cfg: EngineConfig) -> EngineConfig:
    """The same, with the weights whole on each rank: a discriminator is small, and also run beside its engine."""
    return replace(cfg, zero_stage=min(cfg.zero_stage, 1))
