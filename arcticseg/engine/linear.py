"""Ridge regression and linear discriminant analysis in closed form, from sums that add up over ranks.

Both come from the same sums over points of D features and a class number: points and sum of features by class, and the
sum of the features' outer products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Variance as a share of the mean square below which features are taken for constant.
_ROUNDING = 1e-8


@dataclass(frozen=True)
class Moments:
    """Sums over labelled points, float64; sums of two sets of points are the sums of both.

    Attributes:
        counts: [K], points of each class.
        sums: [K, D], of their features.
        products: [D, D], sum of the outer products of the features of all points with themselves.
    """

    counts: Tensor
    sums: Tensor
    products: Tensor

    @staticmethod
    def of(features: Tensor, labels: Tensor, classes: int) -> Moments:
        """Of features [N, D] and class numbers [N]; numbers of `classes` and above are masked."""
        x = features.double()
        classes_of = torch.arange(classes, device=labels.device)
        is_class = (labels[:, None] == classes_of).double()  # [N, K]
        return Moments(is_class.sum(0), is_class.T @ x, (x * is_class.sum(1, keepdim=True)).T @ x)

    @staticmethod
    def zero(classes: int, features: int, device: torch.device) -> Moments:
        """Of no points."""
        shapes = ((classes,), (classes, features), (features, features))
        return Moments(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def add(self, other: Moments) -> None:
        """Add those of other points, in place."""
        for mine, theirs in zip(self.tensors, other.tensors, strict=True):
            mine += theirs

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """All three."""
        return self.counts, self.sums, self.products

    @property
    def present(self) -> int:
        """How many classes there are points of."""
        return int((self.counts > 0).sum())

    def cpu(self) -> Moments:
        """The same on the CPU."""
        return Moments(*(tensor.cpu() for tensor in self.tensors))


def ridge(moments: Moments, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Weights [D] and intercept (0-d) of the ridge regression of the class number.

    The penalty is `shrinkage` times the number of points times the mean variance of the features, so it does not depend
    on their scale. The intercept bears none.
    """
    n, number = moments.counts.sum(), _numbers(moments)
    mean, mean_number = moments.sums.sum(0) / n, (number * moments.counts).sum() / n
    covariance = moments.products / n - torch.outer(mean, mean)
    cross = (number[:, None] * moments.sums).sum(0) / n - mean * mean_number
    weights = torch.linalg.solve(covariance + shrinkage * _scale(covariance, moments), cross)
    return weights, mean_number - weights @ mean


def squared_error(moments: Moments, weights: Tensor, intercept: Tensor) -> float:
    """Sum of squared errors of a linear regression of the class number over the points of the sums."""
    number, total = _numbers(moments), moments.sums.sum(0)
    squares = (number.square() * moments.counts).sum()
    cross = (number[:, None] * moments.sums).sum(0)
    n, sum_of_numbers = moments.counts.sum(), (number * moments.counts).sum()
    explained = weights @ moments.products @ weights + 2 * intercept * (weights @ total) + n * intercept.square()
    return float(squares - 2 * (weights @ cross + intercept * sum_of_numbers) + explained)


def spread(moments: Moments) -> float:
    """Sum of squared deviations of the class number from its mean."""
    number = _numbers(moments)
    mean = (number * moments.counts).sum() / moments.counts.sum()
    return float(((number - mean).square() * moments.counts).sum())


def discriminants(moments: Moments, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Weights [K, D] and intercepts [K] of linear discriminant analysis; the class of a point has the largest value.

    The covariance within classes is shrunk towards a multiple of the identity of the same trace, by the share
    `shrinkage` (Friedman 1989). A class without points has the intercept -inf.
    """
    n, there = moments.counts.sum(), moments.counts > 0
    means = moments.sums / moments.counts.clamp(min=1)[:, None]
    within = (moments.products - (moments.counts[:, None] * means).T @ means) / n
    shrunk = (1 - shrinkage) * within + shrinkage * _scale(within, moments)
    weights = torch.linalg.solve(shrunk, means.T).T
    priors = torch.where(there, moments.counts / n, 1.0)
    intercepts = priors.log() - 0.5 * (weights * means).sum(1)
    return weights, torch.where(there, intercepts, -torch.inf)


def _numbers(moments: Moments) -> Tensor:
    return torch.arange(len(moments.counts), dtype=torch.float64, device=moments.counts.device)


def _scale(covariance: Tensor, moments: Moments) -> Tensor:
    """A multiple of the identity with the same trace, above what rounding leaves of constant features."""
    size = len(covariance)
    least = _ROUNDING * moments.products.trace() / moments.counts.sum()
    mean = torch.maximum(covariance.trace(), least) / size
    return mean * torch.eye(size, dtype=covariance.dtype, device=covariance.device)
