"""Losses of classes in order, against loops, and the head that goes with them."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from arcticseg.ice.sigrid import N_CLASSES
from arcticseg.models.config import OrdinalConfig
from arcticseg.tasks.config import LossConfig
from arcticseg.tasks.losses.loss import Loss
from arcticseg.tasks.losses.ordinal import EarthMover, Ordinal
from arcticseg.tasks.losses.pixel import CrossEntropy, Focal, Huber
from tests.tensors import labels_like


def test_ordinal_equals_binary_cross_entropies() -> None:
    logits, labels = torch.randn(2, 10, 4, 5), labels_like((2, 4, 5), 11)
    total = 0.0
    for b, i, j in np.ndindex(2, 4, 5):
        if int(labels[b, i, j]) != 255:
            for k in range(10):
                above = 1 / (1 + math.exp(-float(logits[b, k, i, j])))
                total -= math.log(above if int(labels[b, i, j]) > k else 1 - above)
    assert float(Ordinal("SIC").sums(logits, labels)) == pytest.approx(total, rel=1e-5)


def test_earth_mover_equals_squares_of_cumulated_differences() -> None:
    logits, labels = torch.randn(2, 6, 4, 5), labels_like((2, 4, 5), 6)
    total = 0.0
    for b, i, j in np.ndindex(2, 4, 5):
        label = int(labels[b, i, j])
        if label != 255:
            odds = logits[b, :, i, j].double().softmax(0).numpy()
            due = (np.arange(6) >= label).astype(float)
            total += ((odds.cumsum() - due) ** 2).sum()
    assert float(EarthMover("SOD").sums(logits, labels)) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_focal_equals_a_loop(gamma: float) -> None:
    logits, labels = 3 * torch.randn(2, 6, 4, 5), labels_like((2, 4, 5), 6)
    total = 0.0
    for b, i, j in np.ndindex(2, 4, 5):
        label = int(labels[b, i, j])
        if label != 255:
            odds = float(logits[b, :, i, j].double().softmax(0)[label])
            total -= (1 - odds) ** gamma * math.log(odds)
    assert float(Focal("SOD", gamma).sums(logits, labels)) == pytest.approx(total, rel=1e-4)


def test_focal_without_a_focus_is_cross_entropy() -> None:
    logits, labels = torch.randn(2, 6, 4, 5), labels_like((2, 4, 5), 6)
    torch.testing.assert_close(Focal("SOD", 0.0).sums(logits, labels), CrossEntropy("SOD").sums(logits, labels))


def test_huber_equals_a_loop() -> None:
    prediction, labels, delta = 12 * torch.rand(2, 1, 4, 5), labels_like((2, 4, 5), 11), 0.4
    total = 0.0
    for b, i, j in np.ndindex(2, 4, 5):
        if int(labels[b, i, j]) != 255:
            error = abs(float(prediction[b, 0, i, j]) - int(labels[b, i, j])) / 5
            total += error**2 / 2 if error <= delta else delta * (error - delta / 2)
    assert float(Huber("SIC", delta).sums(prediction, labels)) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("name", LossConfig.table)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_sums_and_counts_of_parts_add_up_to_those_of_the_batch(name: str, size: int) -> None:
    """So loss and gradients do not depend on how a global batch is shared out."""
    config = LossConfig.named(name)
    loss: Loss = config.make("SOD")
    channels = {"classification": 6, "regression": 1, "ordinal": 5}[config.heads[0]]
    output, labels = torch.randn(8, channels, 5, 5), labels_like((8, 5, 5), 6)
    labels[2], labels[5, :3] = 255, 255
    whole = output.clone().requires_grad_()
    (loss.sums(whole, labels) / loss.counts(labels)).backward()
    parts = output.clone().requires_grad_()
    counted = sum(loss.counts(labels[i : i + size]) for i in range(0, 8, size))
    for i in range(0, 8, size):
        (loss.sums(parts[i : i + size], labels[i : i + size]) / counted).backward()
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-5, atol=1e-7)
    assert whole.grad.abs().max() > 0


@pytest.mark.parametrize("name", LossConfig.table)
def test_a_batch_without_labels_gives_nothing(name: str) -> None:
    config = LossConfig.named(name)
    channels = {"classification": 6, "regression": 1, "ordinal": 5}[config.heads[0]]
    output, labels = torch.randn(2, channels, 4, 4).requires_grad_(), torch.full((2, 4, 4), 255, dtype=torch.uint8)
    loss: Loss = config.make("SOD")
    value = loss.sums(output, labels)
    value.backward()
    assert (value.item(), int(loss.counts(labels))) == (0, 0)
    assert not output.grad.any()


@pytest.mark.parametrize("chart", ["SIC", "SOD"])
def test_the_ordinal_head_gives_probabilities_whose_middle_is_the_class(chart: str) -> None:
    torch.manual_seed(0)
    head, n = OrdinalConfig().make(4, chart), N_CLASSES[chart]
    torch.nn.init.normal_(head.steps)
    output = head.scaled(5 * head(torch.randn(2, 4, 6, 5)))
    assert output.shape == (2, n - 1, 6, 5)
    assert (output.diff(dim=1) <= 0).all()
    fields = head.fields(output).detach()
    assert fields.shape == (2, n, 6, 5)
    assert fields.min() >= 0
    torch.testing.assert_close(fields.sum(dim=1), torch.ones(2, 6, 5))
    classes = head.classes(output)
    for b, i, j in np.ndindex(2, 6, 5):
        reached = fields[b, :, i, j].double().cumsum(0)
        assert int(classes[b, i, j]) == next(k for k in range(n) if float(reached[k]) >= 0.5)
    for sample in range(2):
        np.testing.assert_array_equal(head.field_classes(fields[sample].numpy()), classes[sample].numpy())
    assert len(classes.unique()) > 2


def test_the_ordinal_head_learns_its_thresholds() -> None:
    head = OrdinalConfig().make(4, "SOD")
    head.initialise()
    Ordinal("SOD").sums(head.scaled(head(torch.randn(2, 4, 3, 3))), labels_like((2, 3, 3), 6)).backward()
    assert head.steps.grad.abs().min() > 0
