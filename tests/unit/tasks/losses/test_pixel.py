"""Losses that add up over pixels, against loops over them."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from arcticseg.ice.sigrid import N_CLASSES
from arcticseg.tasks.config import LossConfig
from arcticseg.tasks.losses.pixel import CrossEntropy, SquaredError, reconstruction_sum
from tests.tensors import labels_like


def test_configs_make_their_losses() -> None:
    made = [LossConfig.named(name).make("SIC") for name in ("cross_entropy", "squared_error")]
    assert [type(loss) for loss in made] == [CrossEntropy, SquaredError]
    assert {loss.chart for loss in made} == {"SIC"}


@pytest.mark.parametrize("chart", ["SIC", "SOD", "FLOE"])
def test_cross_entropy_equals_a_loop_over_labelled_pixels(chart: str) -> None:
    n = N_CLASSES[chart]
    logits, labels = torch.randn(2, n, 4, 5), labels_like((2, 4, 5), n)
    total = 0.0
    for b, i, j in np.ndindex(2, 4, 5):
        label = int(labels[b, i, j])
        if label != 255:
            scores = logits[b, :, i, j].double().numpy()
            total += np.log(np.exp(scores).sum()) - scores[label]
    loss = CrossEntropy(chart)
    assert float(loss.sums(logits, labels)) == pytest.approx(total, rel=1e-5)
    assert int(loss.counts(labels)) == int((labels != 255).sum()) > 0


@pytest.mark.parametrize(("chart", "half"), [("SIC", 5), ("FLOE", 3)])
def test_squared_error_equals_a_loop_over_labelled_pixels(chart: str, half: float) -> None:
    prediction, labels = 10 * torch.rand(2, 1, 4, 5), labels_like((2, 4, 5), N_CLASSES[chart])
    total = sum(
        ((float(prediction[b, 0, i, j]) - int(labels[b, i, j])) / half) ** 2
        for b, i, j in np.ndindex(2, 4, 5)
        if int(labels[b, i, j]) != 255
    )
    loss = SquaredError(chart)
    assert float(loss.sums(prediction, labels)) == pytest.approx(total, rel=1e-5)
    assert int(loss.counts(labels)) == int((labels != 255).sum()) > 0


@pytest.mark.parametrize(("loss", "outputs"), [(CrossEntropy("FLOE"), 7), (SquaredError("FLOE"), 1)])
def test_masked_pixels_get_no_gradient(loss: CrossEntropy | SquaredError, outputs: int) -> None:
    output = torch.randn(1, outputs, 3, 3, requires_grad=True)
    labels = labels_like((1, 3, 3), 7, seed=1)
    loss.sums(output, labels).backward()
    assert output.grad is not None
    assert (output.grad[:, :, labels[0] == 255] == 0).all()
    assert (output.grad[:, :, labels[0] != 255] != 0).any()


@pytest.mark.parametrize(("loss", "outputs"), [(CrossEntropy("SOD"), 6), (SquaredError("SIC"), 1)])
def test_a_sum_is_that_of_its_parts_and_0_without_labels(loss: CrossEntropy | SquaredError, outputs: int) -> None:
    output, labels = torch.randn(4, outputs, 3, 3), labels_like((4, 3, 3), 6)
    parts = [loss.sums(output[i : i + 2], labels[i : i + 2]) for i in (0, 2)]
    torch.testing.assert_close(loss.sums(output, labels), parts[0] + parts[1])
    masked = torch.full_like(labels, 255)
    assert float(loss.sums(output, masked)) == int(loss.counts(masked)) == 0


@pytest.mark.parametrize(("loss", "outputs"), [(CrossEntropy("SOD"), 6), (SquaredError("SIC"), 1)])
def test_half_precision_is_summed_in_float32(loss: CrossEntropy | SquaredError, outputs: int) -> None:
    output, labels = torch.randn(1, outputs, 64, 64).bfloat16(), labels_like((1, 64, 64), 6)
    total = loss.sums(output, labels)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, loss.sums(output.float(), labels), rtol=0, atol=0)


def test_reconstruction_sums_weighted_squares() -> None:
    prediction, target = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    weight = (torch.rand(2, 3, 5) > 0.5).float()
    expected = (weight * (prediction - target) ** 2).double().sum()
    assert float(reconstruction_sum(prediction, target, weight)) == pytest.approx(float(expected), rel=1e-5)
