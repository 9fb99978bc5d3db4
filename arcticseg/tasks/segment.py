"""Multitask segmentation of SIC, SOD and FLOE, or of some of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcticseg.data.transforms import Inputs
from arcticseg.ice.score import confusion, scores
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

    def counts(self, inputs: Inputs) -> Tensor:
        """What counts in each chart's loss, as pixels with a label."""
        return torch.stack([self._losses[chart].counts(labels) for chart, labels in self._labels(inputs)]).double()

    def sums(self, network: Forward, inputs: Inputs) -> Tensor:
        """Sum of each chart's loss."""
        outputs = network(inputs.seen, inputs.seeds)
        return torch.stack([self._losses[chart].sums(outputs[chart], labels) for chart, labels in self._labels(inputs)])

    def classes(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Chart -> classes uint8 [B, H, W] of the outputs of its head."""
        return {chart: self._heads[chart].classes(outputs[chart]) for chart in self.terms}

    def tally(self, network: Forward, inputs: Inputs, n: int) -> NDArray[Any]:
        """Confusion counts of the charts, chart after chart, flat."""
        predicted = {chart: part[:n].cpu().numpy() for chart, part in self.classes(network(inputs.seen)).items()}
        labels = {chart: part[:n].cpu().numpy() for chart, part in self._labels(inputs)}
        counts = [confusion(labels[chart], predicted[chart], N_CLASSES[chart]) for chart in self.terms]
        return np.concatenate([matrix.ravel() for matrix in counts])

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

    def _labels(self, inputs: Inputs) -> list[tuple[str, Tensor]]:
        """Each chart learned and its labels, uint8 [B, H, W]."""
        return [(chart, inputs.labels[:, CHARTS.index(chart)]) for chart in self.terms]
