"""A step of two optimisers: a masked autoencoder, and a discriminator that it learns from.

The weight of the adversarial term is that of Esser et al., "Taming Transformers for High-Resolution Image Synthesis",
CVPR 2021: the ratio of the norms that the gradients of both terms have at the last layer. There it is taken of one
micro batch. Here it is that of the global batch of the step before, so that it depends neither on ranks nor on micro
batches and needs no second pass: gradients at the last layer are products of what comes to it from above and below,
which add up over micro batches and ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from arcticseg.data.inputs import Inputs, MicroBatches
from arcticseg.engine.process_group import sum_over_ranks
from arcticseg.engine.skip import Guard
from arcticseg.engine.step import DeepSpeedStep
from arcticseg.tasks.adversarial import Adversarial
from arcticseg.tasks.task import dividing

# As published.
_EPS, _MOST = 1e-4, 1e4


class AdversarialStep(DeepSpeedStep):
    """A step of the engines of an autoencoder and of its discriminator, both made or both left out.

    Args:
        engine: around a `MaskedAutoencoder`.
        discriminator: the engine around the other network, which is whole on each rank.
        dtype, world_size, clip: as of `DeepSpeedStep`, for both.
        weight: of the adversarial term, times the ratio of the gradients.
        lr_scale: learning rate of the discriminator as a share of the step's.
        begun: steps done.
        start: steps in which the reconstruction is alone.
    """

    def __init__(
        self,
        engine: Any,
        discriminator: Any,
        task: Adversarial,
        dtype: torch.dtype,
        world_size: int,
        clip: float,
        *,
        weight: float,
        lr_scale: float,
        begun: int,
        start: int,
    ) -> None:
        super().__init__(engine, task, dtype, world_size, clip)
        self.discriminator, self._adversarial = discriminator, task
        self._other = Guard(discriminator, clip)
        self._weight, self._lr_scale = weight, lr_scale
        self._done, self._start = begun, start
        device = next(engine.module.parameters()).device
        # Norm of the reconstruction's gradient by that of the adversarial one, of the last step; 0: not known yet.
        self._ratio = torch.zeros((), device=device)

    def __call__(self, inputs: MicroBatches, counted: Tensor, rate: float) -> Tensor:
        self._done += 1
        if self._done <= self._start:
            return super().__call__(inputs, counted, rate)
        self._set_rates(rate)
        for group in self.discriminator.optimizer.param_groups:
            group["lr"] = rate * self._lr_scale
        parts = len(inputs) * self.world_size
        shares = (1 / dividing(counted)).float()
        total = torch.zeros(len(counted), device=counted.device)
        at_last: Tensor | None = None
        for number, item in enumerate(inputs, start=1):
            sums, gradients = self._backward(item, shares, parts)
            total += sums
            at_last = gradients if at_last is None else at_last + gradients
            if number == len(inputs):
                assert at_last is not None
                bad = self._guard.before_steps([self._other], total)
                self._measure(at_last, counted, bad)
            self.engine.step()
            self.discriminator.step()
        return total

    def _backward(self, item: Inputs, shares: Tensor, parts: int) -> tuple[Tensor, Tensor]:
        """Backward of both networks for a micro batch.

        Returns:
            sums: of the terms, float32 [3].
            gradients: of reconstruction and adversarial term at the last layer, float32 [2, P, D].
        """
        task = self._adversarial
        prediction, features = task.predicted(self.forward, item)
        # Both terms go through the prediction, so each is led back to it by itself, and then both on in one pass.
        leaf = prediction.detach().float().requires_grad_()
        reconstruction = task.reconstruction(leaf, item)
        (of_reconstruction,) = torch.autograd.grad((reconstruction * shares[0]).sum(), leaf)
        painted = task.painted(leaf, item)
        # Not by the engine: it would take this for a backward of the discriminator's own.
        judged = self.discriminator.module(painted.fake.to(self.dtype))
        adversarial = task.adversarial(judged, painted.cells)
        (of_adversarial,) = torch.autograd.grad((adversarial * shares[1]).sum(), leaf)
        gradient = of_reconstruction + self._weight * self._ratio * of_adversarial
        self.engine.backward((prediction.float() * gradient).sum() * parts)

        images = torch.cat([painted.real, painted.fake.detach()]).to(self.dtype)
        of_real, of_fake = self.discriminator(images).chunk(2)
        discrimination = task.discrimination(of_real, of_fake, painted.cells)
        self.discriminator.backward((discrimination * shares[2]).sum() * parts)
        with torch.no_grad():
            above = torch.stack([of_reconstruction, of_adversarial]).flatten(1, 2)  # [2, B * L, P]
            gradients = above.transpose(1, 2) @ features.float().flatten(0, 1)
        return torch.cat([reconstruction, adversarial, discrimination]).detach(), gradients

    @torch.no_grad()
    def _measure(self, gradients: Tensor, counted: Tensor, bad: Tensor) -> None:
        """Learn the ratio of the gradients over the global batch, for the next step; where there is none it stays."""
        of_reconstruction, of_adversarial = sum_over_ranks(gradients).flatten(1).norm(dim=1).unbind()
        ratio = (of_reconstruction / (of_adversarial + _EPS)).clamp(max=_MOST)
        known = (bad == 0) & (counted[:2] > 0).all()
        self._ratio = torch.where(known, ratio, self._ratio)

    def train(self, mode: bool = True) -> None:
        super().train(mode)
        self.discriminator.train(mode)

    @property
    def engines(self) -> Mapping[str, Any]:
        return {**super().engines, "discriminator": self.discriminator}

    @property
    def values(self) -> Mapping[str, Tensor]:
        norm = {} if self._other.norm is None else {"grad_norm_discriminator": self._other.norm}
        return {"adversarial_weight": self._weight * self._ratio} | norm

    def tensors(self) -> dict[str, Tensor]:
        return {"ratio": self._ratio}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self._ratio = tensors["ratio"].to(self._ratio.device)
