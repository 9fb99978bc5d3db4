"""A run's config: its sections put together, and what must hold between them.

No torch here, so that `--dry-run`, `--help` and sweeps check a config without loading it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from arcticseg import config
from arcticseg.choice import import_modules
from arcticseg.data.config import DataConfig
from arcticseg.engine.config import AdamWConfig, EarlyStopConfig, EngineConfig, HookConfig, OptimConfig
from arcticseg.errors import ConfigError, need
from arcticseg.ice.channels import SAR, expand
from arcticseg.models.config import ModelConfig, check_frozen
from arcticseg.run.migrate import renamed
from arcticseg.tasks.config import PRETRAIN_SCORES, PretrainConfig, SegmentConfig, segment_scores
from arcticseg.tracking import TrackingConfig


@dataclass(frozen=True)
class StageConfig:
    """A part of a training in which what learns stays the same."""

    # As of `model.frozen`.
    frozen: str | int = "none"
    # Length in optimiser steps, or as a share of the training. The last stage has neither: it goes on to the end.
    steps: int | None = None
    share: float | None = None
    # Null: the learning rate goes on along the curve of the whole training. Else the stage has a curve of its own, from
    # warm-up to the end, with this highest rate.
    lr: float | None = None

    def __post_init__(self) -> None:
        check_frozen("frozen", self.frozen)
        need(self.steps is None or self.steps > 0, "steps", self.steps, "set 1 or more")
        need(self.share is None or 0 < self.share < 1, "share", self.share, "set a share of the training in (0, 1)")
        need(self.steps is None or self.share is None, "share", self.share, "set either steps or share")
        need(self.lr is None or self.lr > 0, "lr", self.lr, "set a positive learning rate, or null")


@dataclass(frozen=True)
class RunConfig:
    """One training run."""

    task: Literal["pretrain", "segment"] = "segment"
    # Folder of the run: config, logs, checkpoints, weights.
    out: str = "runs/run"
    seed: int = 0
    # Length in optimiser steps or in epochs; set one.
    steps: int | None = None
    epochs: float | None = None
    # Optimiser steps between validations, and between checkpoints; 0: only at the end.
    validate_every: int = 500
    checkpoint_every: int = 500
    # Modules from outside that add encoders, decoders, losses, hooks: dotted names or .py files.
    imports: tuple[str, ...] = ()
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    optim: OptimConfig = field(default_factory=AdamWConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    # Beside the training loop, in this order, after logs, progress bar and best weights.
    hooks: tuple[HookConfig, ...] = ()
    # Parts of the training, such as heads first, then all; none: `model.frozen` holds throughout.
    stages: tuple[StageConfig, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether the task needs labels."""
        return self.task == "segment"

    @property
    def polygons(self) -> bool:
        """Whether the task needs what charts say of polygons."""
        return self.labelled and self.segment.needs_polygons(self.model.charts)

    @property
    def mix(self) -> str:
        """`data.mix` with `auto` resolved."""
        if self.data.mix != "auto":
            return self.data.mix
        return "weights" if self.task == "pretrain" and self.data.reader == "index" else "none"

    @property
    def targets(self) -> list[int]:
        """Input planes that pretraining reconstructs."""
        return [self.data.names.index(name) for name in expand(self.pretrain.targets)]

    @property
    def sar(self) -> int | None:
        """An input plane that holds data where there is SAR; None: there is none."""
        return next((place for place, name in enumerate(self.data.names) if name in SAR.values()), None)

    @property
    def scores(self) -> tuple[str, ...]:
        """By which the best weights are kept; higher is better."""
        return PRETRAIN_SCORES if self.task == "pretrain" else segment_scores(self.model.charts)

    def __post_init__(self) -> None:
        need((self.steps is None) != (self.epochs is None), "steps", self.steps, "set either steps or epochs")
        need(self.steps is None or self.steps > 0, "steps", self.steps, "set 1 or more")
        need(self.epochs is None or self.epochs > 0, "epochs", self.epochs, "set a positive number")
        need(self.out != "", "out", "", "set a folder")
        need(0 <= self.seed < 1 << 63, "seed", self.seed, "set a whole number from 0 to 2^63 - 1")
        for key in ("validate_every", "checkpoint_every"):
            need(getattr(self, key) >= 0, key, getattr(self, key), "set 0 (only at the end) or more")
        names = [hook.name for hook in self.hooks]
        need(len(set(names)) == len(names), "hooks", names, "name each once")
        for place, hook in enumerate(self.hooks):
            good = not hook.tasks or self.task in hook.tasks
            need(good, f"hooks[{place}]", hook.name, f"leave it out: it is for task {', '.join(hook.tasks)}")
            if isinstance(hook, EarlyStopConfig):
                good = hook.score is None or hook.score in self.scores
                need(good, f"hooks[{place}].score", hook.score, f"set one of {', '.join(self.scores)}")
        self._check_stages()
        self._check_data()
        self._check_pretrain() if self.task == "pretrain" else self._check_segment()

    def _check_stages(self) -> None:
        if not self.stages:
            return
        *before, last = self.stages
        need(self.model.frozen == "none", "model.frozen", self.model.frozen, "set none: stages say what is frozen")
        for place, stage in enumerate(before):
            good = stage.steps is not None or stage.share is not None
            need(good, f"stages[{place}].steps", None, "set steps or share: only the last stage goes on to the end")
        for key in ("steps", "share"):
            value = getattr(last, key)
            need(
                value is None, f"stages[{len(before)}].{key}", value, "leave it out: the last stage goes on to the end"
            )
        shares = [stage.share for stage in before if stage.share is not None]
        need(sum(shares) < 1, "stages", shares, "set shares whose sum is less than 1")
        steps = [stage.steps for stage in before if stage.steps is not None]
        remedy = f"set steps whose sum is less than that of the training ({self.steps})"
        need(self.steps is None or sum(steps) < self.steps, "stages", steps, remedy)

    def _check_data(self) -> None:
        data = self.data
        mixed = self.mix == "weights"
        remedy = f"set data.mix to weights and a weight for each of data.shards ({len(data.places)})"
        good = not data.set_weights or (mixed and len(data.set_weights) == len(data.places))
        need(good, "data.set_weights", list(data.set_weights), remedy)
        need(not data.weights or mixed, "data.weights", data.weights, "set data.mix to weights, too")
        good = not (data.weights and data.factors) or set(data.weights) == set(data.factors)
        need(good, "data.weights", data.weights, f"set a weight for each of data.factors ({list(data.factors)})")
        good = not mixed or data.block >= len(set(data.factors))
        need(good, "data.block", data.block, "set more: each of data.factors needs a place in it")
        if data.reader == "webdataset":
            need(self.steps is not None, "epochs", self.epochs, "set steps: the webdataset reader has no length")

    def _check_pretrain(self) -> None:
        targets, encoder = self.pretrain.targets, self.model.encoder
        given = set(expand(targets)) <= set(self.data.names)
        need(given, "pretrain.targets", list(targets), "set channels that data.channels has, too")
        need(encoder.pretrains, "model.encoder.name", encoder.name, "set a ViT to pretrain")
        need(self.model.frozen == "none", "model.frozen", self.model.frozen, "set none: pretraining learns all")
        need(self.model.lora is None, "model.lora", self.model.lora, "set null: pretraining learns all")
        need(not self.stages, "stages", len(self.stages), "leave them out: pretraining learns all")
        cutmix = self.data.augment.cutmix
        need(cutmix == 0, "data.augment.cutmix", cutmix, "set 0: pretraining mixes no scenes")
        good = self.pretrain.adversarial is None or self.engine.precision != "fp16"
        remedy = "set fp32 or bf16: pretrain.adversarial is on, and its gradients are too small for fp16"
        need(good, "engine.precision", self.engine.precision, remedy)

    def _check_segment(self) -> None:
        model, segment = self.model, self.segment
        if self.data.augment.cutmix > 0:
            for key in ("global_batch_size", "micro_batch_size"):
                size = getattr(self.engine, key)
                need(size is None or size % 2 == 0, f"engine.{key}", size, "set an even number: CutMix mixes pairs")
        missing = [chart for chart in model.charts if chart not in segment.weights]
        need(not missing, "segment.weights", segment.weights, f"set a weight for {', '.join(missing)}, too")
        some = any(segment.weights[chart] > 0 for chart in model.charts)
        need(some, "segment.weights", segment.weights, "set a weight above 0 for a chart of model.charts")
        for chart in model.charts:
            self._check_losses(chart)
        reader = self.data.reader
        need(not self.polygons or reader == "index", "data.reader", reader, "set index: webdataset gives no polygons")
        agreeing = segment.consistency
        need(not agreeing or len(model.charts) > 1, "segment.consistency", agreeing, "set 0: there is one chart")
        remedy = "set 0, or give data.channels hh or hv: it counts pixels with SAR"
        need(not agreeing or self.sar is not None, "segment.consistency", agreeing, remedy)
        several = sum(segment.weights[chart] > 0 for chart in model.charts) > 1
        remedy = "set fixed: fewer than two of model.charts have a weight above 0"
        need(several or segment.balance == "fixed", "segment.balance", segment.balance, remedy)

    def _check_losses(self, chart: str) -> None:
        head, segment = self.model.head(chart), self.segment
        losses = segment.chart_losses(chart, head.loss)
        for loss in losses:
            remedy = f"it is for heads {', '.join(loss.heads)}; model.heads.{chart} is {head.name}"
            need(not loss.heads or head.name in loss.heads, f"segment.losses.{chart}", loss.name, remedy)
            micro = self.engine.micro_batch_size
            remedy = f"set null: {loss.name} of {chart} is over the batch, so each rank computes its share at once"
            need(not loss.whole or micro is None, "engine.micro_batch_size", micro, remedy)
        weights = segment.class_weights.get(chart)
        if weights is not None and weights.name != "none":
            names = ", ".join(loss.name for loss in losses)
            remedy = f"set none: no loss of {chart} ({names}) takes weights of classes"
            good = any(loss.weighs for loss in losses)
            need(good, f"segment.class_weights.{chart}.name", weights.name, remedy)
        good = chart not in segment.polygons or head.name == "classification"
        need(good, f"segment.polygons.{chart}", head.name, f"set model.heads.{chart} to classification")


def build(parts: Sequence[Mapping[str, Any]], imports: Sequence[str] = ()) -> RunConfig:
    """A run's config from nested keys laid over one another, later over earlier.

    Args:
        imports: modules to import besides those of the key `imports`.

    Raises:
        ConfigError: anything wrong with it.
    """
    listed = next((part["imports"] for part in reversed(parts) if "imports" in part), ())
    if not isinstance(listed, (list, tuple)) or not all(isinstance(name, str) for name in listed):
        raise ConfigError(f"key 'imports' is {listed!r}; set a list of modules, such as [my_networks]")
    names = list(dict.fromkeys([*listed, *imports]))
    # Before anything is chosen by name: what is imported adds to the tables.
    import_modules(names)
    keys = config.combine(RunConfig, [renamed(part) for part in parts])
    return config.build(RunConfig, keys | {"imports": names})


def load(name: str | Path, overrides: Sequence[str] = (), imports: Sequence[str] = ()) -> RunConfig:
    """A run's config from a file (or shipped name) and overrides; `imports` as `build` takes them.

    Raises:
        ConfigError: anything wrong with it.
    """
    return build([*config.layers(name), config.override_layer(overrides)], imports)
