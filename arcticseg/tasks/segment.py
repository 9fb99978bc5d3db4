"""Multitask segmentation of SIC, SOD and FLOE, or of some of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcticseg.data.inputs import Content, Inputs, Polygons, Want
from arcticseg.ice.score import scores
from arcticseg.ice.sigrid import CHARTS, N_CLASSES
from arcticseg.models.heads import Head
from arcticseg.tasks.config import segment_scores
from arcticseg.tasks.losses.loss import Loss
from arcticseg.tasks.task import Forward, Task, need_numbers


class Segment(Task):
    """The task of `RunConfig.task: segment`.

    Args:
        heads: chart -> its head, in the order of charts.
        losses: term -> its loss, which says of which chart it is; the first terms are the charts.
        weights: term -> its weight.

    Attributes:
        charts: that are learned, in the order of charts.
    """

    def __init__(self, heads: Mapping[str, Head], losses: Mapping[str, Loss], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.charts, self.terms = tuple(heads), tuple(losses)
        self.best_by = segment_scores(self.charts)
        self.weights = tuple(weights[term] for term in self.terms)
        # Plain dicts: the heads are the network's, and losses own no parameters.
        self._heads, self._losses = dict(heads), dict(losses)
        self._sums, self._pairs = self.sums_of, self.pairs_of

    def want(self, dtype: torch.dtype) -> Want:
        """No targets: labels say what is learned."""
        return Want(dtype, ())

    def counts(self, content: Content) -> Tensor:
        """What counts in each term, as pixels with a label."""
        labels, polygons = dict(self._by_chart(content.labels)), content.polygons
        counted = [loss.counts_with(labels[loss.chart], polygons) for loss in self._losses.values()]
        return torch.stack([count.double() for count in counted])

    def sums(self, network: Forward, inputs: Inputs) -> Tensor:
        """Sum of each term."""
        return self._sums(network(inputs.seen, inputs.seeds), inputs.labels, inputs.polygons)

    def sums_of(self, outputs: Mapping[str, Tensor], labels: Tensor, polygons: Polygons | None = None) -> Tensor:
        """Sum of each term from the outputs of its chart's head, labels, uint8 [B, 3, H, W], and polygons."""
        own, losses = dict(self._by_chart(labels)), self._losses.values()
        return torch.stack([loss.sums_with(outputs[loss.chart], own[loss.chart], polygons) for loss in losses])

    def compile(self, *args: Any, **kwargs: Any) -> None:
        self._sums = torch.compile(self.sums_of, *args, **kwargs)
        self._pairs = torch.compile(self.pairs_of, *args, **kwargs)

    def classes(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Chart -> classes uint8 [B, H, W] of the outputs of its head."""
        return {chart: self._heads[chart].classes(outputs[chart]) for chart in self.charts}

    def tally(self, network: Forward, inputs: Inputs, n: int) -> Tensor:
        """Confusion counts of the charts, int64, chart after chart, flat; last, how many outputs are no numbers."""
        outputs = network(inputs.seen)
        pairs = self._pairs(outputs, inputs.counting(n).labels)
        counts = [pair_counts(own, N_CLASSES[chart]) for chart, own in zip(self.charts, pairs, strict=True)]
        bad = torch.stack([part[:n].isfinite().logical_not().sum() for part in outputs.values()]).sum()
        return torch.cat([*counts, bad[None]])

    def pairs_of(self, outputs: Mapping[str, Tensor], labels: Tensor) -> list[Tensor]:
        """Pairs of label and predicted class of each chart, as of `class_pairs`, from labels, uint8 [B, 3, H, W]."""
        predicted = self.classes(outputs)
        return [class_pairs(own, predicted[chart], N_CLASSES[chart]) for chart, own in self._by_chart(labels)]

    def scores(self, total: NDArray[Any]) -> dict[str, float | None]:
        """Scores of the charts, and the combined score where all three are learned.

        Raises:
            ArcticSegError: the network gave NaN or infinity, which would count as class 0.
        """
        need_numbers(int(total[-1]))
        matrices = {chart: np.zeros((N_CLASSES[chart],) * 2, total.dtype) for chart in CHARTS}
        first = 0
        for chart in self.charts:
            size = N_CLASSES[chart]
            matrices[chart] = total[first : first + size * size].reshape(size, size)
            first += size * size
        pooled = scores(matrices)
        return {name: pooled[name] for name in pooled if name in self.best_by}

    def _by_chart(self, labels: Tensor) -> list[tuple[str, Tensor]]:
        """Each chart learned and its labels, uint8 [B, H, W]."""
        return [(chart, labels[:, CHARTS.index(chart)]) for chart in self.charts]


def confusion_counts(labels: Tensor, predicted: Tensor, n_classes: int) -> Tensor:
    """Pixels by (label, predicted class), row after row, int64 [n_classes ** 2], on the device and without the host.

    Args:
        labels: uint8, 255 = masked.
        predicted: uint8, equal shape.
        n_classes: at most 15.
    """
    return pair_counts(class_pairs(labels, predicted, n_classes), n_classes)


def class_pairs(labels: Tensor, predicted: Tensor, n_classes: int) -> Tensor:
    """A number for each pixel's (label, predicted class), uint8, flat; masked pixels have numbers above all pairs."""
    # Modulo 256 a masked pixel comes to 256 - n_classes or more, whatever is predicted.
    return (labels * n_classes + predicted).flatten()


def pair_counts(pairs: Tensor, n_classes: int) -> Tensor:
    """How often there is each pair, int64 [n_classes ** 2]."""
    bins, codes = n_classes * n_classes, 1 << 8
    if pairs.device.type == "cpu":
        return torch.bincount(pairs, minlength=codes)[:bins]
    # `bincount` asks a GPU for the largest value; `histc` is told the range, and counts whole numbers exactly.
    return torch.histc(pairs.int(), codes, 0, codes)[:bins].long()
