"""What a task asks of a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor

from arcticseg.data.inputs import Polygons

# Sums a tensor over ranks; the gradient of the sum comes to each rank's part.
OverRanks = Callable[[Tensor], Tensor]


class Loss(ABC):
    """A loss of one chart: a sum over samples, divided by the caller by what counts in the global batch.

    A mean over the pixels of a micro batch would make the loss depend on how a global batch is cut into micro batches
    and ranks; a sum divided by a global count does not.
    """

    def __init__(self, chart: str) -> None:
        self.chart = chart
        # For a loss that is not a sum over samples; set before the first step.
        self.over_ranks: OverRanks = lambda values: values

    def weigh(self, weights: Sequence[float]) -> None:
        """Let pixels count by the weights of their classes; only a loss whose config says that it `weighs` is asked.

        `sums` and `counts` are then both weighted.
        """
        raise NotImplementedError(f"{type(self).__name__} has no weights of classes")

    @abstractmethod
    def counts(self, labels: Tensor) -> Tensor:
        """What counts in a micro batch: labels uint8 [B, H, W], 255 = masked -> a number, 0-d."""

    @abstractmethod
    def sums(self, output: Tensor, labels: Tensor) -> Tensor:
        """Sum of the loss over what counts, float32, 0-d.

        Args:
            output: of the chart's head [B, K, H, W].
            labels: uint8 [B, H, W], 255 = masked.
        """

    def counts_with(self, labels: Tensor, polygons: Polygons | None) -> Tensor:
        """As `counts`, for a loss that also asks what is in polygons; a number, 0-d."""
        return self.counts(labels)

    def sums_with(self, output: Tensor, labels: Tensor, polygons: Polygons | None) -> Tensor:
        """As `sums`, for a loss that also asks what is in polygons."""
        return self.sums(output, labels)
