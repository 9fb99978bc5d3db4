"""Masked autoencoding: which patches count, and against what."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn

from arcticseg.data.transforms import Inputs
from arcticseg.models.mae import patchify
from arcticseg.tasks.pretrain import Pretrain
from tests.tensors import inputs_of


class Zeros(nn.Module):
    """Reconstructs 0 and says which patches were removed, as the autoencoder does."""

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__()
        self.channels, self.patch = channels, patch

    def forward(
        self, x: Tensor, noise: Tensor, mask_ratio: float, seeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(x), noise.shape[1], self.channels * self.patch**2), torch.zeros_like(noise)


@pytest.fixture
def masked() -> tuple[Pretrain, Inputs]:
    """A task on two of three planes, and inputs with missing pixels."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16)
    data = torch.rand(2, 3, 16, 16) > 0.3
    task = Pretrain(targets=[0, 2], patch=4, mask_ratio=0.75, seed=5)
    return task, inputs_of(x * data, torch.full((2, 3, 16, 16), 255, dtype=torch.uint8), data)


def test_reconstruction_counts_valid_pixels_of_removed_patches_only(masked: tuple[Pretrain, Inputs]) -> None:
    task, inputs = masked
    noise = task.noise(inputs)
    error, count = 0.0, 0
    for b in range(2):
        kept = set(noise[b].argsort()[:4].tolist())
        for patch in set(range(16)) - kept:
            window = np.s_[4 * (patch // 4) : 4 * (patch // 4) + 4, 4 * (patch % 4) : 4 * (patch % 4) + 4]
            for plane in (0, 2):
                there = inputs.data[b, plane][window]
                error += float((inputs.x[b, plane][window][there] ** 2).sum())
                count += int(there.sum())
    assert task.counts(inputs).tolist() == [count]
    assert task.sums(Zeros(2, 4), inputs).tolist() == pytest.approx([error], rel=1e-5)


def test_validation_scores_the_first_samples_by_the_variance_explained(masked: tuple[Pretrain, Inputs]) -> None:
    task, inputs = masked
    first = Inputs(inputs.place[:1], inputs.x[:1], inputs.data[:1], inputs.dropped[:1], inputs.labels[:1])
    tally = task.tally(Zeros(2, 4), inputs, 1)
    assert tally.tolist() == pytest.approx([float(task.sums(Zeros(2, 4), first)), float(task.counts(first))])
    assert task.scores(tally) == {"reconstruction": pytest.approx(1 - tally[0] / tally[1])}
    assert task.scores(np.zeros(2)) == {"reconstruction": None}
    # A rank whose last batch holds no sample that counts takes part in the forward pass alone.
    assert task.tally(Zeros(2, 4), inputs, 0).tolist() == [0, 0]
    assert (task.terms, task.best_by, task.learns) == (("reconstruction",), ("reconstruction",), False)


def test_masks_depend_on_seed_and_place_alone(masked: tuple[Pretrain, Inputs]) -> None:
    task, inputs = masked
    alone = Inputs(inputs.place[1:], inputs.x[1:], inputs.data[1:], inputs.dropped[1:], inputs.labels[1:])
    assert torch.equal(task.noise(inputs)[1:], task.noise(alone))
    assert not torch.equal(task.noise(inputs)[0], task.noise(inputs)[1])
    other = Pretrain(targets=[0], patch=4, mask_ratio=0.75, seed=6)
    assert not torch.equal(task.noise(inputs), other.noise(inputs))


def test_normalised_targets_have_mean_0_and_spread_1_over_valid_pixels(masked: tuple[Pretrain, Inputs]) -> None:
    _, inputs = masked
    task = Pretrain(targets=[0, 2], patch=4, mask_ratio=0.75, seed=5, normalise=True)
    target, weight = task._target(inputs)
    there = patchify(inputs.data[:, [0, 2]].float(), 4).view(2, 16, 16, 2)
    values = target.view(2, 16, 16, 2)
    count = there.sum(2)
    assert torch.allclose((values * there).sum(2) / count, torch.zeros(2, 16, 2), atol=1e-5)
    assert torch.allclose((values**2 * there).sum(2) / count, torch.ones(2, 16, 2), atol=1e-3)
    assert weight.sum() < there.sum()


def test_dropped_planes_stay_targets() -> None:
    inputs = inputs_of(torch.ones(1, 2, 4, 4), torch.full((1, 3, 4, 4), 255, dtype=torch.uint8))
    inputs.dropped[0, 1] = True
    assert inputs.seen[0, 0].all()
    assert not inputs.seen[0, 1].any()
    assert inputs.x[0, 1].all()
