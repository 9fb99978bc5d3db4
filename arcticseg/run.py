"""Builds every part of a run from its config and starts it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from arcticseg import config, settings
from arcticseg.data import manifest as manifests
from arcticseg.data.batch import Augment
from arcticseg.data.loader import Loader, evaluation_batches, make_order
from arcticseg.data.order import Order
from arcticseg.data.stream import Selection, read_scene_list, select
from arcticseg.data.transforms import Assemble
from arcticseg.data.webdataset_reader import WebDatasetLoader, fetch_index, is_url
from arcticseg.engine import checkpoint, process_group
from arcticseg.engine.checkpoint import Progress
from arcticseg.engine.deepspeed_engine import make_engine
from arcticseg.engine.hooks import Bar, Hook, Logs
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
    "engine.micro_batch_size",
    "engine.threads",
    "data.workers",
    "data.shards",
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


def statistics_of(cfg: RunConfig, found: manifests.Manifest) -> dict[str, tuple[float, float]]:
    """Channel -> (mean, std) where the shards' own statistics are asked for; empty: the published ones.

    Raises:
        ConfigError: the shards lack a channel's statistics.
    """
    if cfg.data.statistics == "published":
        return {}
    lacking = [name for name in cfg.channels if name not in found.statistics]
    if lacking:
        raise ConfigError(f"key 'data.statistics' is 'shards', which hold none of {lacking[0]}; set it to published")
    return {name: (found.statistics[name]["mean"], found.statistics[name]["std"]) for name in cfg.channels}


def _selection(cfg: RunConfig, folder: Path, found: manifests.Manifest, split: str) -> Selection:
    train = split == "train"
    return select(
        folder,
        found,
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
    with tempfile.TemporaryDirectory(prefix="arcticseg-") as scratch:
        folder = Path(cfg.data.shards)
        if is_url(cfg.data.shards):
            folder = fetch_index(cfg.data.shards, Path(scratch))
        return _run(cfg, folder, resume)


def _run(cfg: RunConfig, folder: Path, resume: bool) -> bool:
    """Train with the manifest and indices of `folder`."""
    found = manifests.read_manifest(folder)
    selection = _selection(cfg, folder, found, "train")
    order = make_order(selection, cfg.mix, cfg.data.weights, cfg.data.block, cfg.seed)
    out, start = _check_folder(cfg, resume)
    ranks = process_group.start()
    try:
        micro, _ = accumulation_steps(cfg.engine, ranks.world_size)
        torch.set_num_threads(_threads(cfg, ranks))
        model = build_model(cfg, found.tile)
        if start is None:
            initialise(cfg, model)
        task = build_task(cfg, model)
        universal = False
        if start is not None:
            start, universal = checkpoint.suited(start, cfg.engine.zero_stage, ranks)
        engine = make_engine(model, cfg.engine, cfg.optim, ranks, universal)
        loader = _loader(cfg, selection, order, micro, ranks)
        progress = Progress()
        if start is not None:
            progress = checkpoint.load(engine, start)
            loader.load_state_dict(progress.loader)
        statistics = statistics_of(cfg, found)
        total = _total_steps(cfg, len(selection))
        metadata = {
            "config": json.dumps(config.to_dict(cfg)),
            "statistics": json.dumps(statistics),
            "tile": str(found.tile),
            "factors": json.dumps(cfg.data.factors or found.factors),
            "simulated": json.dumps(found.simulated),
        }
        hooks: list[Hook] = []
        if ranks.is_main:
            write_text(out / CONFIG, config.dump(cfg))
            hooks = [
                Logs(make_trackers(out, cfg.tracking, config.to_dict(cfg), out.name, progress.step)),
                Bar(f"{cfg.task} {out.name}", progress.step, total),
            ]
        validation = None
        # A pass over validation samples needs the shards at hand.
        if "val" in found.splits and not is_url(cfg.data.shards):
            held_out = _selection(cfg, folder, found, "val")

            def validation() -> Any:
                return evaluation_batches(held_out, micro, ranks.rank, ranks.world_size, cfg.data.workers)

        assemble = Assemble(cfg.channels, cfg.data.valid_plane, statistics)
        trainer = Trainer(cfg, out, engine, task, assemble, loader, validation, total, ranks, hooks, metadata, progress)
        return trainer.train()
    finally:
        process_group.stop()


def _loader(
    cfg: RunConfig, selection: Selection, order: Order, micro: int, ranks: process_group.Ranks
) -> Loader | WebDatasetLoader:
    """The reader that the config asks for."""
    wanted = cfg.data.augment
    augment = Augment(cfg.seed, wanted.flips, wanted.quarter_turns, tuple(sorted(wanted.drop_groups.items())))
    batch = cfg.engine.global_batch_size
    if cfg.data.reader == "webdataset":
        return WebDatasetLoader(
            cfg.data.shards, selection, batch, micro, ranks.rank, ranks.world_size, cfg.data.workers, augment
        )
    pin = ranks.device.type == "cuda"
    return Loader(selection, order, batch, micro, ranks.rank, ranks.world_size, cfg.data.workers, augment, pin)


def _total_steps(cfg: RunConfig, samples: int) -> int:
    if cfg.steps is not None:
        return cfg.steps
    assert cfg.epochs is not None
    steps = int(cfg.epochs * samples) // cfg.engine.global_batch_size
    if steps < 1:
        raise ConfigError(
            f"key 'epochs' is {cfg.epochs}; {samples} samples give no step of {cfg.engine.global_batch_size}; raise it"
        )
    return steps
