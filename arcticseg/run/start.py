"""Starts a training: every rank puts its parts together and trains."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from arcticseg import config
from arcticseg.data.select import Selection, ShardSet
from arcticseg.data.transforms import Assemble
from arcticseg.engine import checkpoint, process_group
from arcticseg.engine.checkpoint import Position
from arcticseg.engine.deepspeed_engine import DTYPES, make_engine
from arcticseg.engine.hooks.hook import Training
from arcticseg.engine.length import Length
from arcticseg.engine.reshard import suited
from arcticseg.engine.step import DeepSpeedStep
from arcticseg.engine.trainer import Every, Trainer
from arcticseg.errors import ConfigError
from arcticseg.files import make_folder, write_text
from arcticseg.run import build
from arcticseg.run.config import RunConfig
from arcticseg.run.folder import CONFIG, METRICS, differences, may_change
from arcticseg.run.migrate import stored
from arcticseg.tasks.task import Objective, Task


def run(cfg: RunConfig, resume: bool = False) -> bool:
    """Train; every rank of the job calls this.

    Returns:
        True when training reached its end, False when a signal stopped it after a checkpoint.

    Raises:
        ArcticSegError: with a message for the user.
    """
    ranks, (sets, selection, length, start) = process_group.start_agreed(lambda: _open(cfg, resume))
    try:
        tile = sets[0].manifest.tile
        share = build.share_of(cfg, ranks)
        torch.set_num_threads(_threads(cfg, ranks))
        task, engine, start = _engine(cfg, tile, ranks, start)
        step = DeepSpeedStep(engine, task, DTYPES[cfg.engine.precision], ranks.world_size)
        loader = build.loader_of(cfg, selection, tile, share, pin_memory=ranks.device.type == "cuda")
        position = Position()
        if start is not None:
            position = checkpoint.load(step, start)
            loader.load_state_dict(position.loader)
        statistics = build.statistics_of(cfg, sets)
        if ranks.is_main:
            write_text(Path(cfg.out) / CONFIG, config.dump(cfg))
        hooks = build.build_hooks(cfg, ranks, position.step)
        if start is not None:
            checkpoint.load_hooks(start, hooks)
        metadata = build.metadata_of(cfg, sets, selection, statistics)
        last = length.last_step(position.step, loader.consumed)
        trainer = Trainer(
            training=Training(Path(cfg.out), engine, step, task, ranks, metadata, position.step, last),
            engine=cfg.engine,
            optim=cfg.optim,
            assemble=Assemble(cfg.data.names, cfg.data.valid_plane, statistics),
            loader=loader,
            validation=build.validation_of(cfg, sets, tile, share),
            length=length,
            every=Every(cfg.validate_every, cfg.checkpoint_every, cfg.tracking.every),
            hooks=hooks,
            position=position,
            seed=cfg.seed,
        )
        try:
            return trainer.train()
        finally:
            loader.close()
    finally:
        process_group.stop()


def _open(cfg: RunConfig, resume: bool) -> tuple[list[ShardSet], Selection, Length, Path | None]:
    """What each rank finds on its own machine: the shards, the samples, the length, and where to go on."""
    sets = build.open_sets(cfg)
    selection = build.selection_of(cfg, sets, "train")
    return sets, selection, build.length_of(cfg, len(selection)), _check_folder(cfg, resume)


def _check_folder(cfg: RunConfig, resume: bool) -> Path | None:
    """The checkpoint to go on from, in a run folder that may be written to.

    Raises:
        ConfigError: the folder holds a run and `--resume` is not given, or another run is to be resumed.
        OutputError: it cannot be written to.
    """
    out = Path(cfg.out)
    used = (out / METRICS).exists()
    if used and not resume:
        raise ConfigError(f"key 'out' is '{out}', which holds a run; go on with it by --resume, or set another folder")
    make_folder(out)
    if used and (out / CONFIG).is_file():
        before = config.build(RunConfig, stored(config.read(out / CONFIG)))
        for key, old, new in differences(before, cfg):
            if not may_change(key):
                raise ConfigError(f"key '{key}' is {new!r}; the run in {out} has {old!r}: set that, or another 'out'")
    return checkpoint.newest(out) if resume else None


def _threads(cfg: RunConfig, ranks: process_group.Ranks) -> int:
    return cfg.engine.threads or max(1, len(os.sched_getaffinity(0)) // ranks.local_world_size)


def _engine(cfg: RunConfig, tile: int, ranks: process_group.Ranks, start: Path | None) -> tuple[Task, Any, Path | None]:
    """Task, DeepSpeed engine, and the checkpoint in a form that the engine can load."""
    model: nn.Module = build.build_model(cfg, tile)
    if start is None:
        build.initialise(cfg, model)
    task = build.build_task(cfg, model)
    universal = False
    if start is not None:
        start, universal = suited(start, cfg.engine.zero_stage, ranks)
    wrapped = Objective(model, task) if task.learns else model
    return task, make_engine(wrapped, cfg.engine, cfg.optim, ranks, universal), start
