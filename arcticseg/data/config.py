"""Configs of the data that a network sees, and of augmentation; no torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from arcticseg.errors import BadValueError, need
from arcticseg.ice.channels import GROUPS, INPUTS, SAR, VECTORS, expand
from arcticseg.shown import HIDDEN


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentations, each drawn from (seed, place)."""

    flips: bool = True
    quarter_turns: bool = True
    # Smallest edge of a random crop, which is brought back to the tile's size, as a share of the tile's; 1: no crops.
    crop: float = 1.0
    # Probability that the samples of a pair exchange a box (CutMix); 0: never.
    cutmix: float = 0.0
    # Largest angle in degrees by which a sample is turned, either way; 0: none.
    rotate: float = 0.0
    # Largest factor by which a tile shrinks into the frame; 1: none.
    zoom_out: float = 1.0
    # Largest standard deviation in dB of noise that is added to each pixel's backscatter; 0: none.
    speckle: float = 0.0
    # Largest slope in dB per degree of incidence angle that is added to backscatter, either way; 0: none.
    incidence_trend: float = 0.0
    # Channel group -> probability that a sample loses it, so that the model lives without it.
    drop_groups: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        need(0 < self.crop <= 1, "crop", self.crop, "set a share of the edge in (0, 1]")
        need(0 <= self.cutmix <= 1, "cutmix", self.cutmix, "set a probability in [0, 1]")
        need(0 <= self.rotate <= 180, "rotate", self.rotate, "set degrees in [0, 180]")
        need(1 <= self.zoom_out <= 4, "zoom_out", self.zoom_out, "set a factor in [1, 4]")
        need(0 <= self.speckle <= 10, "speckle", self.speckle, "set dB in [0, 10]")
        trend = self.incidence_trend
        need(0 <= trend <= 2, "incidence_trend", trend, "set dB per degree in [0, 2]")
        for group, share in self.drop_groups.items():
            key = f"drop_groups.{group}"
            need(group in GROUPS, key, share, f"name a group of {', '.join(GROUPS)}")
            need(0 <= share < 1, key, share, "set a probability in [0, 1)")


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
    # One more input for each channel group: 1 where the group has no value, or the sample has lost it.
    missing_planes: bool = False
    # Downsampling factors to use; empty: all that the shards hold.
    factors: tuple[int, ...] = ()
    # List of scene names to use of the training split: text, one a line, or JSON; null: all.
    scenes: str | None = None
    # Share of the training scenes to use; subsets are nested.
    label_fraction: float = 1.0
    # [i, k]: of k folds of the training scenes, from 0, fold i is held out and validates; null: the split `val` does.
    fold: tuple[int, int] | None = None
    # Share of the validation samples to score: of each scene and factor, the same in all runs.
    validation_share: float = 1.0
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

    @property
    def names(self) -> tuple[str, ...]:
        """The input channels by their own names, in input order."""
        return expand(self.channels)

    @property
    def planes(self) -> tuple[str, ...]:
        """Names of the network's input planes, in order."""
        missing = (f"missing_{group}" for group in self.groups) if self.missing_planes else ()
        return (*self.names, *(("valid",) if self.valid_plane else ()), *missing)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of the input channels, in the order in which they first occur."""
        return groups_of(self.names)

    @property
    def in_chans(self) -> int:
        """Input planes of the network."""
        return len(self.planes)

    def __post_init__(self) -> None:
        check_channels("channels", self.channels)
        self._check_augment()
        for key in ("scenes", "cache"):
            need(getattr(self, key) != "", key, "", "set a path, or null")
        for key in ("label_fraction", "validation_share"):
            need(0 < getattr(self, key) <= 1, key, getattr(self, key), "set a share in (0, 1]")
        if self.fold is not None:
            good = self.fold[1] >= 2 and 0 <= self.fold[0] < self.fold[1]
            need(good, "fold", list(self.fold), "set [i, k] with 2 folds or more and 0 <= i < k")
        need(all(factor >= 1 for factor in self.factors), "factors", list(self.factors), "set factors of 1 or more")
        need(bool(self.places) and all(self.places), "shards", self.shards, "name at least one folder or address")
        need(len(set(self.places)) == len(self.places), "shards", list(self.places), "name each once")
        for key in ("block", "window"):
            need(getattr(self, key) > 0, key, getattr(self, key), "set 1 or more")
        for key in ("workers", "max_damaged", "retries"):
            need(getattr(self, key) >= 0, key, getattr(self, key), "set 0 or more")
        need(self.cache_bytes >= 0, "cache_bytes", self.cache_bytes, "set 0 (all of the disk) or more")
        need(self.patience > 0, "patience", self.patience, "set a positive number of seconds")
        need(all(w > 0 for w in self.set_weights), "set_weights", list(self.set_weights), "set positive weights")
        need(all(w > 0 for w in self.weights.values()), "weights", self.weights, "set positive weights")
        if self.reader == "webdataset":
            need(self.mix in ("auto", "none"), "mix", self.mix, "set none: the webdataset reader streams")
            s3 = any(place.startswith("s3://") for place in self.places)
            need(not s3, "reader", self.reader, "set index: webdataset reads no s3")
            open_ = not any(HIDDEN in place for place in self.places)
            need(open_, "reader", self.reader, "set index: webdataset reads no address with credentials")
            need(self.cache is None, "cache", self.cache, "set null: the webdataset reader keeps no shards")

    def _check_augment(self) -> None:
        augment = self.augment
        for key in (key for key in ("quarter_turns", "rotate") if getattr(augment, key)):
            for pair in VECTORS:
                whole = len(set(pair).intersection(self.names)) != 1
                unset = f"augment.{key}={'false' if key == 'quarter_turns' else 0}"
                remedy = f"name both of {', '.join(pair)}, or set {unset}: a turn exchanges them"
                need(whole, "channels", list(self.channels), remedy)
        for key in ("speckle", "incidence_trend"):
            value, some = getattr(augment, key), bool(set(SAR.values()).intersection(self.names))
            need(not value or some, f"augment.{key}", value, "set 0: data.channels has no backscatter")


def groups_of(names: Sequence[str]) -> tuple[str, ...]:
    """The groups of channels, in the order in which they first occur."""
    return tuple(dict.fromkeys(INPUTS[name].group for name in names))


def check_channels(key: str, names: tuple[str, ...]) -> None:
    """Refuse names that are neither channels nor groups, and none at all.

    Raises:
        BadValueError: naming the key and the channel.
    """
    need(bool(names), key, list(names), "name at least one channel")
    try:
        expand(names)
    except KeyError as error:
        raise BadValueError(key, list(names), str(error.args[0])) from error
