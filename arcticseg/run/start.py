"""Starts a training: every rank puts its parts together and trains."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from arcticseg import config
from arcticseg.data.select import Selection, ShardSet
from arcticseg.data.transforms import Assemble
from arcticseg.engine import checkpoint, process_group
from arcticseg.engine.checkpoint import Checkpoint, Position
from arcticseg.engine.deepspeed_engine import DTYPES, make_engine
from arcticseg.engine.hooks.hook import Hook, Training
from arcticseg.engine.process_group import Ranks
from arcticseg.engine.trainer import Every, Trainer
from arcticseg.errors import ArcticSegError, ConfigError, need
from arcticseg.files import write_text
from arcticseg.ice.sigrid import CLASS_NAMES
from arcticseg.models.batch_norm import caution
from arcticseg.run import build
from arcticseg.run.agreement import check_folder, check_same
from arcticseg.run.change import CHANGES, Change, applied, as_json, from_json, gone_on
from arcticseg.run.config import RunConfig
from arcticseg.run.folder import CONFIG, forget_checkpoint, held, holds_run
from arcticseg.run.migrate import stored
from arcticseg.run.step import make_step
from arcticseg.shown import shown
from arcticseg.tasks.task import Objective, Task
from arcticseg.tracking import restore_metrics


@dataclass(frozen=True)
class Start:
    """What a training begins with, the same on all ranks.

    Attributes:
        folder: checkpoint to go on from; None: from the beginning.
        changes: of the run, the newest last.
        new: how many of them are of now.
    """

    folder: Path | None = None
    changes: Sequence[Change] = ()
    new: int = 0


def run(cfg: RunConfig, resume: bool = False, changed: Sequence[str] = (), extra: Sequence[Hook] = ()) -> bool:
    """Train; every rank of the job calls this.

    Args:
        resume: go on from the newest checkpoint of the run folder.
        changed: keys in which the config may differ from that of the run so far, beside those that always may.
        extra: hooks besides those of the config, after them.

    Returns:
        True when training reached its end, False when a signal stopped it after a checkpoint.

    Raises:
        ArcticSegError: with a message for the user.
    """
    ranks, (sets, selection) = process_group.start_agreed(lambda: _open(cfg))
    try:
        check_same(cfg, selection.fingerprint)
        with _run_folder(cfg, resume, changed, ranks) as start:
            return _train(applied(cfg, start.changes), start, sets, selection, ranks, extra)
    except ArcticSegError as error:
        process_group.share(error)
        raise
    finally:
        process_group.stop()


def _open(cfg: RunConfig) -> tuple[list[ShardSet], Selection]:
    """What each rank finds on its own machine: the shards, the samples."""
    good = cfg.engine.precision != "fp16" or torch.cuda.is_available()
    need(good, "engine.precision", cfg.engine.precision, "set fp32 or bf16: fp16 needs a GPU, and there is none here")
    sets = build.open_sets(cfg)
    selection = build.selection_of(cfg, sets, "train")
    build.length_of(cfg, len(selection))
    build.check_polygons(cfg, selection)
    return sets, selection


def _train(
    cfg: RunConfig,
    start: Start,
    sets: Sequence[ShardSet],
    selection: Selection,
    ranks: Ranks,
    extra: Sequence[Hook],
) -> bool:
    """Put the parts together and train, from a checkpoint or from the beginning."""
    length = build.length_of(cfg, len(selection))
    tile = sets[0].manifest.tile
    share = build.share_of(cfg, ranks)
    torch.set_num_threads(_threads(cfg, ranks))
    saved = None if start.folder is None else Checkpoint.open(start.folder)
    class_weights = build.class_weights_of(cfg, selection, tile)
    task, engine = _engine(cfg, sets, class_weights, ranks, saved)
    dtype, cuda = DTYPES[cfg.engine.precision], ranks.device.type == "cuda"
    loader = build.loader_of(cfg, selection, tile, share, pin_memory=cuda)
    position = Position()
    if saved is not None:
        position = saved.position
        loader.load_state_dict(position.loader)
    last = length.last_step(position.step, loader.consumed)
    step = make_step(cfg, engine, task, ranks, saved, position.step, last)
    statistics = build.statistics_of(cfg, sets)
    if ranks.is_main:
        _tell_class_weights(class_weights)
        write_text(Path(cfg.out) / CONFIG, config.dump(cfg))
        if saved is not None:
            restore_metrics(Path(cfg.out), saved.metrics, position.step)
    hooks = [*build.build_hooks(cfg, ranks, position.step), *extra]
    if saved is not None:
        saved.load_hooks(hooks)
    metadata = build.metadata_of(cfg, sets, selection, statistics) | {CHANGES: json.dumps(as_json(start.changes))}
    assemble = Assemble.of(cfg.data, statistics, task.want(dtype), compiled=cfg.engine.compile)
    samples = build.samples_of(cfg, sets, tile, share, assemble, task, ranks)
    trainer = Trainer(
        training=Training(Path(cfg.out), engine, step, task, ranks, metadata, position.step, last, samples),
        engine=cfg.engine,
        optim=cfg.optim,
        assemble=assemble,
        loader=loader,
        validation=build.validation_of(cfg, sets, tile, share, pin_memory=cuda),
        length=length,
        every=Every(cfg.validate_every, cfg.checkpoint_every, cfg.tracking.every),
        hooks=hooks,
        position=position,
        seed=cfg.seed,
        changed=[change.told for change in start.changes[len(start.changes) - start.new :]],
    )
    try:
        return trainer.train()
    finally:
        loader.close()


@contextlib.contextmanager
def _run_folder(cfg: RunConfig, resume: bool, changed: Sequence[str], ranks: Ranks) -> Iterator[Start]:
    """Hold the run folder for this training; give what to begin with.

    Raises:
        ConfigError: the folder holds a run and `--resume` is not given, another run is to be resumed, no checkpoint of
            the run is whole, another training works in the folder, or a rank does not see it.
        OutputError: it cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        start: Start | None = None
        error: ArcticSegError | None = None
        if ranks.is_main:
            try:
                stack.enter_context(held(Path(cfg.out), _warn))
                start = _start_of(cfg, resume, changed)
                if start.folder is None:
                    forget_checkpoint(Path(cfg.out))
            except ArcticSegError as caught:
                error = caught
        process_group.agree(error)
        check_folder(Path(cfg.out), ranks)
        given = cast(Start, process_group.gather(start)[0])
        if given.folder is not None and not given.folder.is_dir():
            error = ConfigError(f"{given.folder}: rank {ranks.rank} does not see it; set an 'out' that all share")
        process_group.agree(error)
        yield given


def _warn(text: str) -> None:
    print(f"arcticseg: warning: {shown(text)}", file=sys.stderr, flush=True)


def _tell_class_weights(weights: Mapping[str, Sequence[float]]) -> None:
    """Print what each class of a chart counts, where they do not count alike."""
    for chart, values in weights.items():
        told = ", ".join(f"{name} {value:.3g}" for name, value in zip(CLASS_NAMES[chart], values, strict=True))
        print(f"arcticseg: weights of classes, {chart}: {told}", file=sys.stderr, flush=True)


def _ignore(_: str) -> None:
    """Rank 0 says it."""


def _start_of(cfg: RunConfig, resume: bool, changed: Sequence[str]) -> Start:
    """What to begin with."""
    out = Path(cfg.out)
    if not resume:
        if changed:
            raise ConfigError(f"--change {changed[0]}: a run that begins has nothing to change; give --resume, too")
        if holds_run(out):
            raise ConfigError(
                f"key 'out' is '{out}', which holds a run; go on with it by --resume, or set another folder"
            )
        return Start()
    folder = checkpoint.newest(out, _warn)
    before = _config_before(out, folder)
    if before is None:
        return Start(folder)
    saved = None if folder is None else Checkpoint.open(folder)
    known = from_json(json.loads(saved.metadata.get(CHANGES, "[]"))) if saved is not None else []
    changes = gone_on(before, cfg, known, changed, saved.position.step if saved is not None else 0)
    return Start(folder, changes, len(changes) - len(known))


def _config_before(out: Path, start: Path | None) -> RunConfig | None:
    """The config of the run so far: that of the checkpoint, which is verified, else `config.yaml`.

    Raises:
        ConfigError: there is `config.yaml` only, and it is damaged.
    """
    kept = Checkpoint.open(start).config if start is not None else None
    before, path = None, out / CONFIG
    try:
        if path.exists():
            before = config.build(RunConfig, stored(config.read(path)))
    except ConfigError as error:
        if kept is None:
            raise ConfigError(f"{path}: is damaged ({error}); restore it from a copy, or set another 'out'") from error
        _warn(f"{path}: is damaged ({error}); {start} has the config, too")
    return before if kept is None else config.build(RunConfig, stored(kept))


def _threads(cfg: RunConfig, ranks: Ranks) -> int:
    return cfg.engine.threads or max(1, len(os.sched_getaffinity(0)) // ranks.local_world_size)


def _engine(
    cfg: RunConfig,
    sets: Sequence[ShardSet],
    class_weights: Mapping[str, Sequence[float]],
    ranks: Ranks,
    saved: Checkpoint | None,
) -> tuple[Task, Any]:
    """Task and DeepSpeed engine, with the weights to begin with."""
    model: nn.Module = build.build_model(cfg, sets[0].manifest.tile)
    if saved is None:
        build.initialise(cfg, model, sets, _warn if ranks.is_main else _ignore)
    task = build.build_task(cfg, model, class_weights)
    careful = caution(model)
    if careful is not None and ranks.is_main:
        _warn(careful)
    task = build.build_task(cfg, model)
    if cfg.engine.compile:
        task.compile(dynamic=False)
    wrapped = Objective(model, task) if task.learns else model
    if saved is not None:
        saved.load_module(wrapped)
    return task, make_engine(wrapped, cfg.engine, cfg.optim, ranks)
