"""What the trainer asks of a task."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from arcticseg.data.transforms import Inputs


class Task(Protocol):
    """A loss that is a sum of terms, each a sum over items divided by their number in the global batch.

    Attributes:
        terms: names of the terms.
        weights: of the terms in the loss.
        best_by: scores of `scores` by which the best weights are kept; higher is better.
    """

    terms: tuple[str, ...]
    weights: tuple[float, ...]
    best_by: tuple[str, ...]

    def counts(self, inputs: Inputs) -> Tensor:
        """float64 [terms]: items of a micro batch that count in each term."""
        ...

    def sums(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """float32 [terms], differentiable: the sum of each term over a micro batch."""
        ...

    def tally(self, model: nn.Module, inputs: Inputs, n: int) -> NDArray[np.int64 | np.float64]:
        """What validation adds up over the first n samples of batches and ranks."""
        ...

    def scores(self, total: NDArray[np.int64 | np.float64]) -> dict[str, float | None]:
        """Scores of an added-up tally."""
        ...
