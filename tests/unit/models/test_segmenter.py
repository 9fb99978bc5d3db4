"""From images to outputs of heads."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from arcticseg.models.build import build_segmenter
from arcticseg.models.segmenter import Segmenter
from tests.networks import KINDS, small


def build(kind: str) -> Segmenter:
    torch.manual_seed(0)
    return build_segmenter(small(kind), in_chans=4, tile=32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 32), (33, 50), (7, 9)])
@pytest.mark.parametrize(("sic", "channels"), [("regression", 1), ("classification", 11)])
def test_shapes(kind: str, size: tuple[int, int], sic: str, channels: int) -> None:
    model = build_segmenter(small(kind, heads={"SIC": sic}), in_chans=4, tile=32)
    outputs = model(torch.randn(2, 4, *size))
    assert {chart: tuple(x.shape) for chart, x in outputs.items()} == {
        "SIC": (2, channels, *size),
        "SOD": (2, 6, *size),
        "FLOE": (2, 7, *size),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind: str) -> None:
    model = build(kind)
    sum(x.square().mean() for x in model(torch.randn(2, 4, 32, 32)).values()).backward()  # type: ignore[union-attr]
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


@pytest.mark.parametrize("kind", KINDS)
def test_no_sample_depends_on_its_batch(kind: str) -> None:
    model, x = build(kind).train(), torch.randn(3, 4, 32, 32)
    assert not [m for m in model.modules() if isinstance(m, _NormBase)]
    whole, alone = model(x), model(x[1:2])
    for chart, value in alone.items():
        torch.testing.assert_close(whole[chart][1:2], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_filling_up_equals_zeros_appended(kind: str) -> None:
    model, x = build(kind).eval(), torch.randn(1, 4, 28, 32)
    by_hand = torch.cat([x, torch.zeros(1, 4, 4, 32)], dim=2)
    for chart, value in model(x).items():
        torch.testing.assert_close(value, model(by_hand)[chart][:, :, :28], rtol=0, atol=0)


def test_first_sic_is_mid_range_and_odds_are_near_equal() -> None:
    outputs = build("light")(torch.randn(2, 4, 32, 32))
    assert (outputs["SIC"] - 5).abs().max() < 1
    assert outputs["SOD"].softmax(dim=1).sub(1 / 6).abs().max() < 0.1


def test_a_small_task_is_learned() -> None:
    # Left half one stage of development, right half another, told apart by the input: a quick check that gradients
    # reach what they should, in the direction that they should.
    model = build("unet")
    x = torch.zeros(2, 4, 16, 16)
    x[..., 8:] = 1
    target = torch.zeros(2, 16, 16, dtype=torch.long)
    target[..., 8:] = 3
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(x)["SOD"], target)
        loss.backward()
        optimiser.step()
    assert (model(x)["SOD"].argmax(dim=1) == target).float().mean() > 0.95
