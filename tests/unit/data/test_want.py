"""Inputs of which a task needs a part only, and what codes tell of inputs before these are made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import made
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from arcticseg.data.augment import Augment
from arcticseg.data.batch import Batch, collate
from arcticseg.data.inputs import Inputs, Want
from arcticseg.data.transforms import Assemble, Codes
from arcticseg.ice.channels import GROUPS, expand

EVERY = expand(GROUPS)
AUGMENTS = {
    "none": None,
    "turns": Augment(1, flips=True, quarter_turns=True),
    "crops": Augment(2, flips=True, quarter_turns=True, crop=0.4),
    "all": Augment(3, True, True, (("hh", 0.5), ("amsr2", 0.5)), 0.5, 0.9),
}
# Orders in which channels of a grid stand apart, or lack some.
CHANNELS = {
    "every": EVERY,
    "apart": ("t2m", "nersc_sar_primary", "btemp_89_0h", "month", "sar_incidenceangle", "u10m_rotated", "distance_map"),
}


def batch_of(augment: Augment | None) -> Batch:
    """Tiles with holes, one without coarse cells, one without an angle, a time and labels."""
    tiles = [made.tile(i, cells=cells) for i, cells in enumerate((3, 0, 5, 4))]
    geo = tiles[3].geo.copy()
    geo[2, 0, 1] = np.nan
    tiles[3] = replace(tiles[3], geo=geo, time=None, lab=None)
    tiles[2] = replace(tiles[2], aux=np.maximum(tiles[2].aux, 1))
    return collate(tiles, range(10, 14), augment)


def full(channels: tuple[str, ...], batch: Batch) -> Inputs:
    return Assemble(channels, valid_plane=True)(batch)


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("planned", [False, True])
def test_a_rounded_input_is_the_float32_input_rounded(planned: bool, channels: str, augment: str) -> None:
    names, batch = CHANNELS[channels], batch_of(AUGMENTS[augment])
    whole = full(names, batch)
    targets = tuple(range(0, len(names) + 1, 2))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assemble = Assemble(names, True, want=Want(dtype, targets))
        inputs = assemble(assemble.plan(batch) if planned else batch)
        expected = Assemble(names, True)(assemble.plan(batch)) if planned else whole
        assert inputs.x.dtype == dtype
        assert torch.equal(inputs.x, expected.x.to(dtype))
        assert torch.equal(inputs.seen, expected.seen.to(dtype))
        assert torch.equal(inputs.labels, whole.labels)
        assert inputs.values(targets).dtype == torch.float32
        assert torch.equal(inputs.values(targets), expected.values(targets))
        assert torch.equal(inputs.valid(targets), whole.valid(targets))
        torch.testing.assert_close(inputs.values(targets), whole.values(targets), rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("channels", CHANNELS)
def test_a_device_makes_what_a_cpu_makes(channels: str, augment: str) -> None:
    """A planned batch is assembled as on a device, all samples at once."""
    names, batch = CHANNELS[channels], batch_of(AUGMENTS[augment])
    assemble = Assemble(names, valid_plane=True)
    here, there = assemble(batch), assemble(assemble.plan(batch))
    torch.testing.assert_close(there.x, here.x, rtol=1e-4, atol=2e-3)
    assert here.dropped is not None
    assert there.dropped is not None
    for name in ("data", "labels", "dropped"):
        assert torch.equal(getattr(there, name), getattr(here, name)), name


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("planned", [False, True])
def test_codes_tell_what_will_count(planned: bool, channels: str, augment: str) -> None:
    names, batch = CHANNELS[channels], batch_of(AUGMENTS[augment])
    assemble = Assemble(names, valid_plane=True)
    inputs = assemble(batch)
    codes = Codes(assemble, assemble.plan(batch) if planned else batch)
    planes = [*reversed(range(len(names) + 1))]
    assert torch.equal(codes.valid(planes), inputs.valid(planes))
    assert torch.equal(codes.valid([1]), inputs.valid([1]))
    for chart in range(3):
        ours, expected = (torch.bincount(part.labels[:, chart].flatten(), minlength=256) for part in (codes, inputs))
        assert torch.equal(ours, expected)
    assert (codes.size, codes.place.tolist()) == (made.SIZE, [10, 11, 12, 13])


def test_products_are_exact_whatever_a_network_may_round() -> None:
    batch = batch_of(AUGMENTS["crops"])
    assemble = Assemble(EVERY)
    expected = assemble(assemble.plan(batch)).x
    seen: list[str] = []
    product = torch.matmul

    def watched(*arguments: Any, **options: Any) -> torch.Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return product(*arguments, **options)

    torch.set_float32_matmul_precision("high")
    try:
        with mock.patch("torch.matmul", watched):
            assert torch.equal(assemble(assemble.plan(batch)).x, expected)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {"highest"}


def test_without_targets_nothing_but_the_input_is_made() -> None:
    batch = batch_of(AUGMENTS["turns"])
    inputs = Assemble(EVERY, True, want=Want(torch.bfloat16, ()))(batch)
    assert inputs.data.numel() == 0
    assert inputs.target is None
    # No sample loses a group, so what the network sees is no copy.
    assert inputs.dropped is None
    assert inputs.seen is inputs.x
    assert Assemble(EVERY, want=Want(targets=()))(batch_of(AUGMENTS["all"])).dropped is not None


def test_samples_that_do_not_count_hold_nothing() -> None:
    inputs = full(EVERY, batch_of(None))
    assert inputs.counting(4) is inputs
    for n in (0, 2):
        counting = inputs.counting(n)
        assert counting.x is inputs.x
        assert torch.equal(counting.data[:n], inputs.data[:n])
        assert torch.equal(counting.labels[:n], inputs.labels[:n])
        assert not counting.data[n:].any()
        assert (counting.labels[n:] == 255).all()


def test_a_batch_goes_to_a_device_with_its_hints_only() -> None:
    assemble, batch = Assemble(EVERY), batch_of(None)
    assert assemble.moved(batch, torch.device("cpu")) is batch
    moved = assemble.moved(batch, torch.device("meta"))
    assert moved.hints is not None
    assert moved.hh.is_meta
    assert moved.hints.angles.is_meta
    assert moved.place is batch.place
    with pytest.raises(ValueError, match="moved"):
        assemble.valid(replace(moved, hints=None), [0])


def test_what_is_drawn_goes_with_the_samples() -> None:
    batch = replace(batch_of(AUGMENTS["all"]), drawn=torch.arange(8).view(4, 2), seeds=torch.arange(4))
    inputs = Assemble(EVERY)(batch)
    assert inputs.drawn is batch.drawn
    assert inputs.seeds is batch.seeds
    part = batch.part(slice(1, 3))
    assert part.drawn is not None
    assert part.seeds is not None
    assert (part.drawn.tolist(), part.seeds.tolist()) == ([[2, 3], [4, 5]], [1, 2])
    assert len(part) == 2
