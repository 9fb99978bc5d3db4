"""What the trainer asks of a task."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray
from torch import Tensor, nn

from arcticseg.data.transforms import Inputs


class Task(Protocol):
    """A loss that is a sum of terms, each a sum over items divided by their number in the global batch."""

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms."""
        ...

    @property
    def weights(self) -> tuple[float, ...]:
        """Weights of the terms in the loss."""
        ...

    @property
    def best_by(self) -> tuple[str, ...]:
        """Scores of `scores` by which the best weights are kept; higher is better."""
        ...

    def counts(self, inputs: Inputs) -> Tensor:
        """float64 [terms]: items of a micro batch that count in each term."""
        ...

    def sums(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """float32 [terms], differentiable: the sum of each term over a micro batch."""
        ...

    def tally(self, model: nn.Module, inputs: Inputs, n: int) -> NDArray[Any]:
        """What validation adds up over the first n samples of batches and ranks."""
        ...

    def scores(self, total: NDArray[Any]) -> dict[str, float | None]:
        """Scores of an added-up tally."""
        ...
