"""Masked autoencoding against a discriminator, which learns to tell painted images from real ones.

Hinge losses (Lim and Ye, "Geometric GAN", 2017), as in Esser et al., "Taming Transformers for High-Resolution Image
Synthesis", CVPR 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from arcticseg.data.inputs import Content, Inputs
from arcticseg.tasks.pretrain import Pretrain
from arcticseg.tasks.task import Forward


@dataclass(frozen=True)
class Painted:
    """What a discriminator sees of a micro batch.

    Attributes:
        real: the target planes, float32 [B, C, H, W]; 0 where there is no data.
        fake: the same, painted over in the removed patches; differentiable.
        cells: 1 for each cell of the discriminator in which something is painted, else 0, float32 [B, 1, h, w].
    """

    real: Tensor
    fake: Tensor
    cells: Tensor


class Adversarial(Pretrain):
    """The task of `pretrain.adversarial`: reconstruction, and two terms of which a step of two optimisers takes care.

    What counts in the terms of the discriminator is each of its cells in which something is painted.

    Args:
        stride: edge of the discriminator's cells; the rest as `Pretrain` takes it.
    """

    terms = ("reconstruction", "adversarial", "discriminator")
    # The adversarial term has a weight that changes (`engine.adversarial_step`); the third is of another network.
    weights = (1.0, 0.0, 0.0)

    def __init__(self, *arguments: Any, stride: int) -> None:
        super().__init__(*arguments)
        self.stride = stride

    def counts(self, content: Content) -> Tensor:
        cells = self.cells(content.valid(self.targets), self._kept(content)).sum(dtype=torch.float64)[None]
        return torch.cat([super().counts(content), cells, cells])

    def sums(self, network: Forward, inputs: Inputs) -> Tensor:
        """The first term; those of the discriminator are 0 without one."""
        return F.pad(super().sums(network, inputs), (0, 2))

    def tally(self, network: Forward, inputs: Inputs, n: int) -> Tensor:
        counting = inputs.counting(n)
        return torch.cat([super().sums(network, counting).double(), super().counts(counting)])

    def predicted(self, network: Forward, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Prediction [B, L, P], and the features that the network's last layer made it of, [B, L, D]."""
        prediction, _, features = network(inputs.seen, self._kept(inputs), None, inputs.seeds, True)
        return prediction, features

    def reconstruction(self, prediction: Tensor, inputs: Inputs) -> Tensor:
        """Sum of squared errors of a prediction, [1]."""
        return self._sums(prediction, inputs.values(self.targets), inputs.valid(self.targets), self._kept(inputs))

    def painted(self, prediction: Tensor, inputs: Inputs) -> Painted:
        """Real images, and those with the prediction in the removed patches; see `Pretrain.images`."""
        real, fake, _ = self.images(prediction, inputs)
        return Painted(real, fake, self.cells(inputs.valid(self.targets), self._kept(inputs)))

    def cells(self, valid: Tensor, kept: Tensor) -> Tensor:
        """Cells of the discriminator in which something is painted, float32 [B, 1, h, w].

        Args:
            valid: where the target planes hold data, bool [B, C, H, W].
            kept: patches, int64 [B, K].
        """
        by_patch = valid.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))  # [B, C, rows, p, columns, p]
        asked = self.asked(by_patch.sum(dim=(1, 3, 5)).flatten(1), kept).view(len(valid), by_patch.shape[2], -1)
        painted = by_patch.any(dim=1) & asked[:, :, None, :, None]
        return F.max_pool2d(painted.view(len(valid), 1, *valid.shape[2:]).float(), self.stride)

    def adversarial(self, logits: Tensor, cells: Tensor) -> Tensor:
        """Sum over the cells that count of how unreal painted images look, [1]; logits and cells [B, 1, h, w]."""
        return -(logits.float() * cells).sum()[None]

    def discrimination(self, real: Tensor, fake: Tensor, cells: Tensor) -> Tensor:
        """Sum over the cells that count of the hinge losses of logits of real and painted images, halved, [1]."""
        wrong = F.relu(1 - real.float()) + F.relu(1 + fake.float())
        return 0.5 * (wrong * cells).sum()[None]
