"""UPerNet."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from arcticseg.models.config import UPerNetConfig
from arcticseg.models.torchvision_compat import ensure_torchvision
from tests.norms import convolutions, without_norms

ensure_torchvision()
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder


@pytest.mark.parametrize("size", [(4, 6), (1, 1)])
def test_maps_of_one_stride_become_features_at_a_quarter_of_it(size: tuple[int, int]) -> None:
    decoder = UPerNetConfig(channels=8).make((6, 6, 6, 10), (16,) * 4)
    assert decoder.out_channels == 8
    maps = [torch.randn(2, dim, *size) for dim in (6, 6, 6, 10)]
    assert decoder(maps).shape == (2, 8, 4 * size[0], 4 * size[1])


def test_every_map_counts() -> None:
    torch.manual_seed(0)
    decoder = UPerNetConfig(channels=8).make((6, 6, 6, 6), (16,) * 4)
    maps = [torch.randn(1, 6, 4, 4) for _ in range(4)]
    before = decoder(maps)
    for number in range(4):
        changed = [x + (i == number) * torch.randn_like(x) for i, x in enumerate(maps)]
        assert not torch.allclose(decoder(changed), before)


def test_without_norms_it_is_the_librarys() -> None:
    torch.manual_seed(0)
    dims, strides = (4, 6, 8, 10), (4, 8, 16, 32)
    ours = without_norms(UPerNetConfig(channels=8).make((2, *dims), (2, *strides)))
    theirs = without_norms(UPerNetDecoder([3, 2, *dims], decoder_channels=8))
    # The library has pools, bottleneck, then lateral and smoothing convolutions from deep to shallow.
    parts = [*ours.pools, ours.bottleneck, *list(ours.laterals)[::-1], *list(ours.smooth)[::-1], ours.fuse]
    mine, others = convolutions(*parts), convolutions(theirs)
    assert len(mine) == len(convolutions(ours)) == len(others)
    for conv, other in zip(mine, others, strict=True):
        other.weight.data = conv.weight.data
    maps = [torch.randn(2, dim, 256 // stride, 192 // stride) for dim, stride in zip(dims, strides, strict=True)]
    expected = theirs([torch.empty(0), torch.empty(0), *maps])
    torch.testing.assert_close(ours([torch.empty(2, 2, 128, 96), *maps]), expected)
