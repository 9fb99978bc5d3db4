"""The exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from arcticseg.engine.copies import computing_with, cut, masters, put_together
from arcticseg.engine.hooks.hook import Hook, Training, Values
from arcticseg.engine.weights import save_weights
from arcticseg.run.folder import weights_path

# Among the tensors of a checkpoint: steps that the average has followed. No parameter has such a name.
_TAKEN = "/taken"


class EMA(Hook):
    """Follows the float32 weights after each step: average = d average + (1 - d) weights, on the device.

    d begins low, (1 + n) / (10 + n) after n steps, until it reaches the decay, so that the first, random weights are
    soon forgotten (as TensorFlow's ExponentialMovingAverage has it). A step that was left out is no step. Each rank has
    the average of its pieces of the weights. Frozen weights and buffers are as the network has them.

    Writes `weights/ema.safetensors` at the end and, where it is validated, `weights/ema-best.safetensors` whenever its
    first score is higher than before.

    Args:
        decay: d.
        validate: whether validations score the average, too.
    """

    name = "ema"

    def __init__(self, decay: float, validate: bool) -> None:
        self._decay, self._validate = decay, validate
        self._best: float | None = None
        self._loaded: Mapping[str, Tensor] = {}

    def on_start(self, training: Training) -> None:
        self._training = training
        device = training.ranks.device
        taken = self._loaded.get(_TAKEN, torch.zeros(1, dtype=torch.float64))
        self._taken = taken.to(device, torch.float64, copy=True)
        # Weights that begin to learn have been what they are so far.
        self.average = cut(training.engine, self._loaded)
        self._loaded = {}
        self._own = masters(training.engine)

    @torch.no_grad()
    def on_step(self, step: int, values: Values | None) -> None:
        left_out = self._training.step.left_out.to(torch.float64)
        follows = 1 - torch.clamp((1 + self._taken) / (10 + self._taken), max=self._decay)
        share = (follows * (1 - left_out)).float()[0]
        self._taken += 1 - left_out
        average = list(self.average.values())
        if average:
            apart = torch._foreach_sub(list(self._own.values()), average)
            # Offloaded weights are on the host.
            share = share if share.device == average[0].device else share.to(average[0].device)
            torch._foreach_mul_(apart, share)
            torch._foreach_add_(average, apart)

    def other_weights(self) -> AbstractContextManager[None] | None:
        if not self._validate:
            return None
        return computing_with(self._training.engine, self.average, self._training.ranks)

    def on_validation(self, step: int, scores: Mapping[str, float | None]) -> None:
        value = scores.get(f"{self.name}/{self._training.task.best_by[0]}")
        if value is not None and (self._best is None or value > self._best):
            self._best = value
            self._write("ema-best", step)

    def on_finish(self, step: int) -> None:
        self._write("ema", step)

    def _write(self, name: str, step: int) -> None:
        training = self._training
        average = put_together(training.engine, self.average, training.ranks)
        path = weights_path(training.out, name)
        save_weights(training.engine, path, training.metadata, step, training.ranks, instead=average)

    def state(self) -> dict[str, Any]:
        return {"best": self._best}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._best = state["best"]

    def tensors(self) -> dict[str, Tensor]:
        training = self._training
        return put_together(training.engine, self.average, training.ranks) | {_TAKEN: self._taken.cpu()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self._loaded = tensors
