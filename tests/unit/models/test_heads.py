"""What heads make of features, against the formulas written out."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from arcticseg.ice.sigrid import N_CLASSES
from arcticseg.models.config import ClassificationConfig, RegressionConfig
from arcticseg.models.heads import Classification, Head, Regression


def test_configs_make_their_heads() -> None:
    made = RegressionConfig().make(8, "SIC"), ClassificationConfig().make(8, "FLOE")
    assert [type(head) for head in made] == [Regression, Classification]
    assert [(head.in_channels, head.out_channels, head.chart) for head in made] == [(8, 1, "SIC"), (8, 7, "FLOE")]


@pytest.mark.parametrize("chart", ["SIC", "SOD", "FLOE"])
def test_a_classification_gives_probabilities_and_the_largest(chart: str) -> None:
    head, n = Classification(4, chart), N_CLASSES[chart]
    torch.manual_seed(0)
    output = head.scaled(head(torch.randn(2, 4, 3, 5)))
    assert output.shape == (2, n, 3, 5)
    logits = output.detach().double().numpy()
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    fields = head.fields(output)
    assert fields.dtype == torch.float32
    np.testing.assert_allclose(fields.detach().numpy(), odds / odds.sum(axis=1, keepdims=True), rtol=1e-5)
    classes = head.classes(output)
    assert classes.dtype == torch.uint8
    np.testing.assert_array_equal(classes.numpy(), logits.argmax(axis=1))
    for sample in range(2):
        field = fields[sample].detach().numpy()
        np.testing.assert_array_equal(head.field_classes(field), classes[sample].numpy())


def test_the_first_of_equal_classes_counts() -> None:
    head = Classification(4, "SOD")
    output = torch.zeros(1, 6, 1, 2)
    output[0, [2, 4], 0, 1] = 3.0
    assert head.classes(output).tolist() == [[[0, 2]]]
    assert head.field_classes(head.fields(output)[0].numpy()).tolist() == [[0, 2]]


def test_a_regression_is_scaled_to_classes_and_rounded() -> None:
    head = Regression(4, "SIC")
    scores = torch.tensor([-1.6, -1.0, -0.88, 0.0, 0.92, 1.0, 1.4]).view(1, 1, 1, 7)
    output = head.scaled(scores)
    np.testing.assert_allclose(output.flatten(), [-3, 0, 0.6, 5, 9.6, 10, 12], atol=1e-5)
    assert head.classes(output).dtype == torch.uint8
    assert head.classes(output).flatten().tolist() == [0, 0, 1, 5, 10, 10, 10]
    fields = head.fields(output)
    assert torch.equal(fields, output)
    classes = head.field_classes(fields[0].numpy())
    assert classes.dtype == np.uint8
    assert classes.tolist() == [[0, 0, 1, 5, 10, 10, 10]]


def test_halves_are_rounded_to_even_by_tensors_and_arrays_alike() -> None:
    head = Regression(4, "SIC")
    output = torch.tensor([0.5, 1.5, 2.5, 9.5]).view(1, 1, 2, 2)
    assert head.classes(output).tolist() == [[[0, 2], [2, 10]]]
    assert head.field_classes(output[0].numpy()).tolist() == [[0, 2], [2, 10]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head", [Regression(4, "SIC"), Classification(4, "SOD")])
def test_fields_of_half_precision_are_float32(head: Head, dtype: torch.dtype) -> None:
    output = torch.randn(1, head.out_channels, 2, 2).to(dtype)
    assert head.fields(output).dtype == torch.float32
    assert torch.equal(head.fields(output), head.fields(output.float()))
    assert torch.equal(head.classes(output), head.classes(output.float()))


def test_weights_start_small() -> None:
    torch.manual_seed(0)
    head = Classification(64, "SIC")
    head.initialise()
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert not head.bias.any()
