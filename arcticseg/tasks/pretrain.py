"""Masked autoencoding: reconstruct the patches that were removed, where there is data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcticseg.data.inputs import Content, Inputs, Want
from arcticseg.data.order import generators
from arcticseg.models.mae import kept_count, patchify, removed, unpatchify
from arcticseg.tasks.config import PRETRAIN_SCORES
from arcticseg.tasks.losses.pixel import reconstruction_sum
from arcticseg.tasks.task import Forward, Task, need_numbers


class Pretrain(Task):
    """The task of `RunConfig.task: pretrain`.

    Args:
        targets: input planes to reconstruct.
        patch: edge of a patch.
        mask_ratio: share of patches removed.
        seed: with a sample's place, it gives the sample's mask.
        normalise: bring each target patch to mean 0 and spread 1 over its valid values, those of all planes together.
    """

    terms: tuple[str, ...] = ("reconstruction",)
    weights: tuple[float, ...] = (1.0,)
    best_by = PRETRAIN_SCORES

    def __init__(
        self, targets: Sequence[int], patch: int, mask_ratio: float, seed: int, normalise: bool = False
    ) -> None:
        super().__init__()
        self.targets, self.patch, self.mask_ratio = list(targets), patch, mask_ratio
        self.seed, self.normalise = seed, normalise
        self._sums = self.sums_of

    def want(self, dtype: torch.dtype) -> Want:
        """Targets in float32: bf16 rounds as coarsely as a code of backscatter does."""
        return Want(dtype, tuple(self.targets))

    def draw(self, places: Sequence[int], size: int) -> Tensor:
        """The patches kept of samples of size x size pixels, int64 [B, K], from (seed, place); on the CPU."""
        noise = np.empty((len(places), (size // self.patch) ** 2), np.float32)
        for row, random in zip(noise, generators("mask", self.seed, ends=places), strict=True):
            random.random(dtype=np.float32, out=row)
        return torch.from_numpy(smallest(noise, kept_count(noise.shape[1], self.mask_ratio)))

    def counts(self, content: Content) -> Tensor:
        """Valid values in removed patches that have a loss."""
        valid = content.valid(self.targets)
        by_patch = valid.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))  # [B, C, rows, p, columns, p]
        count = by_patch.sum(dim=(1, 3, 5), dtype=torch.float32).flatten(1)
        mask = removed(self._kept(content), count.shape[1])
        return (count * mask * (count >= self._fewest)).sum(dtype=torch.float64)[None]

    def sums(self, network: Forward, inputs: Inputs) -> Tensor:
        """Sum of squared errors over valid values in removed patches."""
        kept = self._kept(inputs)
        prediction, _ = network(inputs.seen, kept, None, inputs.seeds)
        return self._sums(prediction, inputs.values(self.targets), inputs.valid(self.targets), kept)

    def sums_of(self, prediction: Tensor, values: Tensor, valid: Tensor, kept: Tensor) -> Tensor:
        """Sum of squared errors.

        Args:
            prediction: [B, L, p * p * C].
            values: of the target planes, float32 [B, C, H, W].
            valid: where they are, bool, equal shape.
            kept: patches, int64 [B, K].
        """
        target, weight = self.target_of(values, valid)
        weight = weight * removed(kept, weight.shape[1])[..., None]
        return reconstruction_sum(prediction, target, weight)[None]

    def compile(self, *args: Any, **kwargs: Any) -> None:
        self._sums = torch.compile(self.sums_of, *args, **kwargs)

    def _kept(self, content: Content) -> Tensor:
        """What `draw` gives, on the device."""
        if content.drawn is not None:
            return content.drawn
        return self.draw(content.place.tolist(), content.size).to(content.labels.device)

    @property
    def _fewest(self) -> int:
        """Valid values that a patch needs for a loss: one has no spread."""
        return 2 if self.normalise else 1

    def target_of(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Target and weight, float32 [B, L, p * p * C]; weight 1 where a value is valid and its patch may count."""
        target = patchify(values, self.patch)
        there = patchify(valid, self.patch).float()
        if not self.normalise:
            return target, there
        mean, spread = moments(target, there)
        return (target - mean) * there / spread, there * (there.sum(2, keepdim=True) >= self._fewest)

    def images(self, prediction: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """The target planes as they are, and with a prediction in the removed patches, at the scale of the planes.

        A normalised patch gets the mean and spread of the real one. What is not asked for, in a patch with too few
        valid values, stays as it is.

        Args:
            prediction: [B, L, p * p * C].

        Returns:
            float32 [B, C, H, W] twice, 0 where there is no data, the second differentiable; bool [B, C, H, W], where
            they differ.
        """
        values, valid = inputs.values(self.targets), inputs.valid(self.targets)
        patches, there = patchify(values, self.patch), patchify(valid, self.patch)
        painted = prediction.float()
        if self.normalise:
            mean, spread = moments(patches, there.float())
            painted = painted * spread + mean
        asked = there & self.asked(there.sum(2), self._kept(inputs))[..., None]
        real = torch.where(there, patches, 0.0)
        size = (values.shape[-2], values.shape[-1])
        parts = (real, torch.where(asked, painted, real), asked)
        real, fake, where = (unpatchify(part, self.patch, size) for part in parts)
        return real, fake, where

    def asked(self, count: Tensor, kept: Tensor) -> Tensor:
        """Patches that are asked for, bool [B, L], of how many valid values each has."""
        return (count >= self._fewest) & (removed(kept, count.shape[1]) > 0)

    def tally(self, network: Forward, inputs: Inputs, n: int) -> Tensor:
        """Sum of squared errors and number of values, float64."""
        counting = inputs.counting(n)
        return torch.cat([self.sums(network, counting).double(), self.counts(counting)])

    def scores(self, total: NDArray[Any]) -> dict[str, float | None]:
        """`reconstruction`: share of the variance explained by unit-variance targets, 1 - mean squared error.

        Raises:
            ArcticSegError: the network gave NaN or infinity.
        """
        need_numbers(int(not np.isfinite(total[0])))
        return {"reconstruction": None if total[1] == 0 else float(1.0 - total[0] / total[1])}


def moments(patches: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread (with n - 1) of each patch over its values where `there` is 1, [B, L, 1] each; patches [B, L, P].

    As published, 1e-6 under the root keeps what is alike everywhere from growing without bound.
    """
    count = there.sum(2, keepdim=True)
    mean = (patches * there).sum(2, keepdim=True) / count.clamp(min=1)
    square = ((patches - mean) * there).square().sum(2, keepdim=True)
    return mean, (square / (count - 1).clamp(min=1) + 1e-6).sqrt()


def smallest(noise: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Where the `count` smallest values of each row [B, L] are, the first of equal ones, rising, int64 [B, count].

    What a stable sort gives, without sorting.
    """
    bound = np.partition(noise, count - 1, axis=1)[:, count - 1 : count]
    chosen = noise <= bound
    for row in np.flatnonzero(np.count_nonzero(chosen, axis=1) > count):
        equal = np.flatnonzero(noise[row] == bound[row])
        chosen[row, equal[count - np.count_nonzero(chosen[row]) :]] = False
    return np.nonzero(chosen)[1].reshape(-1, count)
