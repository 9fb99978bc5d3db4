"""Multitask segmentation: SIC by regression or classification, SOD and FLOE by classification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from arcticseg.data.transforms import Inputs
from arcticseg.ice.score import confusion, scores
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX, N_CLASSES
from arcticseg.tasks.losses.pixel import cross_entropy_sum, squared_error_sum


def classes_of(logits: Mapping[str, Tensor]) -> Tensor:
    """Predicted classes, uint8 [B, 3, H, W], of the logits of each chart; SIC by rounding where it is a regression."""
    planes = []
    for chart in CHARTS:
        values = logits[chart]
        if values.shape[1] == 1:
            planes.append(values[:, 0].float().round().clamp(0, N_CLASSES[chart] - 1))
        else:
            planes.append(values.argmax(dim=1))
    return torch.stack([plane.to(torch.uint8) for plane in planes], dim=1)


class Segment:
    """The task of `RunConfig.task: segment`."""

    terms = CHARTS
    best_by = ("combined", *CHARTS)

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = tuple(weights[chart] for chart in CHARTS)

    def counts(self, inputs: Inputs) -> Tensor:
        """Labelled pixels of each chart."""
        return (inputs.labels != IGNORE_INDEX).sum(dim=(0, 2, 3)).double()

    def sums(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """Sum of each chart's loss over its labelled pixels."""
        logits = model(inputs.seen)
        losses = []
        for i, chart in enumerate(CHARTS):
            loss = squared_error_sum if logits[chart].shape[1] == 1 else cross_entropy_sum
            losses.append(loss(logits[chart], inputs.labels[:, i]))
        return torch.stack(losses)

    def tally(self, model: nn.Module, inputs: Inputs, n: int) -> NDArray[Any]:
        """Confusion counts of the three charts, one after another, flat."""
        predicted = classes_of(model(inputs.seen))[:n].cpu().numpy()
        labels = inputs.labels[:n].cpu().numpy()
        counts = [confusion(labels[:, i], predicted[:, i], N_CLASSES[chart]) for i, chart in enumerate(CHARTS)]
        return np.concatenate([matrix.ravel() for matrix in counts])

    def scores(self, total: NDArray[Any]) -> dict[str, float | None]:
        """SIC, SOD, FLOE and combined score."""
        matrices, first = {}, 0
        for chart in CHARTS:
            size = N_CLASSES[chart]
            matrices[chart] = total[first : first + size * size].reshape(size, size)
            first += size * size
        return scores(matrices)
