"""Where a checkout keeps what `sameness.py` needs: modules, config keys, and the trainings that are compared.

This is the file to edit after a module or a config key has moved. Settings are written with the old keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What the probe uses -> "module:name", or a whole "module"; the newest place stands first. The first place whose file
# the checkout has is used.
PLACES: dict[str, tuple[str, ...]] = {
    "load": ("arcticseg.run.config:load", "arcticseg.settings:load"),
    "to_dict": ("arcticseg.config:to_dict",),
    "run": ("arcticseg.run.start:run", "arcticseg.run:run"),
    "process_group": ("arcticseg.engine.process_group",),
    "Jsonl": ("arcticseg.tracking.jsonl:Jsonl", "arcticseg.tracking:Jsonl"),
    "Assemble": ("arcticseg.data.transforms:Assemble",),
    "MaskedAutoencoder": ("arcticseg.models.mae:MaskedAutoencoder",),
    "open_scene": ("arcticseg.ice.scenes.open:open_scene", "arcticseg.ice.scene:open_scene"),
    "layers": ("arcticseg.ice.layers",),
    "chart": ("arcticseg.ice.chart",),
    "score": ("arcticseg.ice.score",),
}

# Old dotted key -> new dotted key.
KEYS = {
    "model.encoder": "model.encoder.name",
    "model.patch_size": "model.encoder.patch_size",
    "model.embed_dim": "model.encoder.embed_dim",
    "model.depth": "model.encoder.depth",
    "model.num_heads": "model.encoder.num_heads",
    "model.drop_path": "model.encoder.drop_path",
    "model.unet_filters": "model.encoder.filters",
    "model.decoder": "model.decoder.name",
    "model.decoder_channels": "model.decoder.channels",
    "model.sic": "model.heads.SIC.name",
}
# New keys that say nothing for a network of this encoder; the old config had them all the same.
_WITHOUT_EFFECT = {
    "unet": (
        *(f"model.encoder.{key}" for key in ("patch_size", "embed_dim", "depth", "num_heads", "drop_path")),
        "model.decoder.channels",
    ),
    "vit": ("model.encoder.filters",),
}
# What null, or a key that is not there, stands for.
_DECODERS = {"unet": "unet", "vit": "light"}
_WIDTHS = {"light": 256, "upernet": 768}
_SIC_HEAD = "regression"

STEPS = 20
# A stop is asked for at this step and comes one step later.
STOP = 10

_COMMON: dict[str, Any] = {
    "data.shards": "shards",
    "data.workers": 0,
    "optim.lr": 3e-3,
    "engine.precision": "fp32",
    "engine.zero_stage": 0,
    "engine.global_batch_size": 4,
    "engine.micro_batch_size": 2,
    "engine.threads": 1,
    "tracking.every": 1,
    "tracking.wandb": "off",
    "validate_every": STOP,
    "checkpoint_every": 0,
    "steps": STEPS,
}
_VIT: dict[str, Any] = {
    "model.encoder": "vit_tiny_patch16_224",
    "model.patch_size": 8,
    "model.embed_dim": 32,
    "model.depth": 4,
    "model.num_heads": 2,
}
_LIGHT = _VIT | {"model.decoder": "light", "model.decoder_channels": 16}
_UPERNET = _LIGHT | {"model.decoder": "upernet", "model.sic": "classification"}
_UNET: dict[str, Any] = {"model.encoder": "unet", "model.unet_filters": "[4, 8]"}
_MAE = _VIT | {
    "task": "pretrain",
    "pretrain.decoder_dim": 16,
    "pretrain.decoder_depth": 1,
    "pretrain.decoder_heads": 2,
    # 76439dd cannot validate a pretraining where the last batch of a rank has no sample that counts.
    "engine.micro_batch_size": 1,
}
_AUGMENTED = {
    "steps": 3,
    "data.mix": "weights",
    "data.block": 16,
    "data.channels": "[hh, hv, incidence, distance, amsr2, era5, location, time]",
    "data.augment.crop": 0.5,
    "data.augment.cutmix": 0.5,
    "data.augment.drop_groups": "{hh: 0.3, amsr2: 0.3, era5: 0.3}",
}
_STREAMED = {
    "steps": "null",
    "epochs": 1.5,
    "data.tail": "pad",
    "data.shuffle": "blocks",
    "data.window": 2,
    "data.cache": "cache/RANKS",
    "data.factors": "[2]",
}


@dataclass(frozen=True)
class Training:
    """A training that both checkouts do.

    Attributes:
        settings: what differs from the settings that all have in common; RANKS stands for the number of ranks.
        parts: the parts of the comparison that need it.
        ranks: numbers of ranks that it is done on, each for itself.
        resumed: it is done again, stopped half-way and resumed.
        record: what is kept of its first steps, `batches` or `masks`.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    parts: frozenset[str] = frozenset({"train"})
    ranks: tuple[int, ...] = (1, 2)
    resumed: bool = False
    record: str | None = None


_USED = frozenset({"train", "products"})
# On one rank these stand in `runs/1`, on two in `runs/2`; `vit` starts from the pretraining beside it.
TRAININGS = (
    Training("augmented", _UNET | _AUGMENTED, frozenset({"batches"}), record="batches"),
    Training("streamed", _UNET | _STREAMED, frozenset({"batches"}), record="batches"),
    Training("mae", _MAE, _USED | {"masks"}, resumed=True, record="masks"),
    Training("vit", _LIGHT | {"model.init_from": "runs/RANKS/mae"}, _USED, resumed=True),
    Training("upernet", _UPERNET, _USED, resumed=True),
    Training("unet", _UNET | {"data.statistics": "shards", "data.workers": 1}, _USED, resumed=True),
    Training("webdataset", _UNET | {"data.reader": "webdataset"}, ranks=(1,)),
    Training("mae-bf16", _MAE | {"engine.precision": "bf16", "engine.zero_stage": 1}, ranks=(2,), resumed=True),
    Training("vit-zero3", _LIGHT | {"engine.zero_stage": 3}, ranks=(2,)),
)
# Draw their samples in another way each time, so only that they end is compared.
DRAWN_ANEW = ("webdataset",)
# Stopped on two ranks, resumed on one.
MOVED = Training("moved", _UNET | {"engine.zero_stage": 1})
# Done by `arcticseg train --ranks 2`; its twin of TRAININGS is done by the probe.
COMMANDED = "unet"


def settings_of(training: Training, ranks: int, out: str) -> dict[str, Any]:
    """All settings of a training, with old keys."""
    own = {
        key: value.replace("RANKS", str(ranks)) if isinstance(value, str) else value
        for key, value in training.settings.items()
    }
    return _COMMON | own | {"out": out}


def places(checkout: Path) -> dict[str, str]:
    """What the probe uses -> where the checkout has it.

    Raises:
        LookupError: it is nowhere.
    """
    return {name: _place(checkout, name) for name in PLACES}


def _place(checkout: Path, name: str) -> str:
    for place in PLACES[name]:
        path = checkout.joinpath(*place.partition(":")[0].split("."))
        if path.with_suffix(".py").is_file():
            return place
    raise LookupError(f"{checkout}: holds none of {', '.join(PLACES[name])}; add the new place to {__file__}")


def has_new_keys(resolved: Mapping[str, Any]) -> bool:
    """Whether a resolved config has the new keys."""
    return isinstance(resolved["model"]["encoder"], Mapping)


def overrides(settings: Mapping[str, Any], new_keys: bool) -> list[str]:
    """`key=value` arguments of settings that are written with old keys."""
    return [f"{KEYS.get(key, key) if new_keys else key}={value}" for key, value in settings.items()]


def canonical(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved config as new dotted key -> value: nulls resolved, without the keys that have no effect."""
    flat = dict(_leaves(resolved))
    if not has_new_keys(resolved):
        flat = {KEYS.get(key, key): value for key, value in flat.items()}
    # Sections that are null or empty; what they stand for is filled in.
    flat = {key: value for key, value in flat.items() if key not in ("model.decoder", "model.heads") or value}
    encoder = "unet" if flat["model.encoder.name"] == "unet" else "vit"
    # The old config named a ViT's decoder even for a UNet.
    if encoder == "unet" or flat.get("model.decoder.name") is None:
        flat["model.decoder.name"] = _DECODERS[encoder]
    if flat.get("model.decoder.channels") is None:
        flat["model.decoder.channels"] = _WIDTHS.get(flat["model.decoder.name"])
    flat.setdefault("model.heads.SIC.name", _SIC_HEAD)
    return {key: value for key, value in flat.items() if key not in _WITHOUT_EFFECT[encoder]}


def _leaves(keys: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in keys.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
