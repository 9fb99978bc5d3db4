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


def test_a_map_sees_the_largest_of_the_map_above() -> None:
    torch.manual_seed(0)
    encoder = UNetEncoder(1, 32, (4, 4)).eval()
    x = torch.randn(1, 1, 16, 16)
    above, below, _ = encoder(x)
    torch.testing.assert_close(encoder.levels[1](torch.nn.functional.max_pool2d(above, 2)), below)
