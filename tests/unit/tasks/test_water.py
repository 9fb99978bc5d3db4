"""Agreement of charts on water, against loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor

from arcticseg.models.config import HeadConfig
from arcticseg.models.heads import Head
from arcticseg.tasks.terms import WaterTerm
from tests.tensors import inputs_of

KINDS = {"SIC": "regression", "SOD": "classification", "FLOE": "classification"}


def heads_of(kinds: dict[str, str]) -> dict[str, Head]:
    return {chart: HeadConfig.named(kind).make(4, chart) for chart, kind in kinds.items()}


def outputs_of(heads: dict[str, Head]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {chart: head.scaled(8 * torch.randn(2, head.out_channels, 3, 4)).detach() for chart, head in heads.items()}


def water(kind: str, values: list[float]) -> float:
    """The probability of class 0 of one pixel's outputs."""
    if kind == "regression":
        return 1 / (1 + math.exp(-6 * (0.5 - values[0])))
    if kind == "ordinal":
        return 1 - 1 / (1 + math.exp(-values[0]))
    return math.exp(values[0]) / sum(map(math.exp, values))


OTHERS = [{"SIC": "ordinal", "SOD": "ordinal"}, {"SIC": "classification", "FLOE": "classification"}]


@pytest.mark.parametrize("kinds", [KINDS, *OTHERS], ids=["plain", "ordinal", "two"])
def test_equals_a_loop_over_pixels_with_sar(kinds: dict[str, str]) -> None:
    heads = heads_of(kinds)
    outputs = outputs_of(heads)
    data = torch.rand(2, 5, 3, 4) > 0.4
    inputs = inputs_of(torch.zeros(2, 5, 3, 4), torch.full((2, 3, 3, 4), 255, dtype=torch.uint8), data)
    term = WaterTerm(1.0, heads, sar=3)
    total = 0.0
    for b, i, j in np.ndindex(2, 3, 4):
        if data[b, 3, i, j]:
            odds = [water(kinds[chart], outputs[chart][b, :, i, j].tolist()) for chart in kinds]
            pairs = [(p - q) ** 2 for n, p in enumerate(odds) for q in odds[:n]]
            total += sum(pairs) / len(pairs)
    assert total > 0.1
    assert float(term.sums(outputs, inputs)) == pytest.approx(total, rel=1e-4)
    assert int(term.counts(inputs)) == int(data[:, 3].sum()) < 24
    assert term.planes == (3,)


def test_heads_say_the_probability_of_water() -> None:
    heads = heads_of(KINDS)
    outputs = outputs_of(heads)
    for chart, head in heads.items():
        given = head.water(outputs[chart])
        for b, i, j in np.ndindex(2, 3, 4):
            expected = water(KINDS[chart], outputs[chart][b, :, i, j].tolist())
            assert float(given[b, i, j]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
            if KINDS[chart] == "regression":
                assert (expected > 0.5) == (int(head.classes(outputs[chart])[b, i, j]) == 0)


def test_no_sar_gives_nothing() -> None:
    heads = heads_of(KINDS)
    outputs = {chart: output.requires_grad_() for chart, output in outputs_of(heads).items()}
    nothing = torch.zeros(2, 5, 3, 4, dtype=torch.bool)
    inputs = inputs_of(torch.zeros(2, 5, 3, 4), torch.zeros(2, 3, 3, 4, dtype=torch.uint8), nothing)
    term = WaterTerm(1.0, heads, sar=0)
    value = term.sums(outputs, inputs)
    value.backward()
    assert (value.item(), int(term.counts(inputs))) == (0, 0)
    assert all(not output.grad.any() for output in outputs.values() if output.grad is not None)
