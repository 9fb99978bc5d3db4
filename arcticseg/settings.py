"""Every key of a run's config: its type, default and meaning, and which combinations cannot work.

No torch here, so that `--dry-run`, `--help` and sweeps check a config without loading it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from arcticseg import config
from arcticseg.errors import ConfigError
from arcticseg.ice.channels import GROUPS, expand
from arcticseg.ice.sigrid import CHARTS


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentations, each drawn from (seed, place)."""

    flips: bool = True
    quarter_turns: bool = True
    # Smallest edge of a random crop, which is brought back to the tile's size, as a share of the tile's; 1: no crops.
    crop: float = 1.0
    # Probability that the samples of a pair exchange a box (CutMix); 0: never.
    cutmix: float = 0.0
    # Channel group -> probability that a sample loses it, so that the model lives without it.
    drop_groups: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DataConfig:
    """What the network sees, and in which order."""

    # Folder that `arcticseg shards build` made, its http(s):// or s3:// address, or a list of such.
    shards: str | tuple[str, ...] = "shards"
    reader: Literal["index", "webdataset"] = "index"
    # Groups or single channels, in the network's input order.
    channels: tuple[str, ...] = ("hh", "hv", "incidence", "distance", "amsr2", "era5")
    # One more input: 1 where there is SAR data.
    valid_plane: bool = True
    # Downsampling factors to use; empty: all that the shards hold.
    factors: tuple[int, ...] = ()
    # List of scene names to use of the training split: text, one a line, or JSON; null: all.
    scenes: str | None = None
    # Share of the training scenes to use; subsets are nested.
    label_fraction: float = 1.0
    # auto: weights for pretraining (each factor equally likely), none for segmentation.
    mix: Literal["auto", "none", "weights"] = "auto"
    # Factor -> weight under mix: weights; empty: equal.
    weights: dict[int, float] = field(default_factory=dict)
    # Shard set -> share of each factor's weight, in the order of `shards`, under mix: weights; empty: equal.
    set_weights: tuple[float, ...] = ()
    # Places in a block of exact quotas.
    block: int = 1024
    # global: all samples as one; blocks: `window` shards at a time, so that reads stay within few shards.
    shuffle: Literal["global", "blocks"] = "global"
    window: int = 16
    # What to do where `epochs` end within a step: drop the samples left over, or fill the step up.
    tail: Literal["drop", "pad"] = "drop"
    # Local folder to keep whole shards in, and bytes that it may take (0: all that the disk has); null: read ranges.
    cache: str | None = None
    cache_bytes: int = 0
    # Damaged samples that are replaced by others; one more stops the run.
    max_damaged: int = 100
    # Seconds without an answer after which a read is named and, on a server, tried again; and how often it is.
    patience: float = 60.0
    retries: int = 5
    # Mean and standard deviation for normalising: published with AutoICE, or of the shards' training scenes.
    statistics: Literal["published", "shards"] = "published"
    # Loader processes a rank; 0 reads in the training process.
    workers: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    @property
    def places(self) -> tuple[str, ...]:
        """`shards` as a list."""
        return (self.shards,) if isinstance(self.shards, str) else self.shards


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    # "unet" (the AutoICE UNet) or any timm ViT.
    encoder: str = "vit_base_patch16_224"
    decoder: Literal["light", "upernet"] = "light"
    sic: Literal["regression", "classification"] = "regression"
    # Null: as the named timm model has it.
    patch_size: int | None = None
    embed_dim: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    # Null: 256 for light, 768 for upernet.
    decoder_channels: int | None = None
    unet_filters: tuple[int, ...] = (16, 32, 64, 64)
    drop_path: float = 0.0
    # Run folder or weights file whose encoder to start from; null: from scratch.
    init_from: str | None = None


@dataclass(frozen=True)
class PretrainConfig:
    """Masked autoencoder."""

    mask_ratio: float = 0.75
    # Channels or groups to reconstruct.
    targets: tuple[str, ...] = ("hh", "hv")
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    # Compare patches after normalising each by its own mean and spread.
    normalise_targets: bool = False


@dataclass(frozen=True)
class SegmentConfig:
    """Multitask segmentation."""

    # Weight of each chart's loss.
    weights: dict[str, float] = field(default_factory=lambda: {"SIC": 1.0, "SOD": 1.0, "FLOE": 1.0})


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


@dataclass(frozen=True)
class TrackingConfig:
    """Logs besides metrics.jsonl."""

    # auto: online with a key in WANDB_API_KEY, else offline.
    wandb: Literal["auto", "offline", "off"] = "auto"
    project: str = "arcticseg"
    group: str | None = None
    # Steps between log lines.
    every: int = 10


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


def load(name: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """A checked run config from a file (or shipped name) and overrides.

    Raises:
        ConfigError: anything wrong with it.
    """
    cfg = config.build(RunConfig, config.override(config.read(name), overrides))
    check(cfg)
    return cfg
