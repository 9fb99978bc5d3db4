"""Speckle and trends that augmentation adds to backscatter, in dB, at each pixel of the input."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from arcticseg.ice.channels import CHANNELS

# The angle in degrees about which a trend tilts: the published mean.
MEAN_ANGLE = CHANNELS["sar_incidenceangle"].mean

_BITS = 0xFFFFFFFF


def _hash(values: Tensor) -> Tensor:
    """32 bits of an int64 tensor of 32 bits, each of which depends on all of them; no product leaves 63 bits.

    T. Mueller, "What integer hash function are good that accepts an integer hash key?", Stack Overflow 664014.
    """
    for _ in range(2):
        values = ((values >> 16 ^ values) * 0x45D9F3B) & _BITS
    return values >> 16 ^ values


def normals(noise: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normal numbers, float32, for each pixel: by a counter, so there is no state to keep.

    Box and Muller, "A Note on the Generation of Random Normal Deviates", 1958.

    Args:
        noise: int64 below 2^32, drawn for the sample.
        pixel: int64, the number of the pixel in the input; broadcast against `noise`.
    """
    first = _hash(_hash(pixel + 1) ^ noise)
    second = _hash(first ^ 0x9E3779B9)
    # Of the upper 24 bits, which float32 holds: above 0 and below 1.
    radius = (-2 * torch.log(((first >> 8).float() + 0.5) * 2.0**-24)).sqrt()
    turn = (second >> 8).float() * (2 * math.pi * 2.0**-24)
    return radius * torch.cos(turn), radius * torch.sin(turn)
