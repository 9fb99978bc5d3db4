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


class Focal(PixelLoss):
    """Cross entropy times (1 - probability of the label)^gamma (Lin et al. 2017), of logits [B, K, H, W]."""

    def __init__(self, chart: str, gamma: float) -> None:
        super().__init__(chart)
        self.gamma = gamma

    def sums(self, output: Tensor, labels: Tensor) -> Tensor:
        entropy = F.cross_entropy(output.float(), labels.long(), ignore_index=IGNORE_INDEX, reduction="none")
        # Masked pixels have no entropy, so they give 0.
        return ((1 - (-entropy).exp()).clamp(min=0) ** self.gamma * entropy).sum()


class SquaredError(PixelLoss):
    """((prediction - class) / half the largest class)^2 of a prediction [B, 1, H, W] in classes.

    Classes are brought to about -1..1, so that the loss weighs about as much as the others.
    """

    def sums(self, output: Tensor, labels: Tensor) -> Tensor:
        error = _scaled_error(output, labels, self.chart)
        return torch.where(labels != IGNORE_INDEX, error * error, 0.0).sum()


class Huber(PixelLoss):
    """Of the same error e: e^2 / 2 up to delta, delta (|e| - delta / 2) beyond (Huber 1964)."""

    def __init__(self, chart: str, delta: float) -> None:
        super().__init__(chart)
        self.delta = delta

    def sums(self, output: Tensor, labels: Tensor) -> Tensor:
        error = _scaled_error(output, labels, self.chart)
        loss = F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=self.delta)
        return torch.where(labels != IGNORE_INDEX, loss, 0.0).sum()


def _scaled_error(output: Tensor, labels: Tensor, chart: str) -> Tensor:
    """Prediction [B, 1, H, W] less class, in halves of the largest class, float32 [B, H, W]."""
    return (output[:, 0].float() - labels.float()) / ((N_CLASSES[chart] - 1) / 2)


def reconstruction_sum(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Sum of squared errors in float32; `weight` is 1, or 0 where a value does not count; equal shapes."""
    return ((prediction.float() - target) * weight).square().sum()
