"""Masked autoencoding: which patches count, and against what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn

from arcticseg.data.inputs import Inputs
from arcticseg.data.order import generator
from arcticseg.models.mae import patchify
from arcticseg.tasks.pretrain import Pretrain, smallest
from tests.tensors import inputs_of


class Zeros(nn.Module):
    """Reconstructs 0."""

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__()
        self.channels, self.patch = channels, patch

    def forward(self, x: Tensor, kept: Tensor, mask_ratio: None, seeds: Tensor | None) -> tuple[Tensor, None]:
        patches = (x.shape[-2] // self.patch) * (x.shape[-1] // self.patch)
        return torch.zeros(len(x), patches, self.channels * self.patch**2), None


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
    kept = task.draw([0, 1], 16)
    error, count = 0.0, 0
    for b in range(2):
        for patch in set(range(16)) - set(kept[b].tolist()):
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
    assert task.scores(tally.numpy()) == {"reconstruction": pytest.approx(1 - tally[0] / tally[1])}
    assert task.scores(np.zeros(2)) == {"reconstruction": None}
    # A rank whose last batch holds no sample that counts takes part in the forward pass alone.
    assert task.tally(Zeros(2, 4), inputs, 0).tolist() == [0, 0]
    assert (task.terms, task.best_by, task.learns) == (("reconstruction",), ("reconstruction",), False)


def test_masks_depend_on_seed_and_place_alone() -> None:
    task = Pretrain(targets=[0], patch=4, mask_ratio=0.75, seed=5)
    kept = task.draw([3, 8, 100], 16)
    assert (kept.shape, kept.dtype) == ((3, 4), torch.int64)
    assert torch.equal(kept[1:2], task.draw([8], 16))
    assert not torch.equal(kept[0], kept[1])
    assert not torch.equal(kept, Pretrain(targets=[0], patch=4, mask_ratio=0.75, seed=6).draw([3, 8, 100], 16))
    # Written down: the patches with the least of noise drawn by (seed, place), rising.
    for row, place in zip(kept.tolist(), [3, 8, 100], strict=True):
        assert row == sorted(np.argsort(generator("mask", 5, place).random(16, np.float32))[:4])


def test_what_was_drawn_before_is_used(masked: tuple[Pretrain, Inputs]) -> None:
    task, inputs = masked
    drawn = task.draw([40, 41], 16)
    elsewhere = replace(inputs, place=torch.tensor([40, 41]))
    assert task.counts(replace(inputs, drawn=drawn)).tolist() == task.counts(elsewhere).tolist()
    assert task.sums(Zeros(2, 4), replace(inputs, drawn=drawn)) == task.sums(Zeros(2, 4), elsewhere)
    assert task.counts(inputs).tolist() != task.counts(elsewhere).tolist()


def test_normalised_targets_have_mean_0_and_spread_1_over_valid_values(masked: tuple[Pretrain, Inputs]) -> None:
    _, inputs = masked
    task = Pretrain(targets=[0, 2], patch=4, mask_ratio=0.75, seed=5, normalise=True)
    target, weight = task.target_of(inputs.values([0, 2]), inputs.valid([0, 2]))
    for values, there in zip(target.flatten(0, 1).numpy(), weight.flatten(0, 1).numpy() > 0, strict=True):
        # Of both planes together, with n - 1.
        assert values[there].mean() == pytest.approx(0, abs=1e-5)
        assert values[there].std(ddof=1) == pytest.approx(1, abs=1e-3)
    assert torch.equal(weight > 0, patchify(inputs.data[:, [0, 2]], 4))


def test_a_patch_with_one_valid_value_has_no_normalised_loss(masked: tuple[Pretrain, Inputs]) -> None:
    plain, inputs = masked
    task = Pretrain(targets=[0, 2], patch=4, mask_ratio=0.75, seed=5, normalise=True)
    patch = next(patch for patch in range(16) if patch not in plain.draw([0], 16)[0])
    row, column = 4 * (patch // 4), 4 * (patch % 4)
    counts = []
    for valid in (0, 1, 2):
        data = inputs.data.clone()
        data[0, :, row : row + 4, column : column + 4] = False
        data[0, 2, row, column : column + valid] = True
        other = replace(inputs, data=data, x=inputs.x * data)
        counts.append((int(plain.counts(other)), int(task.counts(other))))
        assert torch.isfinite(task.sums(Zeros(2, 4), other)).all()
        assert int(task.target_of(other.values([0, 2]), other.valid([0, 2]))[1][0, patch].sum()) == (
            2 if valid == 2 else 0
        )
    least = counts[0][0]
    assert counts == [(least, least), (least + 1, least), (least + 2, least + 2)]


@pytest.mark.parametrize("normalise", [False, True])
def test_a_compiled_loss_is_one_graph_with_the_same_numbers(masked: tuple[Pretrain, Inputs], normalise: bool) -> None:
    _, inputs = masked
    task = Pretrain(targets=[0, 2], patch=4, mask_ratio=0.75, seed=5, normalise=normalise)
    prediction = torch.randn(2, 16, 32, requires_grad=True)

    def found() -> tuple[Tensor, Tensor]:
        sums = task.sums(lambda *_: (prediction, None), inputs)
        return sums, torch.autograd.grad(sums.sum(), prediction)[0]

    plain = found()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    task.compile(backend="aot_eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(found(), plain, rtol=1e-6, atol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_dropped_planes_stay_targets() -> None:
    inputs = inputs_of(torch.ones(1, 2, 4, 4), torch.full((1, 3, 4, 4), 255, dtype=torch.uint8))
    inputs.dropped[0, 1] = True
    assert inputs.seen[0, 0].all()
    assert not inputs.seen[0, 1].any()
    assert inputs.x[0, 1].all()


@pytest.mark.parametrize("count", [1, 5, 30, 64])
@pytest.mark.parametrize("values", [2, 7, 1 << 24])
def test_the_smallest_are_those_of_a_stable_sort(values: int, count: int) -> None:
    noise = np.random.default_rng(count).integers(0, values, (20, 64)).astype(np.float32)
    expected = np.sort(np.argsort(noise, axis=1, kind="stable")[:, :count], axis=1)
    np.testing.assert_array_equal(smallest(noise, count), expected)


@pytest.mark.parametrize("normalise", [False, True])
def test_no_invalid_pixel_and_no_kept_patch_is_ever_asked_for(masked: tuple[Pretrain, Inputs], normalise: bool) -> None:
    _, inputs = masked
    task = Pretrain(targets=[0, 2], patch=4, mask_ratio=0.6, seed=5, normalise=normalise)
    prediction = torch.randn(2, 16, 32, requires_grad=True)

    def asked_for(inputs: Inputs) -> tuple[Tensor, Tensor]:
        sums = task.sums(lambda *_: (prediction, None), inputs)
        return sums.detach(), torch.autograd.grad(sums.sum(), prediction)[0]

    sums, gradient = asked_for(inputs)
    mask = torch.ones(2, 16, dtype=torch.bool).scatter(1, task.draw([0, 1], 16), False)
    there = patchify(inputs.data[:, [0, 2]], 4)
    assert torch.equal(gradient != 0, there & mask[..., None])
    assert int(task.counts(inputs)) == int((gradient != 0).sum())
    # What stands where there is no data changes nothing, neither there nor in the mean and spread of a patch.
    other = replace(inputs, x=torch.where(inputs.data, inputs.x, torch.tensor(1e4)))
    again, same = asked_for(other)
    torch.testing.assert_close(again, sums)
    torch.testing.assert_close(same, gradient)
