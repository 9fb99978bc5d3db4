"""Losses of regions, against loops over samples, classes and pixels."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor

from arcticseg.ice.sigrid import N_CLASSES
from arcticseg.tasks.losses.region import Dice, Lovasz, RegionLoss, Tversky
from tests.tensors import labels_like


def soft_counts(logits: Tensor, labels: Tensor, k: int) -> tuple[float, float, float]:
    """Soft hits, probability in all, and labelled pixels of a class in one sample, pixel by pixel."""
    hits = mass = pixels = 0.0
    for i, j in np.ndindex(labels.shape):
        if int(labels[i, j]) != 255:
            odds = float(logits[:, i, j].double().softmax(0)[k])
            mass += odds
            pixels += int(labels[i, j]) == k
            hits += odds * (int(labels[i, j]) == k)
    return hits, mass, pixels


def lovasz_of_class(logits: Tensor, labels: Tensor, k: int) -> float:
    """Sum over pixels in falling order of error: error x growth of 1 - IoU when this pixel is wrong, too."""
    pixels = [
        (abs(float(label == k) - float(logits[:, i, j].double().softmax(0)[k])), label == k)
        for i, j in np.ndindex(labels.shape)
        if (label := int(labels[i, j])) != 255
    ]
    pixels.sort(key=lambda pair: -pair[0])
    total = sum(truth for _, truth in pixels)
    loss = before = 0.0
    missed = alarms = 0
    for error, truth in pixels:
        missed, alarms = missed + truth, alarms + (not truth)
        lost = 1 - (total - missed) / (total + alarms)
        loss += error * (lost - before)
        before = lost
    return loss


def by_loops(loss: RegionLoss, logits: Tensor, labels: Tensor) -> float:
    total = 0.0
    for sample, own in zip(logits, labels, strict=True):
        present = sorted({int(value) for value in own.unique()} - {255})
        values = []
        for k in present:
            if isinstance(loss, Lovasz):
                values.append(lovasz_of_class(sample, own, k))
                continue
            assert isinstance(loss, Tversky)
            hits, mass, pixels = soft_counts(sample, own, k)
            values.append(1 - hits / (hits + loss.alpha * (mass - hits) + loss.beta * (pixels - hits)))
        total += sum(values) / max(1, len(values))
    return total


LOSSES = [Dice("SOD"), Tversky("SOD", 0.3, 0.7), Lovasz("SOD")]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_equals_loops(loss: RegionLoss) -> None:
    torch.manual_seed(0)
    logits, labels = 2 * torch.randn(3, 6, 4, 5), labels_like((3, 4, 5), N_CLASSES["SOD"])
    labels[1] = torch.where(labels[1] > 1, 255, labels[1])  # two classes only
    labels[2] = 255
    assert float(loss.sums(logits, labels)) == pytest.approx(by_loops(loss, logits, labels), rel=1e-5)
    assert int(loss.counts(labels)) == 2


def test_dice_is_twice_the_hits_over_both() -> None:
    logits, labels = torch.randn(1, 6, 3, 3), labels_like((1, 3, 3), 6, seed=3)
    values = []
    for k in sorted({int(value) for value in labels.unique()} - {255}):
        hits, mass, pixels = soft_counts(logits[0], labels[0], k)
        values.append(1 - 2 * hits / (mass + pixels))
    assert float(Dice("SOD").sums(logits, labels)) == pytest.approx(np.mean(values), rel=1e-5)


@pytest.mark.parametrize("classes", [6, 4])
def test_dice_over_the_batch_is_that_of_segmentation_models(classes: int) -> None:
    """Over the classes that there are: theirs counts others as 0 in the mean."""
    from segmentation_models_pytorch.losses import DiceLoss

    torch.manual_seed(0)
    logits, labels = (2 * torch.randn(5, 6, 7, 7)).requires_grad_(), labels_like((5, 7, 7), classes)
    labels[3] = 255
    theirs = DiceLoss("multiclass", classes=list(range(classes)), ignore_index=255, eps=1e-7)(logits, labels.long())
    loss = Dice("SOD", "batch")
    ours = loss.sums(logits, labels)
    assert int(loss.counts(labels)) == 1
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (ours, theirs)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)
    assert float(ours) != pytest.approx(float(Dice("SOD").sums(logits, labels) / 4), rel=1e-3)


def test_lovasz_of_certain_classes_is_one_minus_intersection_over_union() -> None:
    torch.manual_seed(1)
    labels, predicted = labels_like((1, 8, 8), 6, seed=1), torch.randint(0, 6, (1, 8, 8))
    logits = 200.0 * torch.nn.functional.one_hot(predicted, 6).permute(0, 3, 1, 2)
    labelled = labels != 255
    values = []
    for k in range(6):
        truth, guess = (labels == k) & labelled, (predicted == k) & labelled
        values.append(1 - float((truth & guess).sum() / (truth | guess).sum()))
    assert float(Lovasz("SOD").sums(logits, labels)) == pytest.approx(np.mean(values), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("what", ["no label", "one class", "one pixel"])
def test_degenerate_labels_give_finite_gradients(loss: RegionLoss, what: str) -> None:
    labels = torch.full((2, 4, 4), 255, dtype=torch.uint8)
    if what == "one class":
        labels[:] = 3
    if what == "one pixel":
        labels[0, 1, 1] = 5
    logits = (50 * torch.randn(2, 6, 4, 4)).requires_grad_()
    value = loss.sums(logits, labels)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()
    if what == "no label":
        assert (float(value), int(loss.counts(labels)), float(logits.grad.abs().max())) == (0, 0, 0)
