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
from arcticseg.engine.deepspeed_engine import DTYPES, make_engine, release
from arcticseg.engine.hooks.hook import Hook, Training
from arcticseg.engine.hooks.logs import trackers_of
from arcticseg.engine.process_group import Ranks
from arcticseg.engine.stop import StopWish
from arcticseg.engine.trainer import Every, Trainer
from arcticseg.errors import ArcticSegError, ConfigError, need
from arcticseg.files import write_text
from arcticseg.ice.sigrid import CLASS_NAMES
from arcticseg.models.batch_norm import caution
from arcticseg.models.frozen import let_learn
from arcticseg.run import build
from arcticseg.run.agreement import check_folder, check_same, shows
from arcticseg.run.change import CHANGES, Change, applied, as_json, from_json, gone_on
from arcticseg.run.code import code_version
from arcticseg.run.config import RunConfig
from arcticseg.run.folder import CONFIG, forget_checkpoint, forget_wandb, held, holds_run
from arcticseg.run.migrate import stored
from arcticseg.run.stages import stage_at, stages_of
from arcticseg.run.step import make_step
from arcticseg.shown import shown
from arcticseg.tasks.task import Objective, Task
from arcticseg.tracking import check_installed, restore_metrics

# What is told of a training: its name, and values.
Event = tuple[str, Mapping[str, Any]]


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
            return _Run(applied(cfg, start.changes), start, sets, selection, ranks, extra).train()
    except ArcticSegError as error:
        process_group.share(error)
        raise
    finally:
        process_group.stop()


def _open(cfg: RunConfig) -> tuple[list[ShardSet], Selection]:
    """What each rank finds on its own machine: the shards, the samples."""
    good = cfg.engine.precision != "fp16" or torch.cuda.is_available()
    need(good, "engine.precision", cfg.engine.precision, "set fp32 or bf16: fp16 needs a GPU, and there is none here")
    check_installed(cfg.tracking)
    sets = build.open_sets(cfg)
    selection = build.selection_of(cfg, sets, "train")
    build.length_of(cfg, len(selection))
    build.check_polygons(cfg, selection)
    return sets, selection


@dataclass
class _Run:
    """A training from a checkpoint or from the beginning, with what it needs in each of its stages."""

    cfg: RunConfig
    start: Start
    sets: Sequence[ShardSet]
    selection: Selection
    ranks: Ranks
    extra: Sequence[Hook]
    hooks: Sequence[Hook] = ()

    def train(self) -> bool:
        """Train stage by stage: each goes on from the checkpoint with which the one before has ended."""
        torch.set_num_threads(_threads(self.cfg, self.ranks))
        saved = None if self.start.folder is None else Checkpoint.open(self.start.folder)
        changes = self.start.changes[len(self.start.changes) - self.start.new :]
        events: list[Event] = [("changed", change.told) for change in changes]
        wish = StopWish()
        trainer = self._trainer(saved, events, wish)
        while True:
            try:
                reached = trainer.train()
            finally:
                trainer.loader.close()
            if not trainer.goes_on:
                return reached
            step = trainer.position.step
            try:
                saved = self._handed_over(trainer)
                # Two engines need not fit in memory.
                del trainer
                trainer = self._trainer(saved, [], wish)
            except BaseException:
                wish.close()
                for hook in self.hooks:
                    hook.on_end(step)
                raise

    def _trainer(self, saved: Checkpoint | None, events: list[Event], wish: StopWish) -> Trainer:
        """Put the parts of a stage together: that in which a checkpoint is, or the first."""
        cfg, ranks, tile = self.cfg, self.ranks, self.sets[0].manifest.tile
        length = build.length_of(cfg, len(self.selection))
        share = build.share_of(cfg, ranks)
        position = Position() if saved is None else saved.position
        stages = stages_of(cfg, length)
        place = length.schedule(position.step, position.loader.get("consumed", 0))[0]
        stage = stage_at(stages, place, position.stage)
        if len(stages) > 1 and (saved is None or stage.number != position.stage):
            events = [*events, ("stage begins", {"stage": stage.number + 1, "frozen": stage.frozen})]
        position.stage = stage.number
        task, engine = self._engine(saved, stage.frozen)
        dtype, cuda = DTYPES[cfg.engine.precision], ranks.device.type == "cuda"
        loader = build.loader_of(cfg, self.selection, tile, share, pin_memory=cuda)
        if saved is not None:
            loader.load_state_dict(position.loader)
        last = length.last_step(position.step, loader.consumed)
        step = make_step(cfg, engine, task, ranks, saved, position.step, last)
        statistics = build.statistics_of(cfg, self.sets)
        self.hooks = self.hooks or self._begun(saved, position.step)
        if saved is not None:
            saved.load_hooks(self.hooks)
        metadata = build.metadata_of(cfg, self.sets, self.selection, statistics)
        metadata |= {CHANGES: json.dumps(as_json(self.start.changes))}
        assemble = Assemble.of(cfg.data, statistics, task.want(dtype), compiled=cfg.engine.compile)
        samples = build.samples_of(cfg, self.sets, tile, share, assemble, task, ranks)
        return Trainer(
            training=Training(
                Path(cfg.out),
                engine,
                step,
                task,
                ranks,
                metadata,
                position.step,
                last,
                samples,
                trackers_of(self.hooks),
            ),
            engine=cfg.engine,
            optim=cfg.optim,
            assemble=assemble,
            loader=loader,
            validation=build.validation_of(cfg, self.sets, tile, share, pin_memory=cuda),
            length=length,
            every=Every(cfg.validate_every, cfg.checkpoint_every, cfg.tracking.every),
            hooks=self.hooks,
            position=position,
            seed=cfg.seed,
            events=events,
            until=stage.last_step(position.step, place, last),
            rate=stage.rate(cfg.optim),
            wish=wish,
        )

    def _engine(self, saved: Checkpoint | None, frozen: str | int) -> tuple[Task, Any]:
        """Task and DeepSpeed engine, with the weights to begin with; `frozen` says which of them do not learn."""
        cfg, ranks, tile = self.cfg, self.ranks, self.sets[0].manifest.tile
        model: nn.Module = build.build_model(cfg, tile)
        if saved is None:
            if ranks.is_main and cfg.model.init_from is None and (frozen != "none" or cfg.model.lora is not None):
                _warn("key 'model.init_from' is null, so the weights of the encoder that do not learn are random")
            build.initialise(cfg, model, self.sets, *((_warn, _note) if ranks.is_main else (_ignore, _ignore)))
        let_learn(model, cfg.model, cfg.seed, frozen)
        class_weights = build.class_weights_of(cfg, self.selection, tile)
        task = build.build_task(cfg, model, class_weights)
        # Once, not in each stage.
        if ranks.is_main and not self.hooks:
            _tell_class_weights(class_weights)
            careful = caution(model)
            if careful is not None:
                _warn(careful)
        if cfg.engine.compile:
            task.compile(dynamic=False)
        wrapped = Objective(model, task) if task.learns else model
        if saved is not None:
            saved.load_module(wrapped)
        return task, make_engine(wrapped, cfg.engine, cfg.optim, ranks, None if saved is None else saved.steps_taken())

    def _begun(self, saved: Checkpoint | None, step: int) -> list[Hook]:
        """The hooks, once the run's folder says what the run is, and its metrics end with the step."""
        if self.ranks.is_main:
            write_text(Path(self.cfg.out) / CONFIG, config.dump(self.cfg))
            if saved is not None:
                restore_metrics(Path(self.cfg.out), saved.metrics, step)
        return [*build.build_hooks(self.cfg, self.ranks, step, self._facts()), *self.extra]

    def _facts(self) -> dict[str, Any]:
        """What is told of a start beside the config; nothing on other ranks than the first."""
        if not self.ranks.is_main:
            return {}
        ranks, device = self.ranks.world_size, self.ranks.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        return {**code_version(), "fingerprint": self.selection.fingerprint, "ranks": ranks, "device": name}

    def _handed_over(self, trainer: Trainer) -> Checkpoint:
        """The checkpoint with which a stage has ended, once its engines have given their memory back.

        Raises:
            ConfigError: a rank does not see it; the same on all ranks.
        """
        folder = checkpoint.folder_of(Path(self.cfg.out), trainer.position.step)
        for engine in trainer.step.engines.values():
            release(engine)
        told = f"{folder}: rank {self.ranks.rank} does not see it; set an 'out' that all share"
        process_group.agree(None if shows(folder) else ConfigError(told))
        return Checkpoint.open(folder)


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
                if not resume:
                    forget_wandb(Path(cfg.out))
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


def _note(text: str) -> None:
    print(f"arcticseg: {shown(text)}", file=sys.stderr, flush=True)


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
