"""Losses that know that classes are in order."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from arcticseg.tasks.losses.pixel import PixelLoss


class Ordinal(PixelLoss):
    """Sum of the binary cross entropies of "above class k" for each k (CORAL: Cao, Mirjalili and Raschka 2020).

    Of logits [B, K - 1, H, W], as the head `ordinal` gives them.
    """

    def pixels(self, output: Tensor, labels: Tensor) -> Tensor:
        thresholds = torch.arange(output.shape[1], device=labels.device)
        above = (labels[:, None] > thresholds[:, None, None]).float()
        return F.binary_cross_entropy_with_logits(output.float(), above, reduction="none").sum(dim=1)


class EarthMover(PixelLoss):
    """Squared distance of the cumulated probabilities from those of the label (Hou, Yu and Samaras 2016).

    Of logits [B, K, H, W]: mass costs the more, the more classes it is away from the label.
    """

    def pixels(self, output: Tensor, labels: Tensor) -> Tensor:
        reached = output.float().softmax(dim=1).cumsum(dim=1)
        classes = torch.arange(output.shape[1], device=labels.device)
        due = (labels[:, None] <= classes[:, None, None]).float()
        return (reached - due).square().sum(dim=1)
