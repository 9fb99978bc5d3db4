"""Terms of the loss of charts: what each adds up over a micro batch, and by what it is divided."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from arcticseg.data.inputs import Content, Inputs
from arcticseg.ice.sigrid import CHARTS
from arcticseg.tasks.losses.loss import Loss


class Term(ABC):
    """A sum over what counts in it, divided by the caller by what counts in the global batch.

    Args:
        name: in logs.
        weight: in the loss.
        chart: whose loss it is part of; None: of several.
    """

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


def labels_of(labels: Tensor, chart: str) -> Tensor:
    """A chart's labels, uint8 [B, H, W], of those of all charts [B, 3, H, W]."""
    return labels[:, CHARTS.index(chart)]
