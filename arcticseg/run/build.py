"""Builds every part of a run from its config."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from arcticseg import config
from arcticseg.data.augment import Augment
from arcticseg.data.cache import Cache
from arcticseg.data.decode import Layout
from arcticseg.data.loader import Loader, make_order
from arcticseg.data.reader import SampleReader
from arcticseg.data.select import Selection, ShardSet, open_set, read_scene_list, select_from
from arcticseg.data.share import Share
from arcticseg.data.source import Patience, is_remote
from arcticseg.data.validation import ValidationLoader
from arcticseg.data.webdataset_reader import WebDatasetLoader
from arcticseg.engine import process_group
from arcticseg.engine.length import Length
from arcticseg.errors import ConfigError
from arcticseg.ice.channels import expand
from arcticseg.models.build import build_segmenter
from arcticseg.models.encoders.vit import build_vit
from arcticseg.models.mae import MaskedAutoencoder
from arcticseg.models.weights import load_encoder, load_weights
from arcticseg.run.config import RunConfig
from arcticseg.run.folder import weights_file
from arcticseg.tasks.pretrain import Pretrain
from arcticseg.tasks.segment import Segment
from arcticseg.tasks.task import Task


def build_model(cfg: RunConfig, tile: int) -> nn.Module:
    """The network of a config, with random weights drawn from its seed.

    Raises:
        ConfigError: sizes that do not fit.
    """
    torch.manual_seed(cfg.seed)
    model = cfg.model
    shape = {key: getattr(model, key) for key in ("drop_path", "patch_size", "embed_dim", "depth", "num_heads")}
    if cfg.task == "pretrain":
        encoder = build_vit(model.encoder, cfg.in_chans, tile, **shape)
        targets = config_targets(cfg)
        mae = cfg.pretrain
        return MaskedAutoencoder(encoder, len(targets), mae.decoder_dim, mae.decoder_depth, mae.decoder_heads)
    return build_segmenter(
        model.encoder,
        cfg.in_chans,
        tile,
        decoder=model.decoder,
        sic=model.sic,
        unet_filters=model.unet_filters,
        decoder_channels=model.decoder_channels,
        **shape,
    )


def config_targets(cfg: RunConfig) -> list[int]:
    """Input planes that pretraining reconstructs."""
    return [cfg.channels.index(name) for name in expand(cfg.pretrain.targets)]


def build_task(cfg: RunConfig, model: nn.Module) -> Task:
    """The task of a config."""
    if cfg.task == "segment":
        return Segment(cfg.segment.weights)
    assert isinstance(model, MaskedAutoencoder)
    mae = cfg.pretrain
    return Pretrain(config_targets(cfg), model.patch, mae.mask_ratio, cfg.seed, mae.normalise_targets)


def initialise(cfg: RunConfig, model: nn.Module) -> None:
    """Start the encoder from the weights that `model.init_from` names.

    Raises:
        ConfigError: they do not fit.
    """
    if cfg.model.init_from is not None:
        path = weights_file(Path(cfg.model.init_from))
        weights, metadata = load_weights(path)
        theirs = config.build(RunConfig, json.loads(metadata["config"]))
        if (theirs.channels, theirs.data.valid_plane) != (cfg.channels, cfg.data.valid_plane):
            raise ConfigError(
                f"key 'data.channels' is {list(cfg.data.channels)} (valid_plane {cfg.data.valid_plane}); {path} was "
                f"trained with {list(theirs.data.channels)} ({theirs.data.valid_plane}); set the same"
            )
        load_encoder(model, weights, path)


def statistics_of(cfg: RunConfig, sets: Sequence[ShardSet]) -> dict[str, tuple[float, float]]:
    """Channel -> (mean, std) where the shards' own statistics are asked for; empty: the published ones.

    Those of several sets are pooled by their counts of values.

    Raises:
        ConfigError: the shards lack a channel's statistics.
    """
    if cfg.data.statistics == "published":
        return {}
    found = {}
    for name in cfg.channels:
        parts = [part.manifest.statistics[name] for part in sets if name in part.manifest.statistics]
        count = sum(part["count"] for part in parts)
        if not count:
            raise ConfigError(f"key 'data.statistics' is 'shards', which hold none of {name}; set it to published")
        mean = sum(part["count"] * part["mean"] for part in parts) / count
        square = sum(part["count"] * (part["std"] ** 2 + part["mean"] ** 2) for part in parts) / count
        found[name] = (mean, max(square - mean**2, 0.0) ** 0.5)
    return found


def open_sets(cfg: RunConfig) -> list[ShardSet]:
    """The sets of shards that a config names.

    Raises:
        ShardError: one cannot be read.
        ConfigError: they do not go together.
    """
    patience = Patience(cfg.data.patience, cfg.data.retries)
    sets = [open_set(place, patience) for place in cfg.data.places]
    tiles = {found.manifest.tile for found in sets}
    if len(tiles) > 1:
        raise ConfigError(
            f"key 'data.shards' names sets with tiles of {sorted(tiles)} pixels; build them with one size"
        )
    held_out: dict[str, str] = {}
    for found in sets:
        held_out |= {
            name: found.source.address
            for name, scene in found.manifest.scenes.items()
            if scene["split"] in ("val", "test")
        }
    for found in sets:
        for name, scene in found.manifest.scenes.items():
            if scene["split"] == "train" and name in held_out:
                raise ConfigError(
                    f"{found.source.address}: trains on {name}, which {held_out[name]} holds out; build both with the "
                    "same --lists"
                )
    return sets


def _selection(cfg: RunConfig, sets: Sequence[ShardSet], split: str) -> Selection:
    train = split == "train"
    return select_from(
        sets,
        split,
        cfg.data.factors,
        read_scene_list(Path(cfg.data.scenes)) if train and cfg.data.scenes else None,
        cfg.data.label_fraction if train else 1.0,
        labelled=cfg.task == "segment",
    )


def _reader(cfg: RunConfig, selection: Selection, tile: int) -> tuple[SampleReader, Layout]:
    """What reads the samples, and the arrays that they are decoded to."""
    factors = sorted(set(selection.factor.tolist()))
    layout = Layout.of(tile, factors, cfg.channels, cfg.data.valid_plane, labels=cfg.task == "segment")
    cache = None if cfg.data.cache is None else Cache(Path(cfg.data.cache), cfg.data.cache_bytes)
    return SampleReader(selection, layout.core_only, cache), layout


def _loader(
    cfg: RunConfig, selection: Selection, tile: int, micro: int, ranks: process_group.Ranks
) -> Loader | WebDatasetLoader:
    """The reader that the config asks for."""
    data, wanted = cfg.data, cfg.data.augment
    groups = tuple(sorted(wanted.drop_groups.items()))
    augment = Augment(cfg.seed, wanted.flips, wanted.quarter_turns, groups, wanted.crop, wanted.cutmix)
    share = Share(ranks.rank, ranks.world_size, cfg.engine.global_batch_size, micro)
    if data.reader == "webdataset":
        return WebDatasetLoader(selection, share, data.workers, augment)
    order = make_order(selection, data, cfg.mix, cfg.seed)
    return Loader(
        *_reader(cfg, selection, tile),
        order,
        share,
        data.workers,
        augment,
        pin_memory=ranks.device.type == "cuda",
        max_damaged=data.max_damaged,
        window=data.window,
        patience=data.patience,
    )


def _validation(
    cfg: RunConfig, sets: Sequence[ShardSet], tile: int, micro: int, ranks: process_group.Ranks
) -> ValidationLoader | None:
    """Passes over the validation samples; None where there are none, or only a server to stream whole shards from."""
    streamed = cfg.data.reader == "webdataset" and any(map(is_remote, cfg.data.places))
    if streamed or not any("val" in found.manifest.splits for found in sets):
        return None
    return ValidationLoader(
        *_reader(cfg, _selection(cfg, sets, "val"), tile),
        Share(ranks.rank, ranks.world_size, cfg.engine.global_batch_size, micro),
        cfg.data.workers,
        patience=cfg.data.patience,
    )


def _length(cfg: RunConfig, samples: int) -> Length:
    """How long to train.

    Raises:
        ConfigError: not one step.
    """
    batch = cfg.engine.global_batch_size
    length = Length(cfg.steps, int((cfg.epochs or 0) * samples), batch, cfg.data.tail)
    if length.last_step(0, 0) < 1:
        raise ConfigError(f"key 'epochs' is {cfg.epochs}; {samples} samples give no step of {batch}; raise it")
    return length
