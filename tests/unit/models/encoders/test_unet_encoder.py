"""The UNet's way down."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from arcticseg.models.config import UNetConfig
from arcticseg.models.encoders.unet import UNetEncoder


def test_maps_halve_from_level_to_level() -> None:
    encoder = UNetConfig(filters=(4, 8, 12)).make(5, 384)
    assert isinstance(encoder, UNetEncoder)
    assert (encoder.stride, encoder.dims) == (8, (4, 8, 12, 12))
    assert encoder.strides == (1, 2, 4, 8)
    maps = encoder(torch.randn(2, 5, 16, 32))
    assert [tuple(x.shape) for x in maps] == [(2, 4, 16, 32), (2, 8, 8, 16), (2, 12, 4, 8), (2, 12, 2, 4)]


@pytest.mark.parametrize(("planes", "filters"), [(25, (16, 32, 64, 64)), (18, (32, 32, 64, 64))])
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_as_many_weights_as_counted_by_hand(planes: int, filters: tuple[int, ...], norm: str) -> None:
    encoder = UNetConfig(filters=filters, norm=norm).make(planes, 384)  # type: ignore[arg-type]
    wanted, before = 0, planes
    for width in (*filters, filters[-1]):
        # Two convolutions of 9 taps without bias, each with a scale and a shift.
        wanted += 9 * before * width + 2 * width + 9 * width * width + 2 * width
        before = width
    assert sum(p.numel() for p in encoder.parameters()) == wanted


def test_batch_norm_is_a_choice() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2, 8, 8)
    alone, together = ([encoder(x[:1])[-1], encoder(x)[-1][:1]] for encoder in map(made, ("group", "batch")))
    torch.testing.assert_close(*alone)
    assert not torch.allclose(*together)


def made(norm: str) -> UNetEncoder:
    return UNetEncoder(2, 8, (4, 4), norm).train()


def test_a_map_sees_the_largest_of_the_map_above() -> None:
    torch.manual_seed(0)
    encoder = UNetEncoder(1, 32, (4, 4)).eval()
    x = torch.randn(1, 1, 16, 16)
    above, below, _ = encoder(x)
    torch.testing.assert_close(encoder.levels[1](torch.nn.functional.max_pool2d(above, 2)), below)
