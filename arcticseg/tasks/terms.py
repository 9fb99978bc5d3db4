"""Terms of the loss of charts: what each adds up over a micro batch, and by what it is divided."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from arcticseg.data.inputs import Content, Inputs
from arcticseg.ice.sigrid import CHARTS
from arcticseg.models.heads import Head
from arcticseg.tasks.losses.loss import Loss


class Term(ABC):
    """A sum over what counts in it, divided by the caller by what counts in the global batch.

    Args:
        name: in logs.
        weight: in the loss.
        chart: whose loss it is part of; None: of several.

    Attributes:
        planes: input planes of which it asks where they hold data.
    """

    planes: tuple[int, ...] = ()

    def __init__(self, name: str, weight: float, chart: str | None) -> None:
        self.name, self.weight, self.chart = name, weight, chart

    @abstractmethod
    def counts(self, content: Content) -> Tensor:
        """What counts in a micro batch, 0-d."""

    @abstractmethod
    def sums(self, outputs: Mapping[str, Tensor], inputs: Inputs) -> Tensor:
        """The sum over a micro batch, float32, 0-d, from the outputs of the network."""


class ChartTerm(Term):
    """A loss of the output of a chart's head against the chart's labels.

    Args:
        output: which of the network's outputs; that of the chart's head unless another is named.
    """

    def __init__(self, name: str, weight: float, loss: Loss, output: str | None = None) -> None:
        super().__init__(name, weight, loss.chart)
        self.loss, self.output = loss, output or loss.chart

    def counts(self, content: Content) -> Tensor:
        return self.loss.counts_with(labels_of(content.labels, self.loss.chart), content.polygons)

    def sums(self, outputs: Mapping[str, Tensor], inputs: Inputs) -> Tensor:
        labels = labels_of(inputs.labels, self.loss.chart)
        return self.loss.sums_with(outputs[self.output], labels, inputs.polygons)


class WaterTerm(Term):
    """That charts agree on where there is water: the mean square by which two of them differ in its probability.

    Class 0 is open water in each chart, so of one ice cover the three probabilities are one. Of each pixel with SAR,
    labelled or not: the mean of (p - q)^2 over all pairs of charts, from 0 to 1. p and q are what the charts' heads say
    (`Head.water`); the gradient goes to both.

    Args:
        heads: chart -> its head.
        sar: input plane that holds data where there is SAR.
    """

    def __init__(self, weight: float, heads: Mapping[str, Head], sar: int) -> None:
        super().__init__("water", weight, None)
        self._heads, self.planes = dict(heads), (sar,)

    def counts(self, content: Content) -> Tensor:
        return content.valid(self.planes).sum()

    def sums(self, outputs: Mapping[str, Tensor], inputs: Inputs) -> Tensor:
        water = torch.stack([head.water(outputs[chart]) for chart, head in self._heads.items()])
        # The squares of all pairs add up to the number of charts times the squares of what differs from the mean.
        squares = (water - water.mean(dim=0)).square().sum(dim=0) * (2 / (len(water) - 1))
        return torch.where(inputs.valid(self.planes)[:, 0], squares, 0.0).sum()


def labels_of(labels: Tensor, chart: str) -> Tensor:
    """A chart's labels, uint8 [B, H, W], of those of all charts [B, 3, H, W]."""
    return labels[:, CHARTS.index(chart)]
