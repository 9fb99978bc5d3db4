"""A model under DeepSpeed."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from arcticseg.engine import reshard
from arcticseg.engine.config import EngineConfig, OptimConfig, accumulation_steps
from arcticseg.engine.optim import make_optimizer
from arcticseg.engine.process_group import Ranks

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def deepspeed_config(cfg: EngineConfig, world_size: int) -> dict[str, Any]:
    """DeepSpeed's own config. The gradient's norm, clipping and the check for NaN are `engine.skip`'s.

    Raises:
        ConfigError: the batch sizes do not divide.
    """
    micro, accumulation = accumulation_steps(cfg, world_size)
    zero: dict[str, Any] = {"stage": cfg.zero_stage}
    if cfg.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    elif cfg.zero_stage == 2 or (cfg.zero_stage == 1 and (cfg.precision, cfg.gradients) != ("bf16", "fp32")):
        zero["compute_grad_norm"] = False
    half = cfg.precision != "fp32"
    return {
        "train_batch_size": cfg.global_batch_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {
            "enabled": cfg.precision == "bf16",
            "check_grad_overflow": False,
        },
        "fp16": {"enabled": cfg.precision == "fp16"},
        "data_types": {"grad_accum_dtype": cfg.gradients if half else "fp32"},
        "communication_data_type": cfg.gradients,
        # It waits for the device twice a micro batch.
        "timers": {"throughput": {"enabled": False}},
        # Its own progress lines; ours are in hooks.
        "steps_per_print": 1 << 40,
    }


def make_engine(
    model: nn.Module,
    cfg: EngineConfig,
    optim: OptimConfig,
    ranks: Ranks,
    taken: Mapping[str, float] | None = None,
) -> Any:
    """A DeepSpeed engine around the model, whose masters are the model's own float32 weights.

    DeepSpeed would make masters of the weights that it has rounded already.

    Args:
        taken: name -> steps that the optimiser has taken for a parameter so far; None: it begins.

    Raises:
        ConfigError: the batch sizes do not divide.
    """
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    # DeepSpeed 0.19.8 calls torch's collectives by names that torch 2.13 is about to change.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.", FutureWarning)
    _import_muon()
    exact = {name: parameter.data for name, parameter in model.named_parameters()}
    # It prints to stdout what memory it uses, which is not output of ours.
    with contextlib.redirect_stdout(io.StringIO()):
        engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=make_optimizer(model, optim, taken),
            config=deepspeed_config(cfg, ranks.world_size),
            dist_init_required=False,
        )
    if cfg.precision != "fp32":
        reshard.fill(engine, exact, {}, {})
        reshard.keep_fixed(engine, exact)
    reshard.step_without_waiting(engine)
    if cfg.compile:
        # Batches of a training are all of one shape.
        engine.compile(compile_kwargs={"dynamic": False})
    return engine


def release(engine: Any) -> None:
    """Let an engine that is not used any more give back its memory."""
    # It prints what it removes.
    with contextlib.redirect_stdout(io.StringIO()):
        engine.destroy()
    # Hooks know the engine until they are given another.
    engine.module = engine.optimizer = None
    # What it holds refers to itself.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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
