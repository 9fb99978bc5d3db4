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


def small(kind: str, **changes: Any) -> ModelConfig:
    """The config of a small network: `light`, `upernet` or `unet`."""
    return config.build(ModelConfig, KINDS[kind] | changes, "model.")
