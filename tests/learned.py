"""`launchers.train` with a task that owns parameters, for tests on real ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from arcticseg.run import build
from arcticseg.tasks.segment import Segment
from arcticseg.tasks.task import dividing
from launchers import train


class Learned(Segment):
    """Charts with learned weights, exp(-s) x term + s (Kendall et al., CVPR 2018)."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.logs = nn.Parameter(torch.zeros(len(self.terms)))

    def loss(self, sums: Tensor, counted: Tensor, parts: int) -> Tensor:
        means = sums / dividing(counted).float()
        return (torch.exp(-self.logs) * means + self.logs / parts).sum()

    def weighted(self, means: Sequence[Tensor], counted: Tensor) -> Tensor:
        logs = self.logs.detach().double()
        return (torch.exp(-logs) * torch.stack(list(means)) + logs).sum()


def main(arguments: Sequence[str]) -> int:
    """Entry point of a rank."""
    plain = build.build_task

    def build_task(*given: Any) -> Learned:
        task = plain(*given)
        assert isinstance(task, Segment)
        return Learned(task._heads, task._terms)

    build.build_task = build_task  # type: ignore[assignment]
    return train.main(arguments)
