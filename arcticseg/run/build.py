"""Builds every part of a run from its config."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from arcticseg import config
from arcticseg.data.augment import Augment
from arcticseg.data.cache import Cache
from arcticseg.data.config import DataConfig
from arcticseg.data.decode import Layout
from arcticseg.data.folds import folds
from arcticseg.data.loader import Loader, make_order
from arcticseg.data.reader import SampleReader, has_polygons
from arcticseg.data.select import Selection, ShardSet, open_set, read_scene_list, select_from
from arcticseg.data.share import Share
from arcticseg.data.source import Patience, is_remote
from arcticseg.data.transforms import Assemble
from arcticseg.data.validation import ValidationLoader
from arcticseg.data.webdataset_reader import WebDatasetLoader
from arcticseg.engine.config import accumulation_steps
from arcticseg.engine.hooks.balance import Balance
from arcticseg.engine.hooks.bar import Bar
from arcticseg.engine.hooks.best import Best
from arcticseg.engine.hooks.hook import Hook
from arcticseg.engine.hooks.logs import Logs
from arcticseg.engine.length import Length
from arcticseg.engine.optim import rate_scales
from arcticseg.engine.process_group import Ranks, sum_with_gradient
from arcticseg.engine.samples import Samples
from arcticseg.errors import ConfigError, need
from arcticseg.ice import denoising
from arcticseg.ice.channels import CHANNELS
from arcticseg.models.build import build_autoencoder, build_segmenter
from arcticseg.models.frozen import let_learn
from arcticseg.models.segmenter import Segmenter
from arcticseg.run import initial
from arcticseg.run.config import RunConfig
from arcticseg.tasks.segment import make_segment
from arcticseg.tasks.task import Task
from arcticseg.tracking import RunFacts, make_trackers

# timm, which a masked autoencoder needs, takes a second to load; other runs do without.
if TYPE_CHECKING:
    from arcticseg.models.mae import MaskedAutoencoder

# Edge of a tile where no shards say it: what `shards build` cuts by default.
_TILE = 384


def build_model(cfg: RunConfig, tile: int) -> nn.Module:
    """The network of a config, with random weights drawn from its seed.

    Raises:
        ConfigError: sizes that do not fit.
    """
    crop = cfg.data.augment.crop
    need(round(tile * crop) > 0, "data.augment.crop", crop, f"leave a pixel of a tile of {tile} pixels")
    torch.manual_seed(cfg.seed)
    if cfg.task == "segment":
        return build_segmenter(cfg.model, cfg.data.in_chans, tile)
    mae = cfg.pretrain
    model = build_autoencoder(
        cfg.model,
        cfg.data.in_chans,
        tile,
        len(cfg.targets),
        decoder_dim=mae.decoder_dim,
        decoder_depth=mae.decoder_depth,
        decoder_heads=mae.decoder_heads,
    )
    patches = (tile // model.patch) ** 2
    removed = int(mae.mask_ratio * patches)
    need(removed > 0, "pretrain.mask_ratio", mae.mask_ratio, f"remove at least 1 of a tile's {patches} patches")
    if mae.adversarial is not None:
        depth, edge = mae.adversarial.depth, round(tile * crop)
        remedy = f"set less: the discriminator's cells of {2**depth} pixels do not fit in tiles of {edge}"
        need(2**depth <= edge, "pretrain.adversarial.depth", depth, remedy)
    return model


def check_parts(cfg: RunConfig) -> None:
    """Build the network on the meta device, which has no memory, and make losses and hooks.

    Tiles are as large as those of the shards, where they lie in a folder of this machine; else as `shards build` cuts
    them by default.

    Raises:
        ConfigError: what cannot be built.
    """
    with torch.device("meta"):
        model = build_model(cfg, tile_of(cfg.data))
        for frozen in [stage.frozen for stage in cfg.stages] or [cfg.model.frozen]:
            let_learn(model, cfg.model, cfg.seed, frozen)
    rate_scales(model, cfg.optim)
    build_task(cfg, model)
    for hook in cfg.hooks:
        hook.make()


def tile_of(data: DataConfig) -> int:
    """Edge of the tiles of the shards, where they lie in a folder of this machine; else of what is cut by default."""
    from arcticseg.data.manifest import MANIFEST, read_manifest

    folder = Path(data.places[0])
    return read_manifest(folder).tile if (folder / MANIFEST).is_file() else _TILE


def class_weights_of(cfg: RunConfig, selection: Selection, tile: int) -> dict[str, tuple[float, ...]]:
    """Chart -> weights of its classes, where they do not count alike, from the labels of the training samples."""
    counts = selection.counts or {}
    return {
        chart: weights.make(counts[chart][:-1], tile)
        for chart, weights in cfg.segment.class_weights.items()
        if cfg.labelled and chart in cfg.model.charts and weights.name != "none"
    }


def build_task(cfg: RunConfig, model: nn.Module, class_weights: Mapping[str, Sequence[float]] = {}) -> Task:
    """The task of a config; `class_weights` as of `class_weights_of`."""
    if cfg.task == "segment":
        network = cast(Segmenter, model)
        heads = {chart: network.head(chart) for chart in network.charts}
        return make_segment(cfg.segment, cfg.model, heads, class_weights, cfg.sar, sum_with_gradient)
    from arcticseg.tasks.pretrain import Pretrain

    mae = cfg.pretrain
    patch = cast("MaskedAutoencoder", model).patch
    keys = (cfg.targets, patch, mae.mask_ratio, cfg.seed, mae.normalise_targets)
    if mae.adversarial is None:
        return Pretrain(*keys)
    from arcticseg.tasks.adversarial import Adversarial

    return Adversarial(*keys, stride=2**mae.adversarial.depth)


def build_hooks(cfg: RunConfig, ranks: Ranks, step: int, facts: Mapping[str, Any]) -> list[Hook]:
    """Logs, progress bar, best weights, then what the config names; metrics after `step` are cut off.

    Args:
        facts: that logs tell of the start.
    """
    out = Path(cfg.out)
    told = RunFacts(out.name, config.to_dict(cfg), facts)
    trackers = make_trackers(out, cfg.tracking, told, step) if ranks.is_main else []
    hooks: list[Hook] = [Logs(trackers), Bar(f"{cfg.task} {out.name}"), Best()]
    if cfg.labelled and cfg.segment.balance == "gradient":
        hooks.append(Balance())
    for chosen in cfg.hooks:
        hook = cast(Hook, chosen.make())
        hook.name = chosen.name
        hooks.append(hook)
    return hooks


def metadata_of(
    cfg: RunConfig, sets: Sequence[ShardSet], selection: Selection, statistics: dict[str, tuple[float, float]]
) -> dict[str, str]:
    """What weights need beside them to be used: config, statistics, tile, factors, what is known of the scenes.

    Also the weights of classes that the losses had, for people.
    """
    return {
        "class_weights": json.dumps(class_weights_of(cfg, selection, sets[0].manifest.tile)),
        "config": json.dumps(config.to_dict(cfg)),
        "statistics": json.dumps(statistics),
        "tile": str(sets[0].manifest.tile),
        "factors": json.dumps(cfg.data.factors or sorted(set(selection.factor.tolist()))),
        "simulated": json.dumps(any(part.manifest.simulated for part in sets)),
        "denoising": json.dumps(denoising.known(_denoisings(sets))),
    }


def _denoisings(sets: Sequence[ShardSet]) -> Iterator[object]:
    """Whose noise removal the scenes that are trained on have seen."""
    for part in sets:
        for facts in part.manifest.scenes.values():
            if facts["split"] == "train":
                yield facts.get("denoising")


def initialise(
    cfg: RunConfig,
    model: nn.Module,
    sets: Sequence[ShardSet],
    warn: Callable[[str], None],
    note: Callable[[str], None] = lambda _: None,
) -> None:
    """Start the network from the weights that `model.init_from` names.

    Args:
        sets: that the run trains on.
        warn: is told what differs from what the weights have learnt from, and may be meant.
        note: is told what is taken, adapted and left.

    Raises:
        ConfigError: they do not fit, or the encoder would compute something else with them.
    """
    factors = cfg.data.factors or sorted({factor for part in sets for factor in part.manifest.factors})
    around = initial.Surroundings(sets[0].manifest.tile, factors, statistics_of(cfg, sets))
    initial.initialise(cfg, model, around, warn, note)


def statistics_of(cfg: RunConfig, sets: Sequence[ShardSet]) -> dict[str, tuple[float, float]]:
    """Channel -> (mean, std) where the shards' own statistics are asked for; empty: the published ones.

    Those of several sets are pooled by their counts of values.

    Raises:
        ConfigError: the shards lack a channel's statistics.
    """
    if cfg.data.statistics == "published":
        return {}
    statistics = {}
    for name in filter(CHANNELS.__contains__, cfg.data.names):
        parts = [part.manifest.statistics[name] for part in sets if name in part.manifest.statistics]
        count = sum(part["count"] for part in parts)
        if not count:
            raise ConfigError(f"key 'data.statistics' is 'shards', which hold none of {name}; set it to published")
        mean = sum(part["count"] * part["mean"] for part in parts) / count
        square = sum(part["count"] * (part["std"] ** 2 + part["mean"] ** 2) for part in parts) / count
        statistics[name] = (mean, max(square - mean**2, 0.0) ** 0.5)
    return statistics


def open_sets(cfg: RunConfig) -> list[ShardSet]:
    """The sets of shards that a config names.

    Raises:
        ShardError: a set cannot be read.
        ConfigError: they do not go together.
    """
    patience = Patience(cfg.data.patience, cfg.data.retries)
    sets = [open_set(place, patience) for place in cfg.data.places]
    tiles = {part.manifest.tile for part in sets}
    if len(tiles) > 1:
        raise ConfigError(
            f"key 'data.shards' names sets with tiles of {sorted(tiles)} pixels; build them with the same size"
        )
    held_out: dict[str, str] = {}
    for part in sets:
        held_out |= {
            name: part.source.address
            for name, scene in part.manifest.scenes.items()
            if scene["split"] in ("val", "test")
        }
    for part in sets:
        for name, scene in part.manifest.scenes.items():
            if scene["split"] == "train" and name in held_out:
                raise ConfigError(
                    f"{part.source.address}: trains on {name}, which {held_out[name]} holds out; build both with the "
                    "same --lists"
                )
    return sets


def selection_of(cfg: RunConfig, sets: Sequence[ShardSet], split: str, labelled: bool | None = None) -> Selection:
    """The samples of a split that a config selects.

    Args:
        labelled: only samples with a chart; None: where the task needs labels.
    """
    train = split == "train"
    scenes = read_scene_list(Path(cfg.data.scenes)) if cfg.data.scenes else None
    if cfg.data.fold is not None:
        number, count = cfg.data.fold
        parts = folds(sets, count, scenes)
        scenes = parts.pop(number)
        if train:
            scenes = [name for part in parts for name in part]
        split = "train"
    elif not train:
        scenes = None
    return select_from(
        sets,
        split,
        cfg.data.factors,
        scenes,
        cfg.data.label_fraction if train else 1.0,
        labelled=cfg.labelled if labelled is None else labelled,
    )


def check_polygons(cfg: RunConfig, selection: Selection) -> None:
    """See that some of the samples hold polygons, where losses ask what is in them.

    Raises:
        ConfigError: none does.
        ShardError: a sample cannot be read.
    """
    if cfg.polygons and not has_polygons(selection):
        raise ConfigError(
            f"key 'segment' has losses of polygons, and the samples of data.shards ({', '.join(cfg.data.places)}) hold "
            "none: ready-to-train scenes have classes only; build shards of raw scenes, or take the losses away"
        )


def _reader(
    cfg: RunConfig, selection: Selection, tile: int, labels: bool, polygons: bool = False
) -> tuple[SampleReader, Layout]:
    """What reads the samples, and the arrays that they are decoded to."""
    factors = sorted(set(selection.factor.tolist()))
    data = cfg.data
    angles = data.augment.incidence_trend > 0
    layout = Layout.of(tile, factors, data.names, data.valid_plane, labels, polygons, angles)
    cache = None if cfg.data.cache is None else Cache(Path(cfg.data.cache), cfg.data.cache_bytes)
    return SampleReader(selection, layout.core_only, cache), layout


def share_of(cfg: RunConfig, ranks: Ranks) -> Share:
    """What a rank takes of each global batch.

    Raises:
        ConfigError: the sizes do not divide.
    """
    micro, _ = accumulation_steps(cfg.engine, ranks.world_size, pairs=cfg.data.augment.cutmix > 0)
    return Share(ranks.rank, ranks.world_size, cfg.engine.global_batch_size, micro)


def loader_of(
    cfg: RunConfig, selection: Selection, tile: int, share: Share, pin_memory: bool
) -> Loader | WebDatasetLoader:
    """The reader that the config asks for."""
    data, augment = cfg.data, Augment.of(cfg.data.augment, cfg.seed)
    if data.reader == "webdataset":
        return WebDatasetLoader(selection, share, data.workers, augment)
    order = make_order(selection, data, cfg.mix, cfg.seed)
    return Loader(
        *_reader(cfg, selection, tile, cfg.labelled, cfg.polygons),
        order,
        share,
        data.workers,
        augment,
        pin_memory=pin_memory,
        max_damaged=data.max_damaged,
        window=data.window,
        patience=data.patience,
    )


def validates(cfg: RunConfig, sets: Sequence[ShardSet]) -> bool:
    """Whether there are validation samples that can be read: not of a server to stream whole shards from."""
    streamed = cfg.data.reader == "webdataset" and any(map(is_remote, cfg.data.places))
    held_out = cfg.data.fold is not None or any("val" in part.manifest.splits for part in sets)
    return held_out and not streamed


def validation_of(
    cfg: RunConfig, sets: Sequence[ShardSet], tile: int, share: Share, pin_memory: bool
) -> ValidationLoader | None:
    """Passes over the validation samples; None where there are none."""
    if not validates(cfg, sets):
        return None
    selection = selection_of(cfg, sets, "val").sampled(cfg.data.validation_share)
    return passes_over(cfg, selection, tile, share, pin_memory)


def passes_over(cfg: RunConfig, selection: Selection, tile: int, share: Share, pin_memory: bool) -> ValidationLoader:
    """Passes over some samples, as they are."""
    reading = _reader(cfg, selection, tile, cfg.labelled)
    return ValidationLoader(*reading, share, cfg.data.workers, pin_memory, patience=cfg.data.patience)


def samples_of(
    cfg: RunConfig, sets: Sequence[ShardSet], tile: int, share: Share, assemble: Assemble, task: Task, ranks: Ranks
) -> Samples | None:
    """Some validation samples with labels, for hooks; None where there are none."""
    if not validates(cfg, sets):
        return None

    def loader(selection: Selection) -> ValidationLoader:
        # Threads of this process decode them: few samples are not worth the start of workers.
        reading, cuda = _reader(cfg, selection, tile, labels=True), ranks.device.type == "cuda"
        return ValidationLoader(*reading, share, pin_memory=cuda, patience=cfg.data.patience)

    facts = {name: scene for part in sets for name, scene in part.manifest.scenes.items()}
    return Samples(lambda labels: selection_of(cfg, sets, "val", labels), loader, assemble, task, ranks, facts)


def length_of(cfg: RunConfig, samples: int) -> Length:
    """How long to train.

    Raises:
        ConfigError: not one step.
    """
    batch = cfg.engine.global_batch_size
    length = Length(cfg.steps, int((cfg.epochs or 0) * samples), batch, cfg.data.tail)
    if length.last_step(0, 0) < 1:
        raise ConfigError(f"key 'epochs' is {cfg.epochs}; {samples} samples give no step of {batch}; raise it")
    return length
