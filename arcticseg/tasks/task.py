"""What a network is trained to do: a batch in, a loss and its terms out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from arcticseg.data.inputs import Content, Inputs, Want
from arcticseg.errors import ArcticSegError

# A network's forward, or what stands for it.
Forward = Callable[..., Any]


class Task(nn.Module, ABC):
    """A loss that is a sum of terms, each a sum over samples divided by what counts in the global batch.

    A task may own parameters, such as learned weights of its terms: it is then trained inside the wrapped module, so
    that ranks agree on them and checkpoints hold them.

    Attributes:
        terms: names of the terms.
        weights: fixed weights of the terms in the loss.
        best_by: scores of `scores` by which the best weights are kept; higher is better.
    """

    terms: tuple[str, ...]
    weights: tuple[float, ...]
    best_by: tuple[str, ...]

    def want(self, dtype: torch.dtype) -> Want:
        """What is to be made of its batches for a network that computes in `dtype`; all, unless a task says less."""
        return Want()

    def draw(self, places: Sequence[int], size: int) -> Tensor | None:
        """What it draws for samples of size x size pixels from (seed, place), on the CPU; None: nothing."""
        return None

    @abstractmethod
    def counts(self, content: Content) -> Tensor:
        """float64 [terms]: what counts in each term of a micro batch."""

    @abstractmethod
    def sums(self, network: Forward, inputs: Inputs) -> Tensor:
        """float32 [terms], differentiable: the sum of each term over a micro batch."""

    def loss(self, sums: Tensor, counted: Tensor, parts: int) -> Tensor:
        """The share of a micro batch in the loss of the global batch, 0-d.

        Args:
            sums: of the micro batch.
            counted: float64 [terms], what counts in the whole global batch.
            parts: micro batches of the global batch, on all ranks; for what is added once a step and not once a sample.
        """
        return (sums * (self._weights_beside(counted) / dividing(counted)).float()).sum()

    def _weights_beside(self, counted: Tensor) -> Tensor:
        """The fixed weights, float64 [terms], where `counted` is; copied there once, not for each micro batch."""
        kept: Tensor | None = getattr(self, "_kept_weights", None)
        if kept is None or kept.device != counted.device:
            kept = torch.tensor(self.weights, dtype=torch.float64, device=counted.device)
            self._kept_weights = kept
        return kept

    def weighted(self, means: Sequence[Tensor], counted: Tensor) -> Tensor:
        """The loss of a step from the means of its terms and what counted in them, float64, 0-d; for logs."""
        total = torch.zeros((), dtype=torch.float64, device=means[0].device)
        for weight, mean in zip(self.weights, means, strict=True):
            total = total + weight * mean
        return total

    def told(self) -> Mapping[str, Tensor]:
        """What logs tell of it besides the loss and its terms, such as learned weights: name -> value, 0-d."""
        return {}

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile what it computes of a network's outputs, as `torch.compile` takes it; nothing, unless a task can."""

    @abstractmethod
    def tally(self, network: Forward, inputs: Inputs, n: int) -> Tensor:
        """What validation adds up over the first n samples of batches and ranks, on the device."""

    @abstractmethod
    def scores(self, total: NDArray[Any]) -> dict[str, float | None]:
        """Scores of an added-up tally: those of `best_by`, and details of a score, named `SCORE/...`."""

    def confusions(self, total: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Confusion counts in an added-up tally, by chart, int64 [classes, classes]; none, unless a task has them."""
        return {}

    @property
    def learns(self) -> bool:
        """Whether it owns parameters."""
        return next(self.parameters(), None) is not None


def dividing(counted: Tensor) -> Tensor:
    """What sums are divided by: what counts in the global batch, 1 where nothing does; the sum is 0 there.

    Sums of weights may be small, so none is raised to 1.
    """
    return torch.where(counted > 0, counted, 1.0)


def need_numbers(bad: int) -> None:
    """See that a network gave numbers for the validation samples.

    Args:
        bad: how many of its outputs are NaN or infinite.

    Raises:
        ArcticSegError: some are.
    """
    if bad:
        raise ArcticSegError(
            f"the network gives NaN or infinity for validation samples ({bad} values), so no scores are told and no "
            "best weights kept; lower optim.lr, or set engine.precision to fp32; checkpoints before are as they were"
        )


class Objective(nn.Module):
    """A network and a task that owns parameters as one module, so that ZeRO cuts and gathers both alike."""

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network = network
        self.task = task

    def forward(self, inputs: Inputs | Tensor, *rest: Any) -> Any:
        """Loss share and sums of a micro batch, given inputs and what `Task.loss` takes; an image goes to the network.

        Args:
            rest: with inputs, what counts in the global batch, parts and dtype; with an image, what the network takes.
        """
        if isinstance(inputs, Tensor):
            return self.network(inputs, *rest)
        counted, parts, dtype = rest
        sums = self.task.sums(lambda x, *rest: self.network(x.to(dtype), *rest), inputs)
        return self.task.loss(sums, counted, parts), sums
