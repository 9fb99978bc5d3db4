"""Batches without a label, of a single class, or without any data, through every loss and every way to combine them."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from arcticseg.data.inputs import Inputs
from tests.loss_cases import CASES, WHOLE, batch, made

ALL = CASES | WHOLE


def masked(inputs: Inputs) -> Inputs:
    """No data, no labels, no polygons."""
    assert inputs.poly is not None
    assert inputs.shares is not None
    nowhere = torch.full_like(inputs.poly, len(inputs.shares))
    nothing = torch.zeros_like(inputs.data)
    labels = torch.full_like(inputs.labels, 255)
    return replace(inputs, x=torch.zeros_like(inputs.x), data=nothing, labels=labels, poly=nowhere)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("what", ["no label", "one class", "one pixel", "all masked"])
def test_gradients_are_finite_and_nothing_gives_0(what: str, name: str) -> None:
    cfg, network, task = made(ALL[name])
    inputs = batch(cfg)
    if what == "no label":
        inputs = replace(inputs, labels=torch.full_like(inputs.labels, 255))
    elif what == "one class":
        inputs = replace(inputs, labels=torch.full_like(inputs.labels, 2))
    elif what == "one pixel":
        labels = torch.full_like(inputs.labels, 255)
        labels[3, :, 5, 5] = 1
        inputs = replace(masked(inputs), labels=labels)
    else:
        inputs = masked(inputs)
    counted = task.counts(inputs)
    sums = task.sums(network, inputs)
    loss = task.loss(sums, counted, 1)
    loss.backward()
    gradients = [p.grad for module in (network, task) for p in module.parameters() if p.grad is not None]
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert torch.isfinite(task.weighted((sums.detach().double() / counted.clamp(min=1)).unbind(), counted))
    if what == "all masked":
        assert float(loss.detach()) == 0
        assert all(not gradient.any() for gradient in gradients)
    elif what == "no label":
        of_labels = [place for place, term in enumerate(task.terms) if term != "water" and "polygons" not in term]
        if "soft" not in name and "polygons" not in name and name != "all":
            assert not sums.detach()[of_labels].any()
