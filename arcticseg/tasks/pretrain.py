"""Masked autoencoding: reconstruct the patches that were removed, where there is data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcticseg.data.order import generator
from arcticseg.data.transforms import Inputs
from arcticseg.models.mae import patchify, random_mask
from arcticseg.tasks.config import PRETRAIN_SCORES
from arcticseg.tasks.losses.pixel import reconstruction_sum
from arcticseg.tasks.task import Forward, Task


class Pretrain(Task):
    """The task of `RunConfig.task: pretrain`.

    Args:
        targets: input planes to reconstruct.
        patch: edge of a patch.
        mask_ratio: share of patches removed.
        seed: with a sample's place, it gives the sample's mask.
        normalise: bring each target patch to mean 0 and spread 1 over its valid pixels.
    """

    terms = ("reconstruction",)
    weights = (1.0,)
    best_by = PRETRAIN_SCORES

    def __init__(
        self, targets: Sequence[int], patch: int, mask_ratio: float, seed: int, normalise: bool = False
    ) -> None:
        super().__init__()
        self.targets, self.patch, self.mask_ratio = list(targets), patch, mask_ratio
        self.seed, self.normalise = seed, normalise

    def noise(self, inputs: Inputs) -> Tensor:
        """float32 [B, L], drawn from (seed, place): the patches with the least are kept."""
        height, width = inputs.x.shape[-2:]
        patches = (height // self.patch) * (width // self.patch)
        draws = [generator("mask", self.seed, place).random(patches, np.float32) for place in inputs.place.tolist()]
        return torch.from_numpy(np.stack(draws)).to(inputs.x.device)

    def _target(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Target and weight [B, L, p * p * C]: weight 1 where a pixel has data and its patch is removed."""
        target = patchify(inputs.x[:, self.targets], self.patch)
        there = patchify(inputs.data[:, self.targets].float(), self.patch)
        if self.normalise:
            shape = (*target.shape[:2], -1, len(self.targets))
            target, there = target.view(shape), there.view(shape)
            count = there.sum(2, keepdim=True).clamp(min=1)
            centred = (target - (target * there).sum(2, keepdim=True) / count) * there
            target = centred / ((centred**2).sum(2, keepdim=True) / count + 1e-6).sqrt()
            target, there = target.flatten(2), there.flatten(2)
        _, mask = random_mask(self.noise(inputs), self.mask_ratio)
        return target, there * mask[..., None]

    def counts(self, inputs: Inputs) -> Tensor:
        """Valid values in removed patches."""
        return self._target(inputs)[1].sum().double()[None]

    def sums(self, network: Forward, inputs: Inputs) -> Tensor:
        """Sum of squared errors over valid values in removed patches."""
        prediction, _ = network(inputs.seen, self.noise(inputs), self.mask_ratio, inputs.seeds)
        return reconstruction_sum(prediction, *self._target(inputs))[None]

    def tally(self, network: Forward, inputs: Inputs, n: int) -> NDArray[Any]:
        """Sum of squared errors and number of values."""
        if n == 0:
            # ZeRO-3 needs every rank in every forward pass, also with samples that do not count.
            self.sums(network, inputs)
            return np.zeros(2)
        first = Inputs(*(getattr(inputs, name)[:n] for name in ("place", "x", "data", "dropped", "labels")))
        return np.array([float(self.sums(network, first)), float(self.counts(first))])

    def scores(self, total: NDArray[Any]) -> dict[str, float | None]:
        """`reconstruction`: share of the variance explained by unit-variance targets, 1 - mean squared error."""
        return {"reconstruction": None if total[1] == 0 else float(1.0 - total[0] / total[1])}
