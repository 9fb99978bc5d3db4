"""Small networks for tests of models and tasks."""

from __future__ import annotations

from typing import Any

from arcticseg import config
from arcticseg.models.config import ModelConfig

VIT: dict[str, Any] = {
    "name": "vit_tiny_patch16_224",
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 2,
}
KINDS: dict[str, dict[str, Any]] = {
    "light": {"encoder": VIT, "decoder": {"name": "light", "channels": 16}},
    "upernet": {"encoder": VIT, "decoder": {"name": "upernet", "channels": 16}},
    "unet": {"encoder": {"name": "unet", "filters": [8, 8, 12]}},
}

# One of each kind of pyramid.
ENCODERS: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "unet": {"name": "unet", "filters": [8, 8, 12]},
    "unet_batch": {"name": "unet", "filters": [8, 8], "norm": "batch"},
    "resnet": {"name": "resnet10t"},
    "convnext": {"name": "convnext_atto"},
    "swin": {"name": "swin_tiny_patch4_window7_224"},
    "mit": {"name": "mit_b0"},
}
DECODERS: dict[str, dict[str, Any]] = {
    **{name: {"name": name, "channels": 16} for name in ("light", "light3", "upernet", "fcn", "segformer")},
    "deeplabv3plus": {"name": "deeplabv3plus", "channels": 16, "rates": [1, 2, 3]},
    "unet": {"name": "unet"},
}


def small(kind: str, **changes: Any) -> ModelConfig:
    """The config of a small network: `light`, `upernet` or `unet`."""
    return config.build(ModelConfig, KINDS[kind] | changes, "model.")
