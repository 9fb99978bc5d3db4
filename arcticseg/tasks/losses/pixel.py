"""Losses that add up over valid pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from arcticseg.ice.sigrid import IGNORE_INDEX, N_CLASSES
from arcticseg.tasks.losses.loss import Loss


class PixelLoss(Loss):
    """A loss in which each labelled pixel counts."""

    def counts(self, labels: Tensor) -> Tensor:
        return (labels != IGNORE_INDEX).sum()


class CrossEntropy(PixelLoss):
    """Cross entropy of logits [B, K, H, W]."""

    def sums(self, output: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(output.float(), labels.long(), ignore_index=IGNORE_INDEX, reduction="sum")


class SquaredError(PixelLoss):
    """((prediction - class) / half the largest class)^2 of a prediction [B, 1, H, W] in classes.

    Classes are brought to about -1..1, so that the loss weighs about as much as the others.
    """

    def sums(self, output: Tensor, labels: Tensor) -> Tensor:
        labelled = labels != IGNORE_INDEX
        error = (output[:, 0].float() - labels.float()) / ((N_CLASSES[self.chart] - 1) / 2)
        return torch.where(labelled, error * error, 0.0).sum()


def reconstruction_sum(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Sum of squared errors in float32; `weight` is 1, or 0 where a value does not count; equal shapes."""
    return ((prediction.float() - target) * weight).square().sum()
