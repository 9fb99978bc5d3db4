"""Weights of charts: learned, against the formula; by gradients, against gradients taken one chart at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor

from arcticseg.models.segmenter import Segmenter
from arcticseg.tasks.balance import GradientBalance, Uncertainty
from arcticseg.tasks.losses.pixel import CrossEntropy
from arcticseg.tasks.terms import ChartTerm
from tests.loss_cases import CASES, batch, made

TERMS = [
    ChartTerm("SIC", 1.0, CrossEntropy("SIC")),
    ChartTerm("SOD_a", 3.0, CrossEntropy("SOD")),
    ChartTerm("SOD_b", 1.5, CrossEntropy("SOD")),
    ChartTerm("FLOE", 0.0, CrossEntropy("FLOE")),
]
WATER = ChartTerm("water", 0.5, CrossEntropy("SIC"))
WATER.chart = None
SHARES = [0.5, 2.0, 0.25, 0.0, 0.125]
COUNTED = torch.tensor([4.0, 9.0, 2.0, 7.0, 8.0], dtype=torch.float64)


def learned(*logs: float) -> Uncertainty:
    uncertainty = Uncertainty([*TERMS, WATER])
    with torch.no_grad():
        uncertainty.logs.copy_(torch.tensor(logs))
    return uncertainty


def test_a_loss_is_weighed_by_its_variance_and_what_is_of_no_chart_is_not() -> None:
    uncertainty = learned(0.4, -0.6)
    assert uncertainty.charts == ("SIC", "SOD")
    expected = math.exp(-0.4) * 0.5 + math.exp(0.6) * 2.25 + 0.125
    once = (0.4 - 0.6) / 2
    shares = torch.tensor(SHARES)
    assert float(uncertainty(shares, COUNTED, 1)) == pytest.approx(expected + once)
    assert float(uncertainty(shares, COUNTED, 4)) == pytest.approx(expected + once / 4)
    assert float(uncertainty.loss(shares.double(), COUNTED)) == pytest.approx(expected + once)
    weights = {chart: float(weight) for chart, weight in uncertainty.weights().items()}
    assert weights == pytest.approx({"SIC": math.exp(-0.4), "SOD": math.exp(0.6)})


def test_at_the_optimum_a_loss_is_divided_by_twice_itself() -> None:
    uncertainty = learned(math.log(2 * 0.5), math.log(2 * 2.25))
    uncertainty(torch.tensor(SHARES), COUNTED, 1).backward()
    assert uncertainty.logs.grad is not None
    assert uncertainty.logs.grad.tolist() == pytest.approx([0, 0], abs=1e-6)


def test_a_chart_without_labels_leaves_its_weight_alone() -> None:
    uncertainty, counted = learned(0.4, -0.6), COUNTED.clone()
    counted[[1, 2]] = 0
    shares = torch.tensor([0.5, 0.0, 0.0, 0.0, 0.0])
    value = uncertainty(shares, counted, 1)
    assert float(value) == pytest.approx(math.exp(-0.4) * 0.5 + 0.2)
    value.backward()
    assert uncertainty.logs.grad is not None
    assert uncertainty.logs.grad[1] == 0
    assert float(uncertainty(torch.zeros(5), torch.zeros(5).double(), 1)) == 0


@pytest.mark.parametrize("name", ["gradient", "gradient, a decoder a chart"])
def test_probes_hold_the_norms_of_each_charts_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chart's loss alone, by `autograd.grad` with respect to the features that charts share."""
    cfg, network, task = made(CASES[name])
    assert isinstance(network, Segmenter)
    inputs = batch(cfg)
    counted = task.counts(inputs)
    balance = task.gradients
    assert balance is not None
    balance.state[1] = torch.tensor([2.0, 0.5, 1.25])

    features: list[Tensor] = []

    def cut(_: object, __: object, given: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        """Features of their own, on which nothing else of the network depends."""
        features.extend(part.detach().requires_grad_() for part in (given if isinstance(given, list) else [given]))
        return list(features) if isinstance(given, list) else features[0]

    hook = (network.encoder if "decoder" in name else network.decoder).register_forward_hook(cut)
    sums = task.sums(lambda x, seeds, probes: network(x, seeds), inputs)
    hook.remove()
    expected = []
    for number, chart in enumerate(task.charts):
        own = [place for place, term in enumerate(task.terms) if term.partition("_")[0] == chart]
        loss = torch.stack([task.weights[place] * sums[place] / counted[place] for place in own]).sum()
        gradients = torch.autograd.grad(loss, features, retain_graph=True)
        norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
        expected.append((norm * float(balance.state[1][number])) ** 2)

    # Agreement on water comes by the same way; here it is left out.
    weights = [0.0 if term == "water" else w for term, w in zip(task.terms, task.weights, strict=True)]
    monkeypatch.setattr(task, "weights", tuple(weights))
    task.loss(task.sums(network, inputs), counted, 1).backward()
    torch.testing.assert_close(balance.taken(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=0)
    assert not balance.taken().any()


def balance_of(*weights: float) -> GradientBalance:
    charts = ("SIC", "SOD", "FLOE")
    terms = [ChartTerm(chart, weight, CrossEntropy(chart)) for chart, weight in zip(charts, weights, strict=True)]
    return GradientBalance(charts, [*terms, WATER])


def step(balance: GradientBalance, gradients: list[float], fixed: list[float]) -> None:
    """A step whose losses without any weight have gradients of these norms."""
    weights = balance.state[1].tolist()
    norms = [g * f * w for g, f, w in zip(gradients, fixed, weights, strict=True)]
    balance.update(torch.tensor(norms, dtype=torch.float64) ** 2)


def test_weights_make_gradients_as_long_as_the_fixed_weights_say() -> None:
    fixed, gradients = [1.0, 3.0, 2.0], [0.1, 5.0, 1.0]
    balance = balance_of(*fixed)
    assert balance.of_terms().tolist() == [1, 1, 1, 1]
    for _ in range(3):
        step(balance, gradients, fixed)
        weights = balance.state[1].numpy()
        lengths = weights * fixed * gradients
        np.testing.assert_allclose(lengths / lengths[0], [1, 3, 2])
        assert np.dot(weights, fixed) == pytest.approx(6)
        assert balance.of_terms().tolist() == [*weights.tolist(), 1]


def test_norms_are_running_means() -> None:
    balance = balance_of(1.0, 1.0, 1.0)
    step(balance, [1.0, 2.0, 4.0], [1.0] * 3)
    step(balance, [2.0, 2.0, 8.0], [1.0] * 3)
    assert balance.state[0].tolist() == pytest.approx([1.02, 2.0, 4.08])


def test_a_chart_that_nothing_is_known_of_keeps_its_weight() -> None:
    balance = balance_of(1.0, 1.0, 0.0)
    step(balance, [1.0, 0.0, 5.0], [1.0, 1.0, 0.0])
    assert balance.state.tolist() == [[1, 0, 0], [1, 1, 1]]
    step(balance, [1.0, 3.0, 5.0], [1.0, 1.0, 0.0])
    assert balance.state[1].tolist() == pytest.approx([1.5, 0.5, 1])
    # A step without labels of SOD, and one that is left out.
    before = balance.state.clone()
    step(balance, [1.0, 0.0, 0.0], [1.0, 1.0, 0.0])
    torch.testing.assert_close(balance.state, before)
    for bad in (float("nan"), float("inf")):
        balance.update(torch.tensor([4.0, bad, 0.0], dtype=torch.float64))
        torch.testing.assert_close(balance.state, before)
