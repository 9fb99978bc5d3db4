"""Sums of losses over valid pixels; the caller divides by the number of valid pixels of the whole global batch.

A mean over the pixels of a micro batch would make the loss depend on how a global batch is cut into micro batches and
ranks; a sum divided by a global count does not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from arcticseg.ice.sigrid import IGNORE_INDEX, N_CLASSES

# SIC classes are brought to about -1..1 for the squared error, so that its loss weighs about as much as the others.
SIC_SCALE = (N_CLASSES["SIC"] - 1) / 2


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of cross entropies over labelled pixels.

    Args:
        logits: [B, K, H, W]; labels: uint8 [B, H, W], 255 = masked.
    """
    return F.cross_entropy(logits.float(), labels.long(), ignore_index=IGNORE_INDEX, reduction="sum")


def squared_error_sum(prediction: Tensor, labels: Tensor) -> Tensor:
    """Sum over labelled pixels of ((prediction - class) / 5)^2.

    Args:
        prediction: [B, 1, H, W] in SIC classes; labels: uint8 [B, H, W], 255 = masked.
    """
    labelled = labels != IGNORE_INDEX
    error = (prediction[:, 0].float() - labels.float()) / SIC_SCALE
    return torch.where(labelled, error * error, 0.0).sum()


def reconstruction_sum(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum of squared errors; `weight` is 0 where a value is invalid or its patch was seen; equal shapes."""
    error = prediction.float() - target.float()
    return (error * error * weight).sum()
