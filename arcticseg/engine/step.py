"""One optimiser step over the micro batches of a global batch; it owns its optimisers, their rates and their state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arcticseg.data.inputs import Inputs
from arcticseg.tasks.task import Task


class Step(ABC):
    """What the trainer asks of a step; a step with two optimisers is another class."""

    @abstractmethod
    def __call__(self, inputs: Sequence[Inputs], counted: Tensor, rate: float) -> Tensor:
        """Train on the micro batches of this rank.

        Args:
            counted: float64 [terms], what counts in the global batch.
            rate: learning rate, which a parameter group's `lr_scale` multiplies.

        Returns:
            float32 [terms], the sums of this rank's terms.
        """

    @abstractmethod
    def forward(self, x: Tensor, *rest: Any) -> Any:
        """The network's forward in the precision of training."""

    @abstractmethod
    def train(self, mode: bool = True) -> None:
        """Set the network to training, or to evaluation."""

    @property
    @abstractmethod
    def skipped(self) -> int:
        """Steps that were left out, as by a loss scaler."""

    @abstractmethod
    def save(self, folder: Path, tag: str) -> None:
        """Write networks and optimisers below `folder / tag`; every rank must call it."""

    @abstractmethod
    def load(self, folder: Path, tag: str) -> None:
        """Read what `save` wrote; every rank must call it."""


class DeepSpeedStep(Step):
    """A step of one DeepSpeed engine.

    Args:
        engine: around the network, or around an `Objective` where the task owns parameters.
        dtype: that the network computes in.
    """

    def __init__(self, engine: Any, task: Task, dtype: torch.dtype, world_size: int) -> None:
        self.engine, self.task, self.dtype, self.world_size = engine, task, dtype, world_size
        # Of now: a checkpoint of a version without scales brings groups without them.
        self._scales = [group.get("lr_scale", 1.0) for group in engine.optimizer.param_groups]

    def __call__(self, inputs: Sequence[Inputs], counted: Tensor, rate: float) -> Tensor:
        for group, scale in zip(self.engine.optimizer.param_groups, self._scales, strict=True):
            group["lr"] = rate * scale
        # DeepSpeed divides by micro steps and averages over ranks; our division by counts is the only one wanted.
        parts = len(inputs) * self.world_size
        total = torch.zeros(len(counted), device=counted.device)
        for item in inputs:
            loss, sums = self._loss(item, counted, parts)
            self.engine.backward(loss * parts)
            self.engine.step()
            total += sums.detach()
        return total

    def _loss(self, item: Inputs, counted: Tensor, parts: int) -> tuple[Tensor, Tensor]:
        if self.task.learns:
            loss, sums = self.engine(item, counted, parts, self.dtype)
            return loss, sums
        sums = self.task.sums(self.forward, item)
        return self.task.loss(sums, counted, parts), sums

    def forward(self, x: Tensor, *rest: Any) -> Any:
        return self.engine(x.to(self.dtype), *rest)

    def train(self, mode: bool = True) -> None:
        self.engine.train(mode)

    @property
    def skipped(self) -> int:
        return int(self.engine.skipped_steps)

    def save(self, folder: Path, tag: str) -> None:
        self.engine.save_checkpoint(str(folder), tag=tag, save_latest=False)

    def load(self, folder: Path, tag: str) -> None:
        self.engine.load_checkpoint(str(folder), tag=tag)
