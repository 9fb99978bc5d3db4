"""Masked autoencoder: predict the patches that the encoder was not shown.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from arcticseg.errors import ConfigError
from arcticseg.models.encoders.vit import Block, ViTEncoder


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


def random_mask(noise: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor]:
    """Which patches stay: those with the smallest noise.

    noise: [B, L]. Returns kept int64 [B, K], rising patch numbers, and mask [B, L] of noise's dtype, 1 = removed.
    K = L - int(L * mask_ratio), at least 1.
    """
    length = noise.shape[1]
    keep = max(1, length - int(length * mask_ratio))
    kept = noise.argsort(dim=1, stable=True)[:, :keep].sort(dim=1).values
    mask = torch.ones_like(noise).scatter(1, kept, 0.0)
    return kept, mask


def sincos_positions(rows: int, columns: int, dim: int, like: Tensor) -> Tensor:
    """Fixed position codes [rows * columns, dim] on the device and in the dtype of `like`; dim is a multiple of 4.

    Half of the channels say the row, half the column, as sines and cosines of wavelengths from 2 pi to 20000 pi.
    """
    omega = 10_000.0 ** (-torch.arange(dim // 4, device=like.device, dtype=torch.float64) / (dim // 4))

    def code(count: int) -> Tensor:
        angle = torch.arange(count, device=like.device, dtype=torch.float64)[:, None] * omega
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    by_row = code(rows)[:, None].expand(rows, columns, -1)
    by_column = code(columns)[None].expand(rows, columns, -1)
    return torch.cat([by_row, by_column], dim=2).reshape(rows * columns, dim).to(like.dtype)


class MaskedAutoencoder(nn.Module):
    """Encoder on the patches kept, and a light transformer that paints the others.

    `encoder.*` of its state dict is what a segmenter's `encoder.*` takes. Nothing random happens inside: which patches
    are removed follows from the caller's noise.
    """

    def __init__(
        self, encoder: ViTEncoder, out_chans: int, decoder_dim: int, decoder_depth: int, decoder_heads: int
    ) -> None:
        """out_chans: channels to reconstruct. Raises ConfigError unless 4 and decoder_heads divide decoder_dim."""
        super().__init__()
        if decoder_dim % 4 or decoder_dim % decoder_heads:
            raise ConfigError(
                f"decoder_dim {decoder_dim} must be a multiple of 4 and of decoder_heads {decoder_heads}; change it"
            )
        self.encoder = encoder
        self.patch = encoder.stride
        self.decoder_embed = nn.Linear(int(encoder.embed_dim), decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.decoder_blocks = nn.ModuleList(
            [Block(decoder_dim, decoder_heads, mlp_ratio=4.0, qkv_bias=True) for _ in range(decoder_depth)]
        )
        self.decoder_norm = nn.LayerNorm(decoder_dim)
        self.decoder_pred = nn.Linear(decoder_dim, self.patch**2 * out_chans)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            module.apply(_init_linear)

    def forward(
        self, x: Tensor, noise: Tensor, mask_ratio: float, seeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Reconstruct x [B, C, H, W] from the patches that noise [B, L] leaves.

        seeds: int64 [B] for the encoder's drop path; None: none.
        Returns pred [B, L, patch * patch * out_chans], laid out as by `patchify`, and mask [B, L], 1 = removed.
        """
        rows, columns = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        kept, mask = random_mask(noise, mask_ratio)
        seen = self.decoder_embed(self.encoder(x, kept, seeds)[0])  # [B, K, D]
        index = kept.unsqueeze(-1).expand(-1, -1, seen.shape[-1])
        blank = self.mask_token.to(seen.dtype).expand(seen.shape[0], rows * columns, -1)
        tokens = blank.scatter(1, index, seen)  # [B, L, D]
        tokens = tokens + sincos_positions(rows, columns, seen.shape[-1], like=seen)
        for block in self.decoder_blocks:
            tokens = block(tokens)
        pred: Tensor = self.decoder_pred(self.decoder_norm(tokens))
        return pred, mask


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
