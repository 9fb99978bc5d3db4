"""Stochastic depth drawn by (seed, step, place): the same for a sample in any batch and on any rank.

Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016. A generator on the device would draw by the position in
the batch. Here each sample has a seed of its own, made on the CPU, and the device mixes it with the number of the layer
in integer arithmetic: no state, nothing that a compiler or a captured graph would have to know.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xxhash
from torch import Tensor

# 2^32: draws are whole numbers below it.
_RANGE = 1 << 32


def sample_seeds(seed: int, step: int, places: Tensor) -> Tensor:
    """A seed for each sample of a batch: int64 [B] in [0, 2^32), on the CPU.

    Args:
        seed: of the run.
        step: optimiser step.
        places: int64 [B], on the CPU.
    """
    key = np.uint64(xxhash.xxh3_64_intdigest(f"drop path {seed} {step}".encode()))
    # splitmix64 (Steele et al., OOPSLA 2014).
    values = places.numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ key
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return torch.from_numpy((values >> np.uint64(32)).astype(np.int64))


def drop_limits(rates: Sequence[float]) -> Tensor:
    """int64 [layers]: a layer is dropped where its draw is below; whole numbers, which no cast to bf16 rounds."""
    return torch.tensor([round(rate * _RANGE) for rate in rates], dtype=torch.int64)


def branch_factors(seeds: Tensor, limits: Tensor) -> Tensor:
    """What the branch of each layer is multiplied by: 0 where it is dropped, else 1 / (1 - rate).

    Args:
        seeds: int64 [B] of `sample_seeds`, on the device.
        limits: int64 [layers] of `drop_limits`, on the device.

    Returns:
        float32 [layers, B].
    """
    layers = torch.arange(len(limits), device=limits.device)
    kept = _mixed(seeds ^ _mixed(layers + 1)[:, None]) >= limits[:, None]
    return kept / (1 - limits[:, None] / _RANGE)


def _mixed(values: Tensor) -> Tensor:
    """Integers in [0, 2^32) -> integers there, in which each bit depends on all of the value.

    The finaliser of MurmurHash3 with other factors, both below 2^31, so that no product leaves int64.
    """
    values = (values ^ values >> 16) * 0x21F0AAAD & (_RANGE - 1)
    values = (values ^ values >> 15) * 0x735A2D97 & (_RANGE - 1)
    return values ^ values >> 15
