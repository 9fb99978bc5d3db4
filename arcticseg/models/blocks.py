"""Convolution blocks that the networks share. All normalise within one sample, so a batch's make-up changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def compiled_on_gpu(x: Tensor) -> bool:
    """Whether a compiler reads the code, for a GPU: it then writes normalisations that keep a memory format.

    Maps are then channels-last, as the fastest convolutions take them; else they would be copied before and after each.
    """
    return torch.compiler.is_compiling() and x.device.type == "cuda"


class _GroupNorm(nn.GroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        return group_normalised(self, input) if compiled_on_gpu(input) else super().forward(input)


def group_normalised(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """What `norm` gives for maps [B, C, H, W], as arithmetic for a compiler; x's memory format stays.

    CUDA's own copies channels-last maps. Here one pass sums by channel, which lies together, and one writes
    x * scale + shift; backward is as short.
    """
    values = x.float()
    by_group = (len(x), norm.num_groups, -1)
    mean = values.mean((2, 3)).view(by_group).mean(2, keepdim=True)  # [B, groups, 1]
    square = values.square().mean((2, 3)).view(by_group).mean(2, keepdim=True)
    spread = (square - mean.square()).clamp(min=0).add(norm.eps).rsqrt()
    scale = spread * norm.weight.float().view(1, norm.num_groups, -1)
    shift = norm.bias.float().view(1, norm.num_groups, -1) - mean * scale
    return (values * scale.view(len(x), -1, 1, 1) + shift.view(len(x), -1, 1, 1)).to(x.dtype)


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of up to 32 groups that divide the channels, with four channels a group at least where that can be.

    A group of one channel would turn a map of one pixel (as pyramid pooling makes) into its bias.
    """
    groups = math.gcd(32, channels)
    while groups > 1 and channels // groups < 4:
        groups //= 2
    return _GroupNorm(groups, channels)


# Tensor cores take channels by eights.
_TOGETHER = 8


class _Conv(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        missing = -self.in_channels % _TOGETHER
        if not missing or not compiled_on_gpu(input):
            return super().forward(input)
        more = (0, 0, 0, 0, 0, missing)
        return self._conv_forward(F.pad(input, more), F.pad(self.weight, more), self.bias)


def conv_norm(
    in_channels: int, out_channels: int, kernel: int, norm: Callable[[int], nn.Module] = group_norm
) -> nn.Sequential:
    """Convolution of odd kernel, normalisation of so many channels, ReLU; size stays."""
    return nn.Sequential(
        _Conv(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        norm(out_channels),
        nn.ReLU(inplace=True),
    )


def init_convs(module: nn.Module) -> None:
    """He initialisation of every convolution below `module` (He et al., ICCV 2015)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear interpolation of maps [B, C, h, w] to size (H, W), pixels seen as areas (`align_corners=False`).

    On a GPU as matrix products, ten to twenty times as fast as torch's own, whose gradient is a sum in any order: here
    it is the same in each run.
    """
    if x.device.type != "cuda":
        return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
    return resize_by_products(x, *size)


def coarse(strides: Sequence[int], finest: int = 4) -> list[int]:
    """Which maps stand at stride `finest` or coarser, as published decoders use them; all, where none does."""
    return [number for number, stride in enumerate(strides) if stride >= finest] or list(range(len(strides)))


def brought(x: Tensor, stride: int, to: int) -> Tensor:
    """Maps [B, C, h, w] of one stride, in pixels of the image, at another: averaged to a coarser, else resized."""
    if stride == to:
        return x
    if to % stride == 0:
        return F.avg_pool2d(x, to // stride)
    return resize(x, [side * stride // to for side in x.shape[-2:]])


def resize_by_products(x: Tensor, height: int, width: int) -> Tensor:
    """What `resize` gives, as one product along the width and one along the height.

    Channels-last maps stay so, unless their channels are too few for fast products.
    """
    batch, channels, *before = x.shape
    by_row = _taps(before[0], height, x.dtype, x.device)  # [H, h]
    by_column = _taps(before[1], width, x.dtype, x.device)  # [W, w]
    if channels % _TOGETHER or not x.is_contiguous(memory_format=torch.channels_last):
        return by_row @ (x @ by_column.T)
    wide = by_column @ x.permute(0, 2, 3, 1)  # [B, h, W, C]
    tall = by_row @ wide.reshape(batch, before[0], width * channels)
    return tall.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _taps(before: int, after: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What each of `before` pixels in a row gives to each of `after`, [after, before]; two taps in a row at most."""
    # A compiler makes it part of its graph, one small kernel; it would warn of a cache.
    make = _made_taps if torch.compiler.is_compiling() else _kept_taps
    return make(before, after, dtype, device)


def _made_taps(before: int, after: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    pixels, wanted = (torch.arange(count, dtype=torch.float64, device=device) for count in (before, after))
    at = ((wanted + 0.5) * (before / after) - 0.5).clamp(0, before - 1)
    return (1 - (at[:, None] - pixels).abs()).clamp(min=0).to(dtype)


@cache
def _kept_taps(before: int, after: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # Usable in training, too, if prediction is the first to ask.
    with torch.inference_mode(False), torch.no_grad():
        return _made_taps(before, after, dtype, device)
