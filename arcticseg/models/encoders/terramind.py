"""The encoder of TerraMind 1 as a vision transformer of timm, for images of one kind.

Jakubik et al., "TerraMind: Large-Scale Generative Multimodality for Earth Observation", ICCV 2025. Gated MLPs (SwiGLU)
of two thirds of the usual width, no biases but those of the patch embedding and the norms, no class token.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.layers import LayerNorm, SwiGLU
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import nn


def _make(options: dict[str, Any], **sizes: Any) -> VisionTransformer:
    """The network with sizes of a variant and the options of `timm.create_model`, which win."""
    given = {key: value for key, value in options.items() if not key.startswith(("pretrained", "cache"))}
    kind: dict[str, Any] = {
        "patch_size": 16,
        "class_token": False,
        "qkv_bias": False,
        "proj_bias": False,
        "mlp_ratio": 8 / 3,
        "mlp_layer": SwiGLU,
        "act_layer": nn.SiLU,
        "norm_layer": partial(LayerNorm, eps=1e-6),
    }
    return VisionTransformer(**kind | sizes | given)


@register_model
def terramind_v1_base(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """12 blocks of width 768."""
    return _make(options, embed_dim=768, depth=12, num_heads=12)


@register_model
def terramind_v1_large(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """24 blocks of width 1024."""
    return _make(options, embed_dim=1024, depth=24, num_heads=16)
