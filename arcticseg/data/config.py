"""Configs of the data that a network sees, and of augmentation; no torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


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
