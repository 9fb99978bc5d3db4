"""Losses of what polygons hold, against loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor

from arcticseg.data.inputs import Polygons
from arcticseg.ice.soft import COLUMNS, WIDTH
from arcticseg.tasks.losses.loss import Loss
from arcticseg.tasks.losses.soft import PolygonShares, Soft
from tests.strict import strict

TABLE = 5
CLASSES = {"SOD": 6, "FLOE": 7}


def drawn(chart: str, samples: int = 4, size: int = 6, seed: int = 0) -> tuple[Tensor, Tensor, Polygons]:
    """Logits, labels and polygons: a fifth of the pixels without a polygon, a row in three without a distribution."""
    random = np.random.default_rng(seed)
    shape = (samples, size, size)
    labels = random.integers(0, CLASSES[chart], shape).astype(np.uint8)
    labels[random.random(shape) < 0.6] = 255
    rows = random.integers(0, TABLE, shape) + TABLE * np.arange(samples)[:, None, None]
    rows[random.random(shape) < 0.2] = samples * TABLE
    shares = np.zeros((samples * TABLE, WIDTH), np.float32)
    for columns in COLUMNS.values():
        width = columns.stop - columns.start
        parts = random.dirichlet([0.4] * width, samples * TABLE)
        parts[parts < 0.05] = 0
        shares[:, columns] = parts / parts.sum(axis=1, keepdims=True)
        shares[random.random(samples * TABLE) < 0.33, columns] = 0
    logits = torch.from_numpy(random.normal(0, 2, (samples, CLASSES[chart], size, size)).astype(np.float32))
    polygons = Polygons(torch.from_numpy(rows.astype(np.int32)), torch.from_numpy(shares))
    return logits.requires_grad_(), torch.from_numpy(labels), polygons


def target(polygons: Polygons, row: int, chart: str, water: bool) -> list[float] | None:
    """The distribution of a row; None: none is known."""
    if row == len(polygons.shares):
        return None
    shares = [float(share) for share in polygons.shares[row, COLUMNS[chart]]]
    if sum(shares) == 0:
        return None
    ice = sum(shares[1:])
    return shares if water or ice == 0 else [0.0, *(share / ice for share in shares[1:])]


def softmax(logits: Tensor, at: tuple[int, int, int]) -> list[float]:
    b, y, x = at
    powers = [math.exp(value) for value in logits[b, :, y, x].tolist()]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("chart", CLASSES)
@pytest.mark.parametrize("where", ["masked", "all"])
@pytest.mark.parametrize("water", [True, False])
def test_soft_is_a_loop_over_pixels(water: bool, where: str, chart: str) -> None:
    logits, labels, polygons = drawn(chart)
    total, count = 0.0, 0.0
    for at in np.ndindex(*labels.shape):
        shares = target(polygons, int(polygons.rows[at]), chart, water)
        label = int(labels[at])
        odds = softmax(logits, at)
        if shares is not None and (label == 255 or where == "all"):
            count += 0.25
            total -= 0.25 * sum(share * math.log(p) for share, p in zip(shares, odds, strict=True))
        elif label != 255:
            count += 1
            total -= math.log(odds[label])
    loss = Soft(chart, where, 0.25, water)
    assert float(loss.counts_with(labels, polygons)) == pytest.approx(count)
    assert loss.sums_with(logits, labels, polygons).item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("chart", CLASSES)
@pytest.mark.parametrize("water", [True, False])
@pytest.mark.parametrize("least", [1, 6])
def test_shares_of_polygons_are_a_loop_over_polygons(least: int, water: bool, chart: str) -> None:
    logits, labels, polygons = drawn(chart)
    total, count, passed = 0.0, 0, 0
    for row in range(len(polygons.shares)):
        pixels = [at for at in np.ndindex(*labels.shape) if polygons.rows[at] == row]
        shares = target(polygons, row, chart, water)
        if shares is None or len(pixels) < least:
            passed += 1
            continue
        odds = np.mean([softmax(logits, at) for at in pixels], axis=0)
        divergence = sum(t * math.log(t / p) for t, p in zip(shares, odds, strict=True) if t > 0)
        total += divergence * len(pixels)
        count += len(pixels)
    assert passed > 3
    loss = PolygonShares(chart, least, water)
    assert int(loss.counts_with(labels, polygons)) == count > 0
    assert loss.sums_with(logits, labels, polygons).item() == pytest.approx(total, rel=1e-4)


def test_gradients_of_shares_are_those_of_plain_operations() -> None:
    logits, labels, polygons = drawn("SOD")
    loss = PolygonShares("SOD", 3, True)
    (gradient,) = torch.autograd.grad(loss.sums_with(logits, labels, polygons), logits)
    odds = logits.softmax(dim=1)
    plain = torch.zeros(())
    for row, shares in enumerate(polygons.shares[:, COLUMNS["SOD"]]):
        inside = (polygons.rows == row)[:, None]
        pixels = int(inside.sum())
        if shares.sum() > 0 and pixels >= 3:
            mean = (odds * inside).sum(dim=(0, 2, 3)) / pixels
            plain = plain - pixels * (shares * (mean + 1e-6).log()).sum()
    (expected,) = torch.autograd.grad(plain, logits)
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


LOSSES: dict[str, Loss] = {
    "soft": Soft("SOD", "masked", 0.5, True),
    "soft, all": Soft("SOD", "all", 1.0, False),
    "polygons": PolygonShares("SOD", 4, True),
}


@pytest.mark.parametrize("name", LOSSES)
def test_micro_batches_add_up_to_the_batch(name: str) -> None:
    loss, (logits, labels, polygons) = LOSSES[name], drawn("SOD")
    whole = loss.sums_with(logits, labels, polygons)
    (expected,) = torch.autograd.grad(whole, logits)
    for micro in (1, 2):
        sums, counts = torch.zeros(()), torch.zeros((), dtype=torch.float64)
        for first in range(0, 4, micro):
            own = slice(first, first + micro)
            rows, table = polygons.rows[own] - first * TABLE, polygons.shares[first * TABLE : (first + micro) * TABLE]
            part = Polygons(torch.where(polygons.rows[own] == 4 * TABLE, micro * TABLE, rows), table)
            sums = sums + loss.sums_with(logits[own], labels[own], part)
            counts += loss.counts_with(labels[own], part)
        torch.testing.assert_close(sums, whole, rtol=1e-5, atol=0)
        assert counts == loss.counts_with(labels, polygons)
        (gradient,) = torch.autograd.grad(sums, logits)
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def degenerate() -> dict[str, tuple[Tensor, Tensor, Polygons]]:
    """Batches in which nothing counts but by what is named."""
    logits, labels, polygons = drawn("SOD")
    nothing = torch.full_like(labels, 255)
    none = Polygons(torch.full_like(polygons.rows, len(polygons.shares)), polygons.shares)
    unknown = Polygons(polygons.rows, torch.zeros_like(polygons.shares))
    water = torch.zeros_like(polygons.shares)
    water[:, 0] = water[:, 6] = 1
    certain = torch.zeros_like(logits)
    certain[:, 0] = 200.0
    ice = Polygons(polygons.rows, water.roll(1, dims=1))
    return {
        "no label, no polygon": (logits, nothing, none),
        "no label, nothing known": (logits, nothing, unknown),
        "water alone": (logits, nothing, Polygons(polygons.rows, water)),
        "certain and wrong": (certain.requires_grad_(), nothing, ice),
    }


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("case", degenerate())
def test_degenerate_batches_have_finite_gradients(case: str, name: str) -> None:
    loss, (logits, labels, polygons) = LOSSES[name], degenerate()[case]
    value = loss.sums_with(logits, labels, polygons)
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.isfinite().all()
    if case.startswith("no label"):
        assert (value.item(), float(loss.counts_with(labels, polygons))) == (0, 0)
        assert not gradient.any()
    else:
        assert value > 0


@pytest.mark.parametrize("name", LOSSES)
def test_without_polygons_labels_alone_count(name: str) -> None:
    loss, (logits, labels, _) = LOSSES[name], drawn("SOD")
    plain = torch.nn.functional.cross_entropy(logits, labels.long(), ignore_index=255, reduction="sum")
    value, count = loss.sums_with(logits, labels, None), loss.counts_with(labels, None)
    if name == "polygons":
        assert (value.item(), int(count)) == (0, 0)
    else:
        assert value.item() == pytest.approx(plain.item())
        assert int(count) == int((labels != 255).sum())


@pytest.mark.parametrize("name", LOSSES)
def test_the_device_is_asked_for_nothing(name: str) -> None:
    loss, (logits, labels, polygons) = LOSSES[name], drawn("SOD")
    own, asked = Polygons(*map(strict, polygons)), strict(labels)
    value = loss.sums_with(strict(logits), asked, own)
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.any()
    assert float(loss.counts_with(asked, own)) == float(loss.counts_with(labels, polygons))


@pytest.mark.parametrize("name", LOSSES)
def test_the_compiler_takes_it_whole(name: str) -> None:
    loss, (logits, labels, polygons) = LOSSES[name], drawn("SOD")
    compiled = torch.compile(loss.sums_with, backend="aot_eager", fullgraph=True)
    (gradient,) = torch.autograd.grad(compiled(logits, labels, polygons), logits)
    (expected,) = torch.autograd.grad(loss.sums_with(logits, labels, polygons), logits)
    torch.testing.assert_close(gradient, expected)
