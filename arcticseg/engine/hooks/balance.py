"""Weighs the losses of charts by their gradients, step by step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from arcticseg.engine import reshard
from arcticseg.engine.hooks.hook import Hook, Training, Values
from arcticseg.engine.process_group import sum_over_ranks
from arcticseg.tasks.balance import GradientBalance


class Balance(Hook):
    """Hands the task the norms of a step's gradients, summed over ranks, for the weights of the next."""

    name = "balance"

    def __init__(self) -> None:
        self._kept: Tensor | None = None

    def on_start(self, training: Training) -> None:
        balance = getattr(training.task, "gradients", None)
        assert isinstance(balance, GradientBalance)
        self._balance, self._engine, self._ranks = balance, training.engine, training.ranks.world_size
        balance.to(training.ranks.device)
        if self._kept is not None:
            balance.state = self._kept.to(balance.state)

    def on_step(self, step: int, values: Values | None) -> None:
        # A backward is of the loss times the ranks, since DeepSpeed takes the mean over them, and times fp16's scale.
        scale = self._ranks * reshard.loss_scale(self._engine)
        self._balance.update(sum_over_ranks(self._balance.taken() / scale**2))

    def tensors(self) -> dict[str, Tensor]:
        return {"state": self._balance.state}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self._kept = torch.as_tensor(tensors["state"])
