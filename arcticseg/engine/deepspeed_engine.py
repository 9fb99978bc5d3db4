"""A model under DeepSpeed."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import torch
from torch import nn

from arcticseg.engine.config import EngineConfig, OptimConfig, accumulation_steps
from arcticseg.engine.optim import make_optimizer
from arcticseg.engine.process_group import Ranks

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def deepspeed_config(cfg: EngineConfig, clip: float, world_size: int, universal: bool = False) -> dict[str, Any]:
    """DeepSpeed's own config; `universal`: it will load a checkpoint of another number of ranks.

    Raises:
        ConfigError: the batch sizes do not divide.
    """
    micro, accumulation = accumulation_steps(cfg, world_size)
    return {
        "train_batch_size": cfg.global_batch_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip,
        "zero_optimization": {"stage": cfg.zero_stage},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": cfg.precision == "bf16"},
        "fp16": {"enabled": cfg.precision == "fp16"},
        "checkpoint": {"load_universal": universal},
        # Its own progress lines; ours are in hooks.
        "steps_per_print": 1 << 40,
    }


def make_engine(model: nn.Module, cfg: EngineConfig, optim: OptimConfig, ranks: Ranks, universal: bool = False) -> Any:
    """A DeepSpeed engine around the model; `universal` as `checkpoint.suited` says."""
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    _import_muon()
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=make_optimizer(model, optim),
        config=deepspeed_config(cfg, optim.clip, ranks.world_size, universal),
        dist_init_required=False,
    )
    return engine


def _import_muon() -> None:
    """Import DeepSpeed's Muon, which it imports itself at ZeRO 1 to 3, without `torch.compile`.

    Compiling takes 2 s of the start of every rank (DeepSpeed 0.19.8), for an optimiser that nobody here uses.
    """
    from deepspeed.runtime import compiler

    compiling = compiler.compile
    compiler.compile = lambda *_, **__: lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    finally:
        compiler.compile = compiling
