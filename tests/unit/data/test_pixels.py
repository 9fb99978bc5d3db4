"""Inputs made by one formula for each pixel are those made in passes over planes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

torch = pytest.importorskip("torch")

from arcticseg.data import pixels
from arcticseg.data.augment import Augment
from arcticseg.data.inputs import Want
from arcticseg.data.transforms import Assemble, Codes
from tests.tensors import close
from tests.unit.data.test_want import AUGMENTS, CHANNELS, batch_of

MIXED = Augment(5, True, True, (), cutmix=0.9)


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same functions, called as they are."""
    monkeypatch.setattr(pixels, "_compiled", lambda function: function)


@pytest.mark.parametrize("augment", [*AUGMENTS, "mixed"])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("targets", [None, (), (0, 2, 6)])
def test_inputs_are_those_of_passes(targets: tuple[int, ...] | None, channels: str, augment: str) -> None:
    names, batch = CHANNELS[channels], batch_of(MIXED if augment == "mixed" else AUGMENTS[augment])
    for dtype in (torch.float32, torch.bfloat16):
        want = Want(dtype, targets)
        assemble = Assemble(names, True, want=want, compiled=True)
        expected = Assemble(names, True, want=want)(batch)
        inputs = assemble(assemble.plan(batch))
        if dtype == torch.bfloat16:
            close(inputs.x, expected.x)
        else:
            torch.testing.assert_close(inputs.x, expected.x, rtol=1e-4, atol=2e-3)
        assert torch.equal(inputs.data, expected.data)
        assert torch.equal(inputs.labels, expected.labels)
        if inputs.target is not None and expected.target is not None:
            torch.testing.assert_close(inputs.target, expected.target, rtol=1e-4, atol=2e-3)
        assert (inputs.target is None) == (expected.target is None)
        assert inputs.targets == expected.targets


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("channels", CHANNELS)
def test_codes_tell_what_will_count(channels: str, augment: str) -> None:
    names, batch = CHANNELS[channels], batch_of(AUGMENTS[augment])
    assemble = Assemble(names, True, compiled=True)
    expected = Assemble(names, True)(batch)
    codes = Codes(assemble, assemble.plan(batch))
    for planes in ([*reversed(range(len(names) + 1))], [1]):
        assert torch.equal(codes.valid(planes), expected.valid(planes))
    assert torch.equal(assemble.labels(codes.batch), expected.labels)


def test_a_batch_that_was_not_planned_is_made_in_passes() -> None:
    names, batch = CHANNELS["every"], batch_of(AUGMENTS["all"])
    with mock.patch.object(pixels.Pixels, "write", side_effect=AssertionError):
        inputs = Assemble(names, True, compiled=True)(batch)
    assert torch.equal(inputs.x, Assemble(names, True)(batch).x)


def test_arrays_that_no_channel_needs_are_not_read() -> None:
    batch = batch_of(AUGMENTS["turns"])
    bare = replace(batch, dist=batch.dist[:, :0, :0], aux=batch.aux[:, :, :0, :0], geo=batch.geo[..., :0, :0])
    bare = replace(bare, lab=batch.lab[..., :0, :0], hv=batch.hv[:, :0, :0])
    assemble = Assemble(("nersc_sar_primary", "month"), want=Want(targets=(0,)), compiled=True)
    inputs = assemble(assemble.plan(bare))
    expected = Assemble(("nersc_sar_primary", "month"), want=Want(targets=(0,)))(batch)
    assert torch.equal(inputs.x, expected.x)
    assert inputs.labels.numel() == 0


def test_the_compiler_takes_each_function_whole() -> None:
    """One graph each, without a break, made once for batches of one shape."""
    graphs: list[int] = []

    def backend(graph: Any, examples: Any) -> Callable[..., Any]:
        graphs.append(len(examples))
        run: Callable[..., Any] = graph.forward
        return run

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, fullgraph=True, dynamic=False, backend=backend)

    batch = batch_of(AUGMENTS["all"])
    with mock.patch.object(pixels, "_compiled", compiled):
        assemble = Assemble(CHANNELS["every"], True, want=Want(torch.bfloat16, (0, 1)), compiled=True)
    expected = Assemble(CHANNELS["every"], True, want=Want(torch.bfloat16, (0, 1)))(batch)
    with mock.patch.object(pixels, "_compiled", compiled):
        for training in (True, False, True):
            with torch.set_grad_enabled(training):
                planned = assemble.plan(replace(batch, hh=batch.hh.clone()))
                inputs = assemble(planned)
                assert torch.equal(Codes(assemble, planned).valid([0, 1]), expected.valid([0, 1]))
    close(inputs.x, expected.x)
    # Places and planes, places and validity of the targets.
    assert len(graphs) == 4
