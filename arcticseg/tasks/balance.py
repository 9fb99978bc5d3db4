"""How the losses of charts stand to each other beside their fixed weights: learned, or by their gradients.

A chart's loss is the weighted sum of its own terms; terms of several charts, as their agreement on water, keep their
fixed weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from arcticseg.tasks.terms import Term

# Of the norm of a gradient, what a step keeps of the steps before.
_KEPT = 0.98


def charts_of(terms: Sequence[Term]) -> tuple[str, ...]:
    """Charts with a loss that counts, in the order of their terms."""
    return tuple(dict.fromkeys(term.chart for term in terms if term.chart is not None and term.weight > 0))


def membership(terms: Sequence[Term], charts: Sequence[str]) -> Tensor:
    """1 where a term is of a chart, float32 [terms, charts], on the CPU."""
    rows = [[float(term.chart == chart) for chart in charts] for term in terms]
    return torch.tensor(rows, device="cpu").reshape(len(terms), len(charts))


class Uncertainty(nn.Module):
    """Learned weights: the sum over charts of exp(-s) x loss + s / 2, with s the logarithm of a variance.

    Kendall, Gal and Cipolla, CVPR 2018, equation 10. For a squared error they halve the loss; that moves s by log 2 and
    leaves exp(-s) x loss as it is. A chart of which nothing counts in a global batch leaves its s alone.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        super().__init__()
        self.charts = charts_of(terms)
        self._member = membership(terms, self.charts)
        self.logs = nn.Parameter(torch.zeros(len(self.charts)))

    def forward(self, shares: Tensor, counted: Tensor, parts: int) -> Tensor:
        """The share of a micro batch in the loss, 0-d.

        Args:
            shares: float32 [terms], fixed weight x sum / what counts in the global batch.
            counted: float64 [terms], what counts in the global batch.
            parts: micro batches of the global batch; s is added once.
        """
        return self.combined(self.logs.float(), shares, counted) + self._once(self.logs.float(), counted) / parts

    def loss(self, means: Tensor, counted: Tensor) -> Tensor:
        """The loss of a step, for logs, from fixed weight x mean of its terms, float64 [terms]."""
        logs = self.logs.detach().to(means.dtype)
        return self.combined(logs, means, counted) + self._once(logs, counted)

    def combined(self, logs: Tensor, shares: Tensor, counted: Tensor) -> Tensor:
        """Shares of terms times exp(-s) of their chart, added up."""
        member = self._beside(counted, shares.dtype)
        return ((-member @ logs).exp() * shares).sum()

    def _once(self, logs: Tensor, counted: Tensor) -> Tensor:
        present = (self._beside(counted, logs.dtype) * (counted > 0)[:, None]).amax(dim=0)
        return (logs * present).sum() / 2

    def _beside(self, counted: Tensor, dtype: torch.dtype) -> Tensor:
        if self._member.device != counted.device:
            self._member = self._member.to(counted.device)
        return self._member.to(dtype)

    def weights(self) -> dict[str, Tensor]:
        """Chart -> by what its loss is multiplied."""
        return dict(zip(self.charts, (-self.logs.detach().float()).exp().unbind(), strict=True))


class GradientBalance:
    """Weights by which the gradients of all charts' losses are as long where the charts part.

    That is GradNorm (Chen et al., ICML 2018) with equal training rates (alpha = 0), its weights computed and not
    learned: w is proportional to 1 / n, with n the norm of the gradient of a chart's loss with respect to the features
    that charts share, a running mean over steps. A chart's fixed weight says how long its gradient is to be beside the
    others'; the weights times the fixed ones add up to these.

    Each sample has features of its own, so squares of these gradients add up over micro batches and ranks, and what
    comes out does not depend on how a batch is cut up. They are seen on their way back through the network
    (`models.segmenter`), as the gradient of `probes`; the norms of a step weigh the next one. Nothing asks the device.

    Attributes:
        probes: float32 [charts], what the network takes.
        state: float64 [2, charts], norms (0: none yet) and weights.
    """

    def __init__(self, charts: Sequence[str], terms: Sequence[Term]) -> None:
        self.charts = tuple(charts)
        self._member = membership(terms, self.charts)
        fixed = {chart: sum(term.weight for term in terms if term.chart == chart) for chart in self.charts}
        self._fixed = torch.tensor([float(fixed[chart]) for chart in self.charts], dtype=torch.float64, device="cpu")
        self.probes = torch.zeros(len(self.charts), device="cpu").requires_grad_()
        self.state = torch.stack([torch.zeros_like(self._fixed), torch.ones_like(self._fixed)])

    def to(self, device: torch.device) -> None:
        """Move to where the network is; before the first step."""
        if self.state.device != device:
            self.probes = self.probes.detach().to(device).requires_grad_()
            self.state, self._fixed, self._member = (x.to(device) for x in (self.state, self._fixed, self._member))

    def of_terms(self) -> Tensor:
        """By what each term is multiplied, float64 [terms]."""
        member = self._member.double()
        return member @ self.state[1] + (1 - member.sum(dim=1))

    def taken(self) -> Tensor:
        """Squares of the norms of the weighted losses' gradients since the last call, float64 [charts]."""
        squares = self.probes.grad
        self.probes.grad = None
        return torch.zeros_like(self._fixed) if squares is None else squares.double()

    def update(self, squares: Tensor) -> None:
        """Weigh the next step.

        Args:
            squares: of the last step, summed over ranks, float64 [charts]. Those of a step that is left out for NaN or
                infinity are not finite, and change nothing; neither does 0, where a chart had nothing that counts.
        """
        norms, weights = self.state
        seen = squares.sqrt() / weights
        fresh = seen.isfinite().all() & (seen > 0)
        running = torch.where(norms > 0, _KEPT * norms + (1 - _KEPT) * seen, seen)
        norms = torch.where(fresh, running, norms)
        known = (norms > 0) & (self._fixed > 0)
        raw = torch.where(known, self._fixed / norms.clamp(min=torch.finfo(norms.dtype).tiny), 0.0)
        # A norm is that of the loss with its fixed weight, which is taken out here and comes in by `self._fixed`.
        share = (self._fixed * known).sum() / (raw * self._fixed).sum().clamp(min=torch.finfo(norms.dtype).tiny)
        self.state = torch.stack([norms, torch.where(known, raw * share, 1.0)])

    def weights(self) -> dict[str, Tensor]:
        """Chart -> by what its loss is multiplied."""
        return dict(zip(self.charts, self.state[1].unbind(), strict=True))
