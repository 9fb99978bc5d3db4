"""Losses of regions: ratios over a whole sample, so each sample with a label counts once.

Of a micro batch the ratio would depend on which samples stand beside each other, hence on ranks and micro batches. Of
the whole global batch it does not: then each rank has its share at once, and ranks add up before they divide.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from arcticseg.ice.sigrid import IGNORE_INDEX
from arcticseg.tasks.losses.loss import Loss


class RegionLoss(Loss):
    """A loss of each sample's labelled pixels: the mean over the classes that its labels hold."""

    def counts(self, labels: Tensor) -> Tensor:
        return (labels != IGNORE_INDEX).flatten(1).any(dim=1).sum()

    def sums(self, output: Tensor, labels: Tensor) -> Tensor:
        labelled = (labels != IGNORE_INDEX).flatten(1)
        logits = output.float().flatten(2)
        classes = torch.where(labelled, labels.flatten(1), 0).long()
        # [B, K, N], 0 at masked pixels.
        truth = F.one_hot(classes, logits.shape[1]).transpose(1, 2) * labelled[:, None]
        odds = logits.softmax(dim=1) * labelled[:, None]
        return self.summed(odds, truth.float(), labelled)

    def summed(self, odds: Tensor, truth: Tensor, labelled: Tensor) -> Tensor:
        """The sum over samples, 0-d; arguments as of `of_classes`."""
        return over_present(self.of_classes(odds, truth, labelled), truth.amax(dim=2) > 0).sum()

    @abstractmethod
    def of_classes(self, odds: Tensor, truth: Tensor, labelled: Tensor) -> Tensor:
        """The loss of each class, float32 [B, K]; that of a class which is not in the labels is not used.

        Args:
            odds, truth: float32 [B, K, N] probabilities and labels (0 or 1), 0 at masked pixels.
            labelled: bool [B, N].
        """


def over_present(losses: Tensor, present: Tensor) -> Tensor:
    """The mean of the losses [..., K] of classes that are present, bool like them; 0 where none is."""
    return torch.where(present, losses, 0.0).sum(dim=-1) / present.sum(dim=-1).clamp(min=1)


class Tversky(RegionLoss):
    """1 - hits / (hits + alpha false alarms + beta misses), all soft (Salehi et al. 2017).

    alpha = beta = 0.5 is the Dice loss, 1 - 2 hits / (predicted + labelled) (Milletari et al. 2016).
    """

    def __init__(self, chart: str, alpha: float, beta: float) -> None:
        super().__init__(chart)
        self.alpha, self.beta = alpha, beta

    def of_classes(self, odds: Tensor, truth: Tensor, labelled: Tensor) -> Tensor:
        return self.of_sums((odds * truth).sum(dim=2), odds.sum(dim=2), truth.sum(dim=2))

    def of_sums(self, hits: Tensor, predicted: Tensor, labelled: Tensor) -> Tensor:
        """The loss from soft hits, probabilities added up, and labelled pixels, of equal shape."""
        alarms, misses = predicted - hits, labelled - hits
        return 1 - hits / (hits + self.alpha * alarms + self.beta * misses).clamp(min=1e-7)


class Dice(Tversky):
    """1 - 2 hits / (predicted + labelled), soft.

    Over the batch there is one ratio a class, of sums over all samples of all ranks; each rank gives it, and counts 1.
    """

    def __init__(self, chart: str, over: str = "sample") -> None:
        super().__init__(chart, 0.5, 0.5)
        self.over = over

    def counts(self, labels: Tensor) -> Tensor:
        return super().counts(labels) if self.over == "sample" else torch.ones((), device=labels.device)

    def summed(self, odds: Tensor, truth: Tensor, labelled: Tensor) -> Tensor:
        if self.over == "sample":
            return super().summed(odds, truth, labelled)
        parts = [(odds * truth).sum(dim=(0, 2)), odds.sum(dim=(0, 2)), truth.sum(dim=(0, 2))]
        hits, predicted, pixels = self.over_ranks(torch.stack(parts)).unbind()
        return over_present(self.of_sums(hits, predicted, pixels), pixels > 0)


class Lovasz(RegionLoss):
    """Lovasz-softmax: the convex surrogate of 1 - intersection over union (Berman et al. 2018, algorithm 1)."""

    def of_classes(self, odds: Tensor, truth: Tensor, labelled: Tensor) -> Tensor:
        # Masked pixels have no error, so they stand last, where the surrogate gives them no weight.
        errors, order = ((truth - odds).abs() * labelled[:, None]).sort(dim=2, descending=True)
        hits = truth.gather(2, order)
        others = (labelled[:, None] & (truth == 0)).float().gather(2, order)
        total = truth.sum(dim=2, keepdim=True)
        union = total + others.cumsum(dim=2)
        jaccard = 1 - (total - hits.cumsum(dim=2)) / union.clamp(min=1)
        steps = torch.diff(jaccard, dim=2, prepend=torch.zeros_like(total))
        return (errors * steps).sum(dim=2)
