"""A chart's head: its outputs, its probabilities, its classes. Nobody else asks how a chart is predicted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from arcticseg.ice import classes
from arcticseg.ice.sigrid import N_CLASSES

# Of a regression's logit of open water, for each class.
_WATER_SLOPE = 6.0


class Head(nn.Conv2d, ABC):
    """Features to the output of one chart: a 1 x 1 convolution, then what its kind adds.

    The convolution comes before the upsampling to the image's size: both are linear and commute, and a few outputs
    cost less than the decoder's many channels.
    """

    def __init__(self, channels: int, chart: str, outputs: int) -> None:
        super().__init__(channels, outputs, 1)
        self.chart = chart

    def initialise(self) -> None:
        """Small weights: training starts from near-equal odds, not from whatever the draw prefers."""
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(cast(Tensor, self.bias))

    def scaled(self, scores: Tensor) -> Tensor:
        """Scores [B, C, H, W] at the image's size -> the head's output [B, K, H, W]."""
        return scores

    @abstractmethod
    def fields(self, output: Tensor) -> Tensor:
        """Output [B, K, H, W] -> float32 fields that may be averaged over windows."""

    def water(self, output: Tensor) -> Tensor:
        """Output [B, K, H, W] -> probability of class 0, open water, float32 [B, H, W]."""
        return self.fields(output)[:, 0]

    @abstractmethod
    def classes(self, output: Tensor) -> Tensor:
        """Output [B, K, H, W] -> classes uint8 [B, H, W]."""

    @abstractmethod
    def field_classes(self, field: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Averaged field [K, H, W] -> classes uint8 [H, W]."""


class Classification(Head):
    """A logit a class; its fields are probabilities."""

    def __init__(self, channels: int, chart: str) -> None:
        super().__init__(channels, chart, N_CLASSES[chart])

    def fields(self, output: Tensor) -> Tensor:
        return output.float().softmax(dim=1)

    def classes(self, output: Tensor) -> Tensor:
        return output.argmax(dim=1).to(torch.uint8)

    def field_classes(self, field: NDArray[np.float32]) -> NDArray[np.uint8]:
        return classes.most_likely(field)


class Regression(Head):
    """One number a pixel, in classes, unbounded; its field is that number."""

    def __init__(self, channels: int, chart: str) -> None:
        super().__init__(channels, chart, 1)
        self.middle = (N_CLASSES[chart] - 1) / 2

    def scaled(self, scores: Tensor) -> Tensor:
        # The head speaks in units of half the scale around its middle: of order 1, as its weights are, so that
        # concentrations from 0 to 10 are a few optimiser steps away and not hundreds.
        return self.middle * (1 + scores)

    def fields(self, output: Tensor) -> Tensor:
        return output.float()

    def water(self, output: Tensor) -> Tensor:
        # One half where the number is rounded to class 1, and 0.95 and 0.05 at classes 0 and 1.
        return (_WATER_SLOPE * (0.5 - output[:, 0].float())).sigmoid()

    def classes(self, output: Tensor) -> Tensor:
        return output[:, 0].float().round().clamp(0, N_CLASSES[self.chart] - 1).to(torch.uint8)

    def field_classes(self, field: NDArray[np.float32]) -> NDArray[np.uint8]:
        return classes.rounded(field, self.chart)


class Ordinal(Head):
    """Logits of "above class k": one score a pixel and K - 1 thresholds (CORAL: Cao, Mirjalili and Raschka 2020).

    The thresholds are steps that cannot fall, so probabilities of classes are never negative. Its fields are these
    probabilities, whose cumulated sums give the class: the first that is reached with a probability of one half.
    """

    def __init__(self, channels: int, chart: str) -> None:
        super().__init__(channels, chart, 1)
        thresholds = N_CLASSES[chart] - 1
        # Of the steps between thresholds; log(e^x + 1) of it is the step.
        self.steps = nn.Parameter(torch.zeros(thresholds - 1))

    def scaled(self, scores: Tensor) -> Tensor:
        steps = F.softplus(self.steps.float()).cumsum(dim=0)
        # Centred, so that a score of 0 lies in the middle class.
        thresholds = torch.cat([steps.new_zeros(1), steps]) - steps[-1] / 2
        return scores - thresholds.to(scores.dtype)[:, None, None]

    def fields(self, output: Tensor) -> Tensor:
        above = output.float().sigmoid()
        edge = above[:, :1]
        return torch.cat([torch.ones_like(edge), above], dim=1) - torch.cat([above, torch.zeros_like(edge)], dim=1)

    def classes(self, output: Tensor) -> Tensor:
        return (output > 0).sum(dim=1).to(torch.uint8)

    def field_classes(self, field: NDArray[np.float32]) -> NDArray[np.uint8]:
        return classes.median(field)
