"""Labels and inputs of tasks, made by hand for tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from arcticseg.data.inputs import Inputs


def labels_like(shape: tuple[int, ...], classes: int, seed: int = 0) -> Tensor:
    """Random uint8 classes, a quarter of them masked."""
    random = np.random.default_rng(seed)
    values = random.integers(0, classes, shape).astype(np.uint8)
    values[random.random(shape) < 0.25] = 255
    return torch.from_numpy(values)


def charts_like(batch: int, size: int) -> Tensor:
    """Random labels of SIC, SOD and FLOE, uint8 [B, 3, H, W]."""
    return torch.stack([labels_like((batch, size, size), n, n) for n in (11, 6, 7)], dim=1)


def inputs_of(x: Tensor, labels: Tensor, data: Tensor | None = None) -> Inputs:
    """Inputs without dropped planes."""
    there = torch.ones_like(x, dtype=torch.bool) if data is None else data
    place = torch.arange(len(x))
    return Inputs(place, x, there, torch.zeros(x.shape[:2], dtype=torch.bool), labels)


def close(ours: Tensor, theirs: Tensor) -> None:
    """Equal, or neighbours in bf16."""
    bits = [part.view(torch.int16).int() for part in (ours, theirs)]
    near = (bits[0] - bits[1]).abs() <= 1
    # Around 0 neighbours are closer than what float32 knows of the sums.
    assert (near | ((ours.float() - theirs.float()).abs() < 1e-4)).all()
