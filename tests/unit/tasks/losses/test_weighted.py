"""Losses in which classes weigh, against torch and against loops."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F
from torch import Tensor

from arcticseg.tasks.config import LossConfig
from arcticseg.tasks.losses.loss import Loss
from arcticseg.tasks.losses.pixel import CrossEntropy
from tests.tensors import labels_like

WEIGHTS = [0.25, 2.0, 0.0, 5.0, 1.0, 0.125]
WEIGHING = [name for name, kind in LossConfig.table.items() if kind.weighs]  # type: ignore[attr-defined]


def output_of(name: str, batch: int, size: int) -> Tensor:
    head = LossConfig.named(name).heads[0]
    torch.manual_seed(0)
    if head == "regression":
        return 6 * torch.rand(batch, 1, size, size)
    return torch.randn(batch, {"classification": 6, "ordinal": 5}[head], size, size)


def loss_of(name: str, weights: list[float] | None) -> Loss:
    loss: Loss = LossConfig.named(name).make("SOD")
    if weights is not None:
        loss.weigh(weights)
    return loss


def test_weighted_cross_entropy_is_that_of_torch() -> None:
    logits, labels = torch.randn(3, 6, 8, 8).requires_grad_(), labels_like((3, 8, 8), 6)
    expected = F.cross_entropy(logits, labels.long(), torch.tensor(WEIGHTS), ignore_index=255)
    loss = loss_of("cross_entropy", WEIGHTS)
    mean = loss.sums(logits, labels) / loss.counts(labels)
    assert float(mean) == pytest.approx(float(expected), rel=1e-5)
    ours, theirs = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (mean, expected))
    torch.testing.assert_close(ours.float(), theirs)


def test_all_losses_of_pixels_weigh_and_no_loss_of_regions() -> None:
    known = {"cross_entropy", "squared_error", "focal", "huber", "ordinal", "earth_mover"}
    assert known <= set(WEIGHING)
    assert not {"dice", "tversky", "lovasz"} & set(WEIGHING)


@pytest.mark.parametrize("name", WEIGHING)
def test_a_pixel_weighs_what_its_class_does(name: str) -> None:
    """Each pixel's loss, from labels of which it is the only one, times its weight."""
    labels = labels_like((2, 3, 3), 6)
    labels[0, 0, 0], labels[1, 2, 2] = 255, 2
    output, plain = output_of(name, 2, 3), loss_of(name, None)
    total = weight = 0.0
    for b, i, j in np.ndindex(2, 3, 3):
        label = int(labels[b, i, j])
        if label != 255:
            alone = torch.full_like(labels, 255)
            alone[b, i, j] = label
            total += WEIGHTS[label] * float(plain.sums(output, alone))
            weight += WEIGHTS[label]
    loss = loss_of(name, WEIGHTS)
    assert float(loss.sums(output, labels)) == pytest.approx(total, rel=1e-5)
    assert float(loss.counts(labels)) == pytest.approx(weight) != int(plain.counts(labels))


@pytest.mark.parametrize("name", WEIGHING)
def test_equal_weights_change_no_mean(name: str) -> None:
    labels, output = labels_like((2, 5, 5), 6), output_of(name, 2, 5)
    plain, weighted = loss_of(name, None), loss_of(name, [0.5] * 6)
    mean = float(plain.sums(output, labels) / plain.counts(labels))
    assert float(weighted.sums(output, labels) / weighted.counts(labels)) == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("name", WEIGHING)
def test_only_classes_without_weight_give_nothing(name: str) -> None:
    output, labels = output_of(name, 2, 4).requires_grad_(), torch.full((2, 4, 4), 2, dtype=torch.uint8)
    labels[0] = 255
    loss = loss_of(name, WEIGHTS)
    value = loss.sums(output, labels)
    value.backward()
    assert (value.item(), float(loss.counts(labels))) == (0, 0)
    assert output.grad is not None
    assert not output.grad.any()


def test_a_loss_without_weights_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Dice"):
        loss_of("dice", WEIGHTS)
    assert CrossEntropy("SOD").weights_of(labels_like((1, 2, 2), 6)) is None
