"""Every key of a run's config: its type, default and meaning, and which combinations cannot work.

No torch here, so that `--dry-run`, `--help` and sweeps check a config without loading it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from arcticseg import config
from arcticseg.data.config import DataConfig
from arcticseg.engine.config import EngineConfig, OptimConfig
from arcticseg.errors import ConfigError
from arcticseg.ice.channels import GROUPS, expand
from arcticseg.ice.sigrid import CHARTS
from arcticseg.models.config import ModelConfig
from arcticseg.tasks.config import PretrainConfig, SegmentConfig
from arcticseg.tracking import TrackingConfig


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
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    @property
    def channels(self) -> tuple[str, ...]:
        """The input channels by their own names, in input order."""
        return expand(self.data.channels)

    @property
    def in_chans(self) -> int:
        """Input planes of the network."""
        return len(self.channels) + self.data.valid_plane

    @property
    def mix(self) -> str:
        """`data.mix` with `auto` resolved."""
        if self.data.mix != "auto":
            return self.data.mix
        return "weights" if self.task == "pretrain" else "none"


def _need(condition: bool, key: str, value: object, remedy: str) -> None:
    if not condition:
        raise ConfigError(f"key '{key}' is {value!r}; {remedy}")


def check(cfg: RunConfig) -> None:
    """Refuse values and combinations that cannot work, saying what to set.

    Raises:
        ConfigError: naming the key, the value and the remedy.
    """
    for key, names in (("data.channels", cfg.data.channels), ("pretrain.targets", cfg.pretrain.targets)):
        try:
            expand(names)
        except KeyError as error:
            raise ConfigError(f"key '{key}' is {list(names)}; {error.args[0]}") from error
    data, model, optim, engine = cfg.data, cfg.model, cfg.optim, cfg.engine
    _need(bool(data.channels), "data.channels", list(data.channels), "name at least one channel")
    _need(bool(cfg.pretrain.targets), "pretrain.targets", list(cfg.pretrain.targets), "name at least one channel")
    _need(0 < data.label_fraction <= 1, "data.label_fraction", data.label_fraction, "set a share in (0, 1]")
    _need(all(factor >= 1 for factor in data.factors), "data.factors", list(data.factors), "set factors of 1 or more")
    _need(data.workers >= 0, "data.workers", data.workers, "set 0 or more")
    _need(data.block > 0, "data.block", data.block, "set 1 or more")
    _need(bool(data.places), "data.shards", data.shards, "name at least one folder or address")
    _need(len(set(data.places)) == len(data.places), "data.shards", list(data.places), "name each once")
    _need(data.window > 0, "data.window", data.window, "set 1 or more")
    _need(data.cache_bytes >= 0, "data.cache_bytes", data.cache_bytes, "set 0 (all of the disk) or more")
    _need(data.max_damaged >= 0, "data.max_damaged", data.max_damaged, "set 0 or more")
    _need(data.patience > 0, "data.patience", data.patience, "set a positive number of seconds")
    _need(data.retries >= 0, "data.retries", data.retries, "set 0 or more")
    _need(
        not data.set_weights or (cfg.mix == "weights" and len(data.set_weights) == len(data.places)),
        "data.set_weights",
        list(data.set_weights),
        f"set data.mix to weights and one weight for each of data.shards ({len(data.places)})",
    )
    _need(all(w > 0 for w in data.set_weights), "data.set_weights", list(data.set_weights), "set positive weights")
    _need(not data.weights or cfg.mix == "weights", "data.weights", data.weights, "set data.mix to weights, too")
    _need(all(w > 0 for w in data.weights.values()), "data.weights", data.weights, "set positive weights")
    cutmix = data.augment.cutmix
    _need(0 < data.augment.crop <= 1, "data.augment.crop", data.augment.crop, "set a share of the edge in (0, 1]")
    _need(0 <= cutmix <= 1, "data.augment.cutmix", cutmix, "set a probability in [0, 1]")
    _need(cutmix == 0 or cfg.task == "segment", "data.augment.cutmix", cutmix, "set 0: pretraining mixes no scenes")
    for group, share in data.augment.drop_groups.items():
        key = f"data.augment.drop_groups.{group}"
        _need(group in GROUPS, key, share, f"name one of {', '.join(GROUPS)}")
        _need(0 <= share < 1, key, share, "set a probability in [0, 1)")
    is_unet = model.encoder == "unet"
    _need(cfg.task == "segment" or not is_unet, "model.encoder", model.encoder, "set a ViT to pretrain")
    _need(not is_unet or model.init_from is None, "model.init_from", model.init_from, "set null: a UNet has no MAE")
    _need(0 <= model.drop_path < 1, "model.drop_path", model.drop_path, "set a share in [0, 1)")
    _need(0 < cfg.pretrain.mask_ratio < 1, "pretrain.mask_ratio", cfg.pretrain.mask_ratio, "set a share in (0, 1)")
    _need(
        set(expand(cfg.pretrain.targets)) <= set(cfg.channels) or cfg.task == "segment",
        "pretrain.targets",
        list(cfg.pretrain.targets),
        "set channels that data.channels has, too",
    )
    _need(set(cfg.segment.weights) == set(CHARTS), "segment.weights", cfg.segment.weights, f"set {', '.join(CHARTS)}")
    _need(
        min(cfg.segment.weights.values()) >= 0 < max(cfg.segment.weights.values()),
        "segment.weights",
        cfg.segment.weights,
        "set weights of 0 or more, not all 0",
    )
    _need(optim.lr > 0, "optim.lr", optim.lr, "set a positive learning rate")
    _need(optim.weight_decay >= 0, "optim.weight_decay", optim.weight_decay, "set 0 or more")
    _need(0 <= optim.warmup < 1, "optim.warmup", optim.warmup, "set a share of the steps in [0, 1)")
    _need(0 <= optim.final_lr <= 1, "optim.final_lr", optim.final_lr, "set a share of lr in [0, 1]")
    _need(all(0 <= b < 1 for b in optim.betas), "optim.betas", list(optim.betas), "set two values in [0, 1)")
    _need(optim.clip >= 0, "optim.clip", optim.clip, "set 0 (off) or more")
    _need(engine.global_batch_size > 0, "engine.global_batch_size", engine.global_batch_size, "set 1 or more")
    _need(engine.threads is None or engine.threads > 0, "engine.threads", engine.threads, "set 1 or more")
    micro = engine.micro_batch_size
    _need(
        micro is None or (micro > 0 and engine.global_batch_size % micro == 0),
        "engine.micro_batch_size",
        micro,
        f"set a divisor of engine.global_batch_size ({engine.global_batch_size})",
    )
    _need(
        not (engine.precision == "bf16" and engine.zero_stage == 0),
        "engine.zero_stage",
        engine.zero_stage,
        "set 1: DeepSpeed's stage 0 steps Adam once too often under bf16",
    )
    _need((cfg.steps is None) != (cfg.epochs is None), "steps", cfg.steps, "set either steps or epochs")
    _need(cfg.steps is None or cfg.steps > 0, "steps", cfg.steps, "set 1 or more")
    _need(cfg.epochs is None or cfg.epochs > 0, "epochs", cfg.epochs, "set a positive number")
    _need(cfg.validate_every >= 0, "validate_every", cfg.validate_every, "set 0 (only at the end) or more")
    _need(cfg.checkpoint_every >= 0, "checkpoint_every", cfg.checkpoint_every, "set 0 (only at the end) or more")
    _need(cfg.tracking.every > 0, "tracking.every", cfg.tracking.every, "set 1 or more")
    if data.reader == "webdataset":
        _need(data.mix == "auto" or data.mix == "none", "data.mix", data.mix, "set none: the webdataset reader streams")
        _need(cfg.steps is not None, "epochs", cfg.epochs, "set steps: the webdataset reader has no length")
        s3 = any(place.startswith("s3://") for place in data.places)
        _need(not s3, "data.reader", data.reader, "set index: webdataset reads no s3")
        _need(data.cache is None, "data.cache", data.cache, "set null: the webdataset reader keeps no shards")


def build(parts: Sequence[Mapping[str, Any]], imports: Sequence[str] = ()) -> RunConfig:
    """A run's config from nested keys laid over one another, later over earlier.

    Args:
        imports: modules to import besides those of the key `imports`.

    Raises:
        ConfigError: anything wrong with it.
    """
    keys: dict[str, Any] = {}
    for part in parts:
        keys = config.merge(keys, part)
    names = list(dict.fromkeys([*(keys.get("imports") or ()), *imports]))
    config.import_modules(names)
    cfg = config.build(RunConfig, keys | {"imports": names})
    check(cfg)
    return cfg


def load(name: str | Path, overrides: Sequence[str] = (), imports: Sequence[str] = ()) -> RunConfig:
    """A run's config from a file (or shipped name) and overrides; `imports` as `build` takes them.

    Raises:
        ConfigError: anything wrong with it.
    """
    return build([config.override(config.read(name), overrides)], imports)
