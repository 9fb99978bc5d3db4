"""Vision transformers of timm as encoders of images of any size."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from arcticseg.errors import ConfigError
from arcticseg.models.blocks import compiled_on_gpu
from arcticseg.models.drop_path import branch_factors, drop_limits
from arcticseg.models.torchvision_compat import ensure_torchvision, hidden

ensure_torchvision()

# timm imports wandb for a function that nobody here calls: 0.7 s of the start of every rank.
with hidden("wandb"):
    import timm
from timm.layers import PatchEmbed, resample_abs_pos_embed  # noqa: E402
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer  # noqa: E402

# It adds networks to those that timm makes by name.
import arcticseg.models.encoders.terramind  # noqa: E402, F401

__all__ = ["Block", "ViTEncoder", "build_vit", "evenly_spaced", "run_block"]

# Feature maps that a decoder gets.
N_MAPS = 4


def evenly_spaced(depth: int, count: int = N_MAPS) -> list[int]:
    """Indices of `count` evenly spaced blocks of `depth`, the last included: 12, 4 -> 2, 5, 8, 11.

    A network with fewer blocks than `count` gives some of them twice.
    """
    return [-(-(i + 1) * depth // count) - 1 for i in range(count)]


class _DropBlock(Block):
    """A block whose branches are multiplied by given factors."""

    def forward(self, x: Tensor, factors: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """x: [B, N, D]. factors: [2, B, 1, 1] of both branches; None: 1."""
        x = x + _times(self.ls1(self.attn(self.norm1(x))), factors, 0)
        return x + _times(self.ls2(self.mlp(self.norm2(x))), factors, 1)


class _DropResPostBlock(ResPostBlock):
    """The like for blocks that normalise after each branch."""

    def forward(self, x: Tensor, factors: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """As of `_DropBlock`."""
        x = x + _times(self.norm1(self.attn(x)), factors, 0)
        return x + _times(self.norm2(self.mlp(x)), factors, 1)


def run_block(block: nn.Module, tokens: Tensor, *factors: Tensor, keep: bool = True) -> Tensor:
    """Tokens through a block; without `keep` only they are held until backward, which computes the rest again."""
    if keep:
        return cast(Tensor, block(tokens, *factors))
    # Nothing in a block draws from a generator.
    again: Any = checkpoint(block, tokens, *factors, use_reentrant=False, preserve_rng_state=False)
    return cast(Tensor, again)


def _times(branch: Tensor, factors: Tensor | None, number: int) -> Tensor:
    return branch if factors is None else branch * factors[number]


class _PatchProjection(nn.Conv2d):
    """The convolution of a patch embedding as a matrix product: a window for each patch, none shared, needs no more.

    cuDNN's weight gradient of such a convolution of many planes takes a sixth of a step.
    """

    def forward(self, cells: Tensor) -> Tensor:
        """Patches [..., C * p * p], laid out as the weight is -> tokens [..., D]."""
        return F.linear(cells, self.weight.flatten(1), self.bias)


class _PatchEmbed(PatchEmbed):
    """A patch embedding that can do with the patches kept."""

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """Images x [B, C, H, W] -> tokens of all patches [B, h, w, D], or of kept ones, int64 [B, K], [B, K, D]."""
        height, width = self.patch_size
        cells = x.unflatten(3, (-1, width)).unflatten(2, (-1, height)).permute(0, 2, 4, 1, 3, 5)  # [B, h, w, C, p, p]
        if kept is not None:
            image = torch.arange(len(x), device=x.device)[:, None]
            cells = cells[image, kept // cells.shape[2], kept % cells.shape[2]]
        return cast(Tensor, self.norm(self.proj(cells.flatten(-3))))


# timm's blocks that can be dropped, and what they become: timm itself draws from a generator of the device.
_DROPPED: dict[type[nn.Module], type[nn.Module]] = {Block: _DropBlock, ResPostBlock: _DropResPostBlock}
# Branches of such a block, each with a draw of its own.
_BRANCHES = 2


class ViTEncoder(VisionTransformer):
    """A timm VisionTransformer whose own forward gives feature maps, or tokens of the patches kept.

    Both uses go through `forward`, so that a module's weights are only touched inside its own call, which is
    where DeepSpeed ZeRO-3 gathers them.
    """

    # `forward` takes seeds.
    takes_seeds = True
    # int64 [branches] of all blocks, a buffer that no checkpoint holds; None: none is ever dropped.
    drop_limits: Tensor | None
    # Whether backward computes the inside of blocks again, which then need no memory in between.
    checkpoint_blocks = False

    @property
    def stride(self) -> int:
        """Pixels a patch; inputs must be whole multiples of it."""
        return int(self.patch_embed.patch_size[0])

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of a training tile."""
        rows, columns = self.patch_embed.grid_size
        return rows, columns

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of the maps that `forward` gives."""
        return (int(self.embed_dim),) * N_MAPS

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image in a pixel of each map."""
        return (self.stride,) * N_MAPS

    @property
    def n_layers(self) -> int:
        """The layer of what comes after all blocks, the final norm."""
        return len(self.blocks) + 1

    def layer_of(self, name: str) -> int:
        """The layer of a parameter: 0 for patches, positions and tokens, then each block, then the final norm."""
        first, *rest = name.split(".")
        if first == "blocks":
            return int(rest[0]) + 1
        return self.n_layers if first == "norm" else 0

    def forward(  # type: ignore[override]
        self, x: Tensor, kept: Tensor | None = None, seeds: Tensor | None = None
    ) -> list[Tensor]:
        """Encode images x [B, C, H, W]; H, W are multiples of the patch size, positions are interpolated to fit.

        Without `kept`: four maps [B, D, h, w] from evenly spaced blocks, each through the final norm.
        With `kept`, int64 [B, K] patch numbers in row-major order: the tokens [B, K, D] of these patches, encoded as if
        there were no others, and those of no patch, such as the class token, [B, prefix, D].

        seeds: int64 [B] of `drop_path.sample_seeds`, by which branches are dropped; None: none is dropped.
        """
        height, width = x.shape[-2] // self.stride, x.shape[-1] // self.stride
        prefix = int(self.num_prefix_tokens)
        tokens = self._pos_embed(self.patch_embed(x)) if kept is None else self._embed_kept(x, kept)
        tokens = self.norm_pre(tokens)  # [B, prefix + L or K, D]
        wanted = [len(self.blocks) - 1] if kept is not None else evenly_spaced(len(self.blocks))
        maps: dict[int, Tensor] = {}
        factors = self._factors(seeds, tokens.dtype)
        for number, block in enumerate(self.blocks):
            own = () if factors is None else (factors[number],)
            tokens = run_block(block, tokens, *own, keep=not self.checkpoint_blocks)
            if number in wanted:
                maps[number] = self.norm(tokens)
        if kept is not None:
            return [maps[wanted[0]][:, prefix:], maps[wanted[0]][:, :prefix]]
        # Tokens are channels-last as they are.
        layout = torch.channels_last if compiled_on_gpu(x) else torch.contiguous_format
        planes = [maps[number][:, prefix:].transpose(1, 2).unflatten(2, (height, width)) for number in wanted]
        return [plane.contiguous(memory_format=layout) for plane in planes]

    def _embed_kept(self, x: Tensor, kept: Tensor) -> Tensor:
        """What timm's `_pos_embed` gives, for the patches kept alone: tokens with positions [B, prefix + K, D]."""
        tokens = self.patch_embed(x, kept)
        prefixes = [token for token in (self.cls_token, self.reg_token) if token is not None]
        prefix = torch.cat([*prefixes, tokens[:1, :0]], dim=1)
        if self.pos_embed is not None:
            placed = 0 if self.no_embed_class else prefix.shape[1]
            grid = (x.shape[-2] // self.stride, x.shape[-1] // self.stride)
            positions = resample_abs_pos_embed(self.pos_embed, grid, self.grid, num_prefix_tokens=placed)
            prefix = prefix + positions[:, :placed] if placed else prefix
            tokens = tokens + F.embedding(kept, positions[0, placed:])
        return torch.cat([prefix.expand(len(x), -1, -1), tokens], dim=1)

    def _factors(self, seeds: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """What branches are multiplied by, [blocks, 2, B, 1, 1]; None: 1."""
        if seeds is None or self.drop_limits is None:
            return None
        factors = branch_factors(seeds, self.drop_limits).to(dtype)
        return factors.view(len(self.blocks), _BRANCHES, -1, 1, 1)

    def drop(self, drop_path: float) -> None:
        """Let blocks be dropped, the deeper the more often: from never up to `drop_path`, as timm has it."""
        for block in self.blocks:
            block.__class__ = _DROPPED[type(block)]
        last = max(1, len(self.blocks) - 1)
        rates = [drop_path * number / last for number in range(len(self.blocks)) for _ in range(_BRANCHES)]
        self.register_buffer("drop_limits", drop_limits(rates), persistent=False)


def build_vit(
    in_chans: int,
    tile: int,
    name: str,
    patch_size: int | None = None,
    embed_dim: int | None = None,
    depth: int | None = None,
    num_heads: int | None = None,
    drop_path: float = 0.0,
    checkpoint_blocks: bool = False,
) -> ViTEncoder:
    """Build the encoder that timm calls `name` (vit_base_patch16_224, say) with random weights; nothing is downloaded.

    Args:
        tile: edge of the training tiles in pixels; it sets the grid of the learned positions, other sizes interpolate
            them.
        drop_path, checkpoint_blocks: see `ViTConfig`.
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
    undropped = [type(block).__name__ for block in network.blocks if type(block) not in _DROPPED]
    if drop_path and undropped:
        raise ConfigError(f"{key}, whose {undropped[0]} cannot be dropped; set model.encoder.drop_path=0, or {plain}")
    # timm's factories choose the classes themselves; the subclasses have the same weights, and another forward.
    network.__class__ = ViTEncoder
    network.patch_embed.__class__ = _PatchEmbed
    network.patch_embed.proj.__class__ = _PatchProjection
    encoder = cast(ViTEncoder, network)
    encoder.register_buffer("drop_limits", None, persistent=False)
    encoder.checkpoint_blocks = checkpoint_blocks
    if drop_path:
        encoder.drop(drop_path)
    return encoder
