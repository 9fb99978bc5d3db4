"""Vision transformers of timm as encoders of images of any size."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from arcticseg.errors import ConfigError
from arcticseg.models.torchvision_compat import ensure_torchvision, hidden

ensure_torchvision()

# timm imports wandb for a function that nobody here calls: 0.7 s of the start of every rank.
with hidden("wandb"):
    import timm
from timm.layers import PatchEmbed  # noqa: E402
from timm.models.vision_transformer import Block, VisionTransformer  # noqa: E402

__all__ = ["Block", "ViTEncoder", "build_vit", "evenly_spaced"]

# Feature maps that a decoder gets.
N_MAPS = 4


def evenly_spaced(depth: int, count: int = N_MAPS) -> list[int]:
    """Indices of `count` evenly spaced blocks of `depth`, the last included: 12, 4 -> 2, 5, 8, 11.

    A network with fewer blocks than `count` gives some of them twice.
    """
    return [-(-(i + 1) * depth // count) - 1 for i in range(count)]


class ViTEncoder(VisionTransformer):
    """A timm VisionTransformer whose own forward gives feature maps, or tokens of the patches kept.

    Both uses go through `forward`, so that a module's weights are only touched inside its own call, which is
    where DeepSpeed ZeRO-3 gathers them.
    """

    @property
    def stride(self) -> int:
        """Pixels a patch; inputs must be whole multiples of it."""
        return int(self.patch_embed.patch_size[0])

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of the maps that `forward` gives."""
        return (int(self.embed_dim),) * N_MAPS

    def forward(self, x: Tensor, kept: Tensor | None = None) -> list[Tensor]:  # type: ignore[override]
        """Encode images x [B, C, H, W]; H, W are multiples of the patch size, positions are interpolated to fit.

        Without `kept`: four maps [B, D, h, w] from evenly spaced blocks, each through the final norm.
        With `kept`, int64 [B, K] patch numbers in row-major order: a single element, the tokens [B, K, D] of these
        patches, encoded as if there were no others.
        """
        height, width = x.shape[-2] // self.stride, x.shape[-1] // self.stride
        tokens = self._pos_embed(self.patch_embed(x))  # [B, prefix + L, D]
        prefix = int(self.num_prefix_tokens)
        if kept is not None:
            index = kept.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
            tokens = torch.cat([tokens[:, :prefix], tokens[:, prefix:].gather(1, index)], dim=1)
        tokens = self.norm_pre(tokens)
        wanted = [len(self.blocks) - 1] if kept is not None else evenly_spaced(len(self.blocks))
        maps: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks):
            tokens = block(tokens)
            if number in wanted:
                maps[number] = self.norm(tokens)[:, prefix:]
        if kept is not None:
            return [maps[wanted[0]]]
        shape = (x.shape[0], -1, height, width)
        return [maps[number].transpose(1, 2).reshape(shape).contiguous() for number in wanted]


def build_vit(
    in_chans: int,
    tile: int,
    name: str,
    patch_size: int | None = None,
    embed_dim: int | None = None,
    depth: int | None = None,
    num_heads: int | None = None,
    drop_path: float = 0.0,
) -> ViTEncoder:
    """Build the encoder that timm calls `name` (vit_base_patch16_224, say) with random weights; nothing is downloaded.

    Args:
        tile: edge of the training tiles in pixels; it sets the grid of the learned positions, other sizes interpolate
            them.
        patch_size, embed_dim, depth, num_heads: differ from what the name stands for; None: as it has them.

    Raises:
        ConfigError: timm has no plain VisionTransformer of that name, or sizes do not fit.
    """
    sizes = {"patch_size": patch_size, "embed_dim": embed_dim, "depth": depth, "num_heads": num_heads}
    changed: dict[str, Any] = {key: value for key, value in sizes.items() if value is not None}
    key, plain = f"key 'model.encoder.name' is {name!r}", "set a plain one such as vit_base_patch16_224"
    if not timm.is_model(name):
        raise ConfigError(f"{key}; timm has no such network; {plain}")
    try:
        network = timm.create_model(
            name,
            pretrained=False,
            in_chans=in_chans,
            img_size=tile,
            num_classes=0,
            global_pool="",
            fc_norm=False,
            dynamic_img_size=True,
            drop_path_rate=drop_path,
            **changed,
        )
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{key}; it cannot be built with {changed or 'its own sizes'} ({error or 'sizes do not fit'}); {plain}, "
            "and embed_dim to a multiple of num_heads"
        ) from error
    if type(network) is not VisionTransformer:
        raise ConfigError(f"{key}, which is a {type(network).__name__}, not a plain VisionTransformer; {plain}")
    if type(network.patch_embed) is not PatchEmbed:
        raise ConfigError(f"{key}, which cuts patches by a {type(network.patch_embed).__name__}; {plain}")
    patch = network.patch_embed.patch_size[0]
    if tile % patch:
        raise ConfigError(f"key 'model.encoder.patch_size' is {patch}; set a divisor of the tile ({tile} pixels)")
    # timm's factories choose the class themselves; the subclass adds no state, only another forward.
    network.__class__ = ViTEncoder
    return cast(ViTEncoder, network)
