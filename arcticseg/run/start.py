"""Starts a training: every rank puts its parts together and trains."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from arcticseg import config
from arcticseg.data.transforms import Assemble
from arcticseg.engine import checkpoint, process_group
from arcticseg.engine.checkpoint import Progress
from arcticseg.engine.config import accumulation_steps
from arcticseg.engine.deepspeed_engine import make_engine
from arcticseg.engine.hooks.bar import Bar
from arcticseg.engine.hooks.hook import Hook
from arcticseg.engine.hooks.logs import Logs
from arcticseg.engine.reshard import suited
from arcticseg.engine.trainer import Trainer
from arcticseg.errors import ConfigError
from arcticseg.files import make_folder, write_text
from arcticseg.run.build import (
    _length,
    _loader,
    _selection,
    _validation,
    build_model,
    build_task,
    initialise,
    open_sets,
    statistics_of,
)
from arcticseg.run.config import RunConfig
from arcticseg.run.folder import CONFIG, METRICS, differences, may_change
from arcticseg.tracking import make_trackers


def _check_folder(cfg: RunConfig, resume: bool) -> tuple[Path, Path | None]:
    """The run folder, and the checkpoint to go on from.

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
        before = config.build(RunConfig, config.read(out / CONFIG))
        for key, old, new in differences(before, cfg):
            if not may_change(key):
                raise ConfigError(f"key '{key}' is {new!r}; the run in {out} has {old!r}: set that, or another 'out'")
    return out, checkpoint.newest(out) if resume else None


def _threads(cfg: RunConfig, ranks: process_group.Ranks) -> int:
    return cfg.engine.threads or max(1, len(os.sched_getaffinity(0)) // ranks.local_world_size)


def run(cfg: RunConfig, resume: bool = False) -> bool:
    """Train; every rank of the job calls this.

    Returns:
        True when training reached its end, False when a signal stopped it after a checkpoint.

    Raises:
        ArcticSegError: with a message for the user.
    """
    sets = open_sets(cfg)
    selection = _selection(cfg, sets, "train")
    length = _length(cfg, len(selection))
    out, start = _check_folder(cfg, resume)
    ranks = process_group.start()
    try:
        tile = sets[0].manifest.tile
        micro, _ = accumulation_steps(cfg.engine, ranks.world_size, pairs=cfg.data.augment.cutmix > 0)
        torch.set_num_threads(_threads(cfg, ranks))
        model = build_model(cfg, tile)
        if start is None:
            initialise(cfg, model)
        task = build_task(cfg, model)
        universal = False
        if start is not None:
            start, universal = suited(start, cfg.engine.zero_stage, ranks)
        engine = make_engine(model, cfg.engine, cfg.optim, ranks, universal)
        loader = _loader(cfg, selection, tile, micro, ranks)
        progress = Progress()
        if start is not None:
            progress = checkpoint.load(engine, start)
            loader.load_state_dict(progress.loader)
        statistics = statistics_of(cfg, sets)
        metadata = {
            "config": json.dumps(config.to_dict(cfg)),
            "statistics": json.dumps(statistics),
            "tile": str(tile),
            "factors": json.dumps(cfg.data.factors or sorted(set(selection.factor.tolist()))),
            "simulated": json.dumps(any(found.manifest.simulated for found in sets)),
        }
        hooks: list[Hook] = []
        if ranks.is_main:
            write_text(out / CONFIG, config.dump(cfg))
            hooks = [
                Logs(make_trackers(out, cfg.tracking, config.to_dict(cfg), out.name, progress.step)),
                Bar(f"{cfg.task} {out.name}", progress.step, length.last_step(progress.step, loader.consumed)),
            ]
        validation = _validation(cfg, sets, tile, micro, ranks)
        assemble = Assemble(cfg.channels, cfg.data.valid_plane, statistics)
        trainer = Trainer(
            cfg, out, engine, task, assemble, loader, validation, length, ranks, hooks, metadata, progress
        )
        try:
            return trainer.train()
        finally:
            loader.close()
    finally:
        process_group.stop()
