"""Keys and files of earlier versions: what they are called now.

Version 0.1 wrote the network flat: `model: {encoder: NAME, depth: 4, decoder: NAME, decoder_channels: 64, sic: ...}`. A
config in a file or on the command line may still say so, with a warning. What 0.1 stored itself, in `config.yaml`, in
weights and in checkpoints, is complete: it holds keys that its network ignored, and these are dropped.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

# Flat key of version 0.1 -> where it stands now.
_MOVED = {
    "patch_size": ("encoder", "patch_size"),
    "embed_dim": ("encoder", "embed_dim"),
    "depth": ("encoder", "depth"),
    "num_heads": ("encoder", "num_heads"),
    "drop_path": ("encoder", "drop_path"),
    "unet_filters": ("encoder", "filters"),
    "decoder_channels": ("decoder", "channels"),
    "sic": ("heads", "SIC"),
}


def renamed(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a config that a user wrote, flat keys of version 0.1 under their new names, with a warning for each."""
    model = keys.get("model")
    if not isinstance(model, Mapping) or not _MOVED.keys() & model.keys():
        return dict(keys)
    if {"encoder", *_MOVED} <= model.keys():
        return stored(keys)  # the config.yaml of a run of version 0.1
    for old in _MOVED.keys() & model.keys():
        new = ".".join(("model", *_MOVED[old]))
        warnings.warn(f"key 'model.{old}' is now '{new}'; write that", FutureWarning, stacklevel=2)
    return {**keys, "model": _nested(model)}


def stored(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a config that a run stored, of this version or of an earlier one."""
    keys = _with_old_defaults(keys)
    model = _untagged(keys.get("model"))
    if not isinstance(model, Mapping) or not {"encoder", *_MOVED} <= model.keys():
        return {**keys, "model": model} if "model" in keys else dict(keys)
    is_unet = model["encoder"] == "unet"
    ignored = {"decoder", "decoder_channels", *(key for key, new in _MOVED.items() if new[0] == "encoder")}
    ignored = ignored - {"unet_filters"} if is_unet else {"unet_filters"}
    return {**keys, "model": _nested({key: value for key, value in model.items() if key not in ignored})}


def _untagged(model: Any) -> Any:
    """The section `model` with the bare name of its encoder: a tag of timm brought no weights."""
    if not isinstance(model, Mapping) or "encoder" not in model:
        return model
    encoder = model["encoder"]
    if isinstance(encoder, str):
        return {**model, "encoder": encoder.partition(".")[0]}
    if isinstance(encoder, Mapping) and isinstance(encoder.get("name"), str):
        return {**model, "encoder": {**encoder, "name": encoder["name"].partition(".")[0]}}
    return model


def _with_old_defaults(keys: Mapping[str, Any]) -> Mapping[str, Any]:
    """Keys of a stored config, with what they meant where they were left out and mean something else today."""
    pretrain = keys.get("pretrain")
    if not isinstance(pretrain, Mapping) or "normalise_targets" in pretrain:
        return keys
    return {**keys, "pretrain": {**pretrain, "normalise_targets": False}}


def hook_states(state: Mapping[str, Any]) -> dict[str, Any]:
    """State of the hooks in a checkpoint's `state.json`; version 0.1 had the best scores only."""
    return dict(state["hooks"]) if "hooks" in state else {"best": {"scores": state["best"]}}


def _nested(model: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {key: value for key, value in model.items() if key not in _MOVED}
    for part in ("encoder", "decoder"):
        if isinstance(out.get(part), str):
            out[part] = {"name": out[part]}
    for old, (part, new) in _MOVED.items():
        if old in model and not (part == "decoder" and model[old] is None):
            section = out.get(part)
            out[part] = {**(section if isinstance(section, Mapping) else {}), new: model[old]}
    return out
