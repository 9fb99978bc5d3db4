"""Multitask segmentation of SIC, SOD and FLOE, or of some of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcticseg.data.inputs import Content, Inputs, Want
from arcticseg.ice.score import scores
from arcticseg.ice.sigrid import CHARTS, N_CLASSES
from arcticseg.models.heads import Head
from arcticseg.tasks.config import segment_scores
from arcticseg.tasks.losses.loss import Loss
from arcticseg.tasks.task import Forward, Task


class Segment(Task):
    """The task of `RunConfig.task: segment`.

    Args:
        heads: chart -> its head, in the order of charts.
        losses: chart -> its loss.
        weights: chart -> weight of its loss.
    """

    def __init__(self, heads: Mapping[str, Head], losses: Mapping[str, Loss], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.terms = tuple(heads)
        self.best_by = segment_scores(self.terms)
        self.weights = tuple(weights[chart] for chart in self.terms)
        # Plain dicts: the heads are the network's, and losses own no parameters.
        self._heads, self._losses = dict(heads), dict(losses)

    def want(self, dtype: torch.dtype) -> Want:
        """No targets: labels say what is learned."""
        return Want(dtype, ())

    def counts(self, content: Content) -> Tensor:
        """What counts in each chart's loss, as pixels with a label."""
        return torch.stack([self._losses[chart].counts(labels) for chart, labels in self._labels(content)]).double()

    def sums(self, network: Forward, inputs: Inputs) -> Tensor:
        """Sum of each chart's loss."""
        outputs = network(inputs.seen, inputs.seeds)
        return torch.stack([self._losses[chart].sums(outputs[chart], labels) for chart, labels in self._labels(inputs)])

    def classes(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Chart -> classes uint8 [B, H, W] of the outputs of its head."""
        return {chart: self._heads[chart].classes(outputs[chart]) for chart in self.terms}

    def tally(self, network: Forward, inputs: Inputs, n: int) -> Tensor:
        """Confusion counts of the charts, int64, chart after chart, flat."""
        predicted = self.classes(network(inputs.seen))
        labelled = self._labels(inputs.counting(n))
        return torch.cat([confusion_counts(labels, predicted[chart], N_CLASSES[chart]) for chart, labels in labelled])

    def scores(self, total: NDArray[Any]) -> dict[str, float | None]:
        """Scores of the charts, and the combined score where all three are learned."""
        matrices = {chart: np.zeros((N_CLASSES[chart],) * 2, total.dtype) for chart in CHARTS}
        first = 0
        for chart in self.terms:
            size = N_CLASSES[chart]
            matrices[chart] = total[first : first + size * size].reshape(size, size)
            first += size * size
        pooled = scores(matrices)
        return {name: pooled[name] for name in pooled if name in self.best_by}

    def _labels(self, content: Content) -> list[tuple[str, Tensor]]:
        """Each chart learned and its labels, uint8 [B, H, W]."""
        return [(chart, content.labels[:, CHARTS.index(chart)]) for chart in self.terms]


def confusion_counts(labels: Tensor, predicted: Tensor, n_classes: int) -> Tensor:
    """Pixels by (label, predicted class), row after row, int64 [n_classes ** 2], on the device and without the host.

    Args:
        labels: uint8, 255 = masked.
        predicted: uint8, equal shape.
        n_classes: at most 15.
    """
    bins, codes = n_classes * n_classes, 1 << 8
    # Modulo 256 a masked pixel comes to 256 - n_classes or more, whatever is predicted: above all pairs.
    pairs = (labels * n_classes + predicted).flatten()
    if pairs.device.type == "cpu":
        return torch.bincount(pairs, minlength=codes)[:bins]
    # `bincount` asks a GPU for the largest value; `histc` is told the range, and counts whole numbers exactly.
    return torch.histc(pairs.int(), codes, 0, codes)[:bins].long()
