"""Weights files read, and given to a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from arcticseg.errors import ConfigError

_PREFIX = "encoder."


def load_encoder(model: nn.Module, state_dict: Mapping[str, Tensor], path: str | Path) -> list[str]:
    """Give `model` the encoder of a pretrained autoencoder or segmenter; the rest stays as it is.

    state_dict: theirs; only its `encoder.*` is used. path: where it came from, for the message. Returns the names
    loaded. Raises ConfigError if the encoders differ in any name or shape; the model is unchanged then.
    """
    given = {name: value for name, value in state_dict.items() if name.startswith(_PREFIX)}
    own = {name: value for name, value in model.state_dict().items() if name.startswith(_PREFIX)}
    if not given:
        raise ConfigError(
            f"{path}: no encoder weights in it ({len(state_dict)} entries); give a pretraining checkpoint"
        )
    differing = [name for name in own if name in given and given[name].shape != own[name].shape]
    if differing:
        name = differing[0]
        hint = {
            "encoder.pos_embed": "set the same tile and patch size",
            "encoder.patch_embed.proj.weight": "set the same input channels and patch size",
        }.get(name, "set the same encoder")
        raise ConfigError(
            f"{path}: {name} has shape {tuple(given[name].shape)}, the model needs {tuple(own[name].shape)} "
            f"({len(differing)} of {len(own)} encoder weights differ); {hint} as in the pretraining"
        )
    if own.keys() != given.keys():
        missing, surplus = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
        raise ConfigError(
            f"{path}: another encoder: {len(missing)} weights missing ({missing[0] if missing else '-'}), "
            f"{len(surplus)} unknown ({surplus[0] if surplus else '-'}); set the same encoder as in the pretraining"
        )
    model.load_state_dict(given, strict=False)
    return list(given)


def load_weights(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Weights by name, and the metadata beside them.

    Raises:
        ConfigError: the file is no weights file of this project.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read as weights ({error}); give a .safetensors file of a run") from error
    if "config" not in metadata:
        raise ConfigError(f"{path}: holds no config; give a .safetensors file of a run")
    return weights, metadata
