"""Configs of encoders, decoders and heads; no torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    # "unet" (the AutoICE UNet) or any timm ViT.
    encoder: str = "vit_base_patch16_224"
    decoder: Literal["light", "upernet"] = "light"
    sic: Literal["regression", "classification"] = "regression"
    # Null: as the named timm model has it.
    patch_size: int | None = None
    embed_dim: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    # Null: 256 for light, 768 for upernet.
    decoder_channels: int | None = None
    unet_filters: tuple[int, ...] = (16, 32, 64, 64)
    drop_path: float = 0.0
    # Run folder or weights file whose encoder to start from; null: from scratch.
    init_from: str | None = None
