from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn

from arcticseg.data.transforms import Inputs
from arcticseg.models.mae import patchify
from arcticseg.tasks.losses.pixel import cross_entropy_sum, squared_error_sum
from arcticseg.tasks.pretrain import Pretrain
from arcticseg.tasks.segment import Segment, classes_of


def labels_like(shape: tuple[int, ...], classes: int, seed: int = 0) -> Tensor:
    """Random uint8 classes, a quarter of them masked."""
    random = np.random.default_rng(seed)
    values = random.integers(0, classes, shape).astype(np.uint8)
    values[random.random(shape) < 0.25] = 255
    return torch.from_numpy(values)


def test_cross_entropy_sum_equals_a_loop_over_labelled_pixels() -> None:
    logits, labels = torch.randn(2, 6, 4, 5), labels_like((2, 4, 5), 6)
    total = 0.0
    for b, i, j in np.ndindex(2, 4, 5):
        label = int(labels[b, i, j])
        if label != 255:
            scores = logits[b, :, i, j].double().numpy()
            total += np.log(np.exp(scores).sum()) - scores[label]
    assert float(cross_entropy_sum(logits, labels)) == pytest.approx(total, rel=1e-5)


def test_squared_error_sum_equals_a_loop_over_labelled_pixels() -> None:
    prediction, labels = 10 * torch.rand(2, 1, 4, 5), labels_like((2, 4, 5), 11)
    total = sum(
        ((float(prediction[b, 0, i, j]) - int(labels[b, i, j])) / 5) ** 2
        for b, i, j in np.ndindex(2, 4, 5)
        if int(labels[b, i, j]) != 255
    )
    assert float(squared_error_sum(prediction, labels)) == pytest.approx(total, rel=1e-5)


def test_masked_pixels_get_no_gradient() -> None:
    logits = torch.randn(1, 7, 3, 3, requires_grad=True)
    labels = labels_like((1, 3, 3), 7, seed=1)
    cross_entropy_sum(logits, labels).backward()
    assert logits.grad is not None
    assert (logits.grad[:, :, labels[0] == 255] == 0).all()
    assert (logits.grad[:, :, labels[0] != 255] != 0).any()


def test_classes_round_a_regression_and_take_the_largest_logit() -> None:
    sic = torch.tensor([-3.0, 0.4, 0.6, 9.6, 12.0]).view(1, 1, 1, 5)
    sod, floe = torch.zeros(1, 6, 1, 5), torch.zeros(1, 7, 1, 5)
    sod[:, 4], floe[:, 6] = 1, 1
    found = classes_of({"SIC": sic, "SOD": sod, "FLOE": floe})
    assert found[0, 0, 0].tolist() == [0, 0, 1, 10, 10]
    assert found[0, 1, 0].tolist() == [4] * 5
    assert found[0, 2, 0].tolist() == [6] * 5


class Constant(nn.Module):
    """Predicts SIC 7, SOD 2, FLOE 3 everywhere."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        size = (x.shape[0], 1, *x.shape[2:])
        sod, floe = torch.zeros(size).repeat(1, 6, 1, 1), torch.zeros(size).repeat(1, 7, 1, 1)
        sod[:, 2], floe[:, 3] = 9, 9
        return {"SIC": torch.full(size, 7.0), "SOD": sod, "FLOE": floe}


def inputs_of(x: Tensor, labels: Tensor, data: Tensor | None = None) -> Inputs:
    """Inputs without dropped planes."""
    there = torch.ones_like(x, dtype=torch.bool) if data is None else data
    place = torch.arange(len(x))
    return Inputs(place, x, there, torch.zeros(x.shape[:2], dtype=torch.bool), labels)


def test_segment_counts_labelled_pixels_and_tallies_only_the_first_samples() -> None:
    labels = torch.stack([labels_like((3, 8, 8), n, n) for n in (11, 6, 7)], dim=1)
    inputs = inputs_of(torch.zeros(3, 2, 8, 8), labels)
    task = Segment({"SIC": 1.0, "SOD": 1.0, "FLOE": 0.5})
    assert task.weights == (1.0, 1.0, 0.5)
    assert task.counts(inputs).tolist() == [int((labels[:, i] != 255).sum()) for i in range(3)]
    tally = task.tally(Constant(), inputs, 2)
    assert tally.sum() == int((labels[:2] != 255).sum())
    sod = tally[121 : 121 + 36].reshape(6, 6)
    assert sod[:, 2].tolist() == [int((labels[:2, 1] == k).sum()) for k in range(6)]
    assert set(task.scores(tally)) == {"SIC", "SOD", "FLOE", "combined"}


class Zeros(nn.Module):
    """Reconstructs 0 and says which patches were removed, as the autoencoder does."""

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__()
        self.channels, self.patch = channels, patch

    def forward(self, x: Tensor, noise: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor]:
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
    assert float(task.counts(inputs)) == count
    assert float(task.sums(Zeros(2, 4), inputs)) == pytest.approx(error, rel=1e-5)


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
