"""Losses of what charts say about polygons: class distributions of their pixels, and what polygons hold as a whole."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from arcticseg.data.inputs import Polygons
from arcticseg.ice.sigrid import IGNORE_INDEX
from arcticseg.ice.soft import COLUMNS
from arcticseg.tasks.losses.loss import Loss
from arcticseg.tasks.losses.pixel import CrossEntropy

# Of a class that the network sees nowhere in a polygon, so that logarithms and gradients are finite.
_LEAST = 1e-6
# Sums of probabilities are added up in whole numbers of this fraction: in any order the same.
_UNIT = 2.0**32


def targets_of(polygons: Polygons, chart: str, water: bool) -> Tensor:
    """The distributions of a chart's classes, float32 [N + 1, K]: of each row, and 0 for pixels without one.

    Args:
        water: keep open water, class 0; else the distribution is that of the ice, but for polygons of water alone.
    """
    shares = polygons.shares[:, COLUMNS[chart]]
    if not water:
        ice = shares[:, 1:].sum(dim=1, keepdim=True)
        only_ice = F.pad(shares[:, 1:], (1, 0)) / ice.clamp(min=_LEAST)
        shares = torch.where(ice > 0, only_ice, shares)
    return F.pad(shares, (0, 0, 0, 1))


class Soft(CrossEntropy):
    """Cross entropy of logits [B, K, H, W] with a label or, where there is none, with what the polygon holds.

    That is the expected cross entropy of a class drawn by the polygon's partial concentrations.
    """

    def __init__(self, chart: str, where: str, soft_weight: float, water: bool) -> None:
        """See `tasks.config.SoftConfig`."""
        super().__init__(chart)
        self.everywhere, self.soft_weight, self.water = where == "all", soft_weight, water

    def _parts(self, labels: Tensor, polygons: Polygons) -> tuple[Tensor, Tensor, Tensor]:
        """Targets [N + 1, K], and which pixels have a hard and which a soft target, bool [B, H, W]."""
        targets = targets_of(polygons, self.chart, self.water)
        known = (targets.sum(dim=1) > 0)[polygons.rows.long()]
        labelled = labels != IGNORE_INDEX
        if self.everywhere:
            return targets, labelled & ~known, known
        return targets, labelled, known & ~labelled

    def counts_with(self, labels: Tensor, polygons: Polygons | None) -> Tensor:
        if polygons is None:
            return self.counts(labels)
        _, hard, soft = self._parts(labels, polygons)
        return hard.sum() + self.soft_weight * soft.sum().double()

    def sums_with(self, output: Tensor, labels: Tensor, polygons: Polygons | None) -> Tensor:
        if polygons is None:
            return self.sums(output, labels)
        targets, hard, soft = self._parts(labels, polygons)
        logs = output.float().log_softmax(dim=1)
        of_labels = logs.gather(1, torch.where(hard, labels, 0).long()[:, None])[:, 0]
        expected = (targets[polygons.rows.long()].movedim(3, 1) * logs).sum(dim=1)
        return -(torch.where(hard, of_labels, 0.0).sum() + self.soft_weight * torch.where(soft, expected, 0.0).sum())


class _RowSums(torch.autograd.Function):
    """Sums of values [K, N] from 0 to 1 over the pixels of each row, float32 [K, rows].

    In whole numbers, so that a GPU, which adds in any order, gives the same bits each time.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(rows)
        whole = (values.double() * _UNIT).long()
        sums = whole.new_zeros(len(values), count).scatter_add_(1, rows.expand_as(whole), whole)
        return (sums.double() / _UNIT).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return gradient[:, rows], None, None


class PolygonShares(Loss):
    """Kullback-Leibler divergence of what a polygon holds from the mean of the probabilities at its pixels.

    A polygon says what is in it, not where: so the mean alone is compared, over its pixels in the tile. Each polygon
    weighs as its pixels do, so a sliver's pixels weigh no more than others; those of fewer pixels than `least` do not
    count, since partials mean whole polygons. Of logits [B, K, H, W].
    """

    def __init__(self, chart: str, least: int, water: bool) -> None:
        """See `tasks.config.PolygonsConfig`."""
        super().__init__(chart)
        self.least, self.water = least, water

    def _pixels(self, polygons: Polygons, targets: Tensor) -> Tensor:
        """Pixels of each row that counts, int64 [N + 1]; 0 of others."""
        rows = polygons.rows.flatten().long()
        pixels = rows.new_zeros(len(targets)).scatter_add_(0, rows, torch.ones_like(rows))
        return torch.where((targets.sum(dim=1) > 0) & (pixels >= self.least), pixels, 0)

    def counts(self, labels: Tensor) -> Tensor:
        return labels.new_zeros((), dtype=torch.int64)

    def sums(self, output: Tensor, labels: Tensor) -> Tensor:
        return output.float().sum() * 0.0

    def counts_with(self, labels: Tensor, polygons: Polygons | None) -> Tensor:
        if polygons is None:
            return self.counts(labels)
        return self._pixels(polygons, targets_of(polygons, self.chart, self.water)).sum()

    def sums_with(self, output: Tensor, labels: Tensor, polygons: Polygons | None) -> Tensor:
        if polygons is None:
            return self.sums(output, labels)
        targets = targets_of(polygons, self.chart, self.water)
        pixels = self._pixels(polygons, targets)
        odds = output.float().softmax(dim=1).movedim(1, 0).flatten(1)
        sums = _RowSums.apply(odds, polygons.rows.flatten().long(), len(targets))
        means = sums.T / pixels.clamp(min=1)[:, None]
        divergence = torch.special.xlogy(targets, targets) - targets * (means + _LEAST).log()
        return (divergence.sum(dim=1) * pixels).sum()
