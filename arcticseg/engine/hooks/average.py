"""The mean of the last weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from arcticseg.engine.copies import cut, masters, put_together
from arcticseg.engine.hooks.hook import Hook, Training, Values
from arcticseg.engine.weights import save_weights
from arcticseg.run.folder import weights_path


class Average(Hook):
    """Keeps the float32 weights of the last validations, or of every so many steps, and writes their mean.

    That is `weights/average.safetensors`, written at the end; the weights of the end are among them (Izmailov et al.,
    "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018). Each rank keeps its pieces of them
    in the memory of the host. Frozen weights and buffers are as the network has them.

    Args:
        last: how many weights are in the mean.
        every: steps between them; 0: those of each validation.
    """

    name = "average"

    def __init__(self, last: int, every: int) -> None:
        self._last, self._every = last, every
        self._steps: list[int] = []
        self._kept: list[dict[str, Tensor]] = []
        self._loaded: Mapping[str, Tensor] = {}

    def on_start(self, training: Training) -> None:
        self._training = training
        engine, loaded = training.engine, self._loaded
        whole = [
            {name.removeprefix(f"{step}/"): value for name, value in loaded.items() if name.startswith(f"{step}/")}
            for step in self._steps
        ]
        # Weights that begin to learn have been what they are so far.
        self._kept = [{name: value.cpu() for name, value in cut(engine, tensors).items()} for tensors in whole]
        self._loaded = {}

    def on_step(self, step: int, values: Values | None) -> None:
        if self._every and step % self._every == 0:
            self._keep(step)

    def on_validation(self, step: int, scores: Mapping[str, float | None]) -> None:
        if not self._every:
            self._keep(step)

    def _keep(self, step: int) -> None:
        if step in self._steps:
            return
        own = {name: value.to("cpu", copy=True) for name, value in masters(self._training.engine).items()}
        self._steps, self._kept = [*self._steps, step][-self._last :], [*self._kept, own][-self._last :]

    def on_finish(self, step: int) -> None:
        self._keep(step)
        training = self._training
        mean = {name: self._mean(name).to(training.ranks.device) for name in self._kept[-1]}
        whole = put_together(training.engine, mean, training.ranks)
        path = weights_path(training.out, "average")
        save_weights(training.engine, path, training.metadata, step, training.ranks, instead=whole)

    def _mean(self, name: str) -> Tensor:
        total = sum(kept[name].double() for kept in self._kept)
        return (torch.as_tensor(total) / len(self._kept)).float()

    def state(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._steps = list(state["steps"])

    def tensors(self) -> dict[str, Tensor]:
        training, device = self._training, self._training.ranks.device
        tensors: dict[str, Tensor] = {}
        for step, kept in zip(self._steps, self._kept, strict=True):
            copies = {name: value.to(device) for name, value in kept.items()}
            whole = put_together(training.engine, copies, training.ranks)
            tensors |= {f"{step}/{name}": value for name, value in whole.items()}
        return tensors

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self._loaded = tensors
