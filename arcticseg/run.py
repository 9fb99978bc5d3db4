"""Builds every part of a run from its config and starts it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from arcticseg import config, settings
from arcticseg.data.batch import Augment
from arcticseg.data.cache import Cache
from arcticseg.data.decode import Layout
from arcticseg.data.loader import Evaluation, Loader, make_order
from arcticseg.data.source import Patience, is_remote
from arcticseg.data.stream import SampleReader, Selection, ShardSet, open_set, read_scene_list, select_from
from arcticseg.data.transforms import Assemble
from arcticseg.data.webdataset_reader import WebDatasetLoader
from arcticseg.engine import checkpoint, process_group
from arcticseg.engine.checkpoint import Progress
from arcticseg.engine.deepspeed_engine import make_engine
from arcticseg.engine.hooks import Bar, Hook, Logs
from arcticseg.engine.length import Length
from arcticseg.engine.trainer import Trainer
from arcticseg.errors import ConfigError
from arcticseg.files import make_folder, write_text
from arcticseg.models.mae import MaskedAutoencoder
from arcticseg.models.segmenter import build_segmenter, load_encoder
from arcticseg.models.vit import build_vit
from arcticseg.settings import RunConfig, accumulation_steps
from arcticseg.tasks.pretrain import Pretrain
from arcticseg.tasks.segment import Segment
from arcticseg.tasks.task import Task
from arcticseg.tracking import METRICS, make_trackers

CONFIG = "config.yaml"

# What may differ between a run and its resumption.
_MAY_CHANGE = (
    "out",
    "tracking",
    "validate_every",
    "checkpoint_every",
    "engine.global_batch_size",
    "engine.micro_batch_size",
    "engine.threads",
    "data.workers",
    "data.shards",
    "data.tail",
    "data.cache",
    "data.max_damaged",
    "data.patience",
    "data.retries",
)


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
    return [cfg.channels.index(name) for name in settings.expand(cfg.pretrain.targets)]


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
        path = checkpoint.weights_file(Path(cfg.model.init_from))
        weights, metadata = checkpoint.load_weights(path)
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
        for key, old, new in _differences(config.to_dict(before), config.to_dict(cfg)):
            if not key.startswith(_MAY_CHANGE):
                raise ConfigError(f"key '{key}' is {new!r}; the run in {out} has {old!r}: set that, or another 'out'")
    return out, checkpoint.newest(out) if resume else None


def _differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    for key in a:
        if isinstance(a[key], dict) and isinstance(b[key], dict) and a[key].keys() == b[key].keys():
            found += _differences(a[key], b[key], f"{prefix}{key}.")
        elif a[key] != b[key]:
            found.append((f"{prefix}{key}", a[key], b[key]))
    return found


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
            start, universal = checkpoint.suited(start, cfg.engine.zero_stage, ranks)
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
    batch = cfg.engine.global_batch_size
    if data.reader == "webdataset":
        return WebDatasetLoader(selection, batch, micro, ranks.rank, ranks.world_size, data.workers, augment)
    order = make_order(
        selection, cfg.mix, data.weights, data.block, cfg.seed, data.shuffle, data.window, data.set_weights
    )
    return Loader(
        *_reader(cfg, selection, tile),
        order,
        batch,
        micro,
        ranks.rank,
        ranks.world_size,
        data.workers,
        augment,
        pin_memory=ranks.device.type == "cuda",
        max_damaged=data.max_damaged,
        window=data.window,
        patience=data.patience,
    )


def _validation(
    cfg: RunConfig, sets: Sequence[ShardSet], tile: int, micro: int, ranks: process_group.Ranks
) -> Evaluation | None:
    """Passes over the validation samples; None where there are none, or only a server to stream whole shards from."""
    streamed = cfg.data.reader == "webdataset" and any(map(is_remote, cfg.data.places))
    if streamed or not any("val" in found.manifest.splits for found in sets):
        return None
    return Evaluation(
        *_reader(cfg, _selection(cfg, sets, "val"), tile),
        micro,
        ranks.rank,
        ranks.world_size,
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
