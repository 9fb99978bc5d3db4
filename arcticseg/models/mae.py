"""Masked autoencoder: predict the patches that the encoder was not shown.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arcticseg.errors import ConfigError
from arcticseg.models.encoders.vit import Block, ViTEncoder, run_block


def patchify(images: Tensor, patch: int) -> Tensor:
    """Images [B, C, H, W] -> patches [B, L, patch * patch * C] in row-major order; within a patch rows, columns, C."""
    batch, channels, height, width = images.shape
    rows, columns = height // patch, width // patch
    cells = images.reshape(batch, channels, rows, patch, columns, patch)
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, patch * patch * channels)


def unpatchify(patches: Tensor, patch: int, size: tuple[int, int]) -> Tensor:
    """Inverse of `patchify`: patches [B, L, patch * patch * C] -> images [B, C, H, W] of `size` (H, W)."""
    rows, columns = size[0] // patch, size[1] // patch
    cells = patches.reshape(patches.shape[0], rows, columns, patch, patch, -1)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(patches.shape[0], -1, *size)


def kept_count(patches: int, mask_ratio: float) -> int:
    """How many of an image's patches stay, at least 1."""
    return max(1, patches - int(patches * mask_ratio))


def random_mask(noise: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor]:
    """Which patches stay: those with the smallest noise.

    noise: [B, L]. Returns kept int64 [B, K], rising patch numbers, and mask float32 [B, L], 1 = removed.
    """
    length = noise.shape[1]
    kept = noise.argsort(dim=1, stable=True)[:, : kept_count(length, mask_ratio)].sort(dim=1).values
    return kept, removed(kept, length)


def removed(kept: Tensor, length: int) -> Tensor:
    """Mask float32 [B, length], 1 = removed, of the patches kept, int64 [B, K]."""
    return torch.ones((len(kept), length), device=kept.device).scatter(1, kept, 0.0)


def sincos_positions(rows: int, columns: int, dim: int) -> Tensor:
    """Fixed position codes, float32 [rows * columns, dim]; dim is a multiple of 4.

    The first half of the channels says the column, the second half the row, as in the published code; each as sines,
    then cosines, of wavelengths from 2 pi to 20000 pi.
    """
    omega = 10_000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))

    def code(count: int) -> Tensor:
        angle = torch.arange(count, dtype=torch.float64)[:, None] * omega
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    by_column = code(columns)[None].expand(rows, columns, -1)
    by_row = code(rows)[:, None].expand(rows, columns, -1)
    return torch.cat([by_column, by_row], dim=2).reshape(rows * columns, dim).float()


class MaskedAutoencoder(nn.Module):
    """Encoder on the patches kept, and a light transformer that paints the others.

    `encoder.*` of its state dict is what a segmenter's `encoder.*` takes; the names of the rest are those of the
    published weights. Nothing random happens inside: the caller says which patches are removed.

    As published, positions are fixed codes in encoder and decoder. The encoder's stand where its learned ones would be,
    and do not learn here; a segmenter that starts from them learns on.
    """

    # [1, prefix + L, D] for the grid of the training tiles. A function of the sizes, so no weights file holds it.
    decoder_pos_embed: Tensor

    def __init__(
        self, encoder: ViTEncoder, out_chans: int, decoder_dim: int, decoder_depth: int, decoder_heads: int
    ) -> None:
        """out_chans: channels to reconstruct.

        Raises:
            ConfigError: decoder_dim is no multiple of 4 and decoder_heads, or the encoder's width none of 4.
        """
        super().__init__()
        if decoder_dim % 4 or decoder_dim % decoder_heads:
            raise ConfigError(
                f"decoder_dim {decoder_dim} must be a multiple of 4 and of decoder_heads {decoder_heads}; change it"
            )
        if encoder.embed_dim % 4:
            raise ConfigError(f"model.encoder.embed_dim is {encoder.embed_dim}; set a multiple of 4 for a pretraining")
        self.encoder = encoder
        self.patch = encoder.stride
        self.decoder_embed = nn.Linear(int(encoder.embed_dim), decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.decoder_blocks = nn.ModuleList(
            [Block(decoder_dim, decoder_heads, mlp_ratio=4.0, qkv_bias=True) for _ in range(decoder_depth)]
        )
        # As published, and as timm has it in blocks; torch's own default is 1e-5.
        self.decoder_norm = nn.LayerNorm(decoder_dim, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_dim, self.patch**2 * out_chans)
        self.register_buffer("decoder_pos_embed", self._decoder_positions(*encoder.grid), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Random weights as published, and the encoder's fixed positions."""
        self.apply(_init_linear)
        embedding = self.encoder.patch_embed.proj
        nn.init.xavier_uniform_(embedding.weight.flatten(1))
        for token in (self.mask_token, self.encoder.cls_token):
            if token is not None:
                nn.init.normal_(token, std=0.02)
        positions = self.encoder.pos_embed
        if positions is not None:
            codes = sincos_positions(*self.encoder.grid, positions.shape[-1])
            with torch.no_grad():
                positions.zero_()[:, positions.shape[1] - len(codes) :] = codes
            positions.requires_grad_(False)

    def _decoder_positions(self, rows: int, columns: int) -> Tensor:
        """[1, prefix + L, D]; tokens that are no patches have no position."""
        codes = sincos_positions(rows, columns, self.decoder_embed.out_features)
        return F.pad(codes, (0, 0, int(self.encoder.num_prefix_tokens), 0))[None]

    def forward(
        self,
        x: Tensor,
        drawn: Tensor,
        mask_ratio: float | None = None,
        seeds: Tensor | None = None,
        with_features: bool = False,
    ) -> tuple[Tensor, ...]:
        """Reconstruct x [B, C, H, W] from some of its L patches.

        Args:
            drawn: the patches kept, int64 [B, K]; with `mask_ratio`, noise [B, L] that says which (`random_mask`).
            seeds: int64 [B] for the encoder's drop path; None: none.

        Returns:
            pred [B, L, patch * patch * out_chans], laid out as by `patchify`, and mask float32 [B, L], 1 = removed;
            with features also what the last layer made pred of, [B, L, decoder_dim], without a gradient.
        """
        kept = drawn if mask_ratio is None else random_mask(drawn, mask_ratio)[0]
        mask = removed(kept, (x.shape[-2] // self.patch) * (x.shape[-1] // self.patch))
        patches, prefix = self.encoder(x, kept, seeds)
        n_prefix = prefix.shape[1]
        seen = self.decoder_embed(torch.cat([prefix, patches], dim=1))  # [B, prefix + K, D]
        at = torch.cat([_counting(n_prefix, kept), kept + n_prefix], dim=1)
        blank = self.mask_token.to(seen.dtype).expand(len(x), n_prefix + mask.shape[1], -1)
        tokens = blank.scatter(1, at.unsqueeze(-1).expand_as(seen), seen)  # [B, prefix + L, D]
        tokens = tokens + self._positions_for(x).to(tokens.dtype)
        for block in self.decoder_blocks:
            tokens = run_block(block, tokens, keep=not self.encoder.checkpoint_blocks)
        features = self.decoder_norm(tokens[:, n_prefix:])
        pred: Tensor = self.decoder_pred(features)
        return (pred, mask, features.detach()) if with_features else (pred, mask)

    def _positions_for(self, x: Tensor) -> Tensor:
        grid = (x.shape[-2] // self.patch, x.shape[-1] // self.patch)
        if grid == self.encoder.grid:
            return self.decoder_pos_embed
        return self._decoder_positions(*grid).to(x.device)


def _counting(count: int, like: Tensor) -> Tensor:
    """0 .. count - 1 for each row of `like`, int64 [B, count]."""
    return torch.arange(count, device=like.device).expand(len(like), -1)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
