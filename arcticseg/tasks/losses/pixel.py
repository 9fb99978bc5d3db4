"""Losses that add up over valid pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from arcticseg.ice.sigrid import IGNORE_INDEX, N_CLASSES
from arcticseg.tasks.losses.loss import Loss

# Codes of a label.
_CODES = 256


class PixelLoss(Loss):
    """A loss in which each labelled pixel counts, once or by the weight of its class."""

    # Of each code of a label, 0 of those that are no class; None: each pixel counts once.
    _weights: Tensor | None = None

    def weigh(self, weights: Sequence[float]) -> None:
        self._weights = torch.zeros(_CODES, device="cpu")
        self._weights[: len(weights)] = torch.tensor(weights, dtype=torch.float32, device="cpu")

    def counts(self, labels: Tensor) -> Tensor:
        weights = self.weights_of(labels)
        return (labels != IGNORE_INDEX).sum() if weights is None else weights.sum(dtype=torch.float64)

    def sums(self, output: Tensor, labels: Tensor) -> Tensor:
        pixels = torch.where(labels != IGNORE_INDEX, self.pixels(output, labels), 0.0)
        weights = self.weights_of(labels)
        return pixels.sum() if weights is None else (weights * pixels).sum()

    def pixels(self, output: Tensor, labels: Tensor) -> Tensor:
        """The loss of each pixel, float32 [B, H, W]; that of masked pixels is not used, and must be finite.

        A subclass has this, or `sums`; the weights of classes are heeded here only.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither `pixels` nor `sums`; write one of them")

    def weights_of(self, labels: Tensor) -> Tensor | None:
        """The weight of each pixel by its class, float32 like labels, 0 where masked; None: each counts once."""
        weights = self._weights_beside(labels.device)
        return None if weights is None else weights[labels.long()]

    def _weights_beside(self, device: torch.device) -> Tensor | None:
        """The weights on a device, where they are copied once: counts come before sums."""
        if self._weights is not None and self._weights.device != device:
            self._weights = self._weights.to(device)
        return self._weights


class CrossEntropy(PixelLoss):
    """Cross entropy of logits [B, K, H, W]."""

    def sums(self, output: Tensor, labels: Tensor) -> Tensor:
        weights = self._weights_beside(labels.device)
        if weights is not None:
            weights = weights[: output.shape[1]]
        return F.cross_entropy(output.float(), labels.long(), weights, ignore_index=IGNORE_INDEX, reduction="sum")


class Focal(PixelLoss):
    """Cross entropy times (1 - probability of the label)^gamma (Lin et al. 2017), of logits [B, K, H, W]."""

    def __init__(self, chart: str, gamma: float) -> None:
        super().__init__(chart)
        self.gamma = gamma

    def pixels(self, output: Tensor, labels: Tensor) -> Tensor:
        entropy = F.cross_entropy(output.float(), labels.long(), ignore_index=IGNORE_INDEX, reduction="none")
        return (1 - (-entropy).exp()).clamp(min=0) ** self.gamma * entropy


class SquaredError(PixelLoss):
    """((prediction - class) / half the largest class)^2 of a prediction [B, 1, H, W] in classes.

    Classes are brought to about -1..1, so that the loss weighs about as much as the others.
    """

    def pixels(self, output: Tensor, labels: Tensor) -> Tensor:
        error = _scaled_error(output, labels, self.chart)
        return error * error


class Huber(PixelLoss):
    """Of the same error e: e^2 / 2 up to delta, delta (|e| - delta / 2) beyond (Huber 1964)."""

    def __init__(self, chart: str, delta: float) -> None:
        super().__init__(chart)
        self.delta = delta

    def pixels(self, output: Tensor, labels: Tensor) -> Tensor:
        error = _scaled_error(output, labels, self.chart)
        return F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=self.delta)


def _scaled_error(output: Tensor, labels: Tensor, chart: str) -> Tensor:
    """Prediction [B, 1, H, W] less class, in halves of the largest class, float32 [B, H, W]."""
    return (output[:, 0].float() - labels.float()) / ((N_CLASSES[chart] - 1) / 2)


def reconstruction_sum(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Sum of squared errors in float32; `weight` is 1, or 0 where a value does not count; equal shapes."""
    return ((prediction.float() - target) * weight).square().sum()
