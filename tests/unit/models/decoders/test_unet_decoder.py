"""The UNet's way up."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from arcticseg.errors import ConfigError
from arcticseg.models.config import UNetDecoderConfig


def test_features_have_the_size_of_the_finest_map() -> None:
    decoder = UNetDecoderConfig().make((4, 8, 12), (1, 2, 4))
    assert decoder.out_channels == 4
    maps = [torch.randn(2, dim, 16 // stride, 24 // stride) for dim, stride in ((4, 1), (8, 2), (12, 4))]
    assert decoder(maps).shape == (2, 4, 16, 24)


def test_every_map_counts() -> None:
    torch.manual_seed(0)
    decoder = UNetDecoderConfig().make((4, 4, 4), (1, 2, 4))
    maps = [torch.randn(1, 4, 8 // stride, 8 // stride) for stride in (1, 2, 4)]
    before = decoder(maps)
    for number in range(3):
        changed = [x + (i == number) * torch.randn_like(x) for i, x in enumerate(maps)]
        assert not torch.allclose(decoder(changed), before)


def test_other_strides_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'model\.decoder\.name' is 'unet', .* the encoder's are 4, 8; set another"):
        UNetDecoderConfig().make((4, 4), (4, 8))
