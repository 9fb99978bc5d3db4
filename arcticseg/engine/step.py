"""One optimiser step over the micro batches of a global batch; it owns its optimisers, their rates and their state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from arcticseg.data.inputs import Inputs, MicroBatches
from arcticseg.engine.process_group import take_from_main
from arcticseg.engine.skip import Guard
from arcticseg.models.batch_norm import statistics
from arcticseg.tasks.task import Task


class Step(ABC):
    """What the trainer asks of a step; a step with two optimisers is another class."""

    @abstractmethod
    def __call__(self, inputs: MicroBatches, counted: Tensor, rate: float) -> Tensor:
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
        """Set the network to training, or to evaluation, on all ranks."""

    @property
    @abstractmethod
    def engines(self) -> Mapping[str, Any]:
        """Part -> DeepSpeed engine whose network and optimiser a checkpoint keeps; "" is what the task trains."""

    @property
    @abstractmethod
    def norm(self) -> Tensor:
        """Norm of the last step's gradient before clipping, on the device; NaN or infinite where it was left out."""

    @property
    def left_out(self) -> Tensor:
        """1.0 where the last step was left out for NaN or infinity, else 0.0; on the device, 0-d."""
        return self.norm.isfinite().logical_not().float()

    @abstractmethod
    def read_skipped(self) -> list[bool]:
        """Of each step since the last call, whether it was left out for NaN or infinity; the same on all ranks.

        Waits for the device once.
        """

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate of the last step of each group of weights: `lr/xSCALE`, `lr/PART/xSCALE` of other parts.

        Groups of one `lr_scale` have one rate.
        """
        return {
            f"lr/{part and f'{part}/'}x{group.get('lr_scale', 1.0):g}": group["lr"]
            for part, engine in self.engines.items()
            for group in engine.optimizer.param_groups
        }

    @property
    def values(self) -> Mapping[str, Tensor]:
        """What else of the last step is worth a log line, 0-d on the device."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """What it keeps from step to step beside its engines, the same on all ranks; a checkpoint has it."""
        return {}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027  most steps keep nothing
        """Go on from what `tensors` gave, on the CPU; not called where a checkpoint has none."""


class DeepSpeedStep(Step):
    """A step of one DeepSpeed engine.

    Args:
        engine: around the network, or around an `Objective` where the task owns parameters.
        dtype: that the network computes in.
        clip: largest norm of the gradient; 0: no clipping.
    """

    def __init__(self, engine: Any, task: Task, dtype: torch.dtype, world_size: int, clip: float) -> None:
        self.engine, self.task, self.dtype, self.world_size = engine, task, dtype, world_size
        self._guard = Guard(engine, clip)
        self._scales = [group.get("lr_scale", 1.0) for group in engine.optimizer.param_groups]

    def __call__(self, inputs: MicroBatches, counted: Tensor, rate: float) -> Tensor:
        self._set_rates(rate)
        # DeepSpeed divides by micro steps and averages over ranks; our division by counts is the only one wanted.
        parts = len(inputs) * self.world_size
        total = torch.zeros(len(counted), device=counted.device)
        for number, item in enumerate(inputs, start=1):
            loss, sums = self._loss(item, counted, parts)
            self.engine.backward(loss * parts)
            total += sums.detach()
            if number == len(inputs):
                self._guard.before_step(total)
            self.engine.step()
        return total

    def _set_rates(self, rate: float) -> None:
        for group, scale in zip(self.engine.optimizer.param_groups, self._scales, strict=True):
            group["lr"] = rate * scale

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
        if not mode:
            # Those that a checkpoint keeps; other ranks' are of no use to them in training.
            take_from_main(statistics(self.engine.module))

    @property
    def engines(self) -> Mapping[str, Any]:
        return {"": self.engine}

    @property
    def norm(self) -> Tensor:
        assert self._guard.norm is not None, "no step was made"
        return self._guard.norm

    @property
    def left_out(self) -> Tensor:
        assert self._guard.bad is not None, "no step was made"
        return self._guard.bad

    def read_skipped(self) -> list[bool]:
        return self._guard.read()
