"""Multitask segmentation of SIC, SOD and FLOE, or of some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcticseg.data.inputs import Content, Inputs, Want
from arcticseg.ice.score import detailed_scores, scores
from arcticseg.ice.sigrid import CHARTS, N_CLASSES
from arcticseg.models.config import ModelConfig
from arcticseg.models.heads import Head
from arcticseg.models.segmenter import auxiliary_name
from arcticseg.tasks.balance import GradientBalance, Uncertainty
from arcticseg.tasks.config import SegmentConfig, segment_scores
from arcticseg.tasks.losses.loss import Loss, OverRanks
from arcticseg.tasks.losses.soft import PolygonShares
from arcticseg.tasks.task import Forward, Task, dividing, need_numbers
from arcticseg.tasks.terms import ChartTerm, Term, WaterTerm, labels_of


class Segment(Task):
    """The task of `RunConfig.task: segment`.

    Args:
        heads: chart -> its head, in the order of charts.
        terms: of the loss.
        balance: `uncertainty` and `gradient` weigh charts as `tasks.balance` says; `fixed`: their weights are fixed.

    Attributes:
        charts: that are learned, in the order of charts.
    """

    def __init__(self, heads: Mapping[str, Head], terms: Sequence[Term], balance: str = "fixed") -> None:
        super().__init__()
        self.charts = tuple(heads)
        self.best_by = segment_scores(self.charts)
        self.terms = tuple(term.name for term in terms)
        self.weights = tuple(term.weight for term in terms)
        # Plain containers: the heads are the network's, and terms own no parameters.
        self._heads, self._terms = dict(heads), tuple(terms)
        self._sums, self._pairs = self.sums_of, self.pairs_of
        self.uncertainty = Uncertainty(terms) if balance == "uncertainty" else None
        self.gradients = GradientBalance(self.charts, terms) if balance == "gradient" else None
        self._planes = tuple(sorted({plane for term in terms for plane in term.planes}))

    def want(self, dtype: torch.dtype) -> Want:
        """Labels say what is learned; terms may ask where planes hold data."""
        return Want(dtype, self._planes)

    def counts(self, content: Content) -> Tensor:
        """What counts in each term, as pixels with a label."""
        return torch.stack([term.counts(content).double() for term in self._terms])

    def sums(self, network: Forward, inputs: Inputs) -> Tensor:
        """Sum of each term."""
        if self.gradients is None:
            return self._sums(network(inputs.seen, inputs.seeds), inputs)
        self.gradients.to(inputs.labels.device)
        return self._sums(network(inputs.seen, inputs.seeds, self.gradients.probes), inputs)

    def sums_of(self, outputs: Mapping[str, Tensor], inputs: Inputs) -> Tensor:
        """Sum of each term from the outputs of the network."""
        return torch.stack([term.sums(outputs, inputs) for term in self._terms])

    def loss(self, sums: Tensor, counted: Tensor, parts: int) -> Tensor:
        shares = self._weights_beside(counted) / dividing(counted)
        if self.uncertainty is not None:
            return torch.as_tensor(self.uncertainty(sums * shares.float(), counted, parts))
        if self.gradients is not None:
            shares = shares * self.gradients.of_terms()
        return (sums * shares.float()).sum()

    def weighted(self, means: Sequence[Tensor], counted: Tensor) -> Tensor:
        shares = self._weights_beside(counted) * torch.stack(list(means))
        if self.uncertainty is not None:
            return self.uncertainty.loss(shares, counted)
        if self.gradients is not None:
            return (shares * self.gradients.of_terms()).sum()
        return super().weighted(means, counted)

    def told(self) -> Mapping[str, Tensor]:
        """By what the loss of each chart is multiplied, where that is not fixed."""
        balance = self.uncertainty or self.gradients
        return {f"weight_{chart}": weight for chart, weight in balance.weights().items()} if balance else {}

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
        return [class_pairs(labels_of(labels, chart), own, N_CLASSES[chart]) for chart, own in predicted.items()]

    def scores(self, total: NDArray[Any]) -> dict[str, float | None]:
        """Scores of the charts, and the combined score where all three are learned; then those of each class.

        Raises:
            ArcticSegError: the network gave NaN or infinity, which would count as class 0.
        """
        need_numbers(int(total[-1]))
        known = self.confusions(total)
        matrices = {chart: known.get(chart, np.zeros((N_CLASSES[chart],) * 2, total.dtype)) for chart in CHARTS}
        pooled = scores(matrices)
        told = {name: pooled[name] for name in pooled if name in self.best_by}
        for chart in self.charts:
            told |= detailed_scores(chart, matrices[chart])
        return told

    def confusions(self, total: NDArray[Any]) -> dict[str, NDArray[Any]]:
        matrices, first = {}, 0
        for chart in self.charts:
            size = N_CLASSES[chart]
            matrices[chart] = total[first : first + size * size].reshape(size, size)
            first += size * size
        return matrices


def make_segment(
    segment: SegmentConfig,
    model: ModelConfig,
    heads: Mapping[str, Head],
    class_weights: Mapping[str, Sequence[float]] = {},
    sar: int | None = None,
    over_ranks: OverRanks = lambda values: values,
) -> Segment:
    """The task of a config.

    Args:
        model: of the network.
        heads: chart -> its head, in the order of charts.
        class_weights: chart -> weights of its classes; all alike where there are none.
        sar: input plane that holds data where there is SAR, for the agreement on water.
        over_ranks: sums a tensor over ranks, with its gradient.
    """
    terms: list[Term] = []
    for chart in heads:
        configs = segment.chart_losses(chart, model.head(chart).loss)
        for config in configs:
            loss: Loss = config.make(chart)
            loss.over_ranks = over_ranks
            if chart in class_weights and config.weighs:
                loss.weigh(class_weights[chart])
            name = chart if len(configs) == 1 else f"{chart}_{config.name}"
            weight = segment.weights[chart] * config.weight
            terms.append(ChartTerm(name, weight, loss))
            if model.auxiliary is not None:
                output = auxiliary_name(chart)
                terms.append(ChartTerm(f"{name}_auxiliary", weight * model.auxiliary.weight, loss, output))
    for chart, polygons in segment.polygons.items():
        if chart in heads:
            shares = PolygonShares(chart, polygons.least, polygons.water)
            terms.append(ChartTerm(f"{chart}_polygons", segment.weights[chart] * polygons.weight, shares))
    if segment.consistency:
        assert sar is not None
        terms.append(WaterTerm(segment.consistency, heads, sar))
    return Segment(heads, terms, segment.balance)


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
